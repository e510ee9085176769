//! The trust bundle as a ConfigMap in every namespace whose pods may be in the mesh.
//!
//! Every replica watches namespaces and bundles; the leader writes what is missing or wrong. The system namespace comes
//! last: what is published there was offered to all others before, and that is the copy all replicas look at when they
//! ask whether a new root may sign. A namespace that refuses its copy is told about and tried again, and holds up
//! nothing: its proxies hear of the root over discovery as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use controller_runtime::kubernetes::{describe, is_not_found, watch_config};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use proto::names::{BUNDLE_CONFIG_MAP, BUNDLE_KEY, IDENTITY_ACCOUNT};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::issuer_secret::{ANCHORS_UNTIL, MANAGED_BY, bundle_of};
use crate::metrics::Metrics;
use crate::rotation::Published;

/// What keeps the ConfigMaps.
pub(crate) struct Publisher {
    pub(crate) client: Client,
    pub(crate) system_namespace: String,
    /// The bundle to publish.
    pub(crate) wanted: watch::Receiver<Option<Arc<Published>>>,
    /// The bundle that is published.
    pub(crate) published: watch::Sender<Option<Arc<Published>>>,
    /// Whether we are the one who writes.
    pub(crate) leading: watch::Receiver<bool>,
    pub(crate) metrics: Metrics,
}

/// What a change was seen in; the first one of each ends its first list.
#[derive(Debug, Clone, Copy)]
enum Watched {
    Namespaces,
    ConfigMaps,
}

/// The cluster as it was last seen.
struct Seen {
    namespaces: Store<PartialObjectMeta<Namespace>>,
    config_maps: Store<ConfigMap>,
}

impl Publisher {
    /// Publishes for ever.
    pub(crate) async fn run(mut self) {
        let (seen, changes) = watch_cluster(&self.client);
        let mut changes = std::pin::pin!(changes);
        let (mut failing, mut complete) = (BTreeMap::new(), [false; 2]);
        loop {
            let again = Instant::now() + if failing.is_empty() { IDLE } else { RETRY };
            tokio::select! {
                change = changes.next() => match change {
                    Some(Watched::Namespaces) => complete[0] = true,
                    Some(Watched::ConfigMaps) => complete[1] = true,
                    None => return,
                },
                changed = self.wanted.changed() => if changed.is_err() { return },
                changed = self.leading.changed() => if changed.is_err() { return },
                () = sleep_until(again) => {}
            }
            // Until both lists are complete everything would look missing.
            if complete == [true; 2] {
                self.pass(&seen, &mut failing).await;
                // Our own writes come back as events; and whoever undoes them is not answered faster than this.
                sleep(BETWEEN_PASSES).await;
            }
        }
    }

    /// Looks at everything once, and writes what must be written.
    async fn pass(&mut self, seen: &Seen, failing: &mut BTreeMap<String, String>) {
        let config_maps = seen.config_maps.state();
        let held: BTreeMap<String, &ConfigMap> =
            config_maps.iter().filter_map(|object| Some((object.namespace()?, &**object))).collect();
        let published = held.get(&self.system_namespace).and_then(|object| bundle_of(object)).map(Arc::new);
        self.published.send_if_modified(|before| std::mem::replace(before, published.clone()) != published);
        let leading = *self.leading.borrow_and_update();
        self.metrics.leading(leading);
        let Some(wanted) = self.wanted.borrow_and_update().clone() else { return };
        let pem = wanted.bundle.to_pem();
        let namespaces = seen.namespaces.state();
        let mut missing = missing(namespaces.iter().map(|object| &object.metadata), &held, &pem);
        // The times are for the replicas, which read them where they read the bundle.
        let times = published.is_some_and(|published| published.until == wanted.until);
        if !times && held.contains_key(&self.system_namespace) && !missing.contains(&self.system_namespace) {
            missing.push(self.system_namespace.clone());
        }
        let frozen: BTreeSet<String> =
            missing.iter().filter(|it| held.get(*it).is_some_and(|it| is_frozen(it))).cloned().collect();
        self.metrics.bundles(held.len(), missing.len(), frozen.len());
        if !leading {
            failing.clear();
            return;
        }
        failing.retain(|namespace, _| missing.contains(namespace));
        let system = missing.iter().position(|namespace| *namespace == self.system_namespace);
        let system = system.map(|index| missing.swap_remove(index));
        let mut results: Vec<_> = futures_util::stream::iter(missing)
            .map(|namespace| self.write(namespace, config_map(&pem)))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        if let Some(system) = system {
            let mut object = config_map(&pem);
            let until = serde_json::to_string(&wanted.until).expect("texts and numbers always encode");
            object.metadata.annotations = Some([(ANCHORS_UNTIL.to_owned(), until)].into());
            results.push(self.write(system, object).await);
        }
        for (namespace, result) in results {
            match result {
                Ok(()) => drop(failing.remove(&namespace)),
                Err(mut error) => {
                    if frozen.contains(&namespace) {
                        error = format!(
                            "somebody made it immutable: kubectl -n {namespace} delete configmap {BUNDLE_CONFIG_MAP} ({error})"
                        );
                    }
                    self.metrics.bundle_failed();
                    if failing.get(&namespace) != Some(&error) {
                        tracing::warn!(namespace, error, "the trust bundle cannot be written, trying again");
                    }
                    failing.insert(namespace, error);
                }
            }
        }
    }

    async fn write(&self, namespace: String, object: ConfigMap) -> (String, Result<(), String>) {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &namespace);
        let parameters = PatchParams::apply(IDENTITY_ACCOUNT).force();
        let patch = Patch::Apply(&object);
        let result = match timeout(PATIENCE, api.patch(BUNDLE_CONFIG_MAP, &parameters, &patch)).await {
            Ok(Ok(_)) => {
                tracing::debug!(namespace, "trust bundle written");
                Ok(())
            }
            // The namespace went away meanwhile.
            Ok(Err(error)) if is_not_found(&error) => Ok(()),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err("the Kubernetes API takes too long to answer".to_owned()),
        };
        (namespace, result)
    }
}

/// Two watches: names of namespaces, and the bundles that are there. The stream tells that something has changed.
fn watch_cluster(client: &Client) -> (Seen, impl Stream<Item = Watched> + use<>) {
    let (namespaces, namespace_writer) = reflector::store();
    let (config_maps, config_map_writer) = reflector::store();
    let by_name = watch_config().fields(&format!("metadata.name={BUNDLE_CONFIG_MAP}"));
    let namespace_events = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), watch_config());
    let config_map_events = watcher(Api::<ConfigMap>::all(client.clone()), by_name);
    let namespace_events = namespace_events
        .backoff(watcher::DefaultBackoff::default())
        .modify(|object| object.metadata = essential(&object.metadata))
        .reflect(namespace_writer);
    let config_map_events = config_map_events
        .backoff(watcher::DefaultBackoff::default())
        .modify(|object| object.metadata.managed_fields = None)
        .reflect(config_map_writer);
    let changes = futures_util::stream::select(
        changes(Watched::Namespaces, namespace_events),
        changes(Watched::ConfigMaps, config_map_events),
    );
    (Seen { namespaces, config_maps }, changes)
}

/// One item per change; errors are logged once per outage, the watch tries again by itself.
fn changes<K>(
    what: Watched,
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
) -> impl Stream<Item = Watched> {
    let mut failing = false;
    events.filter_map(move |event| {
        let change = match event {
            Ok(Event::Init | Event::InitApply(_)) => None,
            Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                failing = false;
                Some(what)
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot watch {what:?}, trying again");
                }
                None
            }
        };
        std::future::ready(change)
    })
}

fn essential(metadata: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        deletion_timestamp: metadata.deletion_timestamp.clone(),
        ..ObjectMeta::default()
    }
}

/// The namespaces that lack the bundle, or hold another.
fn missing<'a>(
    namespaces: impl Iterator<Item = &'a ObjectMeta>,
    held: &BTreeMap<String, &ConfigMap>,
    pem: &str,
) -> Vec<String> {
    let wanting = namespaces
        // A namespace that ends takes nothing new.
        .filter(|metadata| metadata.deletion_timestamp.is_none())
        .filter_map(|metadata| metadata.name.as_ref())
        .filter(|name| !NEVER_MESHED.contains(&name.as_str()))
        .filter(|name| !held.get(*name).is_some_and(|object| is_as_written(object, pem)));
    wanting.cloned().collect()
}

fn is_as_written(object: &ConfigMap, pem: &str) -> bool {
    let text = object.data.as_ref().and_then(|data| data.get(BUNDLE_KEY));
    let manager = object.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    text.is_some_and(|text| text == pem) && manager.is_some_and(|manager| manager == IDENTITY_ACCOUNT)
}

fn is_frozen(object: &ConfigMap) -> bool {
    object.immutable == Some(true)
}

fn config_map(pem: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(BUNDLE_CONFIG_MAP.to_owned()),
            labels: Some([(MANAGED_BY.to_owned(), IDENTITY_ACCOUNT.to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([(BUNDLE_KEY.to_owned(), pem.to_owned())].into()),
        ..ConfigMap::default()
    }
}

/// Namespaces of Kubernetes itself, where nothing is injected.
const NEVER_MESHED: [&str; 3] = ["kube-node-lease", "kube-public", "kube-system"];
const AT_ONCE: usize = 8;
const BETWEEN_PASSES: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(5);
/// A look even where nothing has changed, in case a watch has missed something.
const IDLE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn namespace(name: &str) -> ObjectMeta {
        ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
    }

    fn missing_of(namespaces: &[ObjectMeta], held: &[(&str, &ConfigMap)]) -> Vec<String> {
        let held = held.iter().map(|(namespace, object)| ((*namespace).to_owned(), *object)).collect();
        missing(namespaces.iter(), &held, "new")
    }

    #[test]
    fn every_namespace_but_those_of_kubernetes_and_those_that_end() {
        let mut ending = namespace("ending");
        ending.deletion_timestamp = Some(Time(Timestamp::now()));
        let all = ["kube-system", "kube-public", "kube-node-lease", "default", "mesh-system", "shop"].map(namespace);
        let all = [&all[..], &[ending]].concat();
        assert_eq!(missing_of(&all, &[]), ["default", "mesh-system", "shop"]);
    }

    #[test]
    fn what_others_changed_is_written_again() {
        let all = ["a", "b", "c", "d"].map(namespace);
        let (good, old) = (config_map("new"), config_map("old"));
        let mut unlabelled = config_map("new");
        unlabelled.metadata.labels = None;
        let emptied = ConfigMap { data: None, ..config_map("new") };
        let held = [("a", &good), ("b", &old), ("c", &unlabelled), ("d", &emptied)];
        assert_eq!(missing_of(&all, &held), ["b", "c", "d"]);
    }
}
