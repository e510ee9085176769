//! What became of each HTTPRoute, and of the XMesh, written into their status by the replica that holds the lease.
//!
//! One entry of `status.parents` per Service a route names, with the conditions Gateway API defines: `Accepted`,
//! `ResolvedRefs`, and `PartiallyInvalid` where only some rules can be followed. Entries of other controllers stay as they
//! are: a write carries the version that was read, so of two who write at once one is refused and looks again. Nothing is
//! written that is there already.
//!
//! A route that changes is looked at within 100 ms, all of them at most once per second while anything else changes.
//! Writes wait for nobody: a few are under way at a time, each for a few seconds at most.

use std::collections::{HashMap, HashSet};
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
use tokio::task::JoinSet;
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
    /// A write has failed: not before then.
    not_before: Instant,
}

/// The routes there are, and the writes that are under way.
struct Routes {
    client: Client,
    metrics: Metrics,
    known: HashMap<Name, Route>,
    /// Those to be looked at.
    changed: HashSet<Name>,
    under_way: HashSet<Name>,
    // Ended with this, which ends with the lease.
    writes: JoinSet<(Name, Written)>,
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
    // When those that changed are looked at, and when all of them are.
    let (mut due, mut all_due): (Option<Instant>, Option<Instant>) = (None, Some(Instant::now()));
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    if routes.take(event) {
                        due.get_or_insert(Instant::now() + COALESCE);
                    }
                }
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
            Some(write) = routes.writes.join_next() => {
                let Ok((name, written)) = write else { continue };
                let again = Instant::now() + routes.written(name, written);
                due = Some(due.map_or(again, |due| due.min(again)));
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                routes.look(&worlds);
            }
            () = sleep_until(all_due.unwrap_or_else(Instant::now)), if all_due.is_some() => {
                all_due = None;
                routes.changed.extend(routes.known.keys().cloned());
                routes.look(&worlds);
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
            changed: HashSet::new(),
            under_way: HashSet::new(),
            writes: JoinSet::new(),
        }
    }

    /// Takes an event in; whether there is something to look at.
    fn take(&mut self, event: Event<DynamicObject>) -> bool {
        match event {
            Event::Init => self.known.clear(),
            Event::InitApply(object) => self.know(object),
            Event::InitDone => return true,
            Event::Apply(object) => {
                self.know(object);
                return true;
            }
            Event::Delete(object) => drop(self.known.remove(&name_of(&object))),
        }
        false
    }

    fn know(&mut self, object: DynamicObject) {
        let name = name_of(&object);
        self.changed.insert(name.clone());
        self.known.insert(name, Route { parsed: http_route_of(&object), object, not_before: Instant::now() });
    }

    /// Looks at the routes that changed, and writes what is not as it should be.
    fn look(&mut self, worlds: &Worlds) {
        let Some(world) = worlds.borrow().clone() else { return };
        let now = now();
        for name in std::mem::take(&mut self.changed) {
            let waits = self.known.get(&name).is_some_and(|route| route.not_before > Instant::now());
            // After every write we look again.
            if waits || self.under_way.contains(&name) || self.writes.len() >= MOST_WRITES {
                self.changed.insert(name);
            } else {
                self.write(name, world.facts(), &now);
            }
        }
    }

    fn write(&mut self, name: Name, facts: &Facts, now: &str) {
        let Some(route) = self.known.get(&name) else { return };
        let Some(parents) = parents(&route.object, route.parsed.as_ref(), facts, now) else { return };
        let patch = patch(&route.object, &parents);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &name.0, &kind::<crd::GatewayRoute>());
        self.under_way.insert(name.clone());
        self.writes.spawn(async move {
            let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
            let written = match timeout(PATIENCE, api.patch_status(&name.1, &parameters, &patch)).await {
                Ok(Ok(object)) => Written::Done(Box::new(object)),
                Ok(Err(error)) if is_conflict(&error) || is_not_found(&error) => Written::Refused,
                Ok(Err(error)) => Written::Failed(describe(&error)),
                Err(_) => Written::Failed("the API server took too long to answer".to_owned()),
            };
            (name, written)
        });
    }

    /// Takes note of a write's end; when to look again.
    fn written(&mut self, name: Name, written: Written) -> Duration {
        self.under_way.remove(&name);
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
                if let Some(route) = self.known.get_mut(&name) {
                    route.not_before = Instant::now() + RETRY;
                    self.changed.insert(name);
                }
                return RETRY;
            }
        }
        Duration::ZERO
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
