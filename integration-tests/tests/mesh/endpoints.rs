//! Endpoints come and go under load.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use integration_tests::mesh::manifests::remove_workload;
use integration_tests::mesh::{Settings, Signal};

use super::control_plane::load_runs;
use super::shop::{Shop, WEB_BYTES, load_from};

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn an_endpoint_that_is_removed_is_out_of_every_proxy_within_a_second() {
    let mut shop = Shop::open(Settings::default(), 3);
    let others: Vec<_> = (2..=4).map(|number| shop.mesh.pod(&format!("client-{number}"), "client").unwrap()).collect();
    let loads: Vec<_> = others.iter().map(|pod| load_from(pod, 100)).chain([shop.load(200)]).collect();
    load_runs(Duration::from_secs(2));
    let removed = now_ms();
    remove_workload(&shop.mesh.manifests(0), "web-2").unwrap();
    load_runs(Duration::from_secs(3));
    for load in loads {
        let report = shop.none_failed(load, 400);
        let last = |name: &str| report.served[name].last_ms;
        assert!(last("web-1").max(last("web-3")) > removed + 2000, "{:?}", report.served);
        assert!(last("web-2") <= removed + 1000, "served {} ms after its removal", last("web-2") - removed);
    }
}

/// More than one thread: connections are shared out, and all of them are served as by one.
#[test]
fn two_workers_share_the_work_and_lose_nothing() {
    let mut shop = Shop::open(Settings { workers: 2, ..Settings::default() }, 2);
    let load = shop.load(500);
    load_runs(Duration::from_secs(2));
    shop.backends[0].server.take().unwrap().stop().unwrap();
    load_runs(Duration::from_secs(1));
    shop.backends[0].server = Some(shop.backends[0].pod.serve().unwrap());
    load_runs(Duration::from_secs(2));
    shop.none_failed(load, 2000);
    // Enough connections that stay open to occupy every worker of every pod.
    let _echoes: Vec<_> =
        shop.backends.iter().map(|backend| backend.pod.traffic("echo", &["echo", "[::]:9000"]).unwrap()).collect();
    let hold = shop.client.traffic("hold", &["hold", WEB_BYTES, "400"]).unwrap();
    hold.wait_for_output("holding", Duration::from_secs(20)).unwrap();
    for pod in [&shop.client, &shop.backends[0].pod, &shop.backends[1].pod] {
        let id = pod.proxy.as_ref().unwrap().id();
        let busy = std::fs::read_dir(format!("/proc/{id}/task")).unwrap().filter(|thread| {
            let stat = std::fs::read_to_string(thread.as_ref().unwrap().path().join("stat")).unwrap();
            let (name, rest) = stat.rsplit_once(')').unwrap();
            let ticks: u64 = rest.split(' ').skip(12).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
            name.contains("(worker-") && ticks > 2
        });
        assert_eq!(busy.count(), 2, "both workers of {} are busy", pod.name);
    }
}

#[test]
fn restarting_backends_one_after_another_fails_no_request() {
    let mut shop = Shop::open(Settings::default(), 3);
    let load = shop.load(500);
    for backend in &mut shop.backends {
        load_runs(Duration::from_secs(2));
        backend.server.take().unwrap().stop().unwrap();
        // Long enough that requests meet a closed port.
        load_runs(Duration::from_millis(500));
        backend.server = Some(backend.pod.serve().unwrap());
    }
    load_runs(Duration::from_secs(2));
    let report = shop.none_failed(load, 4000);
    assert_eq!(report.served.len(), 3, "{:?}", report.served);
}

#[test]
fn replacing_whole_pods_one_after_another_fails_no_request() {
    let mut shop = Shop::open(Settings::default(), 3);
    let load = shop.load(500);
    for backend in &mut shop.backends {
        load_runs(Duration::from_secs(1));
        // As a kubelet ends a pod: the endpoint goes, the proxy drains, the application ends, then the proxy.
        remove_workload(&shop.mesh.manifests(0), &backend.pod.name).unwrap();
        let root = integration_tests::mesh::User::Root;
        backend.pod.run(integration_tests::mesh::PROXY, root, &["drain"], "drain").unwrap().succeeded().unwrap();
        backend.server.take().unwrap().stop().unwrap();
        let proxy = backend.pod.proxy.take().unwrap();
        proxy.signal(Signal::TERM).unwrap();
        proxy.stop().unwrap();
        let addresses = backend.pod.addresses;
        backend.pod.start_proxy().unwrap();
        backend.server = Some(backend.pod.serve().unwrap());
        let directory = shop.mesh.manifests(0);
        integration_tests::mesh::manifests::write_workload(&directory, &backend.pod.name, "web", &addresses).unwrap();
    }
    load_runs(Duration::from_secs(2));
    let report = shop.none_failed(load, 2500);
    assert_eq!(report.served.len(), 3, "{:?}", report.served);
}
