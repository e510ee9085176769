//! The cluster's namespaces: a copy that is kept current, and the loop that repairs their labels.

use std::fmt;
use std::time::Duration;

use controller_runtime::health::Readiness;
use controller_runtime::kubernetes::{describe, is_conflict, is_not_found, watch_config};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{Event, watcher};
use kube::{Api, Client};

use crate::mirror;

/// What is known of namespaces. Cheap to clone.
#[derive(Clone)]
pub struct Namespaces {
    known: Store<PartialObjectMeta<Namespace>>,
    client: Option<Client>,
}

impl Namespaces {
    /// What `known` holds, and what `client` can find out.
    pub fn new(known: Store<PartialObjectMeta<Namespace>>, client: Option<Client>) -> Self {
        Self { known, client }
    }

    /// As it was when the watch last told of it.
    pub fn known(&self, name: &str) -> Option<ObjectMeta> {
        Some(self.known.get(&ObjectRef::new(name))?.metadata.clone())
    }

    /// As it is now: for names that the watch has not told of yet, and where its word would have consequences.
    pub async fn ask(&self, name: &str) -> Result<ObjectMeta, String> {
        let Some(client) = &self.client else {
            return self.known(name).ok_or_else(|| format!("namespace {name} is not known"));
        };
        let api = Api::<Namespace>::all(client.clone());
        match tokio::time::timeout(PATIENCE, api.get_metadata(name)).await {
            Ok(Ok(object)) => Ok(object.metadata),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err(format!("the API server does not tell about namespace {name} within {PATIENCE:?}")),
        }
    }
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespaces").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

/// Keeps the copy current and the labels in order; never returns.
pub async fn follow(client: Client, mut known: Writer<PartialObjectMeta<Namespace>>, readiness: Readiness) {
    readiness.wait_for(CONDITION, "waiting for the list of namespaces");
    let api = Api::<Namespace>::all(client.clone());
    let all = Api::<PartialObjectMeta<Namespace>>::all(client);
    let events = watcher(all, watch_config()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut failing = false;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                // One line per outage: the watch tries again by itself.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot follow namespaces");
                }
                continue;
            }
        };
        failing = false;
        known.apply_watcher_event(&event);
        match event {
            Event::InitDone => readiness.met(CONDITION),
            Event::Apply(namespace) | Event::InitApply(namespace) => repair(&api, &namespace.metadata).await,
            Event::Init | Event::Delete(_) => {}
        }
    }
}

/// What the webhook missed while nobody answered.
async fn repair(api: &Api<Namespace>, namespace: &ObjectMeta) {
    let (Some(name), Some(change)) = (namespace.name.as_deref(), mirror::change(namespace)) else { return };
    let patch = Patch::Merge(change.merge_patch(namespace));
    let parameters = PatchParams { field_manager: Some("mesh-injector".to_owned()), ..PatchParams::default() };
    match tokio::time::timeout(PATIENCE, api.patch_metadata(name, &parameters, &patch)).await {
        Ok(Ok(_)) => tracing::info!(namespace = name, ?change, "the namespace's label follows its annotation"),
        // Another replica was quicker, or it is gone: the watch tells.
        Ok(Err(error)) if is_conflict(&error) || is_not_found(&error) => {}
        Ok(Err(error)) => tracing::warn!(namespace = name, error = describe(&error), "cannot repair the label"),
        Err(_) => tracing::warn!(namespace = name, "cannot repair the label: the API server does not answer"),
    }
}

const CONDITION: &str = "namespaces";
const PATIENCE: Duration = Duration::from_secs(3);
