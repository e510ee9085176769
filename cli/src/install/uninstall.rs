//! `meshctl uninstall`: everything of an installation out of a cluster, webhooks first so that nobody's pods wait.
//!
//! Refused while pods have a proxy, with when their certificates end ([`farewell`]). What the injector wrote onto namespaces
//! goes as well ([`namespaces`]); what their owners wrote stays.

pub mod farewell;
pub mod namespaces;

use std::time::Duration;

use anyhow::bail;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace, PersistentVolumeClaim, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ListParams, PartialObjectMeta};
use proto::names;
use serde::Serialize;
use serde_json::Map;
use tokio::time::{Instant, sleep};

use crate::args::{Output, UninstallArgs};
use crate::check::many;
use crate::kubernetes::{self, Cluster, ClusterArgs, explain};
use crate::output;
use crate::transport::port_forward::PortForward;

use super::lock::Lock;
use super::object::{Key, Object};
use super::progress::Progress;
use super::record::{self, Record};
use super::{apply, preflight, proxies};

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Objects that are gone.
    pub deleted: Vec<String>,
    /// What stays, and why.
    pub kept: Vec<String>,
}

/// Runs the command.
pub async fn run(args: &UninstallArgs, cluster: &ClusterArgs, format: Output) -> anyhow::Result<()> {
    let cluster = kubernetes::connect(cluster).await?;
    let report = uninstall(&cluster, args).await?;
    output::print(&match format {
        Output::Json => output::json(&report),
        Output::Yaml => bail!("uninstall has nothing to print as YAML; use -o json"),
        Output::Table => report.render(),
    })
}

async fn uninstall(cluster: &Cluster, args: &UninstallArgs) -> anyhow::Result<Report> {
    let client = &cluster.client;
    preflight::rights_to_remove(client, &keys(None, &cluster.version.git_version)?).await?;
    let record = Record::read(client).await?;
    let keys = keys(record.as_ref(), &cluster.version.git_version)?;
    preflight::owner(&apply::live(client, keys.iter()).await?)?;
    let (mut progress, mut report) = (Progress::new(), Report::default());
    let meshed = proxies::meshed(client).await?;
    if !meshed.is_empty() {
        progress.wait("asking the proxies when their certificates end");
        let farewells = farewell::ask(&PortForward::new(client.clone(), None), &meshed, PATIENCE).await;
        let lifetime = lifetime(record.as_ref());
        if !args.force {
            drop(progress);
            bail!("{}", farewell::refusal(&farewells, &lifetime, crate::now_ms()));
        }
        let ends = farewell::span(&farewells, &lifetime, crate::now_ms());
        report.kept.push(format!("proxies of {}, until they are restarted: their {ends}", many(meshed.len(), "pod")));
    }
    if can_be_locked(client).await? {
        let lock = Lock::take(client, &mut progress).await?;
        lock.hold(objects(client, &keys, args.crds, &mut progress, &mut report)).await?;
    } else {
        objects(client, &keys, args.crds, &mut progress, &mut report).await?;
    }
    namespace(client, Instant::now() + args.timeout, &mut progress, &mut report).await?;
    // Last, because an identity or a controller that is still ending might write them again.
    for (key, uid) in bundles(client).await? {
        if apply::delete(client, &key, uid).await? {
            report.deleted.push(key.to_string());
        }
    }
    let xmesh = key("gateway.networking.x-k8s.io/v1alpha1", "XMesh", None, XMESH);
    if apply::delete_made_by(client, &xmesh, names::CONTROLLER_ACCOUNT).await? {
        report.deleted.push(xmesh.to_string());
    }
    namespaces::take_back(client, &mut report).await?;
    progress.done("the mesh is uninstalled");
    Ok(report)
}

async fn objects(
    client: &Client,
    keys: &[Key],
    with_crds: bool,
    progress: &mut Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    for key in keys {
        if key.kind == "CustomResourceDefinition" && !with_crds {
            report.kept.push(format!("{key} and its objects (--crds deletes them)"));
            continue;
        }
        if key.kind != "Namespace" {
            delete(client, key, progress, report).await?;
        }
    }
    for key in left_in_system(client).await? {
        if apply::delete(client, &key, None).await? {
            report.deleted.push(key.to_string());
        }
    }
    Ok(())
}

/// Nothing can be made in a namespace that is not there, or is ending; nor can anybody install there.
async fn can_be_locked(client: &Client) -> anyhow::Result<bool> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces.get_metadata_opt(names::SYSTEM_NAMESPACE).await;
    let found = found.map_err(|error| {
        anyhow::anyhow!("Namespace {} cannot be read: {}", names::SYSTEM_NAMESPACE, explain(&error))
    })?;
    Ok(found.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none()))
}

/// Everything there may be, in the order it goes: what calls others first, what others need last.
fn keys(record: Option<&Record>, kube_version: &str) -> anyhow::Result<Vec<Key>> {
    let mut objects = super::desired(&Map::new().into(), kube_version)?;
    let recorded = record.iter().flat_map(|record| &record.keys).filter_map(|key| {
        let metadata = serde_json::json!({"name": key.name, "namespace": key.namespace});
        Object::new(serde_json::json!({"apiVersion": key.api_version, "kind": key.kind, "metadata": metadata}))
    });
    objects.extend(recorded);
    objects.sort_by_key(|object| std::cmp::Reverse(object.rank()));
    let mut keys: Vec<Key> = Vec::new();
    for object in objects {
        if !keys.contains(&object.key) {
            keys.push(object.key);
        }
    }
    Ok(keys)
}

async fn delete(client: &Client, key: &Key, progress: &mut Progress, report: &mut Report) -> anyhow::Result<()> {
    progress.wait(&format!("deleting {key}"));
    if apply::delete_ours(client, key).await? {
        report.deleted.push(key.to_string());
    }
    Ok(())
}

/// Trust bundles, one in every namespace, each with the uid it was found with: not what somebody makes under that name later.
/// Name and label both have to be ours.
async fn bundles(client: &Client) -> anyhow::Result<Vec<(Key, Option<String>)>> {
    let bundles: Api<ConfigMap> = Api::all(client.clone());
    let selector = ListParams::default()
        .labels(&format!("{}={}", apply::MANAGED_BY, names::IDENTITY_ACCOUNT))
        .fields(&format!("metadata.name={}", names::BUNDLE_CONFIG_MAP));
    let listed = bundles.list_metadata(&selector).await;
    let listed = listed.map_err(|error| anyhow::anyhow!("ConfigMaps cannot be listed: {}", explain(&error)))?;
    let found = |bundle: PartialObjectMeta<ConfigMap>| {
        (key("v1", "ConfigMap", bundle.metadata.namespace, names::BUNDLE_CONFIG_MAP), bundle.metadata.uid)
    };
    Ok(listed.into_iter().map(found).collect())
}

/// What programs made in our namespace.
async fn left_in_system(client: &Client) -> anyhow::Result<Vec<Key>> {
    let system = || Some(names::SYSTEM_NAMESPACE.to_owned());
    let mut keys = vec![key("v1", "ConfigMap", system(), record::NAME)];
    for lease in [names::CONTROLLER_ACCOUNT, names::IDENTITY_ACCOUNT] {
        keys.push(key("coordination.k8s.io/v1", "Lease", system(), lease));
    }
    if issuer_is_made(client).await? {
        keys.push(key("v1", "Secret", system(), ISSUER));
    }
    Ok(keys)
}

fn key(api_version: &str, kind: &str, namespace: Option<String>, name: &str) -> Key {
    Key { api_version: api_version.to_owned(), kind: kind.to_owned(), namespace, name: name.to_owned() }
}

/// Whether identity made its issuer by itself; one that was brought along is not ours to delete.
async fn issuer_is_made(client: &Client) -> anyhow::Result<bool> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let found = secrets.get_metadata_opt(ISSUER).await;
    let found = found.map_err(|error| anyhow::anyhow!("Secret {ISSUER} cannot be read: {}", explain(&error)))?;
    let by = found.and_then(|secret| secret.metadata.labels?.get(apply::MANAGED_BY).cloned());
    Ok(by.is_some_and(|by| by == names::IDENTITY_ACCOUNT))
}

/// Deletes our namespace, if nothing of anybody else's is in it, and waits until it is gone. That it bears our label does not
/// say that we made it: it may have been there before.
async fn namespace(
    client: &Client,
    deadline: Instant,
    progress: &mut Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let key = key("v1", "Namespace", None, names::SYSTEM_NAMESPACE);
    let left = strangers(client).await?;
    if let Some(first) = left.first() {
        let others = if left.len() > 1 { format!(" and {} more", left.len() - 1) } else { String::new() };
        report.kept.push(format!("{key}: it holds {first}{others}, which the mesh did not make"));
        return Ok(());
    }
    if !apply::delete_ours(client, &key).await? {
        return Ok(());
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    loop {
        match namespaces.get_opt(&key.name).await {
            Ok(None) => break,
            Ok(Some(_)) | Err(_) if Instant::now() < deadline => {
                progress.wait(&format!("{key} is ending with what was in it"));
                sleep(Duration::from_millis(500)).await;
            }
            Ok(Some(found)) => {
                let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
                let why = conditions.into_iter().find(|is| is.status == "True").and_then(|is| is.message);
                bail!(
                    "{key} does not end ({}); run the same command again",
                    why.unwrap_or_else(|| "no reason given".to_owned())
                )
            }
            Err(error) => bail!("{key} cannot be read: {}", explain(&error)),
        }
    }
    report.deleted.push(key.to_string());
    Ok(())
}

/// What would go with our namespace, and is neither ours nor Kubernetes' own.
async fn strangers(client: &Client) -> anyhow::Result<Vec<String>> {
    let mut found = listed::<Secret>(client).await?;
    found.extend(listed::<ConfigMap>(client).await?);
    found.extend(listed::<ServiceAccount>(client).await?);
    found.extend(listed::<Service>(client).await?);
    found.extend(listed::<Deployment>(client).await?);
    found.extend(listed::<StatefulSet>(client).await?);
    found.extend(listed::<DaemonSet>(client).await?);
    found.extend(listed::<Job>(client).await?);
    found.extend(listed::<CronJob>(client).await?);
    found.extend(listed::<PersistentVolumeClaim>(client).await?);
    found.extend(listed::<ResourceQuota>(client).await?);
    found.extend(listed::<LimitRange>(client).await?);
    found.extend(listed::<NetworkPolicy>(client).await?);
    found.extend(listed::<RoleBinding>(client).await?);
    Ok(found)
}

/// Objects of one kind in our namespace that are somebody else's.
async fn listed<K>(client: &Client) -> anyhow::Result<Vec<String>>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let listed = api.list_metadata(&ListParams::default()).await;
    let listed = listed.map_err(|error| {
        anyhow::anyhow!("{}s cannot be listed, so the namespace stays: {}", K::kind(&()), explain(&error))
    })?;
    Ok(listed
        .into_iter()
        .filter(|it| is_strange(&it.metadata))
        .map(|it| name_of(&K::kind(&()), &it.metadata))
        .collect())
}

fn name_of(kind: &str, metadata: &ObjectMeta) -> String {
    format!("{kind} {}", metadata.name.as_deref().unwrap_or_default())
}

/// Neither the mesh's, nor what Kubernetes puts into every namespace, nor about to be gone.
fn is_strange(metadata: &ObjectMeta) -> bool {
    let name = metadata.name.as_deref().unwrap_or_default();
    let by = metadata.labels.as_ref().and_then(|labels| labels.get(apply::MANAGED_BY)).map(String::as_str);
    let is_ours = [Some(apply::MANAGER), Some(names::IDENTITY_ACCOUNT)].contains(&by);
    let is_of_kubernetes = ["kube-root-ca.crt", "default", names::BUNDLE_CONFIG_MAP].contains(&name);
    !is_ours && !is_of_kubernetes && metadata.deletion_timestamp.is_none()
}

/// The longest a certificate can still live.
fn lifetime(record: Option<&Record>) -> String {
    let lifetime = record.and_then(|record| record.values["identity"]["leafLifetime"].as_str());
    lifetime.unwrap_or("24h").to_owned()
}

impl Report {
    fn render(&self) -> String {
        let mut text: String = self.deleted.iter().map(|key| format!("deleted   {key}\n")).collect();
        text.extend(self.kept.iter().map(|kept| format!("kept      {kept}\n")));
        if self.deleted.is_empty() {
            text.push_str("there was nothing to uninstall\n");
        }
        text
    }
}

/// The Secret identity signs with.
const ISSUER: &str = "mesh-issuer";
/// The XMesh that the controller makes.
const XMESH: &str = "meshctl";
/// For all proxies together to say when their certificates end.
const PATIENCE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_go_first_and_the_namespace_last() {
        let keys = keys(None, "v1.34.0").unwrap();
        assert_eq!(keys.first().unwrap().kind, "MutatingWebhookConfiguration");
        assert_eq!(keys.last().unwrap().kind, "Namespace");
        let old = key("v1", "Service", Some("mesh-system".to_owned()), "of-an-old-version");
        let mut record = Record::of(&serde_json::Value::Null, &[]);
        record.keys.insert(old.clone());
        assert!(super::keys(Some(&record), "v1.34.0").unwrap().contains(&old));
    }

    #[test]
    fn only_what_nobody_of_ours_made_keeps_the_namespace() {
        let metadata = |name: &str, by: Option<&str>| ObjectMeta {
            name: Some(name.to_owned()),
            labels: by.map(|by| [(apply::MANAGED_BY.to_owned(), by.to_owned())].into()),
            ..ObjectMeta::default()
        };
        for (name, by) in [
            ("kube-root-ca.crt", None),
            ("default", None),
            ("mesh-controller", Some("meshctl")),
            ("mesh-issuer", Some("mesh-identity")),
        ] {
            assert!(!is_strange(&metadata(name, by)), "{name}");
        }
        for (name, by) in [("pull-secret", None), ("mesh-issuer", Some("cert-manager")), ("mesh-issuer", None)] {
            assert!(is_strange(&metadata(name, by)), "{name} {by:?}");
        }
    }
}
