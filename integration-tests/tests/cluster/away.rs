//! A control plane of which one program is missing for a while.

use integration_tests::cluster::Cluster;

/// No replica of a program of the control plane runs while this lives.
pub(crate) struct Away<'a> {
    cluster: &'a Cluster,
    program: &'static str,
}

impl<'a> Away<'a> {
    /// Returns when the last replica is gone.
    pub(crate) fn send(cluster: &'a Cluster, program: &'static str) -> Self {
        let away = Self { cluster, program };
        away.scale(0).unwrap();
        let selector = format!("--selector=app.kubernetes.io/name={program}");
        let gone = ["wait", "--for=delete", "pod", &selector, "--namespace=mesh-system", "--timeout=60s"];
        cluster.kubectl(&gone).unwrap();
        away
    }

    fn scale(&self, replicas: u32) -> anyhow::Result<String> {
        let (deployment, replicas) = (format!("deployment/{}", self.program), format!("--replicas={replicas}"));
        self.cluster.kubectl(&["scale", &deployment, &replicas, "--namespace=mesh-system"])
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        let back = self.scale(1);
        assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
    }
}
