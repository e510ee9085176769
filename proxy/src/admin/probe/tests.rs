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
    // Soon after it the same is told, and later the application is asked anew.
    drop(app);
    let again = probes.run("/app-probe/a/liveness", &probe, None).await.unwrap();
    assert_eq!((again.status.as_u16(), again.shown().as_str()), (203, ""));
    tokio::time::pause();
    tokio::time::advance(PAUSE).await;
    tokio::time::resume();
    let mut third = Box::pin(probes.run("/app-probe/a/liveness", &probe, None));
    begins(&mut third).await;
    let (app, _) = listener.accept().await.unwrap();
    drop(app);
    assert!(third.await.unwrap_err().contains("does not answer HTTP"));
}

#[tokio::test(start_paused = true)]
async fn however_often_strangers_ask_the_app_is_asked_twice_a_second_and_a_kubelet_hears_what_is_now() {
    let probes = Probes::new(&bootstrap(&[]));
    // Each is answered at once, with its own port in it: so the answer says which one it is of.
    let ask = async |port| {
        let probe = Probe { port, timeout_ms: 5000, check: ProbeCheck::Tcp };
        probes.run("/app-probe/a/liveness", &probe, None).await.unwrap_err()
    };
    let wait = |milliseconds| tokio::time::advance(Duration::from_millis(milliseconds));
    assert_eq!(ask(15001).await, "port 15001 is the proxy's own");
    wait(499).await;
    assert_eq!(ask(15006).await, "port 15001 is the proxy's own");
    wait(1).await;
    assert_eq!(ask(15006).await, "port 15006 is the proxy's own");
    // The kubelet's, once a second, with strangers in between.
    let (mut heard, ports) = (Vec::new(), [15001, 15006, 15000, 15020]);
    for port in ports {
        for _ in 0..9 {
            wait(100).await;
            ask(port).await;
        }
        wait(100).await;
        heard.push(ask(port).await);
    }
    assert_eq!(heard, ports.map(|port| format!("port {port} is the proxy's own")));
}

#[test]
fn little_is_shown_of_failures_and_nothing_of_passing() {
    let answer = |status, body: &'static str| Answer {
        status: StatusCode::from_u16(status).unwrap(),
        body: Bytes::from_static(body.as_bytes()),
    };
    assert_eq!(answer(200, "the database's password is 1234").shown(), "");
    assert_eq!(answer(302, "elsewhere").shown(), "");
    assert_eq!(answer(503, "no\r\ndatabase\u{1b}[2J\u{e9}\n").shown(), "no  database [2J");
    assert_eq!(shown(&[b'a'; 10_000]), "a".repeat(256));
}

#[test]
fn strangers_have_no_words_for_the_app() {
    let sent = |agent: &'static str| named(Some(&HeaderValue::from_static(agent)));
    for agent in ["kube-probe/1.34", "kube-probe/1.30+", "kube-probe/v1.29.4-eks-036c24b"] {
        assert_eq!(sent(agent), agent);
    }
    for agent in ["curl/8", "kube-probe/${jndi:ldap://evil/a}", "kube-probe/1 2", "kube-probe/'", "kube-probe/<a>"] {
        assert_eq!(sent(agent), AGENT, "{agent}");
    }
}
