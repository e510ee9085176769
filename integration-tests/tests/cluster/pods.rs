//! The cluster itself: what fails here is no fault of the mesh.

use integration_tests::cluster::{Cluster, server_manifest};

/// Pods on both nodes run, find each other by name and talk, and leave no proxy behind where nobody opted in.
#[test]
fn pods_without_the_mesh_talk() {
    let namespace = Cluster::running().unwrap().namespace("plain").unwrap();
    namespace.apply(&server_manifest("web", 2)).unwrap();
    namespace.rolled_out().unwrap();
    namespace.start_load("load", "web:80", 100, 5).unwrap();
    let report = namespace.report("load").unwrap();
    assert_eq!(report.failed(), 0, "{:?}", report.failures);
    assert_eq!(report.served.len(), 2, "both pods answer: {:?}", report.served);
    let containers = ["get", "pods", "--output", "jsonpath={.items[*].spec['containers','initContainers'][*].name}"];
    assert!(!namespace.kubectl(&containers).unwrap().contains("mesh-proxy"));
}
