//! The control plane dies, stops or falls behind: traffic does not notice, and the operator does.

use std::time::{Duration, Instant};

use integration_tests::mesh::manifests::remove_workload;
use integration_tests::mesh::{Pod, Settings, Signal, eventually};
use proto::admin::DiscoveryStatus;
use proto::names::metric;

use super::shop::{Shop, WEB};

fn discovery(pod: &Pod) -> DiscoveryStatus {
    pod.admin_json("/discovery").unwrap()
}

#[test]
fn killing_the_whole_control_plane_fails_no_request() {
    let mut shop = Shop::open(Settings { controllers: 2, ..Settings::default() }, 2);
    let load = shop.load(500);
    load_runs(Duration::from_secs(2));
    shop.mesh.identity.take().unwrap().kill().unwrap();
    for controller in &mut shop.mesh.controllers {
        controller.take().unwrap().kill().unwrap();
    }
    load_runs(Duration::from_secs(3));
    let gone = eventually(Duration::from_secs(10), || !discovery(&shop.client).connected);
    gone.expect("proxies say that they are on their own");

    // A restarted proxy serves from its cached picture, with its cached key and certificate.
    let report = shop.none_failed(load, 1500);
    assert_eq!(report.served.len(), 2, "both backends serve: {:?}", report.served);
    let server = &mut shop.backends[0].pod;
    server.proxy.take().unwrap().kill().unwrap();
    server.start_proxy().unwrap();
    shop.client.proxy.take().unwrap().kill().unwrap();
    shop.client.start_proxy().unwrap();
    let load = shop.load(500);
    load_runs(Duration::from_secs(3));
    let report = shop.none_failed(load, 1000);
    assert_eq!(report.served.len(), 2, "both backends serve: {:?}", report.served);

    let load = shop.load(500);
    shop.mesh.start_identity().unwrap();
    for number in 0..2 {
        shop.mesh.start_controller(number).unwrap();
    }
    for pod in [&shop.client, &shop.backends[0].pod, &shop.backends[1].pod] {
        let back = || discovery(pod).connected && discovery(pod).age_ms < 6000;
        eventually(Duration::from_secs(30), back).unwrap_or_else(|_| panic!("{}: {:?}", pod.name, discovery(pod)));
    }
    shop.none_failed(load, 100);
}

#[test]
fn a_controller_that_stops_is_seen_within_fifteen_seconds() {
    let shop = Shop::open(Settings::default(), 1);
    let status = shop.mesh.meshctl(&["proxy-status"]).unwrap();
    assert!(!status.contains("stale"), "{status}");
    let controller = shop.mesh.controllers[0].as_ref().unwrap();
    let stopped = Instant::now();
    controller.signal(Signal::STOP).unwrap();
    let seen = || {
        let status = shop.mesh.meshctl(&["proxy-status", "--stale-after", "10s"]).unwrap();
        status.matches("stale").count() == 2 && shop.client.metric(metric::DISCOVERY_AGE, &[]).unwrap() >= 10.0
    };
    eventually(Duration::from_secs(15).saturating_sub(Instant::now().duration_since(stopped)), seen).unwrap();
    controller.signal(Signal::CONT).unwrap();
    let fresh = || !shop.mesh.meshctl(&["proxy-status", "--stale-after", "10s"]).unwrap().contains("stale");
    eventually(Duration::from_secs(30), fresh).unwrap();
}

#[test]
fn a_controller_frozen_in_the_past_brings_no_endpoint_back() {
    let mut shop = Shop::open(Settings { controllers: 2, ..Settings::default() }, 2);
    // Only the first controller hears that web-2 is gone.
    shop.mesh.controllers[1].take().unwrap().kill().unwrap();
    let both = endpoints(&shop);
    remove_workload(&shop.mesh.manifests(0), "web-2").unwrap();
    eventually(Duration::from_secs(20), || endpoints(&shop) != both).unwrap();
    // It dies, and the other one, which still knows web-2, is all there is.
    shop.mesh.controllers[0].take().unwrap().kill().unwrap();
    let streams = discovery(&shop.client).streams;
    shop.mesh.start_controller(1).unwrap();
    eventually(Duration::from_secs(40), || discovery(&shop.client).streams > streams).unwrap();
    let load = shop.load(100);
    load_runs(Duration::from_secs(5));
    let report = shop.none_failed(load, 400);
    assert!(!report.served.contains_key("web-2"), "{:?}", report.served);
    // Once it has caught up, proxies believe it again.
    shop.mesh.start_controller(0).unwrap();
    remove_workload(&shop.mesh.manifests(1), "web-2").unwrap();
    let current = || discovery(&shop.client).connected && discovery(&shop.client).age_ms < 6000;
    eventually(Duration::from_secs(40), current).unwrap();
}

#[test]
fn a_controller_whose_sources_are_stale_is_left_for_another() {
    let mut shop = Shop::open(Settings { controllers: 2, ..Settings::default() }, 2);
    let pods = |shop: &Shop| [0, 1].map(|number| streams_of(shop, number));
    eventually(Duration::from_secs(10), || pods(&shop).iter().sum::<f64>() == 3.0).unwrap();
    // The first controller is cut off from what it reads.
    let (directory, away) = (shop.mesh.manifests(0), shop.mesh.path().join("away"));
    std::fs::rename(&directory, &away).unwrap();
    let load = shop.load(100);
    // A proxy that comes to it now learns at once that it is stale, and one that has been there all the while as well.
    shop.mesh.controllers[1].take().unwrap().kill().unwrap();
    eventually(Duration::from_secs(30), || streams_of(&shop, 0) == 3.0).expect("everybody is at the first");
    shop.mesh.start_controller(1).unwrap();
    let left = eventually(Duration::from_secs(60), || pods(&shop) == [0.0, 3.0]);
    left.unwrap_or_else(|_| panic!("{:?}; {:?}", pods(&shop), discovery(&shop.client)));
    let fresh = |pod: &Pod| discovery(pod).age_ms < 10_000;
    let all = || fresh(&shop.client) && shop.backends.iter().all(|backend| fresh(&backend.pod));
    eventually(Duration::from_secs(20), all).expect("nobody has a stale picture");
    // Nobody goes back to what the first still believes in.
    let both = endpoints(&shop);
    remove_workload(&shop.mesh.manifests(1), "web-2").unwrap();
    eventually(Duration::from_secs(20), || endpoints(&shop) != both).unwrap();
    shop.none_failed(load, 1000);
    std::fs::rename(&away, &directory).unwrap();
}

/// Streams that are open at a controller; none where it does not run.
fn streams_of(shop: &Shop, number: usize) -> f64 {
    shop.mesh.controller_metric(number, "mesh_controller_streams_open").unwrap_or(0.0)
}

/// Which version of the Service's endpoints the client has: what serves may be one of two by chance.
fn endpoints(shop: &Shop) -> String {
    let mut version = String::new();
    eventually(Duration::from_secs(10), || {
        shop.client.command("curl", &["-sS", "--max-time", "2", &format!("http://{WEB}/")]).unwrap();
        let subscriptions = discovery(&shop.client).subscriptions;
        let found = subscriptions.into_iter().find(|subscription| subscription.key == "endpoints test/web:80");
        version = found.map(|subscription| subscription.version).unwrap_or_default();
        !version.is_empty()
    })
    .unwrap();
    version
}

/// Lets a load run: here time itself is what is tested.
pub(crate) fn load_runs(time: Duration) {
    std::thread::sleep(time);
}
