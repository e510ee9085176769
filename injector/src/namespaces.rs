//! The cluster's namespaces: a copy that is kept current, and the loop that repairs their labels.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
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
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::mirror;

/// What is known of namespaces. Cheap to clone.
#[derive(Clone)]
pub struct Namespaces {
    known: Store<PartialObjectMeta<Namespace>>,
    client: Option<Client>,
    /// What the API server is asked at once, however many ask us.
    asking: Arc<Semaphore>,
}

impl Namespaces {
    /// What `known` holds, and what `client` can find out.
    pub fn new(known: Store<PartialObjectMeta<Namespace>>, client: Option<Client>) -> Self {
        Self { known, client, asking: Arc::new(Semaphore::new(MOST_ASKED)) }
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
        let asking = async {
            let _permit = self.asking.acquire().await.expect("the semaphore is never closed");
            api.get_metadata(name).await
        };
        match tokio::time::timeout(PATIENCE, asking).await {
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
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const SLOWEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use kube::client::Body;
    use kube::runtime::reflector;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;

    fn event(name: &str, annotation: &str, label: Option<&str>) -> Event<PartialObjectMeta<Namespace>> {
        let mut object = json!({"metadata": {
            "name": name, "resourceVersion": "7", "annotations": {"meshctl.io/inject": annotation},
        }});
        if let Some(label) = label {
            object["metadata"]["labels"] = json!({"meshctl.io/inject": label});
            object["metadata"]["annotations"]["meshctl.io/inject-mirrored"] = label.into();
        }
        Event::Apply(serde_json::from_value(object).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_label_that_could_not_be_repaired_is_tried_again_until_it_can() {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let answer = move |request: axum::http::Request<Body>| {
            let mut asked = seen.lock();
            asked.push(request.uri().path().to_owned());
            let failing = asked.len() < 4;
            async move {
                let (code, answer) = match failing {
                    true => (500, json!({"kind": "Status", "status": "Failure", "code": 500, "message": "no"})),
                    false => (200, json!({"metadata": {"name": "shop"}})),
                };
                let answer = Body::from(serde_json::to_vec::<Value>(&answer)?);
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                    axum::http::Response::builder().status(code).body(answer)?,
                )
            }
        };
        let client = Client::new(tower::service_fn(answer), "mesh-system");
        let (known, mut writer) = reflector::store();
        let repairs = Repairs::default();
        writer.apply_watcher_event(&event("shop", "enabled", None));
        writer.apply_watcher_event(&event("blog", "enabled", Some("enabled")));
        let repairing = tokio::spawn(repairs.clone().run(client, known));
        let times = |count: usize| {
            let asked = Arc::clone(&asked);
            async move {
                while asked.lock().len() < count {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let start = Instant::now();
        times(4).await;
        assert!(Instant::now() - start >= Duration::from_secs(7), "1 s, 2 s and 4 s between");
        assert!(asked.lock().iter().all(|path| path == "/api/v1/namespaces/shop"), "{asked:?}");
        // Once the copy says that all is well, nobody is asked any more.
        writer.apply_watcher_event(&event("shop", "enabled", Some("enabled")));
        tokio::time::sleep(3 * SLOWEST).await;
        assert_eq!(asked.lock().len(), 4);
        // What comes later is repaired at once, whatever else waits.
        writer.apply_watcher_event(&event("news", "enabled", None));
        repairs.changed.notify_one();
        tokio::time::timeout(Duration::from_secs(1), times(5)).await.unwrap();
        repairing.abort();
    }
}
