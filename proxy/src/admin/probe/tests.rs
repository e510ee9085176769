//! Applications that pass and applications that do not, over real sockets.

use ::http::HeaderMap;
use ::http::header::CONTENT_TYPE;
use proto::bootstrap::HttpGet;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::grpc::{HealthCheckResponse, framed};
use super::*;
use crate::http as codecs;

pub(super) fn bootstrap(loopback_ports: &[u16]) -> Bootstrap {
    let json = serde_json::json!({
        "workload": {"name": "web-1", "namespace": "shop", "service_account": "web", "addresses": ["127.0.0.9"]},
        "identity": {"addresses": ["identity:8444"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-identity"},
        "controller": {"addresses": ["controller:8443"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller"},
        "token_file": "/token", "loopback_ports": loopback_ports,
    });
    Bootstrap::parse(&json.to_string()).unwrap()
}

pub(super) async fn probe(port: u16, check: ProbeCheck) -> Outcome {
    probe_of(&bootstrap(&[]), Probe { port, timeout_ms: 5000, check }).await
}

pub(super) async fn probe_of(bootstrap: &Bootstrap, probe: Probe) -> Outcome {
    let agent = HeaderValue::from_static("kube-probe/1.34");
    Probes::new(bootstrap).run("/app-probe/web/liveness", &probe, Some(&agent)).await
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
    probe_of(&bootstrap(&[port]), check.clone()).await.unwrap();
    let own = Probe { port: 15020, ..check };
    assert_eq!(probe_of(&bootstrap(&[]), own).await, Err("port 15020 is the proxy's own".to_owned()));
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
            let mut head = ::http::Response::new(());
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

async fn begins(probe: impl Future<Output = Outcome>) {
    tokio::select! {
        biased;
        outcome = probe => panic!("{outcome:?}"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn who_asks_meanwhile_waits_for_the_same_answer_also_when_the_first_one_leaves() {
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = ProbeCheck::Http(HttpGet { path: "/".to_owned(), headers: Vec::new() });
    let probe = Probe { port, timeout_ms: 5000, check };
    let probes = Probes::new(&bootstrap(&[]));
    let mut first = Box::pin(probes.run("/app-probe/a/liveness", &probe, None));
    begins(&mut first).await;
    let (mut app, _) = listener.accept().await.unwrap();
    let mut second = Box::pin(probes.run("/app-probe/a/liveness", &probe, None));
    begins(&mut second).await;
    drop(first);
    app.write_all(b"HTTP/1.1 203 A\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
    assert_eq!(second.await.unwrap(), Answer { status: StatusCode::from_u16(203).unwrap(), body: "hi".into() });
    // One that begins later asks anew.
    drop(app);
    let mut third = Box::pin(probes.run("/app-probe/a/liveness", &probe, None));
    begins(&mut third).await;
    let (app, _) = listener.accept().await.unwrap();
    drop(app);
    assert!(third.await.unwrap_err().contains("does not answer HTTP"));
}
