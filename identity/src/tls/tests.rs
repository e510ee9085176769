//! Handshakes between two ends in memory: what crosses is real TLS, only the wire is a buffer.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustls::{ClientConnection, HandshakeKind, ServerConnection};
use rustls_pki_types::ServerName;

use super::*;
use crate::certificate::KeyAndRequest;
use crate::failure::HandshakeFailure;
use crate::issuer::Issuer;
use crate::issuer::tests::{id, issuer, leaf, leaf_at, now};

/// Seconds since 1970, moved by hand.
#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

impl Clock {
    fn start() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())))
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

/// Two members of a mesh: `cart` dials `web`.
struct Pair {
    clock: Arc<Clock>,
    client: MeshTls,
    server: MeshTls,
    server_config: Arc<ServerConfig>,
    endpoint: EndpointTls,
}

impl Pair {
    fn new(issuer: &Issuer) -> Self {
        Self::of(issuer, issuer)
    }

    fn of(client_issuer: &Issuer, server_issuer: &Issuer) -> Self {
        let clock = Clock::start();
        let member = |issuer: &Issuer, account| {
            let mesh = MeshTls::with_clock(Some(Arc::new(issuer.bundle().clone())), clock.clone());
            mesh.set_leaf(leaf(issuer, account));
            mesh
        };
        let (client, server) = (member(client_issuer, "cart"), member(server_issuer, "web"));
        let server_config = server.server_config(ClientCertificates::Required, &[b"mesh/h2", b"mesh/h1"]);
        let endpoint = client.endpoint(vec![id("web")], &[b"mesh/h1"]);
        Self { clock, client, server, server_config, endpoint }
    }

    fn connect(&self) -> Result<Connection, Failed> {
        connect(self.endpoint.config(), self.server_config.clone())
    }

    /// The certificates of both, by an issuer, from a moment of the clock on.
    fn set_leaves(&self, issuer: &Issuer) {
        self.client.set_leaf(leaf_at(issuer, "cart", self.client.state.now()));
        self.server.set_leaf(leaf_at(issuer, "web", self.client.state.now()));
    }

    fn set_bundles(&self, bundle: &TrustBundle) {
        self.client.set_bundle(Arc::new(bundle.clone()));
        self.server.set_bundle(Arc::new(bundle.clone()));
    }

    fn failure(&self) -> (HandshakeFailure, HandshakeFailure) {
        let failed = self.connect().map(|_| ()).unwrap_err();
        (failed.client, failed.server)
    }
}

#[derive(Debug)]
struct Connection {
    client: ClientConnection,
    server: ServerConnection,
}

#[derive(Debug, PartialEq)]
struct Failed {
    client: HandshakeFailure,
    server: HandshakeFailure,
}

impl Connection {
    fn kind(&self) -> HandshakeKind {
        assert_eq!(self.client.handshake_kind(), self.server.handshake_kind());
        self.server.handshake_kind().unwrap()
    }

    /// Sends a word each way.
    fn talk(&mut self) {
        use std::io::{Read, Write};
        let mut buffer = [0; 4];
        self.client.writer().write_all(b"ping").unwrap();
        pump(&mut self.client, &mut self.server);
        self.server.reader().read_exact(&mut buffer).unwrap();
        self.server.writer().write_all(b"pong").unwrap();
        pump(&mut self.client, &mut self.server);
        self.client.reader().read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"pong");
    }
}

fn connect(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Connection, Failed> {
    let mut client = ClientConnection::new(client, ServerName::try_from("web.shop").unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    match pump(&mut client, &mut server) {
        (None, None) => Ok(Connection { client, server }),
        (client, server) => Err(Failed {
            client: client.as_ref().map_or(HandshakeFailure::Closed, HandshakeFailure::from),
            server: server.as_ref().map_or(HandshakeFailure::Closed, HandshakeFailure::from),
        }),
    }
}

/// Carries bytes until both are silent; an end that failed still sends its alert.
fn pump(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> (Option<rustls::Error>, Option<rustls::Error>) {
    let (mut client_error, mut server_error) = (None, None);
    loop {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        let mut bytes = to_server.as_slice();
        while !bytes.is_empty() && server_error.is_none() {
            server.read_tls(&mut bytes).unwrap();
            server_error = server.process_new_packets().err();
        }
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        let mut bytes = to_client.as_slice();
        while !bytes.is_empty() && client_error.is_none() {
            client.read_tls(&mut bytes).unwrap();
            client_error = client.process_new_packets().err();
        }
        if to_server.is_empty() && to_client.is_empty() {
            return (client_error, server_error);
        }
    }
}

/// A bundle of several issuers' anchors.
fn bundle_of(issuers: &[&Issuer]) -> TrustBundle {
    let certificates = issuers.iter().flat_map(|issuer| issuer.bundle().certificates().to_vec()).collect();
    TrustBundle::from_certificates(certificates).unwrap()
}

#[test]
fn mutual_and_post_quantum() {
    let pair = Pair::new(&issuer());
    let mut connection = pair.connect().unwrap();
    assert_eq!(connection.server.alpn_protocol(), Some(b"mesh/h1".as_slice()));
    assert_eq!(connection.server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = connection.client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    if hardware_aes() {
        let suite = connection.client.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
    assert_eq!(pair.server.verify_client(connection.server.peer_certificates()).unwrap().id, id("cart"));
    assert_eq!(pair.endpoint.verify(connection.client.peer_certificates()).unwrap().id, id("web"));
    connection.talk();
}

#[test]
fn a_foreign_authority_is_refused_by_either_end() {
    let (ours, foreign) = (issuer(), issuer());
    let pair = Pair::of(&ours, &foreign);
    assert_eq!(pair.failure(), (HandshakeFailure::UnknownAuthority, HandshakeFailure::RefusedByPeer));
    // Now the client believes the server, but not the other way round.
    pair.client.set_bundle(Arc::new(foreign.bundle().clone()));
    assert_eq!(pair.failure(), (HandshakeFailure::RefusedByPeer, HandshakeFailure::UnknownAuthority));
    let without = MeshTls::new(None);
    let chain = leaf(&ours, "cart");
    assert_eq!(without.verify_client(Some(chain.chain())), Err(PeerRefused::UnknownAuthority));
}

#[test]
fn an_expired_or_early_certificate_is_refused() {
    let issuer = issuer();
    let pair = Pair::new(&issuer);
    pair.clock.advance(Duration::from_secs(25 * 3600));
    assert_eq!(pair.failure().0, HandshakeFailure::Expired);
    pair.server.set_leaf(leaf_at(&issuer, "web", pair.client.state.now()));
    assert_eq!(pair.failure().1, HandshakeFailure::Expired);
    let early = leaf_at(&issuer, "web", pair.client.state.now() + Duration::from_secs(3600));
    pair.server.set_leaf(early);
    assert_eq!(pair.failure().0, HandshakeFailure::NotYetValid);
}

#[test]
fn another_server_than_expected_is_refused() {
    let issuer = issuer();
    let pair = Pair::new(&issuer);
    let endpoint = pair.client.endpoint(vec![id("db"), id("cache")], &[b"mesh/h1"]);
    let failed = connect(endpoint.config(), pair.server_config).unwrap_err();
    assert_eq!(failed, Failed { client: HandshakeFailure::WrongId, server: HandshakeFailure::RefusedByPeer });
    let error = endpoint.verify(Some(leaf(&issuer, "web").chain())).unwrap_err();
    assert!(error.to_string().contains("sa/web, expected was spiffe://cluster.local/ns/shop/sa/db, "), "{error}");
}

#[test]
fn a_client_without_certificate_is_refused_where_one_is_required() {
    let issuer = issuer();
    let pair = Pair::new(&issuer);
    let nobody = MeshTls::with_clock(pair.client.bundle(), pair.clock.clone());
    let endpoint = nobody.endpoint(vec![id("web")], &[b"mesh/h1"]);
    let failed = connect(endpoint.config(), pair.server_config).unwrap_err();
    assert_eq!(failed.server, HandshakeFailure::NoCertificate);
    assert_eq!(pair.server.verify_client(None), Err(PeerRefused::NoCertificate));
    let open = pair.server.server_config(ClientCertificates::None, &[b"h2"]);
    let endpoint = nobody.endpoint(vec![id("web")], &[b"h2"]);
    connect(endpoint.config(), open).unwrap().talk();
}

#[test]
fn where_certificates_are_optional_a_wrong_one_is_none() {
    let (ours, foreign) = (issuer(), issuer());
    let pair = Pair::new(&ours);
    let config = pair.server.server_config(ClientCertificates::Optional, &[b"h2"]);
    let ask = |client: &MeshTls| {
        let endpoint = client.endpoint(vec![id("web")], &[b"h2"]);
        let connection = connect(endpoint.config(), config.clone()).unwrap();
        pair.server.verify_client(connection.server.peer_certificates()).map(|peer| peer.id)
    };
    assert_eq!(ask(&pair.client), Ok(id("cart")));
    assert_eq!(ask(&MeshTls::with_clock(pair.client.bundle(), pair.clock.clone())), Err(PeerRefused::NoCertificate));
    pair.client.set_leaf(leaf(&foreign, "cart"));
    assert_eq!(ask(&pair.client), Err(PeerRefused::UnknownAuthority));
}

#[test]
fn a_certificate_must_name_exactly_one_workload() {
    let issuer = issuer();
    let mesh = MeshTls::with_clock(Some(Arc::new(issuer.bundle().clone())), Clock::start());
    let cart = "spiffe://cluster.local/ns/shop/sa/cart";
    for names in [&[][..], &["https://cluster.local/"], &["spiffe://cluster.local/x"], &[cart, "spiffe://td/ns/a/sa/b"]]
    {
        let chain = [issuer.sign_names(names, now())];
        assert_eq!(mesh.verify_client(Some(&chain)), Err(PeerRefused::NoSpiffeId), "{names:?}");
    }
    assert_eq!(mesh.verify_client(Some(&[issuer.sign_names(&[cart], now())])).unwrap().id, id("cart"));
}

#[test]
fn a_protocol_nobody_shares_is_refused() {
    let pair = Pair::new(&issuer());
    let endpoint = pair.client.endpoint(vec![id("web")], &[b"mesh/h9"]);
    let failed = connect(endpoint.config(), pair.server_config).unwrap_err();
    assert_eq!(failed, Failed { client: HandshakeFailure::NoProtocol, server: HandshakeFailure::NoProtocol });
}

#[test]
fn sessions_resume_with_the_peer_known() {
    let pair = Pair::new(&issuer());
    assert_eq!(pair.connect().unwrap().kind(), HandshakeKind::Full);
    for _ in 0..3 {
        let mut connection = pair.connect().unwrap();
        assert_eq!(connection.kind(), HandshakeKind::Resumed);
        assert_eq!(pair.server.verify_client(connection.server.peer_certificates()).unwrap().id, id("cart"));
        assert_eq!(pair.endpoint.verify(connection.client.peer_certificates()).unwrap().id, id("web"));
        connection.talk();
    }
    // One ticket each; used up, the next is a full handshake.
    let first = pair.connect().unwrap();
    pair.endpoint.forget_sessions();
    assert_eq!(first.kind(), HandshakeKind::Resumed);
    assert_eq!(pair.connect().unwrap().kind(), HandshakeKind::Full);
}

#[test]
fn a_ticket_is_of_no_use_under_a_bundle_that_is_gone() {
    let (old, new) = (issuer(), issuer());
    let pair = Pair::new(&old);
    pair.connect().unwrap();
    pair.server.set_bundle(Arc::new(new.bundle().clone()));
    assert_eq!(pair.failure(), (HandshakeFailure::RefusedByPeer, HandshakeFailure::UnknownAuthority));
    // Even if the ticket were taken, as it is here, where the ticket key survives the change.
    pair.set_bundles(old.bundle());
    pair.endpoint.forget_sessions();
    pair.connect().unwrap();
    pair.server.state.trust.store(Arc::new(Trust::new(Some(Arc::new(new.bundle().clone())))));
    let connection = pair.connect().unwrap();
    assert_eq!(connection.kind(), HandshakeKind::Resumed);
    let refused = pair.server.verify_client(connection.server.peer_certificates()).unwrap_err();
    assert_eq!(refused, PeerRefused::UnknownAuthority);
    pair.client.state.trust.store(Arc::new(Trust::new(Some(Arc::new(new.bundle().clone())))));
    let refused = pair.endpoint.verify(connection.client.peer_certificates()).unwrap_err();
    assert_eq!(refused, PeerRefused::UnknownAuthority);
    assert_eq!(pair.failure().0, HandshakeFailure::UnknownAuthority, "the refusal dropped the tickets");
}

#[test]
fn a_ticket_does_not_outlive_the_certificates() {
    let issuer = issuer();
    let pair = Pair::new(&issuer);
    // Tickets live for twelve hours, the server's certificate for ten more, the client's for longer.
    pair.clock.advance(Duration::from_secs(14 * 3600));
    pair.client.set_leaf(leaf_at(&issuer, "cart", pair.client.state.now()));
    pair.connect().unwrap();
    pair.clock.advance(Duration::from_secs(9 * 3600));
    // The server renews, the client's tickets still stand for the server's old certificate.
    pair.server.set_leaf(leaf_at(&issuer, "web", pair.client.state.now()));
    assert_eq!(pair.connect().unwrap().kind(), HandshakeKind::Resumed);
    pair.clock.advance(Duration::from_secs(2 * 3600));
    let connection = pair.connect().unwrap();
    assert_eq!(connection.kind(), HandshakeKind::Full);
    pair.endpoint.verify(connection.client.peer_certificates()).unwrap();
    // What the cache holds ends as well.
    let old = leaf(&issuer, "cart");
    let end = old.not_after() - Duration::from_secs(1);
    pair.server.verify_peer(old.chain(), PeerRole::Client, end).unwrap();
    assert_eq!(
        pair.server.verify_peer(old.chain(), PeerRole::Client, end + Duration::from_secs(2)),
        Err(PeerRefused::Expired)
    );
}

#[test]
fn leaves_rotate_under_live_connections() {
    let issuer = issuer();
    let pair = Pair::new(&issuer);
    let mut old = pair.connect().unwrap();
    // Sooner than the tickets end by themselves.
    pair.clock.advance(Duration::from_secs(5 * 3600));
    pair.set_leaves(&issuer);
    old.talk();
    let mut new = pair.connect().unwrap();
    new.talk();
    assert_eq!(new.kind(), HandshakeKind::Full, "the old leaf's tickets are not used");
    assert_ne!(old.client.peer_certificates(), new.client.peer_certificates());
    old.talk();
}

#[test]
fn anchors_rotate_without_a_refusal() {
    let (old, new) = (issuer(), issuer());
    let both = bundle_of(&[&old, &new]);
    let pair = Pair::new(&old);
    let mut connection = pair.connect().unwrap();
    assert!(pair.client.set_bundle(Arc::new(both.clone())));
    assert!(!pair.client.set_bundle(Arc::new(both.clone())), "no change");
    pair.connect().unwrap().talk();
    pair.set_bundles(&both);
    pair.connect().unwrap().talk();
    pair.server.set_leaf(leaf(&new, "web"));
    pair.connect().unwrap().talk();
    pair.client.set_leaf(leaf(&new, "cart"));
    pair.connect().unwrap().talk();
    pair.set_bundles(new.bundle());
    let last = pair.connect().unwrap();
    pair.server.verify_client(last.server.peer_certificates()).unwrap();
    // The connection from the beginning works; asked again, its peer has no anchor any more.
    connection.talk();
    let refused = pair.server.verify_client(connection.server.peer_certificates()).unwrap_err();
    assert_eq!(refused, PeerRefused::UnknownAuthority);
}

#[test]
fn a_chain_through_an_intermediate() {
    let key = KeyAndRequest::new(&id("cart")).unwrap();
    let (root, intermediate) = crate::issuer::tests::intermediate();
    let issued = intermediate.issue(key.csr(), &id("cart"), Duration::from_secs(60), now()).unwrap();
    assert_eq!(issued.chain.len(), 2);
    let mesh = MeshTls::with_clock(Some(Arc::new(root)), Clock::start());
    assert_eq!(mesh.verify_client(Some(&issued.chain)).unwrap().id, id("cart"));
    assert_eq!(mesh.verify_client(Some(&issued.chain[..1])), Err(PeerRefused::UnknownAuthority));
    let long: Vec<_> = std::iter::repeat_n(issued.chain[1].clone(), 9).collect();
    assert_eq!(mesh.verify_client(Some(&long)), Err(PeerRefused::ChainTooLong));
}

#[test]
fn garbage_for_a_certificate() {
    let pair = Pair::new(&issuer());
    let chain = [CertificateDer::from(vec![0x30, 0x82, 0xff, 0xff])];
    let refused = pair.server.verify_client(Some(&chain)).unwrap_err();
    assert_eq!(HandshakeFailure::from(&refused), HandshakeFailure::BadCertificate);
}
