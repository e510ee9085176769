//! The chart's NetworkPolicies, enforced. The network plugin of these tests knows none, so its nodes are told what it would tell them.

use std::collections::BTreeMap;

use integration_tests::cluster::{Cluster, Namespace, container, deployment_manifest};
use serde_json::Value;

use super::replicas::Defaults;
use super::shop::Shop;
use super::wall::Wall;

/// Pods get their proxies, certificates and pictures, and whoever watches sees metrics; the webhook is the API server's alone.
#[test]
fn the_mesh_works_behind_its_own_network_policies() {
    let shop = Shop::open("fenced", 1);
    let (namespace, cluster) = (&shop.namespace, &shop.namespace.cluster);
    let _defaults = Defaults(cluster.clone());
    let stranger = [container("app", "serve, --listen, '0.0.0.0:8080'", "")];
    namespace.apply(&deployment_manifest("stranger", "meshctl.io/inject: disabled", &stranger, "")).unwrap();
    namespace.rolled_out().unwrap();
    let api_server = ["get", "endpointslices", "kubernetes", "--namespace=default"];
    let address = "--output=jsonpath={.endpoints[0].addresses[0]}";
    let api_server = cluster.kubectl(&[&api_server[..], &[address]].concat()).unwrap();
    let values = tempfile::NamedTempFile::new().unwrap();
    let from = format!("networkPolicies: {{ webhookFrom: [{{ ipBlock: {{ cidr: {api_server}/32 }} }}] }}\n");
    std::fs::write(values.path(), from).unwrap();
    cluster.meshctl(&["install", "--values", &values.path().to_string_lossy()]).unwrap();
    assert!(connects(namespace, "mesh-injector", 10250), "without a fence anybody does");

    let _fence = fence(cluster);
    assert!(!connects(namespace, "mesh-injector", 10250));
    assert!(connects(namespace, "mesh-controller", 8443) && connects(namespace, "mesh-identity", 8444));
    for program in ["mesh-controller", "mesh-identity", "mesh-injector"] {
        let target = format!("{}:9090", running(cluster, program).0);
        namespace.run_in("stranger", &["get", &target, "/metrics"]).unwrap();
    }
    shop.none_failed("load", 50, 15, || namespace.restart("deployment/web").unwrap());
    assert!(shop.is_meshed("web"));
    cluster.meshctl(&["check", "--wait", "60s"]).unwrap();
}

/// Whether a plain pod gets a connection, whatever is said on it.
fn connects(namespace: &Namespace, program: &str, port: u16) -> bool {
    let target = format!("{}:{port}", running(&namespace.cluster, program).0);
    let said = namespace.run_in("stranger", &["get", &target]).map_err(|error| format!("{error:#}"));
    !said.is_err_and(|error| error.contains("Error: connect\n"))
}

/// Address and node of a program's pod.
fn running(cluster: &Cluster, program: &str) -> (String, String) {
    pods(cluster, &format!("app.kubernetes.io/name={program}")).remove(0)
}

fn pods(cluster: &Cluster, selector: &str) -> Vec<(String, String)> {
    let what = ["get", "pods", "--namespace=mesh-system", "--field-selector=status.phase=Running", "--output=json"];
    let all: Value =
        serde_json::from_str(&cluster.kubectl(&[&what[..], &["--selector", selector]].concat()).unwrap()).unwrap();
    let staying = all["items"].as_array().unwrap().iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    staying.map(|pod| (text(&pod["status"]["podIP"]), text(&pod["spec"]["nodeName"]))).collect()
}

/// What is forwarded to a pod that a policy selects has to be allowed by one of its rules (what its own node says to it is no
/// policy's); replies are.
fn fence(cluster: &Cluster) -> Vec<Wall> {
    let all = cluster.kubectl(&["get", "networkpolicies", "--namespace=mesh-system", "--output=json"]).unwrap();
    let all: Value = serde_json::from_str(&all).unwrap();
    let mut chains: BTreeMap<String, String> = BTreeMap::new();
    for policy in all["items"].as_array().unwrap() {
        let spec = &policy["spec"];
        assert_eq!(spec["policyTypes"], serde_json::json!(["Ingress"]));
        let labels = spec["podSelector"]["matchLabels"].as_object().unwrap();
        let selector: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap())).collect();
        for (address, node) in pods(cluster, &selector.join(",")) {
            let chain = chains.entry(node).or_insert_with(|| {
                "type filter hook forward priority 0\n  ct state established,related accept".to_owned()
            });
            for rule in spec["ingress"].as_array().unwrap() {
                *chain += &allowed(rule, &address);
            }
            *chain += &format!("\n  ip daddr {address} meta l4proto tcp reject with tcp reset");
        }
    }
    assert!(!chains.is_empty());
    chains.iter().map(|(node, chain)| Wall::build(cluster, node, chain)).collect()
}

/// One rule's ports, from one rule's networks.
fn allowed(rule: &Value, address: &str) -> String {
    let peers = rule["from"].as_array().cloned().unwrap_or_default();
    let mut from: Vec<String> =
        peers.iter().map(|peer| format!("ip saddr {} ", peer["ipBlock"]["cidr"].as_str().unwrap())).collect();
    if from.is_empty() {
        from.push(String::new());
    }
    let ports: Vec<u64> = rule["ports"].as_array().unwrap().iter().map(|port| port["port"].as_u64().unwrap()).collect();
    let lines = from
        .iter()
        .flat_map(|from| ports.iter().map(move |port| format!("\n  {from}ip daddr {address} tcp dport {port} accept")));
    lines.collect()
}
