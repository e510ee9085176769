//! What somebody on the network sees of a conversation between two pods.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

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
        problem = streams.iter().filter(|(_, bytes)| !bytes.is_empty()).find_map(|((_, from, to), bytes)| {
            let problem = check_tls(bytes).err()?;
            Some(format!("from port {from} to {to}: {problem}"))
        });
        // Every protocol of the shop, with more than handshakes.
        let busy = |port: &u16| streams.iter().any(|((_, _, to), bytes)| to == port && bytes.len() > 5000);
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
        let full = streams.iter().filter(|((_, from, to), bytes)| (*from == 8080 || *to == 8080) && bytes.len() > 100);
        full.count() >= 4
    });
    captured.unwrap();
    for ((_, from, to), bytes) in &streams {
        if bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
            return Err(format!("the payload can be read from port {from} to {to}"));
        }
        if *from == 8080 || *to == 8080 {
            check_tls(bytes).map_err(|problem| format!("from port {from} to {to}: {problem}"))?;
        }
    }
    Ok(())
}

/// Records of TLS throughout, and a ServerHello, where there is one, that chose TLS 1.3 (RFC 8446, section 4.2.1).
fn check_tls(bytes: &[u8]) -> Result<(), String> {
    let mut rest = bytes;
    while let Some((&[kind, major, _, high, low], body)) = rest.split_first_chunk::<5>() {
        let length = usize::from(high) << 8 | usize::from(low);
        if !(20..=23).contains(&kind) || major != 3 {
            return Err(format!("not TLS: {:?}", &rest[..rest.len().min(16)]));
        }
        let body = &body[..body.len().min(length)];
        if kind == 22 && body.first() == Some(&2) && !body.windows(6).any(|window| window == [0, 43, 0, 2, 3, 4]) {
            return Err("not TLS 1.3".to_owned());
        }
        rest = &rest[5 + body.len()..];
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

/// The bytes in each direction. Packets arrive in order on a link within one machine.
type Streams = HashMap<Direction, Vec<u8>>;
/// Kind of packet (IPv4 or IPv6), and the ports they go from and to.
type Direction = (u16, u16, u16);

/// The payload of every TCP stream in a capture (pcap, Ethernet).
fn read(capture: &[u8]) -> Streams {
    let mut streams = Streams::new();
    let mut rest = capture.get(24..).unwrap_or_default();
    while rest.len() >= 16 {
        let length = usize::try_from(u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]])).unwrap();
        let Some(packet) = rest.get(16..16 + length) else { break };
        if let Some((ports, payload)) = segment(packet) {
            streams.entry(ports).or_default().extend_from_slice(payload);
        }
        rest = &rest[16 + length..];
    }
    streams
}

fn segment(packet: &[u8]) -> Option<(Direction, &[u8])> {
    let number = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (kind, ip) = (number(packet, 12)?, packet.get(14..)?);
    let (tcp_at, end) = match kind {
        0x0800 if *ip.get(9)? == 6 => (usize::from(ip[0] & 15) * 4, usize::from(number(ip, 2)?)),
        0x86dd if *ip.get(6)? == 6 => (40, 40 + usize::from(number(ip, 4)?)),
        _ => return None,
    };
    let tcp = ip.get(tcp_at..end.min(ip.len()))?;
    let payload = tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?;
    Some(((kind, number(tcp, 0)?, number(tcp, 2)?), payload))
}

/// In path, header and body.
const SECRET: &str = "open-sesame-0451";
