//! What is changed in the cluster is in force within a second, in the processes that run: routes, endpoints and machines
//! outside, as the record of a load tells.

use std::time::{SystemTime, UNIX_EPOCH};

use integration_tests::cluster::{Namespace, container, deployment_manifest, server_manifest};
use integration_tests::traffic::load::{LoadReport, Served};

use super::shop::Shop;

/// 90/10, then 0/100 but for requests with a header. Each change reaches the client within a second after `kubectl apply`
/// returned; the shares are those of the weights; no proxy starts anew.
#[test]
fn a_route_is_in_force_within_a_second() {
    let shop = Shop::open("weights", 1);
    let namespace = &shop.namespace;
    namespace.apply(&server_manifest("canary", 1)).unwrap();
    namespace.rolled_out().unwrap();
    namespace.start_load("observer", "web:80", 200, 35).unwrap();
    let before = proxies(namespace);
    assert_eq!(before.len(), 3, "{before:?}");

    namespace.apply(&route(90, 10)).unwrap();
    let split = now_ms();
    namespace.start_load("share", "web:80", 200, 6).unwrap();
    let share = none_failed(namespace, "share");
    let canary = count(&share, "canary-") * 1000 / share.succeeded;
    assert!((70..=130).contains(&canary), "{canary} of 1000 went to the canary: {:?}", share.served);

    namespace.apply(&route(0, 100)).unwrap();
    let moved = now_ms();
    let loyal = "[load, --target, 'web:80', --rate=100, --seconds=3, --header, 'x-stay: yes']";
    namespace.start_job("loyal", loyal).unwrap();
    let loyal = none_failed(namespace, "loyal");
    assert_eq!(count(&loyal, "web-"), loyal.succeeded, "{:?}", loyal.served);
    let after = proxies(namespace);
    assert!(before.iter().all(|proxy| after.contains(proxy)), "{before:?} became {after:?}");

    let report = none_failed(namespace, "observer");
    let first = servers(&report, "canary-").map(|server| server.first_ms).min().unwrap();
    let last = servers(&report, "web-").map(|server| server.last_ms).max().unwrap();
    assert!(first <= split + 1000, "the canary's first request came {} ms after the route", first - split);
    assert!(last <= moved + 1000, "the last old request came {} ms after the change", last - moved);
    let end = servers(&report, "canary-").map(|server| server.last_ms).max().unwrap();
    assert!(end > moved + 2000, "the load ended too early to tell: {:?}", report.served);
}

/// A pod that leaves a Service but runs on: a second later no proxy sends anything there. Nor does one to the address that
/// a machine had.
#[test]
fn what_is_no_endpoint_any_more_is_left_within_a_second() {
    let shop = Shop::open("leaving", 3);
    let namespace = &shop.namespace;
    let [before, after] = two_outside(namespace);
    what_cannot_be_is_refused(namespace);
    namespace.apply(&machine(&before)).unwrap();
    let clients = ["first", "second", "third"];
    for client in clients {
        namespace.start_load(client, "web:80", 100, 24).unwrap();
    }
    namespace.start_load("observer", "machine:80", 100, 16).unwrap();
    let running = proxies(namespace);
    assert_eq!(running.len(), 7, "{running:?}");
    namespace.apply(&machine(&after)).unwrap();
    let moved = now_ms();
    let pods = namespace.kubectl(&["get", "pods", "--selector=app=web", "--output=name"]).unwrap();
    let leaving = pods.lines().next().unwrap();
    namespace.kubectl(&["label", "--overwrite", leaving, "app=elsewhere"]).unwrap();
    // Earlier than the change of the EndpointSlice, which the label leads to.
    let removed = now_ms();
    for client in clients {
        let report = none_failed(namespace, client);
        let server = &report.served[leaving.trim_start_matches("pod/")];
        assert!(server.last_ms <= removed + 1000, "{client}'s last request came {} ms later", server.last_ms - removed);
        let end = servers(&report, "web-").map(|server| server.last_ms).max().unwrap();
        assert!(end > removed + 2000, "{client} ended too early to tell: {:?}", report.served);
    }
    let observed = none_failed(namespace, "observer");
    let [before, after] = [&before, &after].map(|address| &observed.served[&name_at(namespace, address)]);
    assert!(
        before.last_ms <= moved + 1000,
        "the last request to where it was came {} ms later",
        before.last_ms - moved
    );
    assert!(after.first_ms <= moved + 1000, "the first to where it is came {} ms later", after.first_ms - moved);
    assert!(before.first_ms < moved && after.last_ms > moved + 2000, "{:?}", observed.served);
    let still = proxies(namespace);
    assert!(running.iter().all(|proxy| still.contains(proxy)), "{running:?} became {still:?}");
    let still_there = namespace.kubectl(&["get", leaving, "--output=jsonpath={.status.phase}"]).unwrap();
    assert_eq!(still_there, "Running");
}

/// Two servers outside the mesh, which no Service selects: their addresses.
fn two_outside(namespace: &Namespace) -> [String; 2] {
    let server = |name: &str| {
        let arguments = format!("serve, --listen, '0.0.0.0:8080', --name, {name}");
        let probe =
            "readinessProbe: { httpGet: { port: 8080, path: '/?size=1' }, periodSeconds: 1, timeoutSeconds: 5 }";
        deployment_manifest(name, "meshctl.io/inject: disabled", &[container("app", &arguments, probe)], "")
    };
    namespace.apply(&["here", "there"].map(server).concat()).unwrap();
    namespace.rolled_out().unwrap();
    ["here", "there"].map(|name| {
        let app = format!("--selector=app={name}");
        namespace.kubectl(&["get", "pods", &app, "--output=jsonpath={.items[0].status.podIP}"]).unwrap()
    })
}

fn name_at(namespace: &Namespace, address: &str) -> String {
    let field = format!("--field-selector=status.podIP={address}");
    namespace.kubectl(&["get", "pods", &field, "--output=jsonpath={.items[0].metadata.labels.app}"]).unwrap()
}

/// Whoever may only look sees the machine, and moves it nowhere; and what no proxy could follow is refused when it is
/// written.
fn what_cannot_be_is_refused(namespace: &Namespace) {
    namespace.apply(&machine("192.0.2.1")).unwrap();
    namespace.kubectl(&["create", "rolebinding", "viewer", "--clusterrole=view", "--user=viewer"]).unwrap();
    let see = ["get", "externalworkload", "machine", "--as=viewer", "--output=jsonpath={.spec.addresses[0]}"];
    assert_eq!(namespace.kubectl(&see).unwrap(), "192.0.2.1");
    let patch = ["patch", "externalworkload", "machine", "--as=viewer", "--type=merge", "--patch={\"spec\":{}}"];
    let refused = namespace.kubectl(&patch).unwrap_err();
    assert!(format!("{refused:?}").contains("cannot patch resource"), "{refused:?}");
    let cases: Vec<serde_yaml_ng::Value> = serde_yaml_ng::from_str(EXTERNAL_WORKLOADS).unwrap();
    for case in cases {
        let spec = serde_json::to_string(&case["spec"]).unwrap();
        let applied = namespace.apply(&external_workload(&spec));
        match (case.get("refused"), applied) {
            (None, applied) => applied.unwrap(),
            (Some(reason), applied) => {
                let refused = format!("{:?}", applied.unwrap_err());
                assert!(refused.contains(reason.as_str().unwrap()), "{spec}: {refused}");
            }
        }
    }
}

/// A Service, and where the machine behind it is.
fn machine(address: &str) -> String {
    let service = "
apiVersion: v1
kind: Service
metadata: { name: machine }
spec: { selector: { app: machine }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---";
    [service, &external_workload(&format!("{{ addresses: ['{address}'] }}"))].concat()
}

fn external_workload(spec: &str) -> String {
    format!(
        "
apiVersion: meshctl.io/v1alpha1
kind: ExternalWorkload
metadata: {{ name: machine, labels: {{ app: machine }} }}
spec: {spec}
"
    )
}

/// Requests with a header stay; the others are split.
fn route(web: u32, canary: u32) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: web }}
spec:
  parentRefs: [{{ group: '', kind: Service, name: web, port: 80 }}]
  rules:
    - matches: [{{ headers: [{{ name: x-stay, value: 'yes' }}] }}]
      backendRefs: [{{ name: web, port: 80 }}]
    - backendRefs: [{{ name: web, port: 80, weight: {web} }}, {{ name: canary, port: 80, weight: {canary} }}]
"
    )
}

/// Every proxy of a namespace: its pod, and which container, started how often.
fn proxies(namespace: &Namespace) -> Vec<String> {
    let proxy = r#"{range .status.initContainerStatuses[?(@.name=="mesh-proxy")]}{.containerID} {.restartCount}{end}"#;
    let path = format!("--output=jsonpath={{range .items[*]}}{{.metadata.name}} {proxy}{{'\\n'}}{{end}}");
    let listing = namespace.kubectl(&["get", "pods", &path]).unwrap();
    // Of a pod without one there is nothing but its name.
    listing.lines().filter(|line| !line.ends_with(' ')).map(str::to_owned).collect()
}

fn none_failed(namespace: &Namespace, job: &str) -> LoadReport {
    let report = namespace.report(job).unwrap();
    assert_eq!(report.failed(), 0, "{job}: {} of {}: {:#?}", report.failed(), report.sent, report.failures);
    report
}

fn count(report: &LoadReport, prefix: &str) -> u64 {
    servers(report, prefix).map(|server| server.count).sum()
}

fn servers<'a>(report: &'a LoadReport, prefix: &'a str) -> impl Iterator<Item = &'a Served> {
    report.served.iter().filter(move |(name, _)| name.starts_with(prefix)).map(|(_, server)| server)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// The parser reads the same.
const EXTERNAL_WORKLOADS: &str = include_str!("../../../controller/crd/src/external_workload/cases.yaml");
