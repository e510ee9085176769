//! What most of these tests start from: a client pod, a Service `web`, and some pods behind it.

use std::time::Duration;

use integration_tests::mesh::{Mesh, Pod, Process, Service, ServicePort, Settings, eventually, service_address};
use integration_tests::traffic::load::LoadReport;

/// A mesh with a client and the servers of one Service.
pub(crate) struct Shop {
    pub(crate) mesh: Mesh,
    pub(crate) client: Pod,
    pub(crate) backends: Vec<Backend>,
}

/// A pod behind the Service, and its server.
pub(crate) struct Backend {
    pub(crate) pod: Pod,
    pub(crate) server: Option<Process>,
}

impl Shop {
    /// A Service `web` on port 80 (and 9000, opaque TCP) with that many pods; returns once requests succeed.
    pub(crate) fn open(settings: Settings, backends: usize) -> Self {
        let mut mesh = Mesh::start(settings).unwrap();
        let ports = [
            ServicePort { port: 80, target: 8080, protocol: Some("http") },
            ServicePort { port: 9000, target: 9000, protocol: Some("tcp") },
        ];
        mesh.service(&Service { name: "web", address: service_address(7).into(), ports: &ports }).unwrap();
        let client = mesh.pod("client-1", "client").unwrap();
        let backends = (1..=backends).map(|number| {
            let pod = mesh.pod(&format!("web-{number}"), "web").unwrap();
            let server = Some(pod.serve().unwrap());
            Backend { pod, server }
        });
        let backends = backends.collect();
        let shop = Self { mesh, client, backends };
        shop.wait_for_service();
        shop
    }

    /// Waits until a request through the mesh succeeds.
    pub(crate) fn wait_for_service(&self) {
        let url = format!("http://{WEB}/");
        let served = || self.client.command("curl", &["-sSfo", "/dev/null", "--max-time", "2", &url]).is_ok();
        eventually(Duration::from_secs(20), served).unwrap_or_else(|error| {
            panic!("{error:#}\nclient: {}\nserver: {}", self.client.log("proxy"), self.backends[0].pod.log("proxy"))
        });
    }

    /// Starts requests to the Service at a fixed rate; [`report`] ends them.
    pub(crate) fn load(&self, rate: u32) -> Process {
        load_from(&self.client, rate)
    }

    /// Ends a load, in which no request may have failed, and which has to have made at least `least`.
    pub(crate) fn none_failed(&self, load: Process, least: u64) -> LoadReport {
        let report = report(load);
        if report.failed() > 0 {
            for pod in std::iter::once(&self.client).chain(self.backends.iter().map(|backend| &backend.pod)) {
                let failures = pod.admin("/failures").unwrap_or_else(|error| format!("{error:#}"));
                eprintln!("{}: {failures}\n{}", pod.name, pod.log("proxy"));
            }
            panic!("{} of {} failed: {:#?}", report.failed(), report.sent, report.failures);
        }
        assert!(report.sent >= least, "only {} requests were made, {least} expected", report.sent);
        report
    }
}

/// The same from another pod.
pub(crate) fn load_from(pod: &Pod, rate: u32) -> Process {
    let rate = rate.to_string();
    let arguments = ["load", "--target", WEB, "--host", "web", "--rate", &rate, "--fresh", "20"];
    pod.traffic("load", &arguments).unwrap()
}

/// Ends a load and returns what came of it.
pub(crate) fn report(load: Process) -> LoadReport {
    let output = load.stop().unwrap();
    serde_json::from_str(output.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// The Service `web`, as the client dials it.
pub(crate) const WEB: &str = "10.96.0.7:80";
/// Its port for bytes.
pub(crate) const WEB_BYTES: &str = "10.96.0.7:9000";
