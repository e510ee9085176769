//! What somebody on a node's network sees of pods that talk.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Stdio};
use std::time::Duration;

use integration_tests::capture::{Streams, check_tls, read};
use integration_tests::cluster::{Cluster, Namespace, container, deployment_manifest, service_manifest};
use integration_tests::mesh::eventually;

/// HTTP, gRPC and Redis from one node to the other: between pods in the mesh there is TLS 1.3 and nothing else, the control plane
/// included. The same look at the same pods without injection reads everything.
#[test]
fn a_nodes_network_shows_tls_and_without_injection_everything() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let (meshed, bare) = (cluster.namespace("wire").unwrap(), cluster.namespace("wire-bare").unwrap());
    cluster.kubectl(&["annotate", "namespace", "wire", "meshctl.io/inject=enabled"]).unwrap();
    // From the first packet of their lives on.
    let capture = Capture::start(&cluster);
    for namespace in [&meshed, &bare] {
        namespace.apply(&manifests()).unwrap();
    }
    for namespace in [&meshed, &bare] {
        namespace.rolled_out().unwrap();
    }
    assert_eq!(overheard(&capture, &meshed), Ok(()));
    let seen = overheard(&capture, &bare).unwrap_err();
    assert!(seen.contains("the payload"), "{seen}");
}

/// What is not as it should be of the streams of a namespace's pods, once all its protocols have been busy.
fn overheard(capture: &Capture, namespace: &Namespace) -> Result<(), String> {
    let addresses: BTreeSet<IpAddr> =
        ["client", "server"].iter().flat_map(|app| namespace.addresses(app).unwrap()).collect();
    let mut streams = Streams::new();
    let busy = eventually(Duration::from_secs(30), || {
        streams = read(&std::fs::read(capture.file.path()).unwrap_or_default());
        streams.retain(|(from, to), _| addresses.contains(&from.ip()) || addresses.contains(&to.ip()));
        // In both directions, more than a handshake and some requests.
        let bytes = |is_counted: &dyn Fn(&SocketAddr, &SocketAddr) -> bool| -> usize {
            streams.iter().filter(|((from, to), _)| is_counted(from, to)).map(|(_, bytes)| bytes.len()).sum()
        };
        PORTS
            .iter()
            .all(|port| bytes(&|_, to| to.port() == *port) > 4000 && bytes(&|from, _| from.port() == *port) > 400)
    });
    busy.unwrap_or_else(|_| panic!("little is seen of {addresses:?} in {:?}", streams.keys()));
    for ((from, to), bytes) in &streams {
        if bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
            return Err(format!("the payload can be read from {from} to {to}"));
        }
    }
    for ((from, to), bytes) in &streams {
        check_tls(bytes).map_err(|problem| format!("from {from} to {to}: {problem}"))?;
    }
    Ok(())
}

/// All that pods send each other over a node's link.
struct Capture {
    tcpdump: Child,
    file: tempfile::NamedTempFile,
}

impl Capture {
    fn start(cluster: &Cluster) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let pods = "tcp and src net 10.244.0.0/16 and dst net 10.244.0.0/16";
        let words =
            ["setpriv", "--pdeathsig", "KILL", "tcpdump", "-i", "eth0", "-n", "-U", "-s", "0", "-Z", "root", "-w"];
        let words = [&words[..], &[&path, pods]].concat();
        let tcpdump = cluster.on_node("node1", &words).stderr(Stdio::null()).spawn().unwrap();
        // It writes the head of its file when it listens.
        eventually(Duration::from_secs(10), || file.as_file().metadata().is_ok_and(|file| file.len() >= 24)).unwrap();
        Self { tcpdump, file }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// A pod of servers on one node, a pod of clients on the other.
fn manifests() -> String {
    let redis = container("redis", "--port, '6379', --save, '', --protected-mode, 'no'", "");
    let redis = redis.replace("/test-traffic:", "/test-redis:");
    let serve = |name: &str, port: u16| {
        let ready = format!("readinessProbe: {{ tcpSocket: {{ port: {port} }}, periodSeconds: 1, timeoutSeconds: 5 }}");
        container(name, &format!("serve, --listen, '0.0.0.0:{port}'"), &ready)
    };
    let servers = [serve("http", 8080), serve("grpc", 8081), redis];
    let clients = [("http", 8080), ("grpc", 8081), ("redis", 6379)].map(|(protocol, port)| {
        let target = format!("'--target=server:{port}', --path=/{SECRET}, --rate=20");
        container(protocol, &format!("load, --protocol={protocol}, --except=nobody, {target}"), "")
    });
    let ports = "{ name: http, port: 8080 }, { name: grpc, port: 8081 }, { name: redis, port: 6379 }";
    [
        service_manifest("server", "server", ports, ""),
        deployment_manifest("server", "", &servers, "nodeSelector: { kubernetes.io/hostname: node2 }"),
        deployment_manifest("client", "", &clients, "nodeSelector: { kubernetes.io/hostname: node1 }"),
    ]
    .concat()
}

const PORTS: [u16; 3] = [8080, 8081, 6379];
/// In what every client sends.
const SECRET: &str = "open-sesame-0451";
