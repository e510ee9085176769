//! The mesh beside what is not in it: plain clients and servers, ports that go past the proxy, ingress controllers; and what
//! nobody reaches.

use std::collections::BTreeMap;
use std::net::IpAddr;

use integration_tests::cluster::looks::output;
use integration_tests::cluster::{Cluster, Namespace, container, deployment_manifest, service_manifest};
use integration_tests::traffic::load::LoadReport;
use proto::names::{self, metric};

/// Whoever is in the mesh and whoever is not reach each other, by every way that an annotation or an ingress controller takes;
/// the server counts as plaintext exactly what came without a certificate. What listens for the pod alone stays its own.
#[test]
fn plain_pods_and_meshed_ones_reach_each_other() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let namespace = cluster.namespace("mixed").unwrap();
    cluster.kubectl(&["annotate", "namespace", "mixed", "meshctl.io/inject=enabled"]).unwrap();
    namespace.apply(&manifests()).unwrap();
    namespace.rolled_out().unwrap();
    let (sent, edges) = send_all(&namespace);

    let unserved: Vec<_> = sent.iter().filter(|(_, report)| report.sent == 0 || report.failed() > 0).collect();
    assert!(unserved.is_empty(), "{unserved:#?}");
    let count = |way: Way| sent[&way].sent;
    let in_plaintext = ["outsider", "past", "gate-outside"].map(|from| (from, "web:80"));
    let in_plaintext = in_plaintext.map(count).iter().sum::<u64>() + count(("gate-outside", "web-pods:8080"));
    let in_plaintext = in_plaintext + count(("outsider", "web:9002"));
    expect(&namespace, "web", metric::REQUESTS, &[RECEIVED, NONE], in_plaintext);
    for (from, targets) in [("gate-inside", ["web:80", "web-pods:8080"]), ("client", ["web:80", "web:9002"])] {
        let source = format!("source_workload=\"{from}\"");
        let by_mesh = targets.iter().map(|target| count((from, target))).sum();
        expect(&namespace, "web", metric::REQUESTS, &[RECEIVED, MUTUAL, &source], by_mesh);
    }
    // Bytes, because an annotation says so. (A gate's client may be silent for so long that its proxy tries bytes first.)
    let opaque = sent[&("client", "web:9001")].connections;
    expect(&namespace, "web", metric::TCP_OPENED, &[RECEIVED, MUTUAL, "source_workload=\"client\""], opaque);
    expect(&namespace, "web", metric::TCP_OPENED, &[RECEIVED, NONE], 0);
    let edge = edges.iter().find(|edge| {
        edge["source"]["workload"] == "client" && edge["destination"]["workload"] == "web" && edge["protocol"] == "tcp"
    });
    assert_eq!(edge.unwrap_or_else(|| panic!("{edges:#?}"))["mtls"], 1.0, "{edges:#?}");
    // To a server without a proxy, as the client's proxy has it; and nothing where the client's proxy was not asked.
    let to_plain = "destination_workload=\"plain\"";
    expect(&namespace, "client", metric::REQUESTS, &[SENT, to_plain], count(("client", "plain:80")));
    expect(&namespace, "client", metric::REQUESTS, &[SENT, to_plain, MUTUAL], 0);
    expect(&namespace, "past", metric::REQUESTS, &[SENT], 0);

    let address = namespace.addresses("web").unwrap()[0];
    let reached = reached(&namespace, address);
    let public = reached.iter().filter(|(_, port)| *port == 8080).count();
    assert_eq!((public, reached.len()), (4, 4), "all reach 8080, and nothing else: {reached:?}");
    for asker in ["client", "outsider"] {
        told_of_health(&namespace, asker, address);
    }
}

/// What anybody is told on the one port of the proxy that is open to all: whether the application passes the probes that it has, and
/// nothing that it answers them; nothing of what the admin port tells, and nothing can be done there.
fn told_of_health(namespace: &Namespace, asker: &str, address: IpAddr) {
    let target = format!("{address}:{}", names::HEALTH_PORT);
    let probe = format!("{}app/readiness", names::APP_PROBE_PREFIX);
    let ask = |path: &str| namespace.run_in(asker, &["get", &target, path]).map_err(|error| format!("{error:#}"));
    assert_eq!(ask(&probe).as_deref(), Ok("0 bytes\n"), "{asker}");
    assert_ne!(namespace.run_in(asker, &["get", "web:80", READY]).unwrap(), "0 bytes\n");
    assert_ne!(ask("/metrics").as_deref(), Ok("0 bytes\n"), "{asker}");
    let unknown = format!("{}own/readiness", names::APP_PROBE_PREFIX);
    for path in ["/", "/info", "/config", "/identity", "/failures", "/discovery", "/log", "/drain", &unknown] {
        let told = ask(path).expect_err(path);
        assert!(told.contains("404"), "{asker} {path}: {told}");
    }
}

/// From where, to where.
type Way = (&'static str, &'static str);

/// Sends requests every way at once; what came of each, and the edges meanwhile.
fn send_all(namespace: &Namespace) -> (BTreeMap<Way, LoadReport>, Vec<serde_json::Value>) {
    // An ingress controller is dialled by somebody else, and dials by itself.
    let gate = |gate: &str, port: u16| format!("{}:{port}", namespace.addresses(gate).unwrap()[0]);
    let ways: Vec<(Way, &str, String)> = GATES
        .iter()
        .flat_map(|name| {
            [
                ((*name, "web-pods:8080"), "outsider", gate(name, 8081)),
                ((*name, "web:80"), "outsider", gate(name, 8082)),
            ]
        })
        .chain(WAYS.iter().map(|way| (*way, way.0, way.1.to_owned())))
        .collect();
    std::thread::scope(|scope| {
        let senders: Vec<_> = ways
            .iter()
            .map(|(way, from, target)| (*way, scope.spawn(move || namespace.send_from(from, target, 5).unwrap())))
            .collect();
        let edges = namespace.cluster.meshctl_json(&["edges", "--namespace=mixed", "--window=4s"]).unwrap();
        let sent = senders.into_iter().map(|(way, sender)| (way, sender.join().unwrap())).collect();
        (sent, edges["edges"].as_array().unwrap().clone())
    })
}

/// Which ports of a pod answer a GET of what the admin port answers, from pods in the mesh and outside it, and from both nodes.
fn reached(namespace: &Namespace, address: IpAddr) -> Vec<(&'static str, u16)> {
    let answers = |from: &'static str, port: u16| {
        let target = format!("{address}:{port}");
        if from.starts_with("node") {
            let curl = ["curl", "--silent", "--fail", "--max-time", "10", &format!("{target}/info")];
            output(&mut namespace.cluster.on_node(from, &curl)).is_ok()
        } else {
            namespace.run_in(from, &["get", &target, "/info"]).is_ok()
        }
    };
    std::thread::scope(|scope| {
        let questions =
            ["client", "outsider", "node1", "node2"].into_iter().flat_map(|from| PORTS.map(|port| (from, port)));
        let asked: Vec<_> =
            questions.map(|(from, port)| ((from, port), scope.spawn(move || answers(from, port)))).collect();
        asked.into_iter().filter_map(|(way, answered)| answered.join().unwrap().then_some(way)).collect()
    })
}

#[expect(clippy::cast_precision_loss, reason = "hundreds")]
fn expect(namespace: &Namespace, app: &str, counter: &str, labels: &[&str], expected: u64) {
    let metrics = namespace.metrics(app).unwrap();
    let seen = integration_tests::mesh::admin::sum(&metrics, counter, labels);
    let lines: Vec<&str> = metrics.lines().filter(|line| line.starts_with(counter)).collect();
    assert!((seen - expected as f64).abs() < 0.5, "{counter} {labels:?} of {app}: {seen}, not {expected}\n{lines:#?}");
}

fn manifests() -> String {
    let serve = |name: &str, listen: &str| container(name, &format!("serve, --listen, '{listen}'"), "");
    let app = [serve("app", "0.0.0.0:8080")];
    let forward =
        |name: &str, port: u16, target: &str| container(name, &format!("forward, '0.0.0.0:{port}', '{target}'"), "");
    let gate = [forward("app", 8081, "web-pods:8080"), forward("services", 8082, "web:80")];
    let ready = format!("readinessProbe: {{ httpGet: {{ port: 8080, path: '{READY}' }}, periodSeconds: 1 }}");
    let web = [
        ("skipped", "0.0.0.0:9000"),
        ("opaque", "0.0.0.0:9001"),
        ("shared", "127.0.0.1:9002"),
        ("own", "127.0.0.1:9003"),
    ];
    let web = web.map(|(name, listen)| serve(name, listen)).into_iter();
    let web = web.chain([container("app", "serve, --listen, '0.0.0.0:8080'", &ready)]).collect();
    let pods = [
        ("web", SETTINGS, web),
        ("client", "", app.to_vec()),
        ("past", "meshctl.io/skip-outbound-ports: '80'", app.to_vec()),
        ("plain", OUTSIDE, app.to_vec()),
        ("outsider", OUTSIDE, app.to_vec()),
        ("gate-inside", "", gate.to_vec()),
        ("gate-outside", OUTSIDE, gate.to_vec()),
    ];
    let mut manifests = String::new();
    for (name, annotations, containers) in pods {
        manifests += &deployment_manifest(name, annotations, &containers, "");
    }
    let own = [9000, 9001, 9002].map(|port| format!("{{ name: p{port}, port: {port} }}")).join(", ");
    let http = "{ name: http, port: 80, targetPort: 8080 }";
    manifests += &service_manifest("web", "web", &format!("{http}, {own}"), "");
    manifests += &service_manifest("web-pods", "web", "{ name: http, port: 8080 }", "clusterIP: None");
    manifests += &service_manifest("plain", "plain", http, "");
    manifests
}

/// What the kubelet asks of the application, which answers it at length.
const READY: &str = "/?size=1000";
const OUTSIDE: &str = "meshctl.io/inject: disabled";
const SETTINGS: &str =
    "meshctl.io/skip-inbound-ports: '9000', meshctl.io/opaque-ports: '9001', meshctl.io/loopback-ports: '9002'";
/// Ingress controllers, which dial the pods of a Service by their addresses (8081) or the Service (8082).
const GATES: [&str; 2] = ["gate-inside", "gate-outside"];
/// All other ways.
const WAYS: [Way; 8] = [
    ("client", "plain:80"),
    ("client", "web:80"),
    ("client", "web:9000"),
    ("client", "web:9001"),
    ("client", "web:9002"),
    ("outsider", "web:80"),
    ("outsider", "web:9002"),
    ("past", "web:80"),
];
/// One that is public; the proxy's own; one that listens on loopback, and no annotation lets anybody in.
const PORTS: [u16; 5] = [8080, 15000, 15001, 15006, 9003];
const RECEIVED: &str = "reporter=\"destination\"";
const SENT: &str = "reporter=\"source\"";
const NONE: &str = "connection_security_policy=\"none\"";
const MUTUAL: &str = "connection_security_policy=\"mutual_tls\"";
