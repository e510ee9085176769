//! Somebody else than the administrator: a ServiceAccount with few rights, and the kubeconfig it would have.

use integration_tests::cluster::Cluster;
use tempfile::TempPath;

/// An account of a namespace.
pub(crate) struct Account {
    kubeconfig: TempPath,
}

impl Account {
    /// Makes it, bound to a ClusterRole within its namespace only, where one is named.
    pub(crate) fn new(cluster: &Cluster, namespace: &str, role: Option<&str>) -> Self {
        let place = format!("--namespace={namespace}");
        cluster.kubectl(&["create", "serviceaccount", NAME, &place]).unwrap();
        if let Some(role) = role {
            let (role, account) = (format!("--clusterrole={role}"), format!("--serviceaccount={namespace}:{NAME}"));
            cluster.kubectl(&["create", "rolebinding", NAME, &role, &account, &place]).unwrap();
        }
        let token = cluster.kubectl(&["create", "token", NAME, &place]).unwrap();
        let kubeconfig = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let admin = cluster.kubectl(&["config", "view", "--raw", "--minify", "--flatten"]).unwrap();
        std::fs::write(&kubeconfig, admin).unwrap();
        let file = format!("--kubeconfig={}", kubeconfig.to_string_lossy());
        cluster.kubectl(&["config", "set-credentials", NAME, &format!("--token={}", token.trim()), &file]).unwrap();
        let user = format!("--user={NAME}");
        cluster.kubectl(&["config", "set-context", "--current", &user, &place, &file]).unwrap();
        Self { kubeconfig }
    }

    /// What `meshctl` says to it: whether it succeeds, standard output, standard error.
    pub(crate) fn meshctl(&self, cluster: &Cluster, arguments: &[&str]) -> (bool, String, String) {
        let kubeconfig = self.kubeconfig.to_string_lossy();
        let output = cluster.try_meshctl(&[&["--kubeconfig", &kubeconfig], arguments].concat()).unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.success(), out, err)
    }
}

const NAME: &str = "developer";
