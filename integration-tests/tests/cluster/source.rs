//! What the controller reads from Kubernetes, and what it writes back.

use std::time::Duration;

use integration_tests::cluster::{Cluster, Namespace};
use integration_tests::mesh::eventually;

/// A route's status says what became of it, changes with what it depends on, and is not written without need; what
/// another controller wrote stays.
#[test]
fn a_route_is_told_what_became_of_it() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let namespace = cluster.namespace("route-status").unwrap();
    namespace.apply(&[&service("web"), ROUTE].concat()).unwrap();
    let at_first = "web: Accepted=Accepted/1 ResolvedRefs=BackendNotFound/1 ";
    eventually(Duration::from_secs(10), || status(&namespace).contains(at_first)).unwrap();
    let foreign = r#"[{"op": "add", "path": "/status/parents/-", "value": {"controllerName": "example.com/gateway", "parentRef": {"name": "gateway"}, "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}]"#;
    namespace
        .kubectl(&["patch", "httproute", "canary", "--subresource=status", "--type=json", "--patch", foreign])
        .unwrap();

    namespace.apply(&service("web-v2")).unwrap();
    let resolved = "web: Accepted=Accepted/1 ResolvedRefs=ResolvedRefs/1 ";
    eventually(Duration::from_secs(5), || status(&namespace).contains(resolved)).unwrap();
    assert!(status(&namespace).contains("gateway: Accepted=Accepted/1 "), "{}", status(&namespace));

    namespace.kubectl(&["delete", "service", "web"]).unwrap();
    let orphaned = "web: Accepted=NoMatchingParent/1 ";
    eventually(Duration::from_secs(5), || status(&namespace).contains(orphaned)).unwrap();
    namespace.apply(&service("web")).unwrap();
    eventually(Duration::from_secs(5), || status(&namespace).contains(resolved)).unwrap();

    // A change that changes nothing in force writes one status, for its generation, and none after that.
    let longer =
        r#"{"spec": {"rules": [{"timeouts": {"request": "9s"}, "backendRefs": [{"name": "web", "port": 80}]}]}}"#;
    namespace.kubectl(&["patch", "httproute", "canary", "--type=merge", "--patch", longer]).unwrap();
    let second = "web: Accepted=Accepted/2 ResolvedRefs=ResolvedRefs/2 ";
    eventually(Duration::from_secs(5), || status(&namespace).contains(second)).unwrap();
    let version =
        || namespace.kubectl(&["get", "httproute", "canary", "--output=jsonpath={.metadata.resourceVersion}"]);
    let before = version().unwrap();
    namespace.apply(&service("unrelated")).unwrap();
    let mut looks = 0;
    eventually(Duration::from_secs(5), || {
        looks += 1;
        assert_eq!(version().unwrap(), before);
        looks > 20
    })
    .unwrap();
}

/// The kind is there in this cluster, so the object is made, says that it is in force, and comes back.
#[test]
fn the_mesh_is_an_object_with_status() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let path = "--output=jsonpath={.spec.controllerName} {.status.conditions[?(@.type=='Accepted')].status} {.status.supportedFeatures[-1].name}";
    let object = || cluster.kubectl(&["get", "xmesh", "meshctl", path]).unwrap_or_default();
    let expected = "meshctl.io/controller True Mesh";
    eventually(Duration::from_secs(45), || object() == expected).unwrap_or_else(|_| panic!("{}", object()));
    cluster.kubectl(&["delete", "xmesh", "meshctl"]).unwrap();
    eventually(Duration::from_secs(45), || object() == expected).unwrap_or_else(|_| panic!("{}", object()));
}

/// `parent: Type=Reason/generation …` of every entry.
fn status(namespace: &Namespace) -> String {
    let path = "--output=jsonpath={range .status.parents[*]}{.parentRef.name}: {range .conditions[*]}{.type}={.reason}/{.observedGeneration} {end}; {end}";
    namespace.kubectl(&["get", "httproute", "canary", path]).unwrap_or_default()
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n"
    )
}

const ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80, weight: 9}, {name: web-v2, port: 80, weight: 1}]}]
";
