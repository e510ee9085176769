//! What became of each HTTPRoute, and of the XMesh, written into their status by the replica that holds the lease.
//!
//! One entry of `status.parents` per Service a route names, with the conditions Gateway API defines: `Accepted`,
//! `ResolvedRefs`, and `PartiallyInvalid` where only some rules can be followed. Entries of other controllers stay as they
//! are: a write carries the version that was read, so of two who write at once one is refused and looks again. Nothing is
//! written that is there already.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use controller_runtime::kubernetes::{describe, is_conflict, is_not_found};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_stream::StreamExt;

use crate::hub::{Hub, Worlds};
use crate::kubernetes::inventory::Name;
use crate::kubernetes::watch::exists;
use crate::kubernetes::{kind, status::conditions::parents};
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
            () = keep_as_leader(&client, hub.worlds(), &metrics) => {}
            _ = ends.wait_for(|leading| !leading) => {}
        }
    }
}

/// Returns when the routes have to be read anew.
async fn keep_as_leader(client: &Client, mut worlds: Worlds, metrics: &Metrics) {
    let mut ticks = interval(MESH_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    mesh::write(client).await;
    let kind = kind::<crd::GatewayRoute>();
    while !exists(client, &kind).await.unwrap_or(false) {
        sleep(ABSENT_PAUSE).await;
    }
    let api = Api::<DynamicObject>::all_with(client.clone(), &kind);
    let mut events = pin!(watcher(api, watcher::Config::default()).backoff(watcher::DefaultBackoff::default()));
    let mut routes = HashMap::new();
    let mut due = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    if take(&mut routes, event) {
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
                due.get_or_insert(Instant::now() + COALESCE);
            }
            _ = ticks.tick() => mesh::write(client).await,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                if !write_all(client, &routes, &worlds, metrics).await {
                    due = Some(Instant::now() + RETRY);
                }
            }
        }
    }
}

/// Takes an event in; whether the picture is whole.
fn take(routes: &mut HashMap<Name, DynamicObject>, event: Event<DynamicObject>) -> bool {
    let name = |object: &DynamicObject| (object.namespace().unwrap_or_default(), object.name_any());
    match event {
        Event::Init => routes.clear(),
        Event::InitApply(object) => drop(routes.insert(name(&object), object)),
        Event::InitDone => return true,
        Event::Apply(object) => {
            routes.insert(name(&object), object);
            return true;
        }
        Event::Delete(object) => drop(routes.remove(&name(&object))),
    }
    false
}

/// Whether all could be written.
async fn write_all(client: &Client, routes: &HashMap<Name, DynamicObject>, worlds: &Worlds, metrics: &Metrics) -> bool {
    let Some(world) = worlds.borrow().clone() else { return true };
    let mut done = true;
    for ((namespace, name), route) in routes {
        let Some(parents) = parents(route, world.facts(), &now()) else { continue };
        let patch = patch(route, &parents);
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind::<crd::GatewayRoute>());
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                metrics.status_writes.inc();
                tracing::debug!(namespace, name, "status written");
            }
            // It has changed or is gone, which we shall hear; or what we know of it is from before our last write.
            Err(error) if is_conflict(&error) || is_not_found(&error) => {}
            Err(error) => {
                done = false;
                tracing::warn!(namespace, name, error = describe(&error), "the route's status cannot be written");
            }
        }
    }
    done
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

/// The XMesh is read this often rather than watched: it hardly ever changes.
const MESH_TICK: Duration = Duration::from_secs(30);
const ABSENT_PAUSE: Duration = Duration::from_secs(5);
const COALESCE: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(5);
