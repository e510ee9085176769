use std::time::SystemTime;

use futures_util::StreamExt;
use identity::{DEFAULT_LEAF_LIFETIME, Issuer, KeyAndRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&"cluster.local".parse().unwrap(), "mesh-system", account).unwrap()
}

fn issuer() -> Issuer {
    Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap().0
}

fn member(issuer: &Issuer, account: &str) -> MeshTls {
    let request = KeyAndRequest::new(&id(account)).unwrap();
    let issued = issuer.issue(request.csr(), &id(account), DEFAULT_LEAF_LIFETIME, SystemTime::now()).unwrap();
    let mesh = MeshTls::new(Some(Arc::new(issuer.bundle().clone())));
    mesh.set_leaf(request.complete(issued.chain).unwrap());
    mesh
}

/// Sends a byte and waits for its echo, as the server's refusal comes after the client's own handshake is done.
async fn echo(mesh: &MeshTls, address: SocketAddr) -> io::Result<()> {
    let connector = TlsConnector::from(mesh.endpoint(vec![id("controller")], &[b"h2"]).config());
    let stream = TcpStream::connect(address).await?;
    let mut tls = connector.connect("controller".try_into().unwrap(), stream).await?;
    tls.write_all(b"x").await?;
    let mut byte = [0];
    tls.read_exact(&mut byte).await.map(|_| ())
}

fn failures(metrics: &HandshakeMetrics, reason: HandshakeFailure) -> u64 {
    metrics.failures.get_or_create(&[("reason", reason.as_str())]).get()
}

#[tokio::test]
async fn peers_are_known_and_refusals_counted() {
    let ours = issuer();
    let metrics = HandshakeMetrics::register(&mut Registry::default());
    let listener = bind("127.0.0.1:0".parse().unwrap(), "--listen").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = MeshListener::grpc(member(&ours, "controller"), ClientCertificates::Required, metrics.clone());
    let mut incoming = Box::pin(mesh_incoming(listener, tls));
    let server = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(Ok(mut stream)) = incoming.next().await {
            seen.push(stream.connect_info().id.unwrap());
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            stream.write_all(&byte).await.unwrap();
            if seen.len() == 2 {
                break;
            }
        }
        seen
    });
    // It neither speaks nor leaves, and holds up nobody.
    let _silent = TcpStream::connect(address).await.unwrap();
    echo(&member(&ours, "proxy"), address).await.unwrap();

    let nobody = MeshTls::new(Some(Arc::new(ours.bundle().clone())));
    echo(&nobody, address).await.unwrap_err();
    assert_eq!(failures(&metrics, HandshakeFailure::NoCertificate), 1);

    let stranger = member(&issuer(), "proxy");
    stranger.set_bundle(Arc::new(ours.bundle().clone()));
    echo(&stranger, address).await.unwrap_err();
    assert_eq!(failures(&metrics, HandshakeFailure::UnknownAuthority), 1);

    echo(&member(&ours, "cli"), address).await.unwrap();
    assert_eq!(server.await.unwrap(), [id("proxy"), id("cli")]);
}

#[tokio::test]
async fn a_port_in_use_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = bind(taken.local_addr().unwrap(), "--listen").await.unwrap_err().to_string();
    assert!(error.contains("in use") && error.ends_with("choose another address with --listen"), "{error}");
}
