//! What watching costs an API server that has told the controller all there is.

use std::time::{Duration, Instant};

use integration_tests::cluster::{Cluster, looks, service_manifest};
use integration_tests::mesh::{admin, eventually};
use proto::names;

/// More Services than are read to see whether a watch lives, and nothing happens to any of them: the bookmarks of their watch say that it
/// is alive, and they are not listed anew. (Where etcd tells of its progress, as kubeadm's does. Without it they are, every 40 s.)
#[test]
fn a_kind_in_which_nothing_happens_is_not_listed_anew() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let namespace = cluster.namespace("quiet").unwrap();
    let services = (0..60).map(|number| service_manifest(&format!("web-{number}"), "web", "{ port: 80 }", ""));
    namespace.apply(&services.collect::<String>()).unwrap();
    let controller = [
        "get",
        "pods",
        "--namespace=mesh-system",
        "--selector=app.kubernetes.io/name=mesh-controller",
        "--field-selector=status.phase=Running",
        "--output=jsonpath={.items[0].status.podIP}",
    ];
    let address = format!("{}:{}", cluster.kubectl(&controller).unwrap(), names::CONTROL_HEALTH_PORT).parse().unwrap();
    let asked = |metric: &str, labels: &[&str]| admin::sum(&looks::get(address, "/metrics").unwrap(), metric, labels);
    let known = || asked("mesh_controller_facts", &["kind=\"services\""]) >= 60.0;
    eventually(Duration::from_secs(10), known).unwrap();

    let stood_still = || asked("mesh_controller_watch_restarts_total", &["reason=\"stands_still\""]);
    let (before, begun) = (stood_still(), Instant::now());
    eventually(Duration::from_secs(120), || {
        assert_eq!(stood_still(), before, "{:?} after the last change", begun.elapsed());
        assert!(asked("mesh_controller_watch_age_seconds", &["watch=\"services\""]) < 30.0);
        begun.elapsed() > Duration::from_secs(90)
    })
    .unwrap();
}
