//! `meshctl version`: of this program, of the control plane, and of every proxy that answers.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt as _};
use proto::admin::Info;
use proto::names;
use serde::Serialize;

use crate::check::installed::{COMPONENTS, image, tag};
use crate::kubernetes::{Cluster, explain};
use crate::output::{self, Format};
use crate::table::Table;
use crate::transport::{self, Transport, TransportError};

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// This program.
    pub meshctl: &'static str,
    /// The API server, where a cluster is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<String>,
    /// Programs of the control plane, where they are Deployments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub control_plane: Vec<Component>,
    /// Every proxy.
    pub proxies: Vec<ProxyVersion>,
    /// Why there is less here than there should be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// One program of the control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Its Deployment.
    pub name: String,
    /// Tag of its image.
    pub version: String,
    /// The image.
    pub image: String,
}

/// One proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProxyVersion {
    /// What it is called.
    pub proxy: String,
    /// Its version.
    pub version: Option<String>,
    /// Why it said nothing.
    pub error: Option<String>,
}

/// This program's only.
pub fn client(format: Format) -> anyhow::Result<()> {
    print(&Versions { meshctl: OWN, ..Versions::default() }, format)
}

/// A demo's.
pub async fn demo(transport: &impl Transport, format: Format) -> anyhow::Result<()> {
    print(&Versions { meshctl: OWN, proxies: proxies(transport).await?, ..Versions::default() }, format)
}

/// A cluster's.
pub async fn cluster(cluster: &Cluster, transport: &impl Transport, format: Format) -> anyhow::Result<()> {
    let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), names::SYSTEM_NAMESPACE);
    let mut problems = Vec::new();
    let deployments =
        api.list(&kube::api::ListParams::default()).await.map(|list| list.items).unwrap_or_else(|error| {
            problems.push(format!("the control plane's Deployments: {}", explain(&error)));
            Vec::new()
        });
    let proxies = proxies(transport).await.unwrap_or_else(|error| {
        problems.push(error.to_string());
        Vec::new()
    });
    let versions = Versions {
        meshctl: OWN,
        kubernetes: Some(cluster.version.git_version.clone()),
        control_plane: control_plane(&deployments),
        proxies,
        problems,
    };
    print(&versions, format)
}

fn control_plane(deployments: &[Deployment]) -> Vec<Component> {
    let ours = deployments.iter().filter(|deployment| COMPONENTS.contains(&deployment.name_any().as_str()));
    ours.map(|deployment| {
        let name = deployment.name_any();
        let image = image(deployment, &name).unwrap_or_default().to_owned();
        Component { version: tag(&image).to_owned(), name, image }
    })
    .collect()
}

async fn proxies(transport: &impl Transport) -> Result<Vec<ProxyVersion>, TransportError> {
    let names = transport::proxies(transport).await?;
    let answers = transport::ask_json::<Info>(transport, &names, "/info").await;
    let version = |answer: transport::Answer<Info>| {
        let (version, error) = match answer.result {
            Ok(info) => (Some(info.version), None),
            Err(error) => (None, Some(error.to_string())),
        };
        ProxyVersion { proxy: answer.proxy, version, error }
    };
    Ok(answers.into_iter().map(version).collect())
}

fn print(versions: &Versions, format: Format) -> anyhow::Result<()> {
    output::print(&match format {
        Format::Json => output::json(versions),
        Format::Table => render(versions),
    })
}

fn render(versions: &Versions) -> String {
    let mut text = format!("meshctl {}\n", versions.meshctl);
    if let Some(kubernetes) = &versions.kubernetes {
        text.push_str(&format!("Kubernetes {kubernetes}\n"));
        if versions.control_plane.is_empty() && versions.problems.is_empty() {
            text.push_str("control plane: not installed\n");
        }
    }
    if !versions.control_plane.is_empty() {
        let mut table = Table::new(&["CONTROL PLANE", "VERSION", "IMAGE"]);
        for Component { name, version, image } in &versions.control_plane {
            table.row(vec![name.clone(), version.clone(), image.clone()]);
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    if versions.kubernetes.is_some() {
        text.push_str(&by_version(&versions.proxies));
    } else if !versions.proxies.is_empty() {
        let mut table = Table::new(&["PROXY", "VERSION"]);
        for ProxyVersion { proxy, version, error } in &versions.proxies {
            table.row(vec![proxy.clone(), version.clone().or_else(|| error.clone()).unwrap_or_default()]);
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    for problem in &versions.problems {
        text.push_str(&format!("‼ {problem}\n"));
    }
    text
}

/// A cluster has too many proxies for a line each: a line per version, and one per proxy that did not say.
fn by_version(proxies: &[ProxyVersion]) -> String {
    if proxies.is_empty() {
        return String::new();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for version in proxies.iter().filter_map(|proxy| proxy.version.as_deref()) {
        *counts.entry(version).or_default() += 1;
    }
    let mut table = Table::new(&["PROXY VERSION", ">PROXIES"]);
    for (version, count) in counts {
        table.row(vec![version.to_owned(), count.to_string()]);
    }
    let mut text = format!("\n{}", table.render());
    for (proxy, error) in proxies.iter().filter_map(|proxy| Some((&proxy.proxy, proxy.error.as_ref()?))) {
        text.push_str(&format!("‼ {proxy} {error}\n"));
    }
    text
}

const OWN: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_proxies_are_counted_by_version() {
        let proxy = |name: &str, version: Option<&str>| ProxyVersion {
            proxy: name.into(),
            version: version.map(str::to_owned),
            error: version.is_none().then(|| "did not answer within 3 s".to_owned()),
        };
        let versions = Versions {
            meshctl: "0.1.0",
            kubernetes: Some("v1.34.4".into()),
            control_plane: vec![Component {
                name: "mesh-controller".into(),
                version: "0.1.0".into(),
                image: "meshctl.io/mesh-controller:0.1.0".into(),
            }],
            proxies: vec![proxy("shop/a", Some("0.1.0")), proxy("shop/b", Some("0.1.0")), proxy("shop/c", None)],
            problems: Vec::new(),
        };
        assert_eq!(
            render(&versions),
            "meshctl 0.1.0\nKubernetes v1.34.4\n\n\
             CONTROL PLANE    VERSION  IMAGE\n\
             mesh-controller  0.1.0    meshctl.io/mesh-controller:0.1.0\n\n\
             PROXY VERSION  PROXIES\n\
             0.1.0                2\n\
             ‼ shop/c did not answer within 3 s\n"
        );
    }
}
