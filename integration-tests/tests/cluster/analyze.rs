//! What is wrong in a cluster, as `meshctl analyze` says it, and as whoever applies it is told.

use integration_tests::cluster::Namespace;

use super::account::Account;
use super::shop::Shop;

/// Each mistake is named with its object and what to do, and what is good is not; the files say the same beforehand, with lines.
#[test]
fn mistakes_are_named_with_their_objects() {
    let shop = Shop::open("mistakes", 1);
    let namespace = &shop.namespace;
    let well = analyze(namespace, &["--namespace=mistakes"]);
    assert!(well.0 && well.1.contains("nothing to correct"), "{}", well.1);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), MISTAKES).unwrap();
    let name = file.path().to_string_lossy().into_owned();
    let apply = format!("kubectl apply --namespace=mistakes --server-side --filename={name} 2>&1");
    let told = namespace.cluster.shell(&apply).unwrap();
    for warning in [
        "without group",
        "hostnames have no effect",
        "RequestHeaderModifier and ResponseHeaderModifier",
        "only routes of the Service's own namespace",
        "Services have no sections",
        "is no Service or has no port",
    ] {
        assert!(told.contains(warning), "{warning}\n{told}");
    }
    let (good, text) = analyze(namespace, &["--namespace=mistakes"]);
    assert!(!good, "{text}");
    for expected in [
        "× HTTPRoute mistakes/canary: spec.rules[0].backendRefs[0]: there is no Service port mistakes/nobody:80",
        "× HTTPRoute mistakes/canary: spec.rules[1].filters: the filter RequestMirror is not supported",
        "‼ HTTPRoute mistakes/canary: spec.hostnames: has no effect",
        "‼ HTTPRoute mistakes/forgotten: spec.parentRefs[0]: is no Service of the mesh",
        "× Deployment mistakes/odd: spec.template.metadata.annotations[meshctl.io/proxy-workers]: \"many\" is not a number",
        "‼ Service mistakes/empty: spec.ports[0]: port 80 has no endpoint",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(!text.contains("Service mistakes/web"), "{text}");
    let (_, everywhere) = analyze(namespace, &["--all-namespaces"]);
    assert!(everywhere.contains("HTTPRoute mistakes/canary") && !everywhere.contains("mesh-system"), "{everywhere}");

    // Gateway API gives nobody rights to its kinds; whoever may view a namespace may see its routes by ours.
    let developer = Account::new(&namespace.cluster, "mistakes", Some("view"));
    let (good, text, told) = developer.meshctl(&namespace.cluster, &["analyze"]);
    assert!(!good && !text.contains("not looked at"), "{text}{told}");
    for expected in [
        "‼ HTTPRoute mistakes/canary: spec.rules[0].backendRefs[0]: there is no Service port",
        "× HTTPRoute mistakes/canary: spec.rules[1].filters: the filter RequestMirror is not supported",
        "Deployment mistakes/odd",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}{told}");
    }

    let (good, text) = analyze(namespace, &["--filename", &name]);
    let expected = format!("× {name}:17: HTTPRoute default/canary: spec.rules[1].filters: the filter RequestMirror");
    assert!(!good && text.contains(&expected), "{expected}\n{text}");
}

/// Whether it ended well, and what it said.
fn analyze(namespace: &Namespace, more: &[&str]) -> (bool, String) {
    let output = namespace.cluster.try_meshctl(&[&["analyze"], more].concat()).unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.success(), text)
}

const MISTAKES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: canary
spec:
  hostnames: [web.example]
  parentRefs:
  - group: ''
    kind: Service
    name: web
  rules:
  - backendRefs:
    - name: nobody
      port: 80
  - matches:
    - path: {value: /mirror}
    filters:
    - type: RequestMirror
      requestMirror: {backendRef: {name: web, port: 80}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: forgotten
spec:
  parentRefs:
  - kind: Service
    name: web
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: abroad
spec:
  parentRefs:
  - group: ''
    kind: Service
    name: web
    namespace: elsewhere
    sectionName: http
  rules:
  - backendRefs:
    - group: example.com
      kind: Bucket
      name: web
---
apiVersion: v1
kind: Service
metadata:
  name: empty
spec:
  selector: {app: nobody}
  ports:
  - port: 80
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: odd
spec:
  replicas: 0
  selector: {matchLabels: {app: odd}}
  template:
    metadata:
      labels: {app: odd}
      annotations:
        meshctl.io/proxy-workers: many
    spec:
      containers:
      - {name: app, image: meshctl.io/traffic:0.1.0}
";
