//! One kind, listed and watched.
//!
//! Lists are consistent reads in pages, so a picture never goes back but when the API's storage does. Watches are short
//! (20 s): the API server ends each with a bookmark, so a quiet kind's position and age stay as fresh as a busy one's, and
//! a watch that is silent for longer than it may last is dead: then everything is listed anew. So it is when the API
//! server has forgotten where we were, when its storage has gone back, and when a proxy has seen more than we have.
//!
//! That a watch could be opened says nothing of what it would tell: only events, bookmarks that are further and reads make
//! it young. One that brought nothing lately (a quiet kind, where etcd does not tell the API server of its progress), and
//! any after a minute, is followed by a small read, which asks the storage and not what the API server remembers. Of a small
//! kind that is all there is; of a larger one it says which version there is, and watches that do not come that far within
//! their time stand still: everything is listed anew. An API server whose etcd does not tell of its progress is thus made
//! to list a large kind in which nothing happens every 40 s. Operators see that as `stands_still` among the reasons of
//! `mesh_controller_watch_restarts_total`, again and again; with etcd's `--experimental-watch-progress-notify-interval` of
//! some seconds (kubeadm sets 5 s, etcd's own default is 10 min) it ends.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use controller_runtime::kubernetes::{describe, is_not_found};
use crd::model::Object;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::core::Status;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::StreamExt;

use crate::kubernetes::Shared;
use crate::kubernetes::inventory::Name;
use crate::metrics::RestartLabels;

/// An object as a fact; `None` for one that is none of the mesh's; or what is wrong with it.
pub(crate) type Converted = Result<Option<Object>, String>;

/// Which objects of the kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Selection {
    /// By their fields, as the API server does it.
    pub(crate) fields: Option<&'static str>,
}

/// A kind to be watched.
pub(crate) struct Watch<K> {
    name: &'static str,
    api: Api<K>,
    /// How to find out whether the kind exists, where it may not.
    kind: Option<(Client, ApiResource)>,
    selection: Selection,
    convert: fn(&K) -> Converted,
}

/// Where a watch is.
#[derive(Debug)]
struct Place {
    /// The version to go on from; `None`: list first.
    version: Option<String>,
    listed_at: Instant,
    /// Whether the next list is made because a proxy has seen more.
    behind: bool,
    /// How soon after a list one may be made for a proxy's sake.
    between_lists: Duration,
    /// When the watch has told us something.
    told_at: Option<Instant>,
    /// When the storage was last read.
    asked_at: Instant,
    /// A version the storage has that the watches have not told us of, and since when.
    owed: Option<(u64, Instant)>,
}

/// Everything there is of a kind.
struct Listed {
    version: String,
    /// Whether anything is new.
    changed: bool,
}

/// Why a watch or a list ended.
#[derive(Debug)]
enum Ended {
    /// As it should.
    OnTime,
    /// What we have can't be continued, for the reason given.
    Stale(&'static str),
    /// The kind does not exist.
    Absent,
    /// In words.
    Failed(String),
}

impl Place {
    fn nowhere(now: Instant) -> Self {
        Self {
            version: None,
            listed_at: now,
            behind: false,
            between_lists: BETWEEN_LISTS,
            told_at: None,
            asked_at: now,
            owed: None,
        }
    }

    /// What proxies say they have seen may be made up: lists that bring nothing are made ever more seldom.
    fn take(&mut self, listed: Listed, now: Instant) {
        if std::mem::take(&mut self.behind) {
            let longer = self.between_lists.saturating_mul(2).min(LONGEST_BETWEEN_LISTS);
            self.between_lists = if listed.changed { BETWEEN_LISTS } else { longer };
        }
        self.version = Some(listed.version);
        (self.listed_at, self.asked_at, self.owed) = (now, now, None);
    }

    /// Whether watches that have come to `position` had the time to come as far as the storage, and have not.
    fn stands_still(&mut self, position: u64, now: Instant) -> bool {
        self.owed = self.owed.filter(|(seen, _)| *seen > position);
        self.owed.is_some_and(|(_, since)| now.saturating_duration_since(since) >= LONGEST_LAG)
    }
}

impl Watch<DynamicObject> {
    /// A kind whose definition may be missing. Its objects are read one by one: one that a newer definition lets in and
    /// our types don't must not take the others with it.
    pub(crate) fn optional(
        name: &'static str,
        client: &Client,
        kind: ApiResource,
        convert: fn(&DynamicObject) -> Converted,
    ) -> Self {
        let api = Api::all_with(client.clone(), &kind);
        Self { name, api, kind: Some((client.clone(), kind)), selection: Selection::default(), convert }
    }
}

impl<K> Watch<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// A kind every cluster has.
    pub(crate) fn required(
        name: &'static str,
        api: Api<K>,
        selection: Selection,
        convert: fn(&K) -> Converted,
    ) -> Self {
        Self { name, api, kind: None, selection, convert }
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Lists and watches; never returns.
    pub(crate) async fn run(self, shared: Shared) {
        let mut trouble = Trouble::default();
        let mut place = Place::nowhere(Instant::now());
        loop {
            let began = Instant::now();
            let ended = match &place.version {
                None => match self.list_if_exists(&shared).await {
                    Ok(listed) => {
                        shared.hub.refute(self.name, position(&listed.version));
                        place.take(listed, Instant::now());
                        continue;
                    }
                    Err(ended) => ended,
                },
                Some(_) => self.watch(&shared, &mut place).await,
            };
            // A list alone proves little: the watch after it may fail again and again.
            let lasted = place.version.is_some() && Instant::now() - began >= SHORTEST_WATCH;
            // What only took long to fail, or to say nothing, is no better for it.
            if lasted && (place.told_at.is_some() || matches!(ended, Ended::OnTime)) {
                trouble.over(self.name);
            }
            match ended {
                Ended::OnTime if lasted => {}
                Ended::OnTime => sleep(trouble.pause()).await,
                Ended::Stale(reason) => {
                    let labels = RestartLabels { watch: self.name, reason };
                    shared.metrics.watch_restarts.get_or_create(&labels).inc();
                    if reason == STANDS_STILL {
                        // Every 40 s, where the storage does not tell of its progress.
                        tracing::debug!(watch = self.name, reason, "listing anew");
                    } else {
                        tracing::info!(watch = self.name, reason, "listing anew");
                    }
                    let was_listed = place.version.take().is_some();
                    self.wait_to_list(&mut trouble, was_listed.then_some(place.listed_at)).await;
                }
                Ended::Absent if self.kind.is_some() => {
                    place.version = None;
                    if shared.inventory.lock().absent(self.name, Instant::now()) {
                        tracing::info!(
                            kind = self.name,
                            "the cluster has no such kind; looking for it again and again"
                        );
                        shared.changed.notify_one();
                    }
                    sleep(ABSENT_PAUSE).await;
                }
                Ended::Absent => self.note(&shared, &mut trouble, "the API server has no such kind".to_owned()).await,
                Ended::Failed(problem) => self.note(&shared, &mut trouble, problem).await,
            }
        }
    }

    /// The first time in a row at once, later not before the last list is some time ago.
    async fn wait_to_list(&self, trouble: &mut Trouble, listed_at: Option<Instant>) {
        let again = trouble.failures > 0;
        let soonest = Instant::now() + trouble.pause();
        let when = listed_at.filter(|_| again).map_or(soonest, |listed_at| soonest.max(listed_at + BETWEEN_LISTS));
        sleep_until(when).await;
    }

    async fn note(&self, shared: &Shared, trouble: &mut Trouble, problem: String) {
        if !std::mem::replace(&mut trouble.told, true) {
            tracing::warn!(watch = self.name, problem, "cannot be read; what was read before stays");
        }
        shared.inventory.lock().failed(self.name, problem);
        sleep(trouble.pause()).await;
    }

    async fn list_if_exists(&self, shared: &Shared) -> Result<Listed, Ended> {
        if let Some((client, kind)) = &self.kind {
            let exists = timeout(PATIENCE, exists(client, kind)).await;
            let exists = exists.map_err(|_| Ended::Failed("the API server took too long to answer".to_owned()))?;
            if !exists.map_err(|error| self.why(&error))? {
                return Err(Ended::Absent);
            }
        }
        self.list(shared).await
    }

    /// Reads everything there is.
    async fn list(&self, shared: &Shared) -> Result<Listed, Ended> {
        let (mut objects, mut unusable) = (HashMap::new(), BTreeMap::new());
        let mut parameters = ListParams { field_selector: self.fields(), ..ListParams::default() }.limit(PAGE);
        loop {
            let page = timeout(LIST_TIMEOUT, self.api.list(&parameters)).await;
            let page = page.map_err(|_| Ended::Failed("the API server took too long to list".to_owned()))?;
            let page = page.map_err(|error| self.why_not_listed(&error))?;
            self.read_all(&page.items, &mut objects, &mut unusable);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_default();
                    let mut inventory = shared.inventory.lock();
                    let changed = inventory.listed(self.name, objects, position(&version), Instant::now());
                    inventory.unusable_are(self.name, unusable);
                    shared.changed.notify_one();
                    tracing::debug!(watch = self.name, version, changed, "listed");
                    return Ok(Listed { version, changed });
                }
            }
        }
    }

    /// Watches for once.
    async fn watch(&self, shared: &Shared, place: &mut Place) -> Ended {
        place.told_at = None;
        let from = place.version.clone().unwrap_or_default();
        let parameters = WatchParams { field_selector: self.fields(), ..WatchParams::default() }.timeout(WATCH_SECONDS);
        let events = match timeout(PATIENCE, self.api.watch(&parameters, &from)).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return self.why(&error),
            Err(_) => return Ended::Failed("the API server took too long to answer".to_owned()),
        };
        tokio::pin!(events);
        let deadline = sleep(Duration::from_secs(WATCH_SECONDS.into()) + PATIENCE);
        tokio::pin!(deadline);
        let mut wanted = shared.hub.wanted();
        place.behind = self.is_behind(shared);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    None => return self.after_watch(shared, place).await,
                    Some(Ok(event)) => {
                        if let Err(ended) = self.take(shared, event, place) {
                            return ended;
                        }
                    }
                    Some(Err(error)) => return self.why(&error),
                },
                Ok(()) = wanted.changed() => place.behind = self.is_behind(shared),
                // Not at once after the last list: a forged mark must not make us list all day.
                () = sleep_until(place.listed_at + place.between_lists), if place.behind => {
                    place.behind = self.is_behind(shared);
                    if place.behind {
                        return Ended::Stale("behind");
                    }
                }
                () = &mut deadline => return Ended::Stale("silent"),
            }
        }
    }

    /// The API server has ended the watch.
    async fn after_watch(&self, shared: &Shared, place: &mut Place) -> Ended {
        let now = Instant::now();
        if place.stands_still(shared.inventory.lock().position(self.name).unwrap_or(0), now) {
            return Ended::Stale(STANDS_STILL);
        }
        if place.told_at.is_some_and(|told_at| now - told_at < LATELY) && now - place.asked_at < BETWEEN_READS {
            return Ended::OnTime;
        }
        self.ask(shared, place).await
    }

    /// Reads a little from the API's storage: is it there, and as far as it was?
    async fn ask(&self, shared: &Shared, place: &mut Place) -> Ended {
        let parameters = ListParams { field_selector: self.fields(), ..ListParams::default() }.limit(SMALL_PAGE);
        let page = match timeout(PATIENCE, self.api.list(&parameters)).await {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => return self.why_not_listed(&error),
            Err(_) => return Ended::Failed("the API server watches, but took too long to read".to_owned()),
        };
        let version = page.metadata.resource_version.unwrap_or_default();
        let (mut objects, mut unusable) = (HashMap::new(), BTreeMap::new());
        self.read_all(&page.items, &mut objects, &mut unusable);
        let (mut inventory, now) = (shared.inventory.lock(), Instant::now());
        if inventory.has_passed(self.name, position(&version)) {
            return Ended::Stale(WENT_BACK);
        }
        place.asked_at = now;
        if page.metadata.continue_.is_some_and(|token| !token.is_empty()) {
            inventory.heard_of(self.name, now);
            place.owed.get_or_insert((position(&version), now));
        } else {
            inventory.listed(self.name, objects, position(&version), now);
            inventory.unusable_are(self.name, unusable);
            place.version = Some(version);
            shared.changed.notify_one();
        }
        Ended::OnTime
    }

    /// Whether a proxy has seen objects of the kind that we have not.
    fn is_behind(&self, shared: &Shared) -> bool {
        let own = shared.inventory.lock().position(self.name).unwrap_or(0);
        shared.hub.wanted().borrow().positions().get(self.name).is_some_and(|seen| *seen > own)
    }

    fn take(&self, shared: &Shared, event: WatchEvent<K>, place: &mut Place) -> Result<(), Ended> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let found = self.read(&object);
                self.apply(shared, name_of(&object), found, object.meta().resource_version.clone(), place)
            }
            WatchEvent::Deleted(object) => {
                self.apply(shared, name_of(&object), Ok(None), object.meta().resource_version.clone(), place)
            }
            WatchEvent::Bookmark(bookmark) => {
                let at = bookmark.metadata.resource_version;
                let mut inventory = shared.inventory.lock();
                if inventory.has_passed(self.name, position(&at)) {
                    return Err(Ended::Stale(WENT_BACK));
                }
                // What the API server remembers may stand still while it says so again and again.
                if place.version.as_ref() != Some(&at) {
                    let now = Instant::now();
                    inventory.reached_by(self.name, position(&at), now);
                    (place.version, place.told_at) = (Some(at), Some(now));
                    shared.changed.notify_one();
                }
                Ok(())
            }
            WatchEvent::Error(status) => Err(ended_by(&status)),
        }
    }

    fn apply(
        &self,
        shared: &Shared,
        name: Name,
        found: Converted,
        at: Option<String>,
        place: &mut Place,
    ) -> Result<(), Ended> {
        let at = at.unwrap_or_default();
        let mut inventory = shared.inventory.lock();
        if inventory.has_passed(self.name, position(&at)) {
            return Err(Ended::Stale(WENT_BACK));
        }
        let found = match found {
            Ok(found) => {
                inventory.usable_again(self.name, &name);
                found
            }
            Err(problem) => {
                inventory.unusable(self.name, name.clone(), problem);
                None
            }
        };
        if inventory.applied(self.name, name, found, position(&at), Instant::now()) {
            shared.changed.notify_one();
        }
        place.told_at = Some(Instant::now());
        if !at.is_empty() {
            place.version = Some(at);
        }
        Ok(())
    }

    fn read_all(&self, page: &[K], objects: &mut HashMap<Name, Arc<Object>>, unusable: &mut BTreeMap<Name, String>) {
        for object in page {
            let name = name_of(object);
            match self.read(object) {
                Ok(Some(found)) => drop(objects.insert(name, Arc::new(found))),
                Ok(None) => {}
                Err(problem) => drop(unusable.insert(name, problem)),
            }
        }
    }

    fn read(&self, object: &K) -> Converted {
        (self.convert)(object).inspect_err(|problem| {
            let (namespace, name) = name_of(object);
            tracing::warn!(kind = self.name, namespace, name, problem, "not in force");
        })
    }

    fn fields(&self) -> Option<String> {
        self.selection.fields.map(str::to_owned)
    }

    /// What is no list, though it should be one, is nothing that listing anew would mend.
    fn why_not_listed(&self, error: &kube::Error) -> Ended {
        match error {
            kube::Error::SerdeError(_) => Ended::Failed(describe(error)),
            error => self.why(error),
        }
    }

    fn why(&self, error: &kube::Error) -> Ended {
        match error {
            error if is_not_found(error) => Ended::Absent,
            kube::Error::Api(status) => ended_by(status),
            // A watch of a kind that is gone is answered with a text.
            kube::Error::SerdeError(_) => Ended::Stale("unreadable"),
            error => Ended::Failed(describe(error)),
        }
    }
}

/// Whether the API server serves the kind, asked in a way that is no error where it does not.
pub(crate) async fn exists(client: &Client, kind: &ApiResource) -> Result<bool, kube::Error> {
    let groups = client.list_api_groups().await?.groups;
    let group = groups.into_iter().find(|group| group.name == kind.group);
    if !group.is_some_and(|group| group.versions.iter().any(|version| version.version == kind.version)) {
        return Ok(false);
    }
    let resources = client.list_api_group_resources(&kind.api_version).await?.resources;
    Ok(resources.iter().any(|resource| resource.name == kind.plural))
}

fn ended_by(status: &Status) -> Ended {
    match status.code {
        404 => Ended::Absent,
        410 => Ended::Stale("expired"),
        _ => Ended::Failed(describe(&kube::Error::Api(Box::new(status.clone())))),
    }
}

fn name_of<K: Resource>(object: &K) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// A version that is no number says nothing: then replicas are not comparable.
fn position(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

/// What went wrong lately.
#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    told: bool,
}

impl Trouble {
    fn over(&mut self, watch: &str) {
        if self.told {
            tracing::info!(watch, "can be read again");
        }
        *self = Self::default();
    }

    /// Up to 100, 200, 400 … 3200 ms, at least half of it.
    fn pause(&mut self) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.failures.min(5));
        self.failures += 1;
        longest.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }
}

const WATCH_SECONDS: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(5);
/// For one page.
const LIST_TIMEOUT: Duration = Duration::from_secs(15);
/// Objects per page of a list: a few megabytes of pods.
const PAGE: u32 = 500;
/// Small enough to be read after every watch that brings nothing.
const SMALL_PAGE: u32 = 50;
const ABSENT_PAUSE: Duration = Duration::from_millis(900);
const BETWEEN_LISTS: Duration = Duration::from_secs(5);
/// For longer no forged mark puts off the list that a true one asks for.
const LONGEST_BETWEEN_LISTS: Duration = Duration::from_secs(60);
/// A watch that is silent for longer when it ends is followed by a read, so that no age comes near the 30 s after which
/// proxies look for another controller, though the next watch be silent too.
const LATELY: Duration = Duration::from_secs(4);
/// The storage is read after the first watch that ends so long after it was read last.
const BETWEEN_READS: Duration = Duration::from_secs(60);
/// Between the version the storage has and what a watch has told: less than it lasts, so that the next one must get there.
const LONGEST_LAG: Duration = Duration::from_secs(15);
/// A watch that ends sooner is trouble, whatever it brought.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
const WENT_BACK: &str = "went_back";
const STANDS_STILL: &str = "stands_still";
const FIRST_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
