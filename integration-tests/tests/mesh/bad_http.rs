//! Requests that two readers may understand differently, and other nonsense: refused with a reason, by the client's proxy as by
//! the server's, while everybody else is served.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use integration_tests::mesh::{Pod, Service, ServicePort, Settings, eventually, service_address};
use proto::names::metric;

use super::control_plane::load_runs;
use super::shop::{Shop, WEB};

/// What is wrong, the request, and the status and reason it gets. Nothing with `SMUGGLED` in it may reach an application.
fn attacks() -> Vec<(&'static str, String, u16, &'static str)> {
    let invalid = |name, text: &str| (name, text.to_owned(), 400, "request_invalid");
    let chunked = |name, body: &str| {
        let head = "POST / HTTP/1.1\r\nHost: trap\r\nTransfer-Encoding: chunked\r\n\r\n";
        (name, format!("{head}{body}"), 400, "request_invalid")
    };
    let smuggled = "GET /SMUGGLED HTTP/1.1\r\nHost: trap\r\n\r\n";
    let both = format!(
        "POST /SMUGGLED HTTP/1.1\r\nHost: trap\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
    );
    let long = format!("GET /SMUGGLED HTTP/1.1\r\nHost: trap\r\nX-Long: {}\r\n\r\n", "x".repeat(140 * 1024));
    vec![
        invalid("a length and a coding", &both),
        invalid(
            "two lengths",
            "POST /SMUGGLED HTTP/1.1\r\nHost: trap\r\nContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc",
        ),
        invalid("bare line feeds", "GET / HTTP/1.1\nHost: trap\nX: SMUGGLED\n\n"),
        invalid("two hosts", "GET /SMUGGLED HTTP/1.1\r\nHost: trap\r\nHost: other\r\n\r\n"),
        invalid("no host", "GET /SMUGGLED HTTP/1.1\r\n\r\n"),
        invalid("a folded line", "GET /SMUGGLED HTTP/1.1\r\nHost: trap\r\nX: a\r\n b\r\n\r\n"),
        invalid("a space before the colon", "GET /SMUGGLED HTTP/1.1\r\nHost : trap\r\n\r\n"),
        chunked("a chunk size that is none", "SMUGGLED\r\nabc\r\n0\r\n\r\n"),
        chunked("a chunk size with a prefix", "0x8\r\nSMUGGLED\r\n0\r\n\r\n"),
        chunked("a chunk size that overflows", "fffffffffffffffff\r\nSMUGGLED\r\n0\r\n\r\n"),
        chunked("a negative chunk size", "-8\r\nSMUGGLED\r\n0\r\n\r\n"),
        ("a head of 140 KiB", long, 431, "head_too_large"),
    ]
}

#[test]
fn nonsense_is_refused_with_its_reason_and_disturbs_nobody() {
    let mut shop = Shop::open(Settings::default(), 1);
    let trap = shop.mesh.pod("trap-1", "trap").unwrap();
    let outsider = shop.mesh.bare_pod("outsider-1", "outsider").unwrap();
    let ports = [ServicePort { port: 80, target: 8080, protocol: Some("http") }];
    shop.mesh.service(&Service { name: "trap", address: service_address(9).into(), ports: &ports }).unwrap();
    let controller = shop.mesh.controllers[0].as_ref().unwrap();
    controller.wait_for_output("facts in force objects=5 ", Duration::from_secs(10)).unwrap();
    let heard = listen(&trap);
    let by_client: SocketAddr = (service_address(9), 80).into();
    let by_server: SocketAddr = (trap.addresses[0], 8080).into();
    let hello = || say(&shop.client, by_client, "GET /hello HTTP/1.0\r\nHost: trap\r\n\r\n");
    let known = || hello().starts_with("HTTP/1.1 200 ");
    eventually(Duration::from_secs(10), known).unwrap_or_else(|_| panic!("{}\n{}", hello(), shop.client.log("proxy")));

    let load = shop.load(200);
    for (pod, target, judge, direction) in
        [(&shop.client, by_client, &shop.client, "outbound"), (&outsider, by_server, &trap, "inbound")]
    {
        let direction = format!("direction=\"{direction}\"");
        for (name, request, status, reason) in attacks() {
            let label = format!("reason=\"{reason}\"");
            let counted = || judge.metric(metric::FAILURES, &[&label, &direction]).unwrap();
            let before = counted();
            let answer = say(pod, target, &request);
            let first = answer.lines().next().unwrap_or_default();
            assert!(first.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
            assert!(answer.contains(&format!("details=\"{reason}\"")), "{name}: {answer}");
            let once = || (counted() - before - 1.0).abs() < f64::EPSILON;
            eventually(Duration::from_secs(5), once).unwrap_or_else(|_| panic!("{name} is not counted"));
        }
    }
    load_runs(Duration::from_secs(1));
    shop.none_failed(load, 150);
    let heard: String = heard.try_iter().collect();
    assert!(heard.contains("GET /hello") && !heard.contains("SMUGGLED"), "{heard}");
}

/// Headers, paths and bodies stay out of logs, figures and the failure ring, even where everything is logged.
#[test]
fn secrets_are_told_to_nobody() {
    const SECRET: &str = "hunter2-correct-horse";
    let shop = Shop::open(Settings::default(), 1);
    let server = &shop.backends[0].pod;
    for pod in [&shop.client, server] {
        let socket = shop.mesh.path().join("proxies").join(&pod.name).join("admin.sock");
        let words = [
            "-sSf",
            "-o",
            "/dev/null",
            "-X",
            "PUT",
            "-d",
            "trace",
            "--unix-socket",
            &socket.display().to_string(),
            "http://admin/log",
        ];
        assert!(Command::new("curl").args(words).status().unwrap().success());
    }
    let curl = |arguments: &[&str], status: &str| {
        let [bearer, cookie] = ["Authorization: Bearer", "Cookie: session="].map(|name| format!("{name} {SECRET}"));
        let own = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", &bearer, "-H", &cookie, "-d", SECRET];
        let said = shop.client.command("curl", &[&own[..], arguments].concat()).unwrap();
        assert_eq!(said, status, "{arguments:?}");
    };
    let url = format!("http://{}/?token={SECRET}", WEB);
    let nobody = format!("http://{}:8081/?token={SECRET}", server.addresses[0]);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        curl(&[version, &url], "200");
        // No application listens there.
        curl(&[version, &nobody], "503");
    }
    let broken = format!("GET /?token={SECRET} HTTP/1.1\r\nHost: web\r\nCookie : {SECRET}\r\n\r\n");
    let target = WEB.parse().unwrap();
    assert!(say(&shop.client, target, &broken).starts_with("HTTP/1.1 400 "));
    for pod in [&shop.client, server] {
        let log = pod.log("proxy");
        assert!(log.contains("TRACE") || log.contains("\"trace\""), "everything is logged: {log}");
        let told = [log, pod.admin("/failures").unwrap(), pod.admin("/metrics").unwrap()];
        for text in &told {
            let line = text.lines().find(|line| line.contains("hunter2"));
            assert_eq!(line, None, "{} told it", pod.name);
        }
        assert!(told[1].contains("app_refused"), "{}", told[1]);
    }
}

/// An application that answers every connection once, and remembers everything it was ever told.
fn listen(pod: &Pod) -> Receiver<String> {
    let listener = pod.namespace().enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080))).unwrap().unwrap();
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, tell) = (stream.unwrap(), tell.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    let hello = text.starts_with("GET /hello");
                    let _ = tell.send(text);
                    if hello {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                        return;
                    }
                }
            });
        }
    });
    heard
}

/// Sends bytes from a pod, and returns everything that comes back.
fn say(pod: &Pod, target: SocketAddr, text: &str) -> String {
    let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(5));
    let mut stream = pod.namespace().enter(connect).unwrap().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // It may be refused before it is whole.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
