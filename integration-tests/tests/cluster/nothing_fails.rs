//! What operators do all day, under load: no request fails.

use super::shop::Shop;

/// `kubectl rollout restart` of three replicas under 500 requests a second.
#[test]
fn a_rollout_restart_fails_nothing() {
    let shop = Shop::open("rollout", 3);
    let report = shop.none_failed("load", 500, 40, || shop.namespace.restart("deployment/web").unwrap());
    assert!(report.served.len() >= 6, "old and new pods served: {:?}", report.served);
}

/// All pods of the control plane are deleted at once.
#[test]
fn without_a_control_plane_nothing_fails() {
    let shop = Shop::open("headless", 2);
    shop.none_failed("load", 200, 30, || {
        let delete = ["delete", "pods", "--all", "--namespace=mesh-system", "--wait=false"];
        shop.namespace.cluster.kubectl(&delete).unwrap();
        for name in ["mesh-controller", "mesh-identity", "mesh-injector"] {
            let deployment = format!("deployment/{name}");
            let status = ["rollout", "status", "--namespace=mesh-system", &deployment, "--timeout=90s"];
            shop.namespace.cluster.kubectl(&status).unwrap();
        }
    });
}
