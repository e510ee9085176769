//! What operators do all day, under load: no request fails.

use std::time::{Duration, Instant};

use integration_tests::cluster::{Cluster, server_manifest};
use integration_tests::mesh::eventually;

use super::shop::Shop;

/// `kubectl rollout restart` of three replicas under 500 requests a second.
#[test]
fn a_rollout_restart_fails_nothing() {
    let shop = Shop::open("rollout", 3);
    let report = shop.none_failed("load", 500, 40, || shop.namespace.restart("deployment/web").unwrap());
    assert!(report.served.len() >= 6, "old and new pods served: {:?}", report.served);
}

/// All pods of the control plane are deleted at once.
#[test]
fn without_a_control_plane_nothing_fails() {
    let shop = Shop::open("headless", 2);
    shop.none_failed("load", 200, 30, || {
        let delete = ["delete", "pods", "--all", "--namespace=mesh-system", "--wait=false"];
        shop.namespace.cluster.kubectl(&delete).unwrap();
        for name in ["mesh-controller", "mesh-identity", "mesh-injector"] {
            let deployment = format!("deployment/{name}");
            let status = ["rollout", "status", "--namespace=mesh-system", &deployment, "--timeout=90s"];
            shop.namespace.cluster.kubectl(&status).unwrap();
        }
    });
}

/// A node is drained under load: its pods move to the other node, those of the control plane and of the cluster's DNS as
/// well.
#[test]
fn a_drained_node_fails_nothing() {
    let shop = Shop::open("drained", 3);
    let namespace = &shop.namespace;
    namespace.apply(BUDGET).unwrap();
    let report = shop.none_failed("load", 300, 40, || {
        let stays = node_of_load(&shop);
        let drained = Cordoned::drain(&namespace.cluster, if stays == "node1" { "node2" } else { "node1" });
        namespace.rolled_out().unwrap();
        let nodes = ["get", "pods", "--selector=app=web", "--output=jsonpath={.items[*].spec.nodeName}"];
        assert!(!namespace.kubectl(&nodes).unwrap().contains(&drained.node));
    });
    assert!(report.served.len() > 3, "no pod moved: {:?}", report.served);
}

/// Pods that are deleted while peers hold idle connections to them are gone as soon as the same pods without a proxy are,
/// and a second. The kubelet notices an end only at its next look, once a second: it is the mean of several that tells.
#[test]
fn a_deleted_pod_waits_for_no_idle_connection() {
    let shop = Shop::open("idle", 1);
    let namespace = &shop.namespace;
    let mut took = [Duration::ZERO; 2];
    for (took, (name, inject)) in took.iter_mut().zip([("plain", "disabled"), ("meshed", "enabled")]) {
        namespace.apply(&echo_manifest(name, inject)).unwrap();
        namespace.rolled_out().unwrap();
        assert_eq!(shop.is_meshed(name), inject == "enabled");
        let service = ["get", "service", name, "--output=jsonpath={.spec.clusterIP}"];
        let address = namespace.kubectl(&service).unwrap();
        let job = format!("hold-{name}");
        namespace.start_job(&job, &format!("[hold, '{address}:80', '{HELD}']")).unwrap();
        let log = format!("job/{job}");
        let said = format!("holding {HELD}");
        let holds = || namespace.kubectl(&["logs", &log, "--container=app"]).is_ok_and(|log| log.contains(&said));
        eventually(Duration::from_secs(10), holds).unwrap();
        let pods = namespace.kubectl(&["get", "pods", &format!("--selector=app={name}"), "--output=name"]).unwrap();
        for pod in pods.lines() {
            let deleted = Instant::now();
            namespace.kubectl(&["delete", pod, "--timeout=60s"]).unwrap();
            *took += deleted.elapsed() / PODS;
        }
    }
    let [plain, meshed] = took;
    assert!(meshed <= plain + Duration::from_secs(1), "{meshed:?} with a proxy, {plain:?} without");
}

/// A node that takes no new pods, until the end of the test.
struct Cordoned {
    cluster: Cluster,
    node: String,
}

impl Cordoned {
    fn drain(cluster: &Cluster, node: &str) -> Self {
        let cordoned = Self { cluster: cluster.clone(), node: node.to_owned() };
        let flags = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=100s"];
        cluster.kubectl(&[&["drain", node], &flags[..]].concat()).unwrap();
        cordoned
    }
}

impl Drop for Cordoned {
    fn drop(&mut self) {
        let _ = self.cluster.kubectl(&["uncordon", &self.node]);
    }
}

fn node_of_load(shop: &Shop) -> String {
    let node = ["get", "pods", "--selector=app=load", "--output=jsonpath={.items[0].spec.nodeName}"];
    shop.namespace.kubectl(&node).unwrap()
}

/// A server of bytes, with or without a proxy.
fn echo_manifest(name: &str, inject: &str) -> String {
    let manifest = server_manifest(name, PODS);
    let serve = r#"[serve, --listen, "0.0.0.0:8080", --name, $(POD)]"#;
    let probe = r#"{ httpGet: { port: 8080, path: "/?size=1" }, periodSeconds: 1, timeoutSeconds: 5 }"#;
    let labels = format!("    metadata: {{ labels: {{ app: {name} }} }}");
    assert!(manifest.contains(serve) && manifest.contains(probe) && manifest.contains(&labels));
    let annotated =
        format!("    metadata: {{ labels: {{ app: {name} }}, annotations: {{ meshctl.io/inject: {inject} }} }}");
    manifest
        .replace(serve, r#"[echo, "0.0.0.0:8080"]"#)
        .replace(probe, "{ tcpSocket: { port: 8080 }, periodSeconds: 1, timeoutSeconds: 5 }")
        .replace("name: http,", "name: tcp,")
        .replace(&labels, &annotated)
}

const PODS: u32 = 5;
/// Connections, many for each pod.
const HELD: u32 = 100;
const BUDGET: &str = "
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: { name: web }
spec: { maxUnavailable: 1, selector: { matchLabels: { app: web } } }
";
