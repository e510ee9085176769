//! Real sockets: good clients, slow ones and strangers.

use identity::{Issuer, KeyAndRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;

use super::*;
use crate::shutdown::{Shutdown, ShutdownTrigger};

const SERVER: &str = "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller";
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/web";

struct Fixture {
    issuer: Issuer,
    address: SocketAddr,
    connections: ReceiverStream<Result<MeshStream, io::Error>>,
    metrics: HandshakeMetrics,
    shutdown: ShutdownTrigger,
}

fn issuer() -> Issuer {
    Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap().0
}

fn tls(issuer: &Issuer, id: &str) -> MeshTls {
    let id: SpiffeId = id.parse().unwrap();
    let key = KeyAndRequest::new(&id).unwrap();
    let issued = issuer.issue(key.csr(), &id, Duration::from_secs(3600), SystemTime::now()).unwrap();
    let tls = MeshTls::new(Some(Arc::new(issuer.bundle().clone())));
    tls.set_leaf(key.complete(issued.chain).unwrap());
    tls
}

async fn start(clients: ClientCertificates, timeout: Duration) -> Fixture {
    let config = IncomingConfig { handshake_timeout: timeout, max_pending: 4, ..IncomingConfig::new(clients) };
    start_with(config).await
}

async fn start_with(config: IncomingConfig) -> Fixture {
    let issuer = issuer();
    let (trigger, shutdown) = Shutdown::pair();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = HandshakeMetrics::default();
    let connections = incoming(listener, tls(&issuer, SERVER), config, metrics.clone(), shutdown);
    Fixture { issuer, address, connections, metrics, shutdown: trigger }
}

impl Fixture {
    async fn dial(&self, tls: &MeshTls) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let endpoint = tls.endpoint(vec![SERVER.parse().unwrap()], &[b"h2"]);
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(endpoint.config()).connect("controller".try_into().unwrap(), stream).await
    }

    fn failures(&self, reason: HandshakeFailure) -> u64 {
        self.metrics.failures.get_or_create(&FailureLabels { reason: reason.as_str() }).get()
    }
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_though_slow_ones_were_first() {
    let mut fixture = start(ClientCertificates::Required, Duration::from_secs(60)).await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(TcpStream::connect(fixture.address).await.unwrap());
    }
    let client = tls(&fixture.issuer, CLIENT);
    let mut stream = fixture.dial(&client).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut accepted = fixture.connections.next().await.unwrap().unwrap();
    let peer = accepted.connect_info();
    assert_eq!(peer.id.unwrap().as_str(), CLIENT);
    assert!(peer.valid_until.unwrap() > SystemTime::now());
    let mut said = [0; 5];
    accepted.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
    drop(slow);
}

#[tokio::test]
async fn strangers_and_the_silent_are_counted_and_never_seen() {
    let mut fixture = start(ClientCertificates::Required, Duration::from_millis(200)).await;
    // More silent ones than handshakes may be pending: they are over in time, and others get their turn.
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(fixture.address).await.unwrap());
    }
    let stranger = tls(&issuer(), CLIENT);
    stranger.set_bundle(Arc::new(fixture.issuer.bundle().clone()));
    if let Ok(mut stream) = fixture.dial(&stranger).await {
        // With TLS 1.3 a client learns only by reading that it was refused.
        assert!(stream.read(&mut [0; 1]).await.is_err());
    }
    let mut plain = TcpStream::connect(fixture.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut ignored = Vec::new();
    let _ = plain.read_to_end(&mut ignored).await;
    let _stream = fixture.dial(&tls(&fixture.issuer, CLIENT)).await.unwrap();
    let accepted = fixture.connections.next().await.unwrap().unwrap();
    assert_eq!(accepted.connect_info().id.unwrap().as_str(), CLIENT, "the only one who got in");
    assert_eq!(fixture.failures(HandshakeFailure::UnknownAuthority), 1);
    assert_eq!(fixture.failures(HandshakeFailure::Protocol), 1);
    assert_eq!(fixture.failures(HandshakeFailure::TimedOut), 8);
}

async fn dial_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(source.parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Whether the other side has hung up.
async fn is_gone(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(Duration::from_millis(10), stream.read(&mut [0; 1])).await.is_ok()
}

#[tokio::test]
async fn one_address_keeps_nobody_elses_out_however_often_it_dials() {
    let config = IncomingConfig {
        handshake_timeout: Duration::from_secs(60),
        max_pending: 4,
        max_pending_each: 3,
        max_connections: 2,
        max_connections_each: 2,
        ..IncomingConfig::new(ClientCertificates::None)
    };
    let mut fixture = start_with(config).await;
    let client = tls(&fixture.issuer, CLIENT);
    let mut silent = Vec::new();
    for source in ["127.0.0.2:0", "127.0.0.3:0"] {
        for _ in 0..6 {
            silent.push(dial_from(source, fixture.address).await);
        }
    }
    // All places are held by strangers who say nothing, and the next one gets through at once.
    let mut first = fixture.dial(&client).await.unwrap();
    let mut accepted = vec![fixture.connections.next().await.unwrap().unwrap()];
    // The first has its share, and the second takes some of that until both have the same.
    let turned_away = |reason| fixture.metrics.turned_away.get_or_create(&FailureLabels { reason }).get();
    assert_eq!([SHARE, FULL].map(turned_away), [3, 4]);
    assert!(turned_away(TAKEN) >= 1);
    let mut left = 0;
    for stream in &mut silent {
        left += usize::from(!is_gone(stream).await);
    }
    assert!(left <= 4, "{left}");

    // The same for connections: two of one address, and then another's.
    let endpoint = client.endpoint(vec![SERVER.parse().unwrap()], &[b"h2"]);
    let second = fixture.dial(&client).await.unwrap();
    accepted.push(fixture.connections.next().await.unwrap().unwrap());
    let tcp = dial_from("127.0.0.4:0", fixture.address).await;
    let _other = TlsConnector::from(endpoint.config()).connect("controller".try_into().unwrap(), tcp).await.unwrap();
    accepted.push(fixture.connections.next().await.unwrap().unwrap());
    let taken = accepted[0].read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::ConnectionAborted);
    drop(accepted.remove(0));
    assert_eq!(first.read(&mut [0; 1]).await.unwrap_or_default(), 0);
    drop(second);
}

#[tokio::test]
async fn without_client_certificates_nobody_has_a_name() {
    let mut fixture = start(ClientCertificates::None, Duration::from_secs(60)).await;
    let nobody = MeshTls::new(Some(Arc::new(fixture.issuer.bundle().clone())));
    let _stream = fixture.dial(&nobody).await.unwrap();
    let accepted = fixture.connections.next().await.unwrap().unwrap();
    assert!(accepted.connect_info().id.is_none());
}

#[tokio::test]
async fn shutdown_ends_the_stream_of_connections() {
    let mut fixture = start(ClientCertificates::None, Duration::from_secs(60)).await;
    fixture.shutdown.stop();
    assert!(fixture.connections.next().await.is_none());
    assert!(TcpStream::connect(fixture.address).await.is_err());
}
