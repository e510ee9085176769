//! The service on a real socket, asked as a proxy would ask it.

use std::io::Write;
use std::path::Path;

use controller_runtime::bundle_source::BundleSource;
use controller_runtime::certificate::{self, CertificateConfig, CertificateMetrics, Certified};
use controller_runtime::shutdown::ShutdownTrigger;
use hyper_util::rt::TokioIo;
use identity::{
    EndpointTls, Issuer, KeyAndRequest, LeafCertificate, MeshTls, PeerRole, TokenSigner, TokenVerifier, TrustBundle,
};
use parking_lot::Mutex;
use proto::identity::identity_client::IdentityClient;
use proto::identity::{CertifyRequest, CertifyResponse};
use proto::names::TOKEN_AUDIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::*;

struct Running {
    directory: tempfile::TempDir,
    address: SocketAddr,
    health: SocketAddr,
    tls: MeshTls,
    signer: TokenSigner,
    stop: ShutdownTrigger,
    task: JoinHandle<anyhow::Result<()>>,
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

fn server_id() -> SpiffeId {
    "spiffe://cluster.local/ns/mesh-system/sa/mesh-identity".parse().unwrap()
}

impl Running {
    async fn start() -> Self {
        Lines::of_all_tests();
        let directory = tempfile::tempdir().unwrap();
        let signer = TokenSigner::load_or_create(directory.path(), TOKEN_AUDIENCE).unwrap();
        let server = Server::bind(Config {
            id: server_id(),
            authenticator: Authenticator::JoinToken(TokenVerifier::load(directory.path(), TOKEN_AUDIENCE).unwrap()),
            place: Place::Directory {
                issuer: directory.path().to_owned(),
                bundle_file: Some(directory.path().join("bundle.pem")),
            },
            trust_domain: "cluster.local".parse().unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            health_listen: "127.0.0.1:0".parse().unwrap(),
            leaf_lifetime: Duration::from_secs(600),
            pods_per_address: 1,
            rotation_delay: Duration::from_secs(1),
        })
        .await
        .unwrap();
        let (address, health) = (server.address().unwrap(), server.health_address());
        let (stop, shutdown) = Shutdown::pair();
        let task = tokio::spawn(server.run(shutdown));
        let tls = MeshTls::new(Some(Arc::new(read_bundle(directory.path()))));
        Self { directory, address, health, tls, signer, stop, task }
    }

    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let endpoint = self.tls.endpoint(vec![server_id()], &[b"h2"]);
        let address = self.address;
        let connect = tower::service_fn(move |_| dial(address, endpoint.clone()));
        Endpoint::from_static("http://mesh-identity").connect_with_connector(connect).await
    }

    async fn certify(&self, csr: &[u8], token: &str) -> Result<CertifyResponse, Status> {
        let mut client = IdentityClient::new(self.channel().await.unwrap());
        let request = CertifyRequest { csr: csr.to_vec().into(), token: token.to_owned() };
        Ok(client.certify(request).await?.into_inner())
    }

    async fn refused(&self, csr: &[u8], token: &str) -> Code {
        self.certify(csr, token).await.unwrap_err().code()
    }

    /// One sample of /metrics.
    async fn metric(&self, sample: &str) -> u64 {
        let page = get(self.health, "/metrics").await;
        let line = page.lines().find(|line| line.starts_with(sample)).unwrap_or_else(|| panic!("{sample} in {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    async fn count(&self, result: &str) -> u64 {
        self.metric(&format!("mesh_identity_certificates_issued_total{{result=\"{result}\"}}")).await
    }
}

async fn dial(
    address: SocketAddr,
    endpoint: EndpointTls,
) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(endpoint.config());
    let stream = connector.connect("mesh-identity".try_into().unwrap(), stream).await?;
    Ok(TokioIo::new(stream))
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

fn read_bundle(directory: &Path) -> TrustBundle {
    TrustBundle::from_pem(&std::fs::read(directory.join("bundle.pem")).unwrap()).unwrap()
}

fn chain(response: &CertifyResponse) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    response.chain.iter().map(|der| der.to_vec().into()).collect()
}

/// What is logged by all tests together: a subscriber of one thread would miss what others made known first.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn of_all_tests() -> Self {
        static LINES: std::sync::OnceLock<Lines> = std::sync::OnceLock::new();
        let start = || {
            let lines = Self::default();
            let writer = lines.clone();
            let logs = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
            logs.with_writer(move || writer.clone()).init();
            lines
        };
        LINES.get_or_init(start).clone()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_good_token_gets_a_certificate() {
    let server = Running::start().await;
    let key = KeyAndRequest::new(&id("cart")).unwrap();
    let token = server.signer.sign(&id("cart"), SystemTime::now()).unwrap();
    let response = server.certify(key.csr(), &token).await.unwrap();
    let leaf: LeafCertificate = key.complete(chain(&response)).unwrap();
    assert_eq!(leaf.id(), &id("cart"));
    assert_eq!(response.not_after, crate::metrics::seconds(leaf.not_after()));
    let peer = server.tls.verify_peer(leaf.chain(), PeerRole::Client, SystemTime::now()).unwrap();
    assert_eq!(peer.id, id("cart"));
    assert_eq!(TrustBundle::from_pem(response.bundle.as_bytes()).unwrap(), read_bundle(server.directory.path()));
    assert_eq!(server.count("issued").await, 1);
    let expiry = server.metric("mesh_identity_issuer_expiry_timestamp_seconds").await;
    assert!(expiry > crate::metrics::seconds(SystemTime::now()) + 3600 * 24 * 3649);
    assert!(get(server.health, "/ready").await.starts_with("HTTP/1.1 200"));
    server.stop.stop();
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn tokens_that_prove_nothing_are_refused_and_counted() {
    let server = Running::start().await;
    let key = KeyAndRequest::new(&id("cart")).unwrap();
    let now = SystemTime::now();
    let expired = server.signer.sign(&id("cart"), now - Duration::from_secs(601)).unwrap();
    let foreign = TokenSigner::create(TOKEN_AUDIENCE).unwrap().sign(&id("cart"), now).unwrap();
    let elsewhere = TokenSigner::load_or_create(server.directory.path(), "somebody else").unwrap();
    let elsewhere = elsewhere.sign(&id("cart"), now).unwrap();
    for (token, result) in [
        (expired.as_str(), "token_expired"),
        (&foreign, "token_foreign"),
        (&elsewhere, "token_wrong_audience"),
        ("", "token_malformed"),
    ] {
        assert_eq!(server.refused(key.csr(), token).await, Code::Unauthenticated, "{result}");
        assert_eq!(server.count(result).await, 1);
    }
    let stranger: SpiffeId = "spiffe://other.example/ns/shop/sa/cart".parse().unwrap();
    let token = server.signer.sign(&stranger, now).unwrap();
    assert_eq!(server.refused(key.csr(), &token).await, Code::PermissionDenied);
    assert_eq!(server.count("other_trust_domain").await, 1);
    assert_eq!(server.count("issued").await, 0);
}

/// Everybody on one machine has its address.
#[tokio::test]
async fn many_tokens_that_prove_nothing_shut_out_nobody_on_the_same_machine() {
    let server = Running::start().await;
    let key = KeyAndRequest::new(&id("cart")).unwrap();
    for number in 0..50 {
        assert_eq!(server.refused(key.csr(), &format!("junk-{number}")).await, Code::Unauthenticated);
    }
    let token = server.signer.sign(&id("cart"), SystemTime::now()).unwrap();
    server.certify(key.csr(), &token).await.unwrap();
}

#[tokio::test]
async fn a_token_that_proves_nothing_shuts_out_itself_and_not_its_neighbours() {
    let server = Running::start().await;
    let key = KeyAndRequest::new(&id("cart")).unwrap();
    let refusals = async || server.refused(key.csr(), "broken").await;
    for _ in 0..5 {
        assert_eq!(refusals().await, Code::Unauthenticated);
    }
    for _ in 0..50 {
        assert_eq!(refusals().await, Code::ResourceExhausted);
    }
    let token = server.signer.sign(&id("cart"), SystemTime::now()).unwrap();
    server.certify(key.csr(), &token).await.unwrap();
}

#[tokio::test]
async fn a_living_certificate_renews_itself_and_a_useless_one_does_no_harm() {
    let server = Running::start().await;
    let now = SystemTime::now();
    let key = KeyAndRequest::new(&id("cart")).unwrap();
    let good = server.signer.sign(&id("cart"), now).unwrap();
    let expired = server.signer.sign(&id("cart"), now - Duration::from_secs(601)).unwrap();
    let foreign = Issuer::create(&"cluster.local".parse().unwrap(), now).unwrap().0;
    let chain_of = |issued: identity::IssuedCertificate| key.complete(issued.chain).unwrap();
    server.tls.set_leaf(chain_of(foreign.issue(key.csr(), &id("cart"), Duration::from_secs(60), now).unwrap()));
    assert_eq!(server.refused(key.csr(), &expired).await, Code::Unauthenticated);
    let response = server.certify(key.csr(), &good).await.unwrap();
    server.tls.set_leaf(key.complete(chain(&response)).unwrap());
    server.certify(key.csr(), &expired).await.unwrap();
    // For itself only.
    let other = KeyAndRequest::new(&id("web")).unwrap();
    assert_eq!(server.refused(other.csr(), &expired).await, Code::PermissionDenied);
    assert_eq!(server.count("issued").await, 2);
}

#[tokio::test]
async fn requests_for_others_broken_or_huge_are_refused_and_counted() {
    let server = Running::start().await;
    let token = server.signer.sign(&id("cart"), SystemTime::now()).unwrap();
    let other = KeyAndRequest::new(&id("web")).unwrap();
    assert_eq!(server.refused(other.csr(), &token).await, Code::PermissionDenied);
    assert_eq!(server.count("request_for_other").await, 1);
    assert_eq!(server.refused(b"not a request", &token).await, Code::InvalidArgument);
    assert_eq!(server.count("request_invalid").await, 1);
    assert_eq!(server.refused(&[0; MAX_REQUEST_BYTES + 1], &token).await, Code::OutOfRange);
    assert_eq!(server.count("issued").await, 0);
}

#[tokio::test]
async fn logs_say_who_was_refused_and_never_the_token() {
    let lines = Lines::of_all_tests();
    let server = Running::start().await;
    let key = KeyAndRequest::new(&id("web")).unwrap();
    let token = server.signer.sign(&id("logged"), SystemTime::now()).unwrap();
    server.refused(key.csr(), &token).await;
    let text = String::from_utf8_lossy(&lines.0.lock()).into_owned();
    let line = text.lines().find(|line| line.contains("certificate refused") && line.contains("sa/logged")).unwrap();
    assert!(line.contains("127.0.0.1:") && line.contains("request_for_other"), "{line}");
    let claims = token.split('.').nth(1).unwrap();
    assert!(!text.contains(claims), "the token is in the log");
}

#[tokio::test]
async fn a_client_with_another_bundle_does_not_talk_to_it() {
    let mut server = Running::start().await;
    let foreign = Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap().0;
    server.tls = MeshTls::new(Some(Arc::new(foreign.bundle().clone())));
    server.channel().await.unwrap_err();
}

#[tokio::test]
async fn a_new_root_is_taken_up_while_running() {
    let server = Running::start().await;
    let old = read_bundle(server.directory.path());
    let (new, files) = Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
    files.write(server.directory.path()).unwrap();
    let key = KeyAndRequest::new(&id("cart")).unwrap();
    let token = server.signer.sign(&id("cart"), SystemTime::now()).unwrap();
    let only_new = MeshTls::new(Some(Arc::new(new.bundle().clone())));
    let signed_by_new = async {
        loop {
            // Every answer on the way is good; a client that knows the old root is never locked out.
            let response = server.certify(key.csr(), &token).await.unwrap();
            server.tls.set_bundle(Arc::new(TrustBundle::from_pem(response.bundle.as_bytes()).unwrap()));
            let leaf = chain(&response);
            server.tls.verify_peer(&leaf, PeerRole::Client, SystemTime::now()).unwrap();
            if only_new.verify_peer(&leaf, PeerRole::Client, SystemTime::now()).is_ok() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), signed_by_new).await.unwrap();
    let published = read_bundle(server.directory.path());
    assert!(published.contains_all(&old) && published.contains_all(new.bundle()));
    assert_eq!(server.metric("mesh_identity_bundle_anchors").await, 2);
}

#[tokio::test]
async fn the_control_planes_own_client_keeps_itself_supplied() {
    let server = Running::start().await;
    let token_file = server.directory.path().join("token");
    std::fs::write(&token_file, server.signer.sign(&id("controller"), SystemTime::now()).unwrap()).unwrap();
    let config = CertificateConfig {
        id: id("controller"),
        identity_addresses: vec![server.address.to_string()],
        identity_id: server_id(),
        token_file,
        bundle: BundleSource::File(server.directory.path().join("bundle.pem")),
        state_directory: None,
    };
    let tls = MeshTls::new(None);
    let certify = async |channel, csr: Vec<u8>, token| {
        let answer =
            IdentityClient::new(channel).certify(CertifyRequest { csr: csr.into(), token }).await?.into_inner();
        Ok(Certified { chain: answer.chain.iter().map(|der| der.to_vec()).collect(), bundle: answer.bundle })
    };
    let keep = certificate::keep(config, tls.clone(), Readiness::new(), CertificateMetrics::default(), certify);
    let obtained = async {
        while tls.leaf().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = keep => unreachable!("it never returns"),
        got = tokio::time::timeout(Duration::from_secs(20), obtained) => got.unwrap(),
    }
    assert_eq!(tls.leaf().unwrap().id(), &id("controller"));
}
