//! Applications that pass and applications that do not, over real sockets.

use std::time::SystemTime;

use identity::{ClientCertificates, Issuer, KeyAndRequest, MeshTls, SpiffeId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

fn bootstrap(loopback_ports: &[u16]) -> Bootstrap {
    let json = serde_json::json!({
        "workload": {"name": "web-1", "namespace": "shop", "service_account": "web", "addresses": ["127.0.0.9"]},
        "identity": {"addresses": ["identity:8444"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-identity"},
        "controller": {"addresses": ["controller:8443"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller"},
        "token_file": "/token", "loopback_ports": loopback_ports,
    });
    Bootstrap::parse(&json.to_string()).unwrap()
}

async fn probe(port: u16, check: ProbeCheck) -> Result<(), String> {
    run(&Probe { port, timeout_ms: 5000, check }, &bootstrap(&[]), Some(&HeaderValue::from_static("kube-probe/1.34")))
        .await
}

#[tokio::test]
async fn a_port_counts_as_open_only_where_the_app_listens() {
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    probe(port, ProbeCheck::Tcp).await.unwrap();
    drop(listener);
    let error = probe(port, ProbeCheck::Tcp).await.unwrap_err();
    assert!(error.contains("refused"), "{error}");

    // On loopback alone, and told so.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    probe(port, ProbeCheck::Tcp).await.unwrap_err();
    let check = Probe { port, timeout_ms: 5000, check: ProbeCheck::Tcp };
    run(&check, &bootstrap(&[port]), None).await.unwrap();
    let own = Probe { port: 15020, ..check };
    assert_eq!(run(&own, &bootstrap(&[]), None).await, Err("port 15020 is the proxy's own".to_owned()));
}

/// Answers one connection with `answer`, and returns what it was asked.
async fn https_app(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
    let issuer = Issuer::create(&"td".parse().unwrap(), SystemTime::now()).unwrap().0;
    let id: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
    let key = KeyAndRequest::new(&id).unwrap();
    let issued = issuer.issue(key.csr(), &id, Duration::from_secs(60), SystemTime::now()).unwrap();
    let tls = MeshTls::new(Some(Arc::new(issuer.bundle().clone())));
    tls.set_leaf(key.complete(issued.chain).unwrap());
    let acceptor = TlsAcceptor::from(tls.server_config(ClientCertificates::None, &[b"http/1.1"]));
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut asked).await.unwrap();
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8(asked).unwrap()
    });
    (port, asked)
}

#[tokio::test]
async fn https_is_asked_as_the_kubelet_asks() {
    let check = |headers: &[(&str, &str)]| ProbeCheck::Https {
        path: "/live?deep=1".to_owned(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    let (port, asked) = https_app("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n").await;
    probe(port, check(&[("Host", "web.example"), ("X-Probe", "1")])).await.unwrap();
    let asked = asked.await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /live?deep=1 http/1.1\r\n"), "{asked}");
    for line in ["host: web.example\r\n", "x-probe: 1\r\n", "user-agent: kube-probe/1.34\r\n"] {
        assert!(asked.contains(line), "{line} in {asked}");
    }
    let (port, _asked) = https_app("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
    let error = probe(port, check(&[])).await.unwrap_err();
    assert!(error.ends_with("answers 500"), "{error}");
    assert!(probe(port, check(&[("a b", "c")])).await.is_err());
}

#[tokio::test]
async fn plaintext_and_silence_are_no_https() {
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = ProbeCheck::Https { path: "/".to_owned(), headers: Vec::new() };
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        listener
    });
    let error = probe(port, check.clone()).await.unwrap_err();
    assert!(error.contains("does not speak TLS"), "{error}");
    let _listening = answering.await.unwrap();
    let error = run(&Probe { port, timeout_ms: 50, check }, &bootstrap(&[]), None).await.unwrap_err();
    assert!(error.ends_with("did not answer within 50ms"), "{error}");
}

/// A gRPC server that answers one call with a status of its own, and one of health if that is 0.
async fn grpc_app(grpc_status: &'static str, health: i32) -> (u16, tokio::task::JoinHandle<(String, Bytes)>) {
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut connection = codecs::h2::server(16 * 1024).handshake::<_, Bytes>(tcp).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let path = request.uri().path().to_owned();
        let mut body = request.into_body();
        let answering = async {
            let message = body.data().await.unwrap().unwrap();
            let mut head = http::Response::new(());
            head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(grpc_status));
            if grpc_status == "0" {
                let mut stream = respond.send_response(head, false).unwrap();
                stream.send_data(framed(&HealthCheckResponse { status: health }), false).unwrap();
                stream.send_trailers(trailers).unwrap();
            } else {
                head.headers_mut().extend(trailers);
                respond.send_response(head, true).unwrap();
            }
            message
        };
        let message = tokio::select! {
            message = answering => message,
            _ = std::future::poll_fn(|context| connection.poll_closed(context)) => panic!("closed"),
        };
        // Until the client has read it and left.
        let _ = std::future::poll_fn(|context| connection.poll_closed(context)).await;
        (path, message)
    });
    (port, asked)
}

#[tokio::test]
async fn grpc_must_say_that_it_serves() {
    let check = |service: &str| ProbeCheck::Grpc { service: service.to_owned() };
    let (port, asked) = grpc_app("0", 1).await;
    probe(port, check("live")).await.unwrap();
    let (path, message) = asked.await.unwrap();
    assert_eq!((path.as_str(), &message[..]), ("/grpc.health.v1.Health/Check", &b"\0\0\0\0\x06\x0a\x04live"[..]));
    for (status, health, expected) in
        [("0", 2, "NOT_SERVING"), ("0", -7, "UNKNOWN"), ("12", 0, "does not implement"), ("5", 0, "grpc-status \"5\"")]
    {
        let (port, _asked) = grpc_app(status, health).await;
        let error = probe(port, check("")).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
