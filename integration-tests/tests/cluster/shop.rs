//! What most of these tests start from: the mesh, installed by the four commands of README into a cluster where an
//! application already runs.

use integration_tests::cluster::looks::has_proxy;
use integration_tests::cluster::{Cluster, Namespace, server_manifest};
use integration_tests::traffic::load::LoadReport;

/// A namespace whose pods have a proxy, with the servers `web`.
pub(crate) struct Shop {
    pub(crate) namespace: Namespace,
}

impl Shop {
    /// The application first, then README's commands.
    pub(crate) fn open(name: &str, replicas: u32) -> Self {
        let namespace = Cluster::running().unwrap().namespace(name).unwrap();
        namespace.apply(&server_manifest("web", replicas)).unwrap();
        namespace.rolled_out().unwrap();
        for command in readme_commands() {
            namespace.cluster.shell(&command.replace("shop", name)).unwrap();
            namespace.rolled_out().unwrap();
        }
        let shop = Self { namespace };
        assert!(shop.is_meshed("web"), "{}", shop.namespace.kubectl(&["get", "pods,events"]).unwrap());
        shop
    }

    /// Whether every running pod of an application has a proxy.
    pub(crate) fn is_meshed(&self, app: &str) -> bool {
        let pods = self.namespace.list("pods", &format!("app={app}")).unwrap();
        let mut staying = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        staying.clone().next().is_some() && staying.all(has_proxy)
    }

    /// Sends requests to `web` from a Job in the mesh while something is done; none may fail, and the Job has to end.
    pub(crate) fn none_failed(&self, job: &str, rate: u32, seconds: u32, during: impl FnOnce()) -> LoadReport {
        self.namespace.start_load(job, "web:80", rate, seconds).unwrap();
        assert!(self.is_meshed(job));
        during();
        let report = self.namespace.report(job).unwrap();
        assert_eq!(report.failed(), 0, "{} of {}: {:#?}", report.failed(), report.sent, report.failures);
        assert!(report.sent >= u64::from(rate * seconds * 9 / 10), "only {} were sent", report.sent);
        report
    }
}

/// The four commands of README that bring the mesh to the namespace `shop`.
fn readme_commands() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let (_, section) = readme.split_once("\n## On Kubernetes\n\n```shell\n").unwrap();
    let commands: Vec<String> = section.lines().take_while(|line| *line != "```").map(str::to_owned).collect();
    assert_eq!(commands.len(), 4, "{commands:?}");
    commands
}
