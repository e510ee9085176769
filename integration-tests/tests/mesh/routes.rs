//! Routes: what the manifests say is what happens, and a change of them happens within a second, in the processes that run.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use integration_tests::mesh::manifests::write;
use integration_tests::mesh::{NAMESPACE, Pod, Service, ServicePort, Settings, eventually, service_address};
use proto::admin::Info;
use serde_json::json;

use super::control_plane::load_runs;
use super::shop::{Shop, WEB};

/// A route on the Service `web`: requests with a header or below a path go to the canary, the rest by weight.
fn write_route(directory: &Path, stable: u32, canary: u32) {
    let to = |name: &str, weight: u32| json!({"name": name, "port": 80, "weight": weight});
    let manifest = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
            "rules": [
                {
                    "matches": [
                        {"headers": [{"name": "x-canary", "value": "true"}]},
                        {"path": {"type": "PathPrefix", "value": "/new"}},
                    ],
                    "backendRefs": [to("canary", 1)],
                },
                {"backendRefs": [to("web", stable), to("canary", canary)]},
            ],
        },
    });
    write(directory, "route", &manifest.to_string()).unwrap();
}

/// Who answers a request with these arguments for curl.
fn answered_by(client: &Pod, arguments: &[&str]) -> String {
    let head = client.command("curl", &[&["-sSi", "--max-time", "5"], arguments].concat()).unwrap();
    let name = head.lines().find_map(|line| line.strip_prefix("x-served-by: "));
    name.unwrap_or_else(|| panic!("{head}")).trim().to_owned()
}

#[test]
fn a_changed_route_is_in_force_within_a_second_in_the_same_processes() {
    let mut shop = Shop::open(Settings::default(), 1);
    let directory = shop.mesh.manifests(0);
    let canary = shop.mesh.pod("canary-1", "canary").unwrap();
    let _server = canary.serve().unwrap();
    let ports = [ServicePort { port: 80, target: 8080, protocol: Some("http") }];
    shop.mesh.service(&Service { name: "canary", address: service_address(8).into(), ports: &ports }).unwrap();
    write_route(&directory, 100, 0);

    let controller = shop.mesh.controllers[0].as_ref().unwrap();
    controller.wait_for_output("facts in force objects=6 ", Duration::from_secs(10)).unwrap();
    let url = format!("http://{WEB}/");
    let below = format!("http://{WEB}/new/page");
    let beside = format!("http://{WEB}/newest");
    let client = &shop.client;
    let matched = || answered_by(client, &[&below]) == "canary-1";
    eventually(Duration::from_secs(5), matched).unwrap();
    assert_eq!(answered_by(client, &["-H", "x-canary: true", &url]), "canary-1");
    for other in [&["-H", "x-canary: false", &url][..], &[&url], &[&beside]] {
        assert_eq!(answered_by(client, other), "web-1", "{other:?}");
    }

    let started = |pod: &Pod| pod.admin_json::<Info>("/info").unwrap().started_ms;
    let before = [started(client), started(&canary)];
    let load = shop.load(500);
    load_runs(Duration::from_secs(2));
    let changed = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    write_route(&directory, 0, 100);
    load_runs(Duration::from_secs(3));
    let report = shop.none_failed(load, 2000);
    let last = |name: &str| report.served[name].last_ms;
    assert!(last("web-1") <= changed + 1000, "web-1 got requests {} ms after the change", last("web-1") - changed);
    assert!(last("canary-1") > changed + 2000, "{:?}", report.served);
    assert_eq!([started(client), started(&canary)], before, "no proxy was started anew");
}
