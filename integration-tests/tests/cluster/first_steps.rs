//! The four commands of README, and what a user sees then.

use integration_tests::cluster::server_manifest;

use super::shop::Shop;

/// Everything in the namespace is in the mesh, every line of `check` is good, a Job completes, and what was sent is what
/// `stat` and `edges` show: all of it successful, all of it mutual TLS.
#[test]
fn four_commands_put_an_application_into_the_mesh() {
    let shop = Shop::open("shop", 2);
    let cluster = &shop.namespace.cluster;
    let check = cluster.meshctl(&["check", "--wait", "60s"]).unwrap();
    assert!(check.contains('√') && !check.contains('‼') && !check.contains('×'), "{check}");

    shop.none_failed("load", 100, 20, || {
        let stat = cluster.meshctl(&["stat", "deploy", "--namespace=shop"]).unwrap();
        let web = stat.lines().find(|line| line.contains("web")).unwrap_or_else(|| panic!("{stat}"));
        assert!(web.contains("100"), "{stat}");
        let edges = cluster.meshctl(&["edges", "--namespace=shop"]).unwrap();
        let edge = edges.lines().find(|line| line.starts_with("shop/load") && line.contains("shop/web"));
        assert_eq!(edge.unwrap_or_else(|| panic!("{edges}")).matches("100.00%").count(), 2, "success and TLS: {edges}");
    });
}

/// A replica of a StatefulSet, called by its own name: that pod answers, through both proxies.
#[test]
fn a_peer_is_reached_by_its_headless_name() {
    let shop = Shop::open("peers", 1);
    shop.namespace.apply(&peers_manifest()).unwrap();
    shop.namespace.rolled_out().unwrap();
    assert!(shop.is_meshed("db"));
    shop.namespace.start_load("load", "db-1.db:8080", 50, 12).unwrap();
    let edges = shop.namespace.cluster.meshctl(&["edges", "--namespace=peers"]).unwrap();
    let edge = edges.lines().find(|line| line.starts_with("peers/load") && line.contains("peers/db"));
    assert_eq!(edge.unwrap_or_else(|| panic!("{edges}")).matches("100.00%").count(), 2, "success and TLS: {edges}");
    let report = shop.namespace.report("load").unwrap();
    assert_eq!(report.failed(), 0, "{:?}", report.failures);
    assert_eq!(report.served.keys().collect::<Vec<_>>(), ["db-1"]);
}

/// Three peers, and the Service that only names them.
fn peers_manifest() -> String {
    let labels = "{ app: db }";
    let manifest = server_manifest("db", 3).replace("kind: Deployment", "kind: StatefulSet");
    let manifest =
        manifest.replace("spec:\n  replicas", "spec:\n  serviceName: db\n  podManagementPolicy: Parallel\n  replicas");
    let named = "[{ name: http, port: 80, targetPort: 8080 }]";
    assert!(manifest.contains(named) && manifest.contains(labels));
    manifest.replace(named, "[{ name: http, port: 8080 }]\n  clusterIP: None")
}
