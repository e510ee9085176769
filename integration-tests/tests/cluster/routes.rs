//! What is changed in the cluster is in force within a second, in the processes that run: routes and endpoints, as the
//! record of a load tells.

use std::time::{SystemTime, UNIX_EPOCH};

use integration_tests::cluster::{Namespace, server_manifest};
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

/// A pod that leaves a Service but runs on: a second later no proxy sends anything there.
#[test]
fn a_removed_endpoint_is_left_within_a_second() {
    let shop = Shop::open("leaving", 3);
    let namespace = &shop.namespace;
    let clients = ["first", "second", "third"];
    for client in clients {
        namespace.start_load(client, "web:80", 100, 24).unwrap();
    }
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
    let still_there = namespace.kubectl(&["get", leaving, "--output=jsonpath={.status.phase}"]).unwrap();
    assert_eq!(still_there, "Running");
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
    listing.lines().map(str::to_owned).collect()
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
