//! `meshctl uninstall`: everything of an installation out of a cluster, webhooks first so that nobody's pods wait.
//!
//! Refused while pods have a proxy, with when their certificates end ([`farewell`]). What the injector wrote onto namespaces
//! goes as well ([`namespaces`]); what their owners wrote stays. The mesh's own Namespace goes if an installation made it, and
//! if nothing of anybody else's is in it ([`strangers`]). Nobody can install meanwhile: the lock is held for all of it.

pub mod farewell;
pub mod namespaces;
pub mod strangers;

use std::time::Duration;

use anyhow::bail;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
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

use super::apply::Live;
use super::lock::Lock;
use super::object::{Key, Object};
use super::record::{self, Record};
use super::{apply, preflight, proxies};
use crate::progress::Progress;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Objects that are gone.
    pub deleted: Vec<String>,
    /// What stays, and why.
    pub kept: Vec<String>,
}

/// Runs the command.
pub async fn run(args: &UninstallArgs, cluster: &ClusterArgs, format: Option<Output>) -> anyhow::Result<()> {
    let cluster = kubernetes::connect(cluster).await?;
    let report = uninstall(&cluster, args).await?;
    output::print(&if format == Some(Output::Json) { output::json(&report) } else { report.render() })
}

async fn uninstall(cluster: &Cluster, args: &UninstallArgs) -> anyhow::Result<Report> {
    let client = &cluster.client;
    let kube_version = &cluster.version.git_version;
    preflight::rights_to_remove(client, &keys(None, kube_version)?).await?;
    let record = Record::read(client).await?;
    preflight::owner(&apply::live(client, keys(record.as_ref(), kube_version)?.iter()).await?)?;
    let deadline = Instant::now() + args.timeout;
    let mut run =
        Run { cluster, args, deadline, progress: Progress::new(), report: Report::default(), namespace: Fate::Absent };
    run.meshed_pods(record.as_ref()).await?;
    if can_be_locked(client).await? {
        let lock = Lock::take(client, &mut run.progress).await?;
        lock.hold(run.all()).await?;
    } else {
        run.all().await?;
    }
    run.namespace_ended().await?;
    run.progress.done("the mesh is uninstalled");
    Ok(run.report)
}

/// One uninstallation under way.
struct Run<'a> {
    cluster: &'a Cluster,
    args: &'a UninstallArgs,
    deadline: Instant,
    progress: Progress,
    report: Report,
    namespace: Fate,
}

/// What becomes of our namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Absent,
    Kept,
    /// The one with this uid ends.
    Ends(Option<String>),
}

impl Run<'_> {
    /// Refuses while pods have a proxy, unless told otherwise.
    async fn meshed_pods(&mut self, record: Option<&Record>) -> anyhow::Result<()> {
        let client = &self.cluster.client;
        let meshed = proxies::meshed(client).await?;
        if meshed.is_empty() {
            return Ok(());
        }
        self.progress.wait("asking the proxies when their certificates end");
        let farewells = farewell::ask(&PortForward::new(client.clone(), None), &meshed, PATIENCE).await;
        let lifetime = lifetime(record);
        if !self.args.force {
            self.progress = Progress::new();
            bail!("{}", farewell::refusal(&farewells, &lifetime, crate::now_ms()));
        }
        let ends = farewell::span(&farewells, &lifetime, crate::now_ms());
        let kept = format!("proxies of {}, until they are restarted: their {ends}", many(meshed.len(), "pod"));
        self.report.kept.push(kept);
        Ok(())
    }

    /// What has to happen while nobody installs: all of it. The Namespace is last, because the lock goes with it.
    async fn all(&mut self) -> anyhow::Result<()> {
        let client = &self.cluster.client;
        // Whoever had the lock before us may have changed what there is.
        let record = Record::read(client).await?;
        let keys = keys(record.as_ref(), &self.cluster.version.git_version)?;
        let live = apply::live(client, keys.iter()).await?;
        preflight::owner(&live)?;
        self.objects(&keys, &live).await?;
        // An identity or a controller that is still ending might write again what is deleted now.
        self.pods_ended().await?;
        self.made_by_programs().await?;
        namespaces::take_back(client, &mut self.report).await?;
        let record = key("v1", "ConfigMap", Some(names::SYSTEM_NAMESPACE.to_owned()), record::NAME);
        self.delete(&record, None).await?;
        self.namespace().await
    }

    async fn objects(&mut self, keys: &[Key], live: &Live) -> anyhow::Result<()> {
        for key in keys {
            let Some(object) = live.get(key).filter(|object| apply::is_ours(object)) else { continue };
            match key.kind.as_str() {
                "Namespace" => {}
                "CustomResourceDefinition" if !self.args.crds => {
                    self.report.kept.push(format!("{key} and its objects (--crds deletes them)"));
                }
                _ => self.delete(key, object.metadata.uid.clone()).await?,
            }
        }
        Ok(())
    }

    /// Waits until no program of the control plane runs any more.
    async fn pods_ended(&mut self) -> anyhow::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), names::SYSTEM_NAMESPACE);
        let ours = ListParams::default().labels(&format!(
            "app.kubernetes.io/part-of=mesh,app.kubernetes.io/name in ({},{},{})",
            names::CONTROLLER_ACCOUNT,
            names::IDENTITY_ACCOUNT,
            names::INJECTOR_ACCOUNT
        ));
        loop {
            let left = pods.list_metadata(&ours).await;
            let left = left.map_err(|error| anyhow::anyhow!("the pods cannot be listed: {}", explain(&error)))?;
            let Some(first) = left.items.first() else { return Ok(()) };
            let name = first.metadata.name.as_deref().unwrap_or_default();
            if Instant::now() >= self.deadline {
                bail!(
                    "pod {name} of the control plane does not end (is its node there?); run the same command again, or take \
                     it away with: kubectl --namespace {} delete pod {name} --force",
                    names::SYSTEM_NAMESPACE
                );
            }
            self.progress.wait(&format!("pod {name} is ending"));
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// What programs of ours made by themselves, in our namespace and elsewhere.
    async fn made_by_programs(&mut self) -> anyhow::Result<()> {
        let client = &self.cluster.client;
        let system = || Some(names::SYSTEM_NAMESPACE.to_owned());
        for lease in [names::CONTROLLER_ACCOUNT, names::IDENTITY_ACCOUNT] {
            self.delete(&key("coordination.k8s.io/v1", "Lease", system(), lease), None).await?;
        }
        if issuer_is_made(client).await? {
            self.delete(&key("v1", "Secret", system(), ISSUER), None).await?;
        }
        for (key, uid) in bundles(client).await? {
            self.delete(&key, uid).await?;
        }
        let xmesh = key("gateway.networking.x-k8s.io/v1alpha1", "XMesh", None, XMESH);
        if apply::delete_made_by(client, &xmesh, names::CONTROLLER_ACCOUNT).await? {
            self.report.deleted.push(xmesh.to_string());
        }
        Ok(())
    }

    /// With a uid it is that one, or none.
    async fn delete(&mut self, key: &Key, uid: Option<String>) -> anyhow::Result<()> {
        self.progress.wait(&format!("deleting {key}"));
        if apply::delete(&self.cluster.client, key, uid).await? {
            self.report.deleted.push(key.to_string());
        }
        Ok(())
    }

    /// Deletes our namespace if an installation made it, and nothing of anybody else's is in it.
    async fn namespace(&mut self) -> anyhow::Result<()> {
        let client = &self.cluster.client;
        let Some(found) = system_namespace(client).await? else { return Ok(()) };
        if found.metadata.deletion_timestamp.is_some() {
            self.namespace = Fate::Ends(found.metadata.uid);
            return Ok(());
        }
        self.namespace = Fate::Kept;
        let key = key("v1", "Namespace", None, names::SYSTEM_NAMESPACE);
        if !apply::was_created(&found.metadata) {
            apply::give_back(client, &key, &found.metadata).await?;
            self.report.kept.push(format!("{key}: it is not known to be made by meshctl"));
            return Ok(());
        }
        self.progress.wait(&format!("looking what else {key} holds"));
        match strangers::find(client, self.args.crds).await.as_deref() {
            Err(why) => self.report.kept.push(format!("{key}: {why}")),
            Ok([]) => {
                if apply::delete_seen(client, &key, &found.metadata).await? {
                    self.namespace = Fate::Ends(found.metadata.uid);
                } else {
                    self.report.kept.push(format!("{key}: somebody changed it just now; run the same command again"));
                }
            }
            Ok([first, others @ ..]) => {
                let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
                self.report.kept.push(format!("{key}: it holds {first}{others}, which the mesh did not make"));
            }
        }
        Ok(())
    }

    /// Waits until the namespace is gone. Nobody can install meanwhile.
    async fn namespace_ended(&mut self) -> anyhow::Result<()> {
        let Fate::Ends(uid) = &self.namespace else { return Ok(()) };
        let key = key("v1", "Namespace", None, names::SYSTEM_NAMESPACE);
        let namespaces: Api<Namespace> = Api::all(self.cluster.client.clone());
        loop {
            match namespaces.get_opt(&key.name).await {
                Ok(None) => break,
                Ok(Some(other)) if other.metadata.uid != *uid => break,
                Ok(Some(_)) | Err(_) if Instant::now() < self.deadline => {
                    self.progress.wait(&format!("{key} is ending with what was in it"));
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
        self.report.deleted.push(key.to_string());
        Ok(())
    }
}

/// Nothing can be made in a namespace that is not there, or is ending; nor can anybody install there.
async fn can_be_locked(client: &Client) -> anyhow::Result<bool> {
    let found = system_namespace(client).await?;
    Ok(found.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none()))
}

async fn system_namespace(client: &Client) -> anyhow::Result<Option<PartialObjectMeta<Namespace>>> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces.get_metadata_opt(names::SYSTEM_NAMESPACE).await;
    found.map_err(|error| anyhow::anyhow!("Namespace {} cannot be read: {}", names::SYSTEM_NAMESPACE, explain(&error)))
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
mod tests;
