//! The cluster's namespaces: a copy that is kept current, the API server's word where the copy is not enough, and the loop
//! that repairs their labels.
//!
//! What the API server did not know is taken for nobody's for a second ([`ABSENT_FOR`]), whoever asked. A stranger who asks for
//! a name all the time so delays a namespace of that name by this second at most, from when it is made, and only for pods that
//! come before the watch has told of it (milliseconds): they are refused, and whoever makes pods tries again. That is accepted:
//! without it every forged name would be a question to the API server.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use controller_runtime::health::Readiness;
use controller_runtime::kubernetes::{describe, is_conflict, is_not_found, watch_config};
use controller_runtime::preferred::Preferred;
use controller_runtime::rate::Rates;
use controller_runtime::sources::Sources;
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
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::mirror;
use crate::quoted::{quoted, shortened};

/// What is known of namespaces. Cheap to clone.
#[derive(Clone)]
pub struct Namespaces {
    known: Store<PartialObjectMeta<Namespace>>,
    client: Option<Client>,
    asking: Arc<Asking>,
}

/// What the API server is asked, however many ask us: whoever makes us ask need not be an API server.
#[derive(Debug)]
struct Asking {
    /// At once, shared out by where the questions come from.
    places: Sources,
    rates: Rates<Option<IpAddr>>,
    /// Names that were nobody's, and when.
    absent: Mutex<HashMap<String, Instant>>,
}

impl Namespaces {
    /// What `known` holds, and what `client` can find out, for the preferred first.
    pub fn new(known: Store<PartialObjectMeta<Namespace>>, client: Option<Client>, preferred: Preferred) -> Self {
        Self { known, client, asking: Arc::new(Asking::new(preferred)) }
    }

    /// As it was when the watch last told of it.
    pub fn known(&self, name: &str) -> Option<ObjectMeta> {
        Some(self.known.get(&ObjectRef::new(name))?.metadata.clone())
    }

    /// As it is now: for names that the watch has not told of yet, and where its word would have consequences. `source` is
    /// whose question it is.
    pub async fn ask(&self, name: &str, source: Option<IpAddr>) -> Result<ObjectMeta, String> {
        let Some(client) = &self.client else {
            return self.known(name).ok_or_else(|| format!("namespace {} is not known", shortened(name)));
        };
        // It becomes part of a path.
        if !is_label(name) {
            return Err(format!("{} is no namespace's name", quoted(name)));
        }
        let is_known = self.known(name).is_some();
        self.asking.may_ask(name, is_known, source, Instant::now())?;
        let api = Api::<Namespace>::all(client.clone());
        let asking = async {
            let place = self.asking.places.wait(source.unwrap_or(UNKNOWN), LONGEST_LINE).await;
            let mut place = place.map_err(|_| TOO_MANY.to_owned())?;
            tokio::select! {
                answer = api.get_metadata(name) => Ok(answer),
                () = place.taken_away() => Err(TOO_MANY.to_owned()),
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(Ok(object))) => Ok(object.metadata),
            Ok(Ok(Err(error))) => {
                if is_not_found(&error) && !is_known {
                    self.asking.remember_absent(name, Instant::now());
                }
                Err(describe(&error))
            }
            Ok(Err(busy)) => Err(busy),
            Err(_) => Err(format!("the API server does not tell about namespace {name} within {PATIENCE:?}")),
        }
    }
}

impl Asking {
    fn new(preferred: Preferred) -> Self {
        Self {
            places: Sources::new(MOST_ASKED, MOST_ASKED / 2).preferring(preferred),
            rates: Rates::new(EACH_A_SECOND, EACH_AT_ONCE),
            absent: Mutex::default(),
        }
    }

    /// What the watch has told of since is asked for whatever was said before.
    fn may_ask(&self, name: &str, is_known: bool, source: Option<IpAddr>, now: Instant) -> Result<(), String> {
        let absent = self.absent.lock().get(name).copied();
        if absent.is_some_and(|since| !is_known && now.duration_since(since) < ABSENT_FOR) {
            return Err(format!("there is no namespace {name}"));
        }
        let source = source.map(|source| source.to_canonical());
        if self.rates.take(source, now.into_std()) { Ok(()) } else { Err(TOO_MANY.to_owned()) }
    }

    fn remember_absent(&self, name: &str, now: Instant) {
        let mut absent = self.absent.lock();
        if absent.len() >= MOST_ABSENT {
            absent.retain(|_, since| now.duration_since(*since) < ABSENT_FOR);
            if absent.len() >= MOST_ABSENT {
                return;
            }
        }
        absent.insert(name.to_owned(), now);
    }
}

/// A label in the sense of RFC 1123, as every namespace's name is one.
fn is_label(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(is_part) && !name.starts_with('-') && !name.ends_with('-')
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespaces").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

/// Keeps the copy current, and tells `repairs` of what it hears; never returns.
pub async fn follow(
    client: Client,
    mut known: Writer<PartialObjectMeta<Namespace>>,
    repairs: Repairs,
    readiness: Readiness,
) {
    readiness.wait_for(CONDITION, "waiting for the list of namespaces");
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
            Event::InitDone => {
                readiness.met(CONDITION);
                repairs.changed.notify_one();
            }
            Event::Apply(_) => repairs.changed.notify_one(),
            Event::Init | Event::InitApply(_) | Event::Delete(_) => {}
        }
    }
}

/// Puts labels right that the webhook missed while nobody answered. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    changed: Arc<Notify>,
}

impl Repairs {
    /// Repairs until there is nothing left to repair, and again when something changes; never returns.
    ///
    /// Beside the watch, which must not wait for an API server that is slow to write. What fails is tried again, later
    /// each time, for as long as the copy says that it is wrong.
    pub async fn run(self, client: Client, known: Store<PartialObjectMeta<Namespace>>) {
        let api = Api::<Namespace>::all(client);
        let mut failed: BTreeMap<String, Failed> = BTreeMap::new();
        loop {
            let wrong: Vec<(String, ObjectMeta, mirror::Change)> =
                known.state().iter().filter_map(|it| wrong(&it.metadata)).collect();
            failed.retain(|name, _| wrong.iter().any(|(wrong, ..)| wrong == name));
            for (name, namespace, change) in &wrong {
                if failed.get(name).is_some_and(|failed| failed.again > Instant::now()) {
                    continue;
                }
                // Whether it worked is what the watch says.
                let times = failed.get(name).map_or(0, |failed| failed.times);
                if let Err(error) = repair(&api, name, namespace, change).await {
                    tracing::warn!(namespace = name, error, times, "cannot repair the label; it is tried again");
                }
                failed.insert(name.clone(), Failed { times: times + 1, again: Instant::now() + pause(times) });
            }
            let next = failed.values().map(|failed| failed.again).min().unwrap_or_else(|| Instant::now() + SLOWEST);
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }
}

/// A namespace that was to be repaired, and may still be wrong.
#[derive(Debug)]
struct Failed {
    times: u32,
    again: Instant,
}

fn wrong(namespace: &ObjectMeta) -> Option<(String, ObjectMeta, mirror::Change)> {
    Some((namespace.name.clone()?, namespace.clone(), mirror::change(namespace)?))
}

fn pause(times: u32) -> Duration {
    SLOWEST.min(FIRST_PAUSE * 2_u32.saturating_pow(times))
}

async fn repair(
    api: &Api<Namespace>,
    name: &str,
    namespace: &ObjectMeta,
    change: &mirror::Change,
) -> Result<(), String> {
    let patch = Patch::Merge(change.merge_patch(namespace));
    let parameters = PatchParams { field_manager: Some("mesh-injector".to_owned()), ..PatchParams::default() };
    match tokio::time::timeout(PATIENCE, api.patch_metadata(name, &parameters, &patch)).await {
        Ok(Ok(_)) => {
            tracing::info!(namespace = name, ?change, "the namespace's label follows its annotation");
            Ok(())
        }
        // Another replica was quicker, or it is gone: the watch tells.
        Ok(Err(error)) if is_conflict(&error) || is_not_found(&error) => Ok(()),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err(format!("the API server does not answer within {PATIENCE:?}")),
    }
}

const CONDITION: &str = "namespaces";
const PATIENCE: Duration = Duration::from_secs(3);
const MOST_ASKED: usize = 16;
/// For one address. Who asks: an API server, for pods of a namespace that the watch has not told of yet.
const EACH_A_SECOND: f64 = 50.0;
/// A thousand pods that come with their namespace.
const EACH_AT_ONCE: f64 = 1000.0;
/// As many as an API server has under way.
const LONGEST_LINE: usize = 600;
const MOST_ABSENT: usize = 1024;
/// Less than it takes a person to make the namespace and then a pod.
const ABSENT_FOR: Duration = Duration::from_secs(1);
const TOO_MANY: &str = "too many questions that only the API server can answer; ask again";
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const SLOWEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
