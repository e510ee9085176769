//! The manifests of the shop, as text: they are left on disk for people to read and edit, so comments count.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::shop::{MEMBERS, Member, NAMESPACE, Protocol, SERVICES, Service};

/// Writes all files into `directory`.
pub(super) fn write(directory: &Path) -> anyhow::Result<()> {
    for (name, text) in [
        ("namespace.yaml", namespace()),
        ("services.yaml", services()),
        ("workloads.yaml", workloads()),
        (ROUTE_FILE, route()),
    ] {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

fn namespace() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  annotations:\n    meshctl.io/inject: enabled\n"
    )
}

fn services() -> String {
    let mut text =
        "# What the shop's programs call. A Service selects workloads by their labels, as in Kubernetes.\n".to_owned();
    for service in &SERVICES {
        let [v4, v6] = service.addresses();
        let Service { name, app, version, protocol } = service;
        let (kind, port, target) = (protocol.name(), protocol.service_port(), protocol.app_port());
        let version = version.map(|version| format!("    version: {version}\n")).unwrap_or_default();
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\nspec:\n  \
             clusterIP: {v4}\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n  ipFamilyPolicy: RequireDualStack\n  \
             ipFamilies: [IPv4, IPv6]\n  selector:\n    app: {app}\n{version}  \
             ports:\n    - name: {kind}\n      port: {port}\n      targetPort: {target}\n"
        )
        .expect("text can always grow");
    }
    text
}

fn workloads() -> String {
    let mut text = "# Where the shop's programs run: what pods are in Kubernetes. Take one out, and nobody is sent there any more.\n"
        .to_owned();
    for member in &MEMBERS {
        let Member { workload, app, version, .. } = member;
        let addresses: Vec<String> = member.addresses().iter().map(|address| format!("\"{address}\"")).collect();
        let addresses = addresses.join(", ");
        write!(
            text,
            "---\napiVersion: meshctl.io/v1alpha1\nkind: ExternalWorkload\nmetadata:\n  name: {workload}\n  \
             namespace: {NAMESPACE}\n  labels:\n    app: {app}\n    version: {version}\nspec:\n  \
             addresses: [{addresses}]\n  serviceAccount: {app}\n"
        )
        .expect("text can always grow");
    }
    text
}

fn route() -> String {
    let port = Protocol::Http.service_port();
    format!(
        "# One request in ten goes to the new version. Change the weights, save, and watch meshctl stat --by version.\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: reviews\n  namespace: {NAMESPACE}\n\
         spec:\n  parentRefs:\n    - group: \"\"\n      kind: Service\n      name: reviews\n      port: {port}\n  \
         rules:\n    - backendRefs:\n        - name: reviews-v1\n          port: {port}\n          weight: 90\n        \
         - name: reviews-v2\n          port: {port}\n          weight: 10\n"
    )
}

/// The file people are told to edit.
pub(super) const ROUTE_FILE: &str = "reviews-route.yaml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_written() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("services.yaml").matches("kind: Service").count(), SERVICES.len());
        assert_eq!(read("workloads.yaml").matches("kind: ExternalWorkload").count(), MEMBERS.len());
        assert!(read(ROUTE_FILE).contains("        - name: reviews-v2\n          port: 80\n          weight: 10\n"));
        assert!(!read("services.yaml").contains('\t'));
    }
}
