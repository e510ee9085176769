//! Many Services and many proxies: a proxy knows what its pod talks to and no more, and one controller tells all of them in time.

use std::time::{Duration, Instant};

use integration_tests::mesh::manifests::{remove_workload, write};
use integration_tests::mesh::{NAMESPACE, Pod, Settings, eventually};
use proto::admin::DiscoveryStatus;

use super::control_plane::load_runs;
use super::shop::{Shop, WEB};

#[test]
fn a_proxy_does_not_grow_with_services_it_does_not_call() {
    let shop = Shop::open(Settings::default(), 2);
    let subscriptions = || shop.client.admin_json::<DiscoveryStatus>("/discovery").unwrap().subscriptions.len();
    let traffic = || {
        let load = shop.load(500);
        load_runs(Duration::from_secs(2));
        shop.none_failed(load, 500);
        let proxy = shop.client.proxy.as_ref().unwrap();
        proxy.resident_bytes().unwrap()
    };
    traffic();
    let (before, known) = (traffic(), subscriptions());
    let started = Instant::now();
    write(&shop.mesh.manifests(0), "thousand", &thousand_services()).unwrap();
    let controller = shop.mesh.controllers[0].as_ref().unwrap();
    controller.wait_for_output("facts in force objects=2004 ", Duration::from_secs(10)).unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "2000 objects took {:?}", started.elapsed());
    let after = traffic();
    assert!(after < before + (512 << 10), "{before} bytes with one Service, {after} with a thousand more");
    assert_eq!(subscriptions(), known);
    // A change still arrives within a second.
    remove_workload(&shop.mesh.manifests(0), "web-2").unwrap();
    load_runs(Duration::from_secs(1));
    assert_eq!(served_by(&shop.client, 10), ["web-1"]);
}

#[test]
fn one_controller_tells_many_proxies_within_a_second() {
    let mut shop = Shop::open(Settings::default(), 2);
    // More would fill the kernel's neighbour table, which all network namespaces share (1,024 entries, gc_thresh3).
    let count = if std::env::var_os("MESH_TESTS_FULL").is_some() { 100 } else { 20 };
    let clients: Vec<_> =
        (0..count).map(|number| shop.mesh.pod(&format!("many-{number}"), "client").unwrap()).collect();
    for client in &clients {
        eventually(Duration::from_secs(20), || served_by(client, 8).len() == 2).unwrap();
    }
    remove_workload(&shop.mesh.manifests(0), "web-2").unwrap();
    load_runs(Duration::from_secs(1));
    for client in &clients {
        assert_eq!(served_by(client, 8), ["web-1"], "{}", client.name);
    }
    let status = shop.mesh.meshctl(&["proxy-status"]).unwrap();
    assert_eq!(status.matches('√').count(), count + 3, "{status}");
}

/// Names of the servers that answer so many requests, each once.
fn served_by(client: &Pod, requests: usize) -> Vec<String> {
    let url = format!("http://{WEB}/");
    let urls = vec![&*url; requests];
    let heads = client.command("curl", &[&["-sSi", "--max-time", "5"], &urls[..]].concat()).unwrap();
    let mut names: Vec<_> =
        heads.lines().filter_map(|line| line.strip_prefix("x-served-by: ")).map(str::to_owned).collect();
    assert_eq!(names.len(), requests, "{heads}");
    names.sort();
    names.dedup();
    names
}

/// As many Services, with a workload each.
fn thousand_services() -> String {
    (0..1000_u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: other-{number}, namespace: {NAMESPACE}}}\n\
             spec: {{clusterIP: 10.97.{high}.{low}, selector: {{app: other-{number}}}, ports: [{{port: 80, targetPort: 8080}}]}}\n\
             ---\napiVersion: meshctl.io/v1alpha1\nkind: ExternalWorkload\n\
             metadata: {{name: other-{number}, namespace: {NAMESPACE}, labels: {{app: other-{number}}}}}\n\
             spec: {{addresses: [10.245.{high}.{low}], serviceAccount: other}}\n"
        )
    })
    .collect()
}
