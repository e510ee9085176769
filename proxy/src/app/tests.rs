//! The whole proxy in this process, with a control plane that is there, and then is not.

use std::path::Path;

use proto::Bootstrap;
use proto::discovery::discover_response::Kind as Said;
use proto::discovery::{self as wire, Update};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::control::fake::{AUTHORITY, CONTROLLER, World, progress};
use crate::control::key::Key;

struct Running {
    bound: Bound,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), StartError>>,
}

fn start(world: &World, authority: SocketAddr, controller: SocketAddr, directory: &Path) -> Running {
    let path = |name: &str| directory.join(name).display().to_string();
    std::fs::write(path("token"), "good").unwrap();
    let bootstrap = serde_json::json!({
        "workload": {"name": "web-1", "namespace": "shop", "service_account": "web", "addresses": ["127.0.0.1"]},
        "identity": {"addresses": [authority.to_string()], "id": AUTHORITY},
        "controller": {"addresses": [controller.to_string()], "id": CONTROLLER},
        "token_file": path("token"), "state_directory": path(""), "admin_socket": path("admin.sock"),
        "bundle": world.issuer.bundle().to_pem(), "drain_delay_ms": 1,
        "ports": {"outbound": 0, "inbound": 0, "admin": 0, "health": 0},
    });
    let config = Config::new(Bootstrap::parse(&bootstrap.to_string()).unwrap());
    let app = App::build(config, LogControl::fixed("info")).unwrap();
    let (bound, (stop, stopped)) = (app.bound(), oneshot::channel());
    let task = tokio::spawn(app.run(async {
        let _ = stopped.await;
    }));
    Running { bound, stop, task }
}

async fn ask(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn until_ready(port: u16) {
    let ready = async {
        while !ask(port, "GET /ready").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ready).await.expect("ready in time");
}

#[tokio::test]
async fn a_proxy_becomes_ready_drains_ends_and_begins_again_with_nobody_there() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let authority = world.authority(Duration::from_secs(3600)).await;
    let mut controller = world.controller(CONTROLLER).await;
    let proxy = start(&world, authority, controller.address, directory.path());
    assert!(ask(proxy.bound.health.port(), "GET /ready").await.starts_with("HTTP/1.1 503"));
    let stream = controller.stream().await;
    for (key, value) in [
        (Key::Inbound, wire::update::Value::Inbound(wire::Inbound::default())),
        (Key::Settings, wire::update::Value::Settings(wire::Settings::default())),
    ] {
        let update =
            Update { key: Some(key.to_wire()), hash: vec![1; 16].into(), as_of: Some(progress(1)), value: Some(value) };
        stream.say(Said::Update(update)).await;
    }
    until_ready(proxy.bound.health.port()).await;
    let mut socket = UnixStream::connect(directory.path().join("admin.sock")).await.unwrap();
    socket.write_all(b"GET /info HTTP/1.0\r\n\r\n").await.unwrap();
    let mut info = String::new();
    socket.read_to_string(&mut info).await.unwrap();
    assert!(info.contains(r#""ready":true"#), "{info}");
    let picture = directory.path().join("picture");
    while !picture.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(ask(proxy.bound.admin.port(), "POST /drain").await.starts_with("HTTP/1.1 200"));
    assert!(
        ask(proxy.bound.health.port(), "GET /ready").await.starts_with("HTTP/1.1 200"),
        "it serves while it drains"
    );
    let asked_at = Instant::now();
    proxy.stop.send(()).unwrap();
    proxy.task.await.unwrap().unwrap();
    assert!(Instant::now() - asked_at < Duration::from_secs(1));

    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let proxy = start(&world, nobody, nobody, directory.path());
    assert!(ask(proxy.bound.health.port(), "GET /ready").await.starts_with("HTTP/1.1 200"), "from what was kept");
    proxy.stop.send(()).unwrap();
    proxy.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn clients_are_sent_elsewhere_once_the_drain_delay_is_over() {
    for delay in [0, 500, 30_000] {
        let drain = Drain::new();
        let announcing = tokio::spawn(announce(drain.clone(), Duration::from_millis(delay)));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!drain.announces(), "nobody drains yet");
        let began = Instant::now();
        drain.advance(Phase::Draining);
        drain.reached(Phase::Announcing).await;
        assert_eq!((Instant::now() - began).as_millis(), u128::from(delay));
        announcing.await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_work_is_said_in_one_sentence() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let proxy = start(&world, nobody, nobody, directory.path());
    let mut bootstrap = Bootstrap::parse(
        r#"{"workload": {"name": "a", "namespace": "b", "service_account": "c", "addresses": ["10.0.0.1"]},
            "identity": {"addresses": ["i:1"], "id": "spiffe://d/ns/e/sa/f"},
            "controller": {"addresses": ["c:1"], "id": "the controller"}, "token_file": "/t",
            "ports": {"outbound": 0, "inbound": 0, "admin": 0, "health": 0}}"#,
    )
    .unwrap();
    let build = |bootstrap: &Bootstrap| {
        App::build(Config::new(bootstrap.clone()), LogControl::fixed("info")).unwrap_err().to_string()
    };
    assert!(build(&bootstrap).starts_with("controller.id of the bootstrap: "), "{}", build(&bootstrap));
    bootstrap.admin_socket = Some("/nowhere/at/all".into());
    assert!(build(&bootstrap).starts_with("cannot listen on /nowhere/at/all"), "{}", build(&bootstrap));
    bootstrap.ports.health = proxy.bound.health.port();
    assert!(build(&bootstrap).contains("is in use"), "{}", build(&bootstrap));
    proxy.stop.send(()).unwrap();
    proxy.task.await.unwrap().unwrap();
}
