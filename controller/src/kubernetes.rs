//! The Kubernetes source: watches of what the mesh reads, to facts.
//!
//! ```text
//!   watch pods ───────┐
//!   watch services ───┤
//!   watch slices ─────┼─► Inventory ─► (25 ms of others' changes) ─► Facts ─► Hub
//!   watch nodes … ────┤   newest of each
//!   watch routes ─────┘
//! ```
//!
//! - [`watch`]: one kind: list, watch, and what to do when either fails or falls silent.
//! - `readable`: objects that our types can't read, each for itself.
//! - [`inventory`]: the objects as last heard, how far each watch has come, and when it last spoke. Pure.
//! - [`status`]: what became of each HTTPRoute, written back by the replica that leads.
//!
//! Objects are trimmed to facts as they arrive; an event that changes nothing we keep changes no facts. Kinds that may be
//! missing (Gateway API, our own) count as empty until their definition is there. Without an API server the last picture
//! stays, and its age grows.
//!
//! A watch's position is the resource version: replicas that read the same API are comparable by it (Kubernetes promises
//! their order since 1.35, and etcd has always given it).

use std::sync::Arc;
use std::time::Duration;

use controller_runtime::health::Readiness;
use controller_runtime::lease::LeaseConfig;
use crd::model::Object;
use crd::{ExternalWorkload, GatewayRoute, HttpRoute};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::{Client, Resource};
use parking_lot::Mutex;
use proto::names;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::hub::Hub;
use crate::metrics::{KindLabels, Metrics, WatchLabels};

pub mod inventory;
mod readable;
pub mod status;
pub mod watch;

use inventory::Inventory;
use readable::Readable;
use watch::{Converted, Selection, Watch};

/// What the watches share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) inventory: Arc<Mutex<Inventory>>,
    pub(crate) changed: Arc<Notify>,
    pub(crate) hub: Hub,
    pub(crate) metrics: Metrics,
}

/// Follows the cluster until the process ends.
pub async fn follow(client: Client, hub: Hub, readiness: Readiness, metrics: Metrics) {
    let inventory = Arc::new(Mutex::new(Inventory::new(Instant::now())));
    let shared = Shared { inventory, changed: Arc::default(), hub, metrics };
    readiness.wait_for(CONDITION, "the API server has not answered yet");
    // Dropped with this future, which ends them.
    let mut watches = tokio::task::JoinSet::new();
    for watch in watches_of(&client) {
        shared.inventory.lock().register(watch.name);
        watches.spawn((watch.run)(shared.clone()));
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.changed.notified() => {
                sleep(COALESCE).await;
                let started = Instant::now();
                publish(&shared);
                // Where making facts takes long, at least as much time is left for telling them.
                sleep((Instant::now() - started).min(LONGEST_PAUSE)).await;
            }
            _ = ticks.tick() => {}
        }
        report(&shared, &readiness);
    }
}

fn publish(shared: &Shared) {
    let (news, reached) = {
        let mut inventory = shared.inventory.lock();
        (inventory.take_news(), inventory.reached())
    };
    if let Some(news) = news {
        for (kind, count) in &news.counts {
            shared.metrics.facts.get_or_create(&KindLabels { kind }).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        let facts = resolve::Facts::new(news.objects);
        shared.metrics.objects.set(i64::try_from(facts.len()).unwrap_or(i64::MAX));
        shared.metrics.changes.inc();
        tracing::debug!(objects = facts.len(), progress = %news.progress, "facts in force");
        if news.begun_anew {
            tracing::warn!(progress = %news.progress, "the API server's storage is older than before: its backup is believed");
            shared.hub.restart(facts, news.progress);
        } else {
            shared.hub.publish(facts, news.progress, news.heard);
        }
    }
    shared.hub.reach(&reached);
}

fn report(shared: &Shared, readiness: &Readiness) {
    let now = Instant::now();
    let inventory = shared.inventory.lock();
    shared.hub.live(inventory.oldest_heard());
    shared.metrics.source_age.set(shared.hub.age(now).as_secs_f64());
    for (watch, heard) in inventory.heard() {
        let age = now.saturating_duration_since(heard).as_secs_f64();
        shared.metrics.watch_age.get_or_create(&WatchLabels { watch }).set(age);
    }
    let mut remarks = Vec::new();
    for (watch, number, first) in inventory.all_unusable() {
        let labels = WatchLabels { watch };
        shared.metrics.unusable.get_or_create(&labels).set(i64::try_from(number).unwrap_or(i64::MAX));
        remarks.extend(first.map(|first| format!("not in force: {first} (the first of {number})")));
    }
    readiness.remark(CONDITION, (!remarks.is_empty()).then(|| remarks.join("; ")));
    match inventory.missing() {
        Some(missing) => readiness.wait_for(CONDITION, missing),
        None => readiness.met(CONDITION),
    }
}

type Running = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A watch of some kind, without the kind.
struct AnyWatch {
    name: &'static str,
    run: Box<dyn FnOnce(Shared) -> Running + Send>,
}

impl AnyWatch {
    fn new<K>(watch: Watch<K>) -> Self
    where
        K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        Self { name: watch.name(), run: Box::new(move |shared| Box::pin(watch.run(shared))) }
    }
}

/// Everything the mesh reads.
fn watches_of(client: &Client) -> Vec<AnyWatch> {
    let all = Selection::default();
    let running = Selection { fields: Some("status.phase!=Succeeded,status.phase!=Failed") };
    vec![
        AnyWatch::new(Watch::required("nodes", Api::all(client.clone()), all, node)),
        AnyWatch::new(Watch::required("namespaces", Api::all(client.clone()), all, namespace)),
        AnyWatch::new(Watch::required("services", Api::all(client.clone()), all, service)),
        AnyWatch::new(Watch::required("pods", Api::all(client.clone()), running, pod)),
        AnyWatch::new(Watch::required("endpointslices", Api::all(client.clone()), all, endpoint_slice)),
        AnyWatch::new(Watch::optional("httproutes", client, kind::<GatewayRoute>(), http_route)),
        AnyWatch::new(Watch::optional("externalworkloads", client, kind::<ExternalWorkload>(), external_workload)),
    ]
}

fn kind<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

fn node(object: &Readable<PartialObjectMeta<core::Node>>) -> Converted {
    Ok(Some(Object::Node(crd::service::node(&object.read()?.metadata).map_err(|invalid| invalid.to_string())?)))
}

fn namespace(object: &Readable<PartialObjectMeta<core::Namespace>>) -> Converted {
    let namespace = crd::service::namespace_metadata(&object.read()?.metadata);
    namespace.map(|it| Some(Object::Namespace(it))).map_err(|invalid| invalid.to_string())
}

fn service(object: &Readable<core::Service>) -> Converted {
    crd::service::service(object.read()?).map(|it| Some(Object::Service(it))).map_err(|invalid| invalid.to_string())
}

fn pod(object: &Readable<core::Pod>) -> Converted {
    crd::pod::pod(object.read()?).map(|it| Some(Object::Workload(it))).map_err(|invalid| invalid.to_string())
}

fn endpoint_slice(object: &Readable<EndpointSlice>) -> Converted {
    let slice = crd::endpoint_slice::endpoint_slice(object.read()?).map_err(|invalid| invalid.to_string())?;
    Ok(slice.map(Object::EndpointSlice))
}

fn http_route(object: &DynamicObject) -> Converted {
    http_route_of(object).map(|it| Some(Object::HttpRoute(it)))
}

fn http_route_of(object: &DynamicObject) -> Result<HttpRoute, String> {
    let route: GatewayRoute = object.clone().try_parse().map_err(|error| error.to_string())?;
    crd::route::http_route(&route).map_err(|invalid| invalid.to_string())
}

fn external_workload(object: &DynamicObject) -> Converted {
    let workload: ExternalWorkload = object.clone().try_parse().map_err(|error| error.to_string())?;
    let workload = crd::external_workload::workload(&workload).map_err(|invalid| invalid.to_string())?;
    Ok(Some(Object::Workload(workload)))
}

/// The lease whose holder writes status.
pub fn lease(holder: String) -> LeaseConfig {
    LeaseConfig { namespace: names::SYSTEM_NAMESPACE.to_owned(), name: names::CONTROLLER_LEASE.to_owned(), holder }
}

const CONDITION: &str = "kubernetes";
/// What changes together (a rollout's pods and slices) is told together.
const COALESCE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
