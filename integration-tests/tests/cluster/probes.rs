//! Probes of every kind, made by a real kubelet of pods in the mesh: they say how the application is, not how the proxy is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use integration_tests::cluster::{Cluster, Namespace, container, deployment_manifest};
use integration_tests::mesh::eventually;
use proto::names;

/// Containers that are well become ready and stay alive; containers that run and are not well do not become ready. One that
/// stops listening becomes unready while everything goes on, and ready again.
#[test]
fn probes_of_every_kind_tell_of_the_application() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let namespace = cluster.namespace("probes").unwrap();
    cluster.kubectl(&["annotate", "namespace", "probes", "meshctl.io/inject=enabled"]).unwrap();
    namespace.apply(&[well(), unwell()].concat()).unwrap();
    let all_ready = KINDS.map(|kind| (kind.to_owned(), true)).into();
    namespace.wait_for("deployment/well", "{.status.readyReplicas}", |ready| ready == "1").unwrap();
    assert_eq!(ready(&namespace, "well"), all_ready);
    made_by_the_proxy(&namespace);

    // Once the kubelet has found fault with each of them.
    let faults = || KINDS.iter().all(|kind| found_unhealthy(&namespace, "unwell").contains(*kind));
    eventually(Duration::from_secs(60), faults)
        .unwrap_or_else(|_| panic!("{:?}", found_unhealthy(&namespace, "unwell")));
    assert_eq!(ready(&namespace, "unwell"), KINDS.map(|kind| (kind.to_owned(), false)).into());

    assert_eq!(switch(&namespace), "shut\n");
    let only_tcp = || ready(&namespace, "well").into_iter().all(|(kind, ready)| ready == (kind != "tcp"));
    eventually(Duration::from_secs(20), only_tcp).unwrap_or_else(|_| panic!("{:?}", ready(&namespace, "well")));
    namespace.wait_for("deployment/well", "{.status.unavailableReplicas}", |count| count == "1").unwrap();
    assert_eq!(switch(&namespace), "open\n");
    namespace.wait_for("deployment/well", "{.status.readyReplicas}", |ready| ready == "1").unwrap();
    assert_eq!(ready(&namespace, "well"), all_ready);
    let restarts = namespace.list("pods", "app=well").unwrap()[0]["status"]["containerStatuses"].to_string();
    assert_eq!(restarts.matches("\"restartCount\":0").count(), KINDS.len(), "{restarts}");
}

/// The kubelet asks the proxy for each probe but those that run a program: otherwise an application that listens on the pod's
/// address is ready without any help of ours, and nothing here would have been tried.
fn made_by_the_proxy(namespace: &Namespace) {
    for app in ["well", "unwell"] {
        let pods = namespace.list("pods", &format!("app={app}")).unwrap();
        let [pod] = &pods[..] else { panic!("{app}: {pods:#?}") };
        let containers = pod["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), KINDS.len());
        for container in containers {
            let name = container["name"].as_str().unwrap();
            for (probe, kind) in [("readinessProbe", "readiness"), ("livenessProbe", "liveness")] {
                let probe = &container[probe];
                if probe.is_null() && kind == "liveness" && (app == "unwell" || name == "tcp") {
                    continue;
                }
                let told = ["httpGet", "grpc", "tcpSocket", "exec"].map(|how| !probe[how].is_null());
                assert_eq!(told, [name != "exec", false, false, name == "exec"], "{app}/{name}: {probe}");
                if name != "exec" {
                    let asked = (probe["httpGet"]["port"].as_u64(), probe["httpGet"]["path"].as_str());
                    let path = format!("{}{name}/{kind}", names::APP_PROBE_PREFIX);
                    assert_eq!(asked, (Some(names::HEALTH_PORT.into()), Some(&*path)), "{app}/{name}: {probe}");
                }
            }
        }
    }
}

/// Shuts or opens the port that the tcpSocket probe dials.
fn switch(namespace: &Namespace) -> String {
    let mut stream = TcpStream::connect((namespace.addresses("well").unwrap()[0], 8086)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    told
}

/// Which of an application's containers run, and are ready or not.
fn ready(namespace: &Namespace, app: &str) -> BTreeMap<String, bool> {
    let pods = namespace.list("pods", &format!("app={app}")).unwrap();
    let running = pods.iter().flat_map(|pod| pod["status"]["containerStatuses"].as_array().into_iter().flatten());
    let running = running.filter(|status| !status["state"]["running"].is_null());
    running.map(|status| (status["name"].as_str().unwrap().to_owned(), status["ready"] == true)).collect()
}

/// The containers with whose readiness the kubelet has found fault.
fn found_unhealthy(namespace: &Namespace, app: &str) -> BTreeSet<String> {
    let events = namespace.list("events", "").unwrap();
    let faults = events.iter().filter(|event| {
        let of_app = event["involvedObject"]["name"].as_str().is_some_and(|name| name.starts_with(app));
        let told = event["message"].as_str().unwrap_or_default();
        event["reason"] == "Unhealthy" && of_app && told.starts_with("Readiness probe failed")
    });
    let path = faults.filter_map(|event| event["involvedObject"]["fieldPath"].as_str());
    path.filter_map(|path| path.strip_prefix("spec.containers{")?.strip_suffix('}')).map(str::to_owned).collect()
}

fn well() -> String {
    let probes = [
        "httpGet: { port: 8081, path: '/ready?size=1&delay_ms=1' }",
        "grpc: { port: 8082 }",
        "exec: { command: [/traffic, get, '127.0.0.1:8083'] }",
        "httpGet: { scheme: HTTPS, port: 8084, path: '/ready?size=1' }",
    ];
    let mut containers: Vec<String> = (KINDS.iter().zip(SERVERS).zip(probes))
        .map(|((kind, arguments), probe)| {
            let alive =
                format!("livenessProbe: {{ {probe}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 10 }}");
            container(kind, arguments, &format!("{}, {alive}", readiness(probe)))
        })
        .collect();
    let tcp = readiness("failureThreshold: 1, tcpSocket: { port: 8085 }");
    containers.push(container("tcp", "door, '0.0.0.0:8085', '0.0.0.0:8086'", &tcp));
    deployment_manifest("well", "", &containers, "")
}

/// The same servers, asked for what they refuse, and a port on which nobody listens.
fn unwell() -> String {
    let probes = [
        "httpGet: { port: 8081, path: '/ready?status=503' }",
        "grpc: { port: 8082, service: broken }",
        "exec: { command: [/traffic, get, '127.0.0.1:8083', '/?status=503'] }",
        "httpGet: { scheme: HTTPS, port: 8084, path: '/?status=503' }",
        "tcpSocket: { port: 8087 }",
    ];
    let servers = SERVERS.into_iter().chain(["door, '0.0.0.0:8085', '0.0.0.0:8086'"]);
    let containers = KINDS.iter().zip(servers).zip(probes);
    let containers: Vec<String> =
        containers.map(|((kind, arguments), probe)| container(kind, arguments, &readiness(probe))).collect();
    deployment_manifest("unwell", "", &containers, "")
}

fn readiness(probe: &str) -> String {
    format!("readinessProbe: {{ {probe}, periodSeconds: 1, timeoutSeconds: 5 }}")
}

const KINDS: [&str; 5] = ["http", "grpc", "exec", "https", "tcp"];
const SERVERS: [&str; 4] = [
    "serve, --listen, '0.0.0.0:8081'",
    "serve, --listen, '0.0.0.0:8082'",
    "serve, --listen, '0.0.0.0:8083'",
    "serve, --tls, --listen, '0.0.0.0:8084'",
];
