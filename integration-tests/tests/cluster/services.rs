//! Services in odd shapes, and those with a say in who serves whom: a client in the mesh gets the endpoints that
//! kube-proxy gives a client without.

use std::collections::BTreeSet;
use std::time::Duration;

use integration_tests::cluster::{Namespace, TRAFFIC};
use integration_tests::mesh::eventually;
use integration_tests::traffic::load::LoadReport;

use super::shop::Shop;

/// Four peers on two nodes, whose port `http` is another one on the last; two clients on the first node.
#[test]
fn a_client_in_the_mesh_gets_the_endpoints_it_would_get_without() {
    let shop = Shop::open("services", 1);
    let namespace = &shop.namespace;
    namespace.apply(&manifests(&nodes(namespace))).unwrap();
    let ready = ["wait", "--for=condition=Ready", "pods", "--selector=!unready", "--timeout=60s"];
    namespace.kubectl(&ready).unwrap();
    assert!(shop.is_meshed("peer") && shop.is_meshed("meshed") && !shop.is_meshed("plain"));
    namespace.apply(&slices_by_hand(namespace)).unwrap();

    let all = ["peer-1", "peer-2", "peer-3", "peer-4"];
    let expected: [(&str, &[&str]); 10] = [
        ("peers:80", &all),
        ("near:80", &["peer-1", "peer-2"]),
        ("zonal:80", &["peer-1", "peer-2"]),
        ("beside:80", &["peer-1", "peer-2"]),
        (OUTER_ADDRESS, &all),
        ("by-hand:80", &["peer-1", "peer-4"]),
        ("unready:80", &["unready"]),
        ("leaving:80", &["leaving"]),
        ("wide:1119", &all),
        ("crowded:80", &["peer-3"]),
    ];
    for (target, servers) in expected {
        both_are_served_by(namespace, target, servers);
    }

    for client in CLIENTS {
        let kept = eventual_servers(namespace, client, "sticky:80", |servers| !servers.is_empty());
        assert_eq!(kept.len(), 1, "{client}: {kept:?}");
        assert_eq!(servers(namespace, client, "sticky:80"), kept, "{client} keeps its endpoint");
    }

    // Its only pod ends, but serves until it does: nobody else is there.
    namespace.kubectl(&["delete", "pod", "leaving", "--wait=false"]).unwrap();
    let conditions = || {
        let slices = "--selector=kubernetes.io/service-name=leaving";
        namespace.kubectl(&["get", "endpointslices", slices, "--output=jsonpath={..conditions}"]).unwrap()
    };
    assert!(eventually(Duration::from_secs(20), || conditions().contains("\"terminating\":true")).is_ok());
    both_are_served_by(namespace, "leaving:80", &["leaving"]);

    // kube-proxy drops what is sent to a Service that nobody serves near, and its client waits; the mesh says why.
    let report = load(namespace, "meshed", "elsewhere:80");
    let said: u64 =
        report.failures.iter().filter(|(failure, _)| failure.contains("no_local_endpoints")).map(|it| it.1).sum();
    assert!(report.sent > 0 && said == report.sent, "{report:?}");
    // The namespace would wait for it.
    namespace.kubectl(&["delete", "pod", "leaving", "--grace-period=0", "--force"]).unwrap();
}

fn both_are_served_by(namespace: &Namespace, target: &str, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
    std::thread::scope(|scope| {
        let expected = &expected;
        let clients = CLIENTS.map(|client| {
            let found = move || eventual_servers(namespace, client, target, |servers| servers == expected);
            (client, scope.spawn(found))
        });
        for (client, found) in clients {
            assert_eq!(&found.join().unwrap(), expected, "{client} → {target}");
        }
    });
}

/// Who serves, once it is who should, or time is up: kube-proxy takes a while to hear of a Service.
fn eventual_servers(
    namespace: &Namespace,
    client: &str,
    target: &str,
    wanted: impl Fn(&BTreeSet<String>) -> bool,
) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let _ = eventually(Duration::from_secs(15), || {
        found = servers(namespace, client, target);
        wanted(&found)
    });
    found
}

/// Who serves a client's requests; nobody where one of them failed.
fn servers(namespace: &Namespace, client: &str, target: &str) -> BTreeSet<String> {
    let report = load(namespace, client, target);
    if report.failed() > 0 { BTreeSet::new() } else { report.served.into_keys().collect() }
}

/// Requests that take longer than they are apart, each on a connection of its own: nobody who may serve is left out.
fn load(namespace: &Namespace, client: &str, target: &str) -> LoadReport {
    let target = format!("--target={target}");
    let pace = ["--path=/?delay_ms=50", "--rate=80", "--fresh=100", "--seconds=1"];
    let command = ["exec", client, "--container=app", "--", "/traffic", "load", &target];
    let output = namespace.kubectl(&[&command[..], &pace].concat()).unwrap();
    serde_json::from_str(output.lines().last().unwrap_or_default()).unwrap()
}

fn nodes(namespace: &Namespace) -> [String; 2] {
    let names = namespace.kubectl(&["get", "nodes", "--output=jsonpath={.items[*].metadata.name}"]).unwrap();
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    names.try_into().expect("the cluster has two nodes")
}

fn manifests([first, second]: &[String; 2]) -> String {
    let peer = |name: &str, node: &str, port: u16| pod(name, "peer", node, port, "/?size=1", "");
    let client = |name: &str, inject: &str| {
        let annotations = format!("annotations: {{ meshctl.io/inject: {inject} }}");
        pod(name, name, first, 8080, "/?size=1", "").replace("metadata: {", &format!("metadata: {{ {annotations},"))
    };
    let lingers = "terminationGracePeriodSeconds: 60, ";
    let leaving = pod("leaving", "leaving", second, 8080, "/?size=1", lingers)
        .replace("name: app,", "name: app, lifecycle: { preStop: { sleep: { seconds: 40 } } },");
    let unready =
        pod("unready", "unready", second, 8080, "/?status=503", "").replace("labels: {", "labels: { unready: \"\",");
    [
        peer("peer-1", first, 8080),
        peer("peer-2", first, 8080),
        peer("peer-3", second, 8080),
        peer("peer-4", second, 9090),
        leaving,
        unready,
        client("meshed", "enabled"),
        client("plain", "disabled"),
        service("peers", "selector: { app: peer }"),
        service("near", "selector: { app: peer }, internalTrafficPolicy: Local"),
        service("zonal", "selector: { app: peer }, trafficDistribution: PreferClose"),
        service("beside", "selector: { app: peer }, trafficDistribution: PreferSameNode"),
        service("sticky", "selector: { app: peer }, sessionAffinity: ClientIP"),
        service(
            "outer",
            &format!("selector: {{ app: peer }}, externalIPs: [{}]", OUTER_ADDRESS.trim_end_matches(":80")),
        ),
        service("by-hand", "type: ClusterIP"),
        service("crowded", "type: ClusterIP"),
        wide(),
        service("unready", "selector: { app: unready }, publishNotReadyAddresses: true"),
        service("leaving", "selector: { app: leaving }"),
        service("elsewhere", "selector: { app: leaving }, internalTrafficPolicy: Local"),
    ]
    .concat()
}

/// A Service's port, called `http` by whoever is behind it.
fn service(name: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec: {{ ports: [{{ name: web, port: 80, targetPort: http }}], {spec} }}
"
    )
}

/// More ports than one slice of endpoints can have.
fn wide() -> String {
    let port = |number: u16| format!("{{ name: p{number}, port: {number}, targetPort: http }}");
    let ports: Vec<String> = (1000..1120).map(port).collect();
    service("wide", "selector: { app: peer }").replace("{ name: web, port: 80, targetPort: http }", &ports.join(", "))
}

fn pod(name: &str, app: &str, node: &str, port: u16, probe: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {app} }} }}
spec:
  {{ {spec}nodeName: {node}, containers: [{{ name: app, image: \"{TRAFFIC}\",
      args: [serve, --listen, \"0.0.0.0:{port}\", --name, {name}], ports: [{{ name: http, containerPort: {port} }}],
      readinessProbe: {{ httpGet: {{ port: {port}, path: \"{probe}\" }}, periodSeconds: 1 }} }}] }}
"
    )
}

/// Slices of Services without a selector; none names a pod.
fn slices_by_hand(namespace: &Namespace) -> String {
    let slice = |pod: &str, port: u16| {
        let address = namespace.kubectl(&["get", "pod", pod, "--output=jsonpath={.status.podIP}"]).unwrap();
        by_hand("by-hand", pod, port, &format!("{{ addresses: [{address}] }}"))
    };
    [slice("peer-1", 8080), slice("peer-4", 9090), crowded(namespace)].concat()
}

/// A thousand endpoints in ten slices, of which the last alone is ready.
fn crowded(namespace: &Namespace) -> String {
    let last = namespace.kubectl(&["get", "pod", "peer-3", "--output=jsonpath={.status.podIP}"]).unwrap();
    let endpoint = |number: u32| match number {
        999 => format!("{{ addresses: [{last}] }}"),
        _ => format!("{{ addresses: [198.18.{}.{}], conditions: {{ ready: false }} }}", number / 100, number % 100 + 1),
    };
    let slice = |slice: u32| {
        let endpoints: Vec<String> = (slice * 100..slice * 100 + 100).map(endpoint).collect();
        by_hand("crowded", &slice.to_string(), 8080, &endpoints.join(", "))
    };
    (0..10).map(slice).collect()
}

fn by_hand(service: &str, slice: &str, port: u16, endpoints: &str) -> String {
    format!(
        "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: {service}-{slice}, labels: {{ kubernetes.io/service-name: {service} }} }}
addressType: IPv4
ports: [{{ name: web, port: {port} }}]
endpoints: [{endpoints}]
"
    )
}

const CLIENTS: [&str; 2] = ["meshed", "plain"];
/// Of a network for documentation (RFC 5737): nobody else's.
const OUTER_ADDRESS: &str = "198.51.100.7:80";
