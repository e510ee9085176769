//! The life of an installation.

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::cluster::{Cluster, server_manifest};
use integration_tests::mesh::eventually;

use super::shop::Shop;

/// A second `meshctl install` changes nothing: no object's generation moves, no pod restarts.
#[test]
fn install_twice_changes_nothing() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let before = (generations(&cluster), pods(&cluster));
    assert!(before.0.len() > 10, "{before:?}");
    cluster.meshctl(&["install"]).unwrap();
    assert_eq!((generations(&cluster), pods(&cluster)), before);
}

/// `uninstall` is refused while pods are meshed; with `--force` it goes through, and nothing of the mesh is left but the
/// CRDs. Applications go on, new pods start without a proxy, and a new installation takes over where the old one was.
#[test]
fn uninstall_leaves_nothing_and_install_works_again() {
    let shop = Shop::open("comeback", 1);
    let cluster = &shop.namespace.cluster;
    let refused = cluster.try_meshctl(&["uninstall"]).unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("comeback"), "{refused:?}");
    cluster.meshctl(&["uninstall", "--force"]).unwrap();
    eventually(Duration::from_secs(60), || left(cluster).is_empty()).unwrap_or_else(|_| panic!("{}", left(cluster)));
    shop.namespace.restart("deployment/web").unwrap();
    assert!(!shop.is_meshed("web"), "nobody injects any more");

    cluster.meshctl(&["install"]).unwrap();
    shop.namespace.restart("deployment/web").unwrap();
    assert!(shop.is_meshed("web"));
    shop.none_failed("again", 50, 5, || ());
    cluster.meshctl(&["check", "--wait", "60s"]).unwrap();
}

/// A pod of a namespace that did not opt in is never touched.
#[test]
fn who_did_not_opt_in_is_left_alone() {
    let namespace = Cluster::running().unwrap().namespace("aside").unwrap();
    namespace.cluster.meshctl(&["install"]).unwrap();
    namespace.apply(&server_manifest("web", 1)).unwrap();
    namespace.rolled_out().unwrap();
    let pod = namespace.kubectl(&["get", "pods", "--output", "yaml"]).unwrap();
    assert!(!pod.contains("mesh-proxy") && !pod.contains("meshctl.io/proxy-version"), "{pod}");
}

/// Names and generations of everything that the installation owns.
fn generations(cluster: &Cluster) -> BTreeMap<String, String> {
    let columns = "custom-columns=KIND:.kind,NAME:.metadata.name,GENERATION:.metadata.generation,SELF:.metadata.uid";
    let mut found = BTreeMap::new();
    for (kinds, place) in [(NAMESPACED, "--namespace=mesh-system"), (CLUSTER_WIDE, "--all-namespaces")] {
        let listing = cluster.kubectl(&["get", kinds, place, "--output", columns, "--no-headers"]).unwrap();
        for line in listing.lines().filter(|line| line.contains("mesh")) {
            let mut words = line.split_whitespace();
            let name = format!("{}/{}", words.next().unwrap(), words.next().unwrap());
            found.insert(name, words.collect::<Vec<_>>().join(" "));
        }
    }
    found
}

fn pods(cluster: &Cluster) -> String {
    cluster.kubectl(&["get", "pods", "--namespace=mesh-system", "--output=name"]).unwrap()
}

/// What an uninstalled mesh must not leave.
fn left(cluster: &Cluster) -> String {
    let kinds =
        "namespaces,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations";
    let all = cluster.kubectl(&["get", kinds, "--output=name"]).unwrap();
    let mut found: Vec<&str> = all.lines().filter(|name| name.contains("mesh") || name.contains("meshctl")).collect();
    let bundles = cluster.kubectl(&["get", "configmaps", "--all-namespaces", "--output=name"]).unwrap();
    found.extend(bundles.lines().filter(|name| name.contains("mesh-trust-bundle")));
    found.join("\n")
}

const NAMESPACED: &str =
    "deployments,services,serviceaccounts,configmaps,roles,rolebindings,poddisruptionbudgets,networkpolicies";
const CLUSTER_WIDE: &str = "customresourcedefinitions,clusterroles,clusterrolebindings,mutatingwebhookconfigurations";
