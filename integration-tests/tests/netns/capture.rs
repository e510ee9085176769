//! What somebody on the network sees of a conversation between two pods.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration_tests::capture::{Streams, check_tls, read};
use integration_tests::demo::Demo;
use integration_tests::mesh::{Process, User, eventually};

use super::pair::{Pair, curl, said};

#[test]
fn a_capture_shows_tls_1_3_and_nothing_else() {
    let (pair, _server) = Pair::http(None);
    assert_eq!(overheard(&pair), Ok(()));
}

/// The same test, with the rules taken away: it must not pass.
#[test]
fn without_the_redirect_the_capture_shows_everything() {
    let (pair, _server) = Pair::http(None);
    for pod in [&pair.client, &pair.server] {
        for family in ["ip", "ip6"] {
            said(pod, &["nft", "delete", "table", family, "mesh"]);
        }
    }
    let seen = overheard(&pair).unwrap_err();
    assert!(seen.contains("the payload"), "{seen}");
}

/// The shop of the demo while it is busy: between its pods there is TLS 1.3 and nothing else, the control plane included.
#[test]
fn a_capture_of_the_demo_shows_tls_1_3_and_nothing_else() {
    assert_eq!(overheard_in_demo(&[]), Ok(()));
}

#[test]
fn without_the_mesh_a_capture_of_the_demo_shows_everything() {
    let seen = overheard_in_demo(&["--no-mesh"]).unwrap_err();
    assert!(seen.contains("not TLS"), "{seen}");
}

/// Captures everything that passes the bridge between the demo's pods, from the first connection on.
fn overheard_in_demo(arguments: &[&str]) -> Result<(), String> {
    let demo = Demo::start(arguments).unwrap();
    let file = demo.place().beside("capture");
    let target = demo.id().to_string();
    let enter = ["--target", &target, "--net", "--"];
    let named = || demo.state().is_ok();
    eventually(Duration::from_secs(20), named).unwrap_or_else(|_| panic!("{}", demo.output()));
    let mut tcpdump = Command::new("nsenter")
        .args(enter)
        .args(["setpriv", "--pdeathsig", "KILL", "tcpdump", "-i", "mesh0", "-n", "-U", "-s", "0", "-Z", "root", "-w"])
        .arg(&file)
        .arg("tcp")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut streams = Streams::new();
    let mut problem = None;
    let shop = [8080, 50_051, 6379];
    let captured = eventually(Duration::from_secs(40), || {
        streams = read(&std::fs::read(&file).unwrap_or_default());
        problem = streams.iter().filter(|(_, bytes)| !bytes.is_empty()).find_map(|((from, to), bytes)| {
            let problem = check_tls(bytes).err()?;
            Some(format!("from {from} to {to}: {problem}"))
        });
        // Every protocol of the shop, with more than handshakes.
        let busy = |port: &u16| streams.iter().any(|((_, to), bytes)| to.port() == *port && bytes.len() > 5000);
        problem.is_some() || shop.iter().all(busy)
    });
    tcpdump.kill().unwrap();
    tcpdump.wait().unwrap();
    captured.unwrap_or_else(|_| panic!("{}", demo.output()));
    problem.map_or(Ok(()), Err)
}

/// Captures requests to the server's pod in its own namespace, and says what is not as it should be.
fn overheard(pair: &Pair) -> Result<(), String> {
    let file = pair.file("capture");
    let _tcpdump = capture(pair, &file);
    for addr in pair.direct(8080) {
        let header = format!("x-secret: {SECRET}");
        let url = format!("http://{addr}/{SECRET}");
        let response = curl(&pair.client, &["-d", SECRET, "-H", &header, &url]);
        assert!(response.contains(SECRET), "{response}");
    }
    let mut streams = Streams::new();
    let captured = eventually(Duration::from_secs(10), || {
        streams = read(&std::fs::read(&file).unwrap_or_default());
        // Both directions, both families, with more than the start of a handshake.
        let full = streams
            .iter()
            .filter(|((from, to), bytes)| [from, to].iter().any(|end| end.port() == 8080) && bytes.len() > 100);
        full.count() >= 4
    });
    captured.unwrap();
    for ((from, to), bytes) in &streams {
        if bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
            return Err(format!("the payload can be read from {from} to {to}"));
        }
        if [from, to].iter().any(|end| end.port() == 8080) {
            check_tls(bytes).map_err(|problem| format!("from {from} to {to}: {problem}"))?;
        }
    }
    Ok(())
}

fn capture(pair: &Pair, file: &Path) -> Process {
    let file = file.display().to_string();
    // Packets of a connection within one machine are as large as they like.
    let words = ["-i", "eth0", "-n", "-U", "-s", "0", "-Z", "root", "-w", &file, "tcp"];
    let log = pair.file("logs/tcpdump.log");
    let process = Process::start(pair.server.namespace(), User::Root, "tcpdump", &words, &[], &log).unwrap();
    process.wait_for_output("listening on", Duration::from_secs(10)).unwrap();
    process
}

/// In path, header and body.
const SECRET: &str = "open-sesame-0451";
