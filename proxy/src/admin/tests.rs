//! The paths, over real sockets.

use super::client::{CallError, drain, wait};
use super::open::MOST_CONNECTIONS;
use super::*;
use crate::telemetry::{
    Direction, EdgeLabels, PeerLabels, Reporter, RequestLabels, RequestOutcome, RequestProtocol, SecurityPolicy,
    ServiceLabels,
};
use identity::HandshakeFailure;
use proto::{Bootstrap, Reason};
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn admin() -> Arc<Admin> {
    let bootstrap = Bootstrap::parse(
        r#"{"workload": {"name": "web-1", "namespace": "shop", "service_account": "web", "addresses": ["10.0.0.1"]},
            "identity": {"addresses": ["identity:8444"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-identity"},
            "controller": {"addresses": ["controller:8443"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller"},
            "token_file": "/token", "probes": {"/app-probe/web/liveness": {"port": 15001, "timeout_ms": 1, "check": "tcp"}}}"#,
    );
    let config = Config::new(bootstrap.unwrap());
    Arc::new(Admin {
        state: ControlState::new(&config.id),
        probes: Probes::new(&config.bootstrap),
        config,
        discovery: Discovery::default(),
        telemetry: Telemetry::default(),
        drain: Drain::new(),
        log: LogControl::fixed("info"),
        started: SystemTime::now(),
    })
}

async fn serve(admin: &Arc<Admin>, scope: Scope) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(admin.clone().serve(listener, scope));
    port
}

async fn ask(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn every_path_answers_and_health_keeps_to_itself() {
    let admin = admin();
    let (all, health) = (serve(&admin, Scope::Admin).await, serve(&admin, Scope::Health).await);
    for path in PATHS.split_whitespace().filter(|path| *path != "/drain") {
        let answer = ask(all, &format!("GET {path}")).await;
        let expected = if path == "/ready" { "503" } else { "200" };
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{path}: {answer}");
    }
    assert!(ask(all, "GET /info").await.contains(r#""workload":"web-1""#));
    let metrics = ask(health, "GET /stats/prometheus").await;
    for name in ["mesh_discovery_age_seconds ", "mesh_certificate_expiry_timestamp_seconds 0", "process_open_fds"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    assert!(ask(health, "GET /live").await.starts_with("HTTP/1.1 200"));
    assert!(ask(health, "GET /app-probe/web/liveness").await.ends_with("port 15001 is the proxy's own"));
    assert!(ask(health, "GET /app-probe/web/startup").await.starts_with("HTTP/1.1 404"));
    assert!(ask(health, "POST /app-probe/web/liveness").await.starts_with("HTTP/1.1 405"));
    for hidden in ["GET /config", "POST /drain", "PUT /log", "GET /info"] {
        assert!(ask(health, hidden).await.starts_with("HTTP/1.1 404"), "{hidden}");
    }
    assert!(ask(all, "GET /nothing").await.starts_with("HTTP/1.1 404"));
    assert!(ask(all, "DELETE /info").await.starts_with("HTTP/1.1 405"));
    assert!(ask(all, &format!("GET /{}", "a".repeat(20_000))).await.starts_with("HTTP/1.1 4"));
    assert_eq!(admin.drain.phase(), Phase::Serving);
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let port = serve(&admin(), Scope::Health).await;
    let mut idle = Vec::new();
    for _ in 0..2 * MOST_CONNECTIONS {
        idle.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let answer = tokio::time::timeout(PATIENCE / 2, ask(port, "GET /live")).await.expect("kept out");
    assert!(answer.ends_with("live\n"), "{answer}");
    // The oldest had to go.
    let first = tokio::time::timeout(PATIENCE / 2, idle[0].read(&mut [0; 1])).await;
    assert_eq!(first.expect("still there").unwrap_or_default(), 0);
}

#[tokio::test]
async fn whoever_opens_many_connections_loses_its_own() {
    let port = serve(&admin(), Scope::Health).await;
    let mut kubelets = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    kubelets.write_all(b"GET /live HTTP/1.1\r\n").await.unwrap();
    let mut others = Vec::new();
    for _ in 0..3 * MOST_CONNECTIONS {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        others.push(socket.connect(([127, 0, 0, 1], port).into()).await.unwrap());
    }
    assert!(ask(port, "GET /live").await.ends_with("live\n"));
    let gone = tokio::time::timeout(PATIENCE / 2, others[0].read(&mut [0; 1])).await;
    assert_eq!(gone.expect("still there").unwrap_or_default(), 0);
    kubelets.write_all(b"host: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    kubelets.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("live\n"), "{answer}");
}

#[tokio::test]
async fn wait_says_what_is_missing_and_drain_starts_draining() {
    let admin = admin();
    let (all, health) = (serve(&admin, Scope::Admin).await, serve(&admin, Scope::Health).await);
    let waiting = tokio::task::spawn_blocking(move || {
        let mut told = Vec::new();
        let ended = wait(health, Duration::ZERO, |reason| told.push(reason.to_owned()));
        (told, ended)
    });
    let (told, ended) = waiting.await.unwrap();
    assert!(told[0].contains("no valid certificate") && told[0].contains("no controller"), "{told:?}");
    assert!(matches!(ended, Err(CallError::NotReady { .. })));
    tokio::task::spawn_blocking(move || drain(all)).await.unwrap().unwrap();
    assert_eq!(admin.drain.phase(), Phase::Draining);
    assert!(!ask(all, "GET /ready").await.contains("draining"), "what comes is served: a Service may have nobody else");
    admin.drain.advance(Phase::Closing);
    assert!(ask(all, "GET /ready").await.ends_with("draining\n"));
}

#[tokio::test]
async fn the_proxy_is_ready_with_a_certificate_and_a_first_picture() {
    let admin = admin();
    let port = serve(&admin, Scope::Health).await;
    let now = SystemTime::now();
    admin.state.certificate(now, now + Duration::from_secs(60), now, true);
    admin.discovery.put_inbound(crate::control::Known::Absent);
    admin.discovery.put_settings(crate::control::Known::Absent);
    assert!(ask(port, "GET /ready").await.starts_with("HTTP/1.1 200"));
    tokio::task::spawn_blocking(move || wait(port, Duration::ZERO, |_| ())).await.unwrap().unwrap();
}

/// `series.txt` names every series of a proxy with its labels: what alerts and dashboards are compared with. With `MESH_WRITE_SERIES=1`
/// in the environment this writes it.
#[tokio::test]
async fn the_series_are_those_of_the_list() {
    let admin = admin();
    let metrics = &admin.telemetry.metrics;
    let (peer, service) = (Arc::new(PeerLabels::default()), Arc::new(ServiceLabels::default()));
    let (reporter, security) = (Reporter::Source, SecurityPolicy::None);
    let edge = EdgeLabels { reporter, source: peer.clone(), destination: peer, service, security };
    metrics.tcp(&edge).open();
    let labels = RequestLabels { edge, protocol: RequestProtocol::Grpc, route: Some("shop/cart".into()) };
    metrics.requests(&labels).observe(&RequestOutcome { grpc_status: Some(0), ..RequestOutcome::default() });
    metrics.failure(Reason::NoEndpoints, Direction::Outbound);
    metrics.tls_failure(HandshakeFailure::ALL[0], Direction::Outbound);

    let text = ask(serve(&admin, Scope::Health).await, "GET /metrics").await;
    let (_, text) = text.split_once("\r\n\r\n").unwrap();
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase())) {
        let (name, labels) =
            line.rsplit_once(' ').unwrap().0.split_once('{').unwrap_or_else(|| line.split_once(' ').unwrap());
        let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once("=\""));
        series.insert(labels.fold(name.to_owned(), |all, (label, _)| all + " " + label));
    }
    let series: String = series.iter().map(|one| format!("{one}\n")).collect();
    if std::env::var_os("MESH_WRITE_SERIES").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/series.txt"), &series).unwrap();
    }
    let list = include_str!("series.txt");
    assert_eq!(series, list, "run MESH_WRITE_SERIES=1 cargo test -p proxy the_series_are_those_of_the_list");
}
