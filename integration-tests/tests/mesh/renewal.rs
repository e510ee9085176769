//! Certificates that live for 20 seconds: traffic and long connections go on over every renewal.

use std::time::Duration;

use integration_tests::mesh::Settings;
use integration_tests::traffic::bytes::PingReport;
use proto::admin::IdentityStatus;

use super::control_plane::load_runs;
use super::shop::{Shop, WEB_BYTES};

#[test]
fn renewals_fail_no_request_and_end_no_connection() {
    let shop = Shop::open(Settings { leaf_lifetime: "20s", ..Settings::default() }, 2);
    let _echoes: Vec<_> = shop
        .backends
        .iter()
        .map(|backend| {
            let echo = backend.pod.traffic("echo", &["echo", "[::]:9000"]).unwrap();
            echo.wait_for_output("listening", Duration::from_secs(5)).unwrap();
            echo
        })
        .collect();
    let ping = shop.client.traffic("ping", &["ping", WEB_BYTES]).unwrap();
    let load = shop.load(200);
    let seconds = if std::env::var_os("MESH_TESTS_FULL").is_some() { 300 } else { 45 };
    load_runs(Duration::from_secs(seconds));
    shop.none_failed(load, seconds * 190);
    let output = ping.stop().unwrap();
    let ping: PingReport = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_eq!(ping.failure, None);
    assert!(ping.succeeded > seconds * 8, "{ping:?}");
    for pod in [&shop.client, &shop.backends[0].pod, &shop.backends[1].pod] {
        let identity: IdentityStatus = pod.admin_json("/identity").unwrap();
        // Renewed between half and two thirds of life.
        assert!(identity.renewals > seconds / 14, "{}: {identity:?}", pod.name);
    }
}
