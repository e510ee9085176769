//! What became of each HTTPRoute, and of the XMesh, written into their status by the replica that holds the lease.
//!
//! One entry of `status.parents` per Service a route names, with the conditions Gateway API defines: `Accepted`,
//! `ResolvedRefs`, and `PartiallyInvalid` where only some rules can be followed. Entries of other controllers stay as they
//! are: a write carries the version that was read, so of two who write at once one is refused and looks again. Nothing is
//! written that is there already.
//!
//! A route that changes is looked at within 100 ms, all of them at most once per second while anything else changes.
//! Writes wait for nobody: a few are under way at a time, each for a few seconds at most.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use controller_runtime::kubernetes::{describe, is_conflict, is_not_found};
use crd::HttpRoute;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use resolve::Facts;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::StreamExt;

use crate::hub::{Hub, Worlds};
use crate::kubernetes::inventory::Name;
use crate::kubernetes::watch::exists;
use crate::kubernetes::{http_route_of, kind, status::conditions::parents};
use crate::metrics::Metrics;

pub mod conditions;
pub mod mesh;

/// Keeps status true while `leading`; never returns.
pub async fn keep(client: Client, hub: Hub, mut leading: watch::Receiver<bool>, metrics: Metrics) {
    loop {
        if leading.wait_for(|leading| *leading).await.is_err() {
            return;
        }
        let mut ends = leading.clone();
        tokio::select! {
            () = keep_routes(&client, hub.worlds(), &metrics) => {}
            () = mesh::keep(&client) => {}
            _ = ends.wait_for(|leading| !leading) => {}
        }
    }
}

/// A route as the API server has it, read once.
struct Route {
    object: DynamicObject,
    parsed: Result<HttpRoute, String>,
}

/// The routes there are, and the writes that are under way.
struct Routes {
    client: Client,
    metrics: Metrics,
    known: HashMap<Name, Route>,
    /// Those to be looked at, and not before when. What is next is found in here each time, so none is forgotten.
    waiting: HashMap<Name, Instant>,
    under_way: HashMap<Id, Name>,
    // Ended with this, which ends with the lease.
    writes: JoinSet<Written>,
}

/// What came of a write.
enum Written {
    /// What the route is now.
    Done(Box<DynamicObject>),
    /// It has changed or is gone, which we shall hear; or what we know of it is from before our last write.
    Refused,
    /// In words.
    Failed(String),
}

/// Returns when the routes have to be read anew.
async fn keep_routes(client: &Client, mut worlds: Worlds, metrics: &Metrics) {
    let kind = kind::<crd::GatewayRoute>();
    while !timeout(PATIENCE, exists(client, &kind)).await.is_ok_and(|exists| exists.unwrap_or(false)) {
        sleep(ABSENT_PAUSE).await;
    }
    let api = Api::<DynamicObject>::all_with(client.clone(), &kind);
    let mut events = pin!(watcher(api, watcher::Config::default()).backoff(watcher::DefaultBackoff::default()));
    let mut routes = Routes::new(client, metrics);
    // When all of them are looked at, whether they changed or not.
    let mut all_due: Option<Instant> = Some(Instant::now());
    loop {
        let next = routes.next_look().filter(|_| worlds.borrow().is_some());
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => routes.take(event),
                Some(Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)))
                    if is_not_found(&error) => return,
                // The source says what is wrong with the API server.
                Some(Err(error)) => tracing::debug!(%error, "routes cannot be watched for their status"),
                None => return,
            },
            changed = worlds.changed() => {
                if changed.is_err() {
                    return;
                }
                worlds.mark_unchanged();
                all_due.get_or_insert(Instant::now() + BETWEEN_LOOKS);
            }
            Some(ended) = routes.writes.join_next_with_id() => routes.ended(ended),
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => routes.look(&worlds),
            () = sleep_until(all_due.unwrap_or_else(Instant::now)), if all_due.is_some() => {
                all_due = None;
                routes.wait_all();
            }
        }
    }
}

impl Routes {
    fn new(client: &Client, metrics: &Metrics) -> Self {
        Self {
            client: client.clone(),
            metrics: metrics.clone(),
            known: HashMap::new(),
            waiting: HashMap::new(),
            under_way: HashMap::new(),
            writes: JoinSet::new(),
        }
    }

    fn take(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Init => self.known.clear(),
            Event::InitApply(object) => drop(self.know(object)),
            Event::InitDone => self.wait_all(),
            Event::Apply(object) => {
                let name = self.know(object);
                // Its own change is no matter of a write's that failed before it.
                let soon = Instant::now() + COALESCE;
                self.waiting.entry(name).and_modify(|when| *when = soon.min(*when)).or_insert(soon);
            }
            Event::Delete(object) => drop(self.known.remove(&name_of(&object))),
        }
    }

    fn know(&mut self, object: DynamicObject) -> Name {
        let name = name_of(&object);
        self.known.insert(name.clone(), Route { parsed: http_route_of(&object), object });
        name
    }

    /// All are to be looked at; those whose write failed, when it may be tried again.
    fn wait_all(&mut self) {
        let now = Instant::now();
        for name in self.known.keys() {
            self.waiting.entry(name.clone()).or_insert(now);
        }
    }

    /// When there is something to look at; `None` while no more can be written.
    fn next_look(&self) -> Option<Instant> {
        if self.writes.len() >= MOST_WRITES {
            return None;
        }
        let waiting = self.waiting.iter().filter(|(name, _)| !self.is_under_way(name));
        waiting.map(|(_, when)| *when).min()
    }

    fn is_under_way(&self, name: &Name) -> bool {
        self.under_way.values().any(|other| other == name)
    }

    /// Looks at the routes whose time has come, and writes what is not as it should be.
    fn look(&mut self, worlds: &Worlds) {
        let Some(world) = worlds.borrow().clone() else { return };
        let (time, now) = (now(), Instant::now());
        let due = self.waiting.iter().filter(|(name, when)| **when <= now && !self.is_under_way(name));
        for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if self.writes.len() >= MOST_WRITES {
                return;
            }
            self.waiting.remove(&name);
            self.write(name, world.facts(), &time);
        }
    }

    fn write(&mut self, name: Name, facts: &Facts, now: &str) {
        let Some(route) = self.known.get(&name) else { return };
        let Some(parents) = parents(&route.object, route.parsed.as_ref(), facts, now) else { return };
        let patch = patch(&route.object, &parents);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &name.0, &kind::<crd::GatewayRoute>());
        let route = name.1.clone();
        let write = self.writes.spawn(async move {
            let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
            match timeout(PATIENCE, api.patch_status(&route, &parameters, &patch)).await {
                Ok(Ok(object)) => Written::Done(Box::new(object)),
                Ok(Err(error)) if is_conflict(&error) || is_not_found(&error) => Written::Refused,
                Ok(Err(error)) => Written::Failed(describe(&error)),
                Err(_) => Written::Failed("the API server took too long to answer".to_owned()),
            }
        });
        self.under_way.insert(write.id(), name);
    }

    /// Takes note of a write's end, be it that it panicked.
    fn ended(&mut self, ended: Result<(Id, Written), JoinError>) {
        let (id, written) = ended.unwrap_or_else(|error| (error.id(), Written::Failed(error.to_string())));
        let Some(name) = self.under_way.remove(&id) else { return };
        match written {
            Written::Done(object) => {
                self.metrics.status_writes.inc();
                tracing::debug!(namespace = name.0, name = name.1, "status written");
                // Unless a later change was heard already.
                if let Some(route) = self.known.get_mut(&name)
                    && route.object.metadata.generation == object.metadata.generation
                {
                    route.object = *object;
                }
            }
            Written::Refused => {}
            Written::Failed(error) => {
                tracing::warn!(namespace = name.0, name = name.1, error, "the route's status cannot be written");
                // One that has changed meanwhile waits for less.
                self.waiting.entry(name).or_insert(Instant::now() + RETRY);
            }
        }
    }
}

fn name_of(object: &DynamicObject) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// As Kubernetes writes times.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn patch(route: &DynamicObject, parents: &[Value]) -> Value {
    json!({
        "metadata": { "resourceVersion": route.resource_version() },
        "status": { "parents": parents },
    })
}

const ABSENT_PAUSE: Duration = Duration::from_secs(5);
const COALESCE: Duration = Duration::from_millis(100);
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);
/// Under way at once.
const MOST_WRITES: usize = 16;

#[cfg(test)]
mod tests;
