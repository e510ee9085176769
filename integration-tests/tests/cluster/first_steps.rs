//! The four commands of README, and what a user sees then.

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
        assert!(edges.contains("load") && edges.contains("web"), "{edges}");
    });
}
