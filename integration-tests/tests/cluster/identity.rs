//! The trust bundle in every namespace, whatever others do to it, and one replica that sees to it.

use std::time::Duration;

use integration_tests::cluster::{Cluster, Namespace, server_manifest};
use integration_tests::mesh::eventually;
use proto::names;

use super::away::Away;

/// A new namespace has the bundle at once; deleted or changed, it comes back; Kubernetes' own namespaces have none.
#[test]
fn every_namespace_has_the_trust_bundle_and_keeps_it() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let published = bundle(&cluster, "mesh-system").unwrap();
    assert!(published.starts_with("-----BEGIN CERTIFICATE-----"), "{published}");
    let namespace = cluster.namespace("bundles").unwrap();
    let arrives = || bundle(&cluster, "bundles").is_ok_and(|bundle| bundle == published);
    eventually(Duration::from_secs(5), arrives).unwrap();

    namespace.kubectl(&["delete", "configmap", NAME]).unwrap();
    eventually(Duration::from_secs(5), arrives).unwrap();
    namespace.kubectl(&["patch", "configmap", NAME, "--patch", r#"{"data":{"bundle.pem":"forged"}}"#]).unwrap();
    eventually(Duration::from_secs(5), arrives).unwrap();
    namespace.kubectl(&["label", "configmap", NAME, "app.kubernetes.io/managed-by-"]).unwrap();
    let labelled = || namespace.kubectl(&BY_LABEL).is_ok_and(|found| found.contains(NAME));
    eventually(Duration::from_secs(5), labelled).unwrap();
    assert!(bundle(&cluster, "kube-system").is_err());
}

/// When the replica that publishes is deleted, the lease is given back, and another publishes.
#[test]
fn another_replica_publishes_when_the_first_is_deleted() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let holder = || {
        let lease = ["get", "lease", "mesh-identity", "--output=jsonpath={.spec.holderIdentity}"];
        cluster.kubectl(&[&["--namespace=mesh-system"], &lease[..]].concat()).unwrap_or_default()
    };
    eventually(Duration::from_secs(30), || !holder().is_empty()).unwrap();
    let first = holder();
    cluster.kubectl(&["--namespace=mesh-system", "delete", "pod", &first, "--wait=false"]).unwrap();
    eventually(Duration::from_secs(60), || !["", &first].contains(&holder().as_str())).unwrap();
    let namespace: Namespace = cluster.namespace("heirs").unwrap();
    eventually(Duration::from_secs(10), || bundle(&cluster, &namespace.name).is_ok()).unwrap();
}

/// While nobody signs, an application is not started rather than left without an identity, and starts as soon as somebody does.
#[test]
fn an_application_waits_for_its_certificate() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let namespace = cluster.namespace("uncertified").unwrap();
    namespace.kubectl(&["annotate", "namespace", &namespace.name, "meshctl.io/inject=enabled"]).unwrap();
    let away = Away::send(&cluster, names::IDENTITY_ACCOUNT);
    namespace.apply(&server_manifest("web", 1)).unwrap();
    let state = |path: &str| {
        let path = format!("--output=jsonpath={{.items[0].status.{path}}}");
        namespace.kubectl(&["get", "pods", "--selector=app=web", &path]).unwrap_or_default()
    };
    // Its proxy is next, whose start ends when it has a certificate.
    let redirected = || state("initContainerStatuses[?(@.name=='mesh-init')].state.terminated.exitCode") == "0";
    eventually(Duration::from_secs(30), redirected).unwrap();
    let mut looks = 0;
    eventually(Duration::from_secs(30), || {
        looks += 1;
        assert_eq!(state("containerStatuses[0].state.waiting.reason"), "PodInitializing");
        looks > 5
    })
    .unwrap();
    drop(away);
    namespace.rolled_out().unwrap();
    let signer = ["--namespace=mesh-system", "get", "pods", "--selector=app.kubernetes.io/name=mesh-identity"];
    let started = "--output=jsonpath={.items[-1:].status.containerStatuses[0].state.running.startedAt}";
    let signs = cluster.kubectl(&[&signer[..], &[started]].concat()).unwrap();
    let runs = state("containerStatuses[0].state.running.startedAt");
    assert!(!signs.is_empty() && runs >= signs, "the application runs since {runs}, mesh-identity since {signs}");
}

fn bundle(cluster: &Cluster, namespace: &str) -> anyhow::Result<String> {
    let arguments = ["get", "configmap", NAME, r"--output=jsonpath={.data.bundle\.pem}", "--namespace", namespace];
    cluster.kubectl(&arguments)
}

const NAME: &str = "mesh-trust-bundle";
const BY_LABEL: [&str; 4] =
    ["get", "configmaps", "--selector=app.kubernetes.io/managed-by=mesh-identity", "--output=name"];
