//! The manifests of a test, written as a careful editor does: whole, by rename.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::NAMESPACE;

/// A Service that selects the pods of an app.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// Its name, and the `app` label it selects.
    pub name: &'a str,
    /// Cluster address.
    pub address: IpAddr,
    /// Its ports.
    pub ports: &'a [ServicePort<'a>],
}

/// One port of a Service.
#[derive(Debug, Clone, Copy)]
pub struct ServicePort<'a> {
    /// Port of the Service.
    pub port: u16,
    /// Port of the pods.
    pub target: u16,
    /// `appProtocol`, where one is declared.
    pub protocol: Option<&'a str>,
}

impl Service<'_> {
    /// Writes it into a directory of manifests.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                let mut value =
                    json!({"name": format!("port-{}", port.port), "port": port.port, "targetPort": port.target});
                if let Some(protocol) = port.protocol {
                    value["appProtocol"] = protocol.into();
                }
                value
            })
            .collect();
        let family = if self.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let manifest = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": {"clusterIP": self.address, "clusterIPs": [self.address], "ipFamilies": [family],
                "selector": {"app": self.name}, "ports": ports},
        });
        write(directory, &format!("service-{}", self.name), &manifest.to_string())
    }
}

/// Writes a pod's workload into a directory of manifests.
pub fn write_workload(directory: &Path, name: &str, app: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
    let manifest = json!({
        "apiVersion": "meshctl.io/v1alpha1", "kind": "ExternalWorkload",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": app, "version": "v1"}},
        "spec": {"addresses": addresses, "serviceAccount": app},
    });
    write(directory, &format!("workload-{name}"), &manifest.to_string())
}

/// Takes a pod's workload away.
pub fn remove_workload(directory: &Path, name: &str) -> anyhow::Result<()> {
    Ok(fs::remove_file(file(directory, &format!("workload-{name}")))?)
}

/// Writes any text as the manifest of that name.
pub fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let unfinished = directory.join(format!(".{name}.unfinished"));
    fs::write(&unfinished, text)?;
    Ok(fs::rename(unfinished, file(directory, name))?)
}

/// The file of the manifest of that name.
pub fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.yaml"))
}
