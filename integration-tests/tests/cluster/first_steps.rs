//! The four commands of README, and what a user sees then.

use integration_tests::cluster::Cluster;

use super::sample;
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
        let web = stat.lines().find(|line| line.contains(" web ")).unwrap_or_else(|| panic!("{stat}"));
        assert_eq!((web.contains(" 2/2 "), web.matches("100.00%").count()), (true, 2), "success and TLS: {stat}");
        let edges = cluster.meshctl(&["edges", "--namespace=shop"]).unwrap();
        let edge = edges.lines().find(|line| line.starts_with("shop/load") && line.contains("shop/web"));
        assert_eq!(edge.unwrap_or_else(|| panic!("{edges}")).matches("100.00%").count(), 2, "success and TLS: {edges}");
    });
}

/// HTTP/1.1, gRPC, Redis, Jobs and peers: everything succeeds, all of it is mutual TLS on every edge from the first connection
/// on, and as much is counted as was sent. The very same look finds fault with all of it where nobody injects.
#[test]
fn a_sample_application_is_in_the_mesh_and_without_injection_is_not() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let (sample, bare) = (cluster.namespace("sample").unwrap(), cluster.namespace("bare").unwrap());
    cluster.kubectl(&["annotate", "namespace", "sample", "meshctl.io/inject=enabled"]).unwrap();
    let (in_mesh, outside) = std::thread::scope(|scope| {
        let outside = scope.spawn(|| sample::problems(&bare));
        (sample::problems(&sample), outside.join().unwrap())
    });
    assert!(in_mesh.stat.is_empty() && in_mesh.edges.is_empty() && in_mesh.counts.is_empty(), "{in_mesh:#?}");
    for found in [&outside.stat, &outside.edges, &outside.counts] {
        let unseen = ["web", "stock", "redis", "db"].map(|server| found.iter().any(|problem| problem.contains(server)));
        assert_eq!(unseen, [true; 4], "{outside:#?}");
    }
}
