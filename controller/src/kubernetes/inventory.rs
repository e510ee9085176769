//! [`Inventory`]: what the watches have brought so far, pure.
//!
//! Each watch has two positions: that of the last change of what we keep, and the furthest one at which that is known to
//! hold still (bookmarks, events about what we don't keep). See [`World`](crate::world::World) for what they are for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crd::model::Object;
use tokio::time::Instant;

use crate::progress::Progress;

/// Namespace and name of an object.
pub type Name = (String, String);

/// Everything read, by watch.
#[derive(Debug)]
pub struct Inventory {
    watches: BTreeMap<&'static str, Watched>,
    started: Instant,
    /// When the first change arrived that is not in force yet.
    changed: Option<Instant>,
    begun_anew: bool,
}

#[derive(Debug, Default)]
struct Watched {
    objects: HashMap<Name, Arc<Object>>,
    /// Position of the last change, and the furthest known; none before the first list.
    positions: Option<(u64, u64)>,
    /// Whether what there is has been read, be it nothing.
    known: bool,
    heard: Option<Instant>,
    problem: Option<String>,
    /// Objects that can't be used, and why.
    unusable: BTreeMap<Name, String>,
}

/// Facts to be put in force.
#[derive(Debug)]
pub struct News {
    /// Everything there is.
    pub objects: Vec<Arc<Object>>,
    /// How many objects each watch has.
    pub counts: Vec<(&'static str, usize)>,
    /// Where each watch last changed.
    pub progress: Progress,
    /// When the first of the changes arrived.
    pub heard: Instant,
    /// The API's storage is another than before: positions are not comparable with earlier ones.
    pub begun_anew: bool,
}

impl Inventory {
    /// Nothing read yet.
    pub fn new(now: Instant) -> Self {
        Self { watches: BTreeMap::new(), started: now, changed: None, begun_anew: false }
    }

    /// A watch begins. There is no news until all have said what there is, be it that their kind does not exist.
    pub fn register(&mut self, watch: &'static str) {
        self.watches.insert(watch, Watched::default());
    }

    /// Everything there is, as of `position`. Returns whether anything is new.
    pub fn listed(
        &mut self,
        watch: &'static str,
        objects: HashMap<Name, Arc<Object>>,
        position: u64,
        now: Instant,
    ) -> bool {
        let Some(watched) = self.watches.get_mut(watch) else { return false };
        watched.hear(now);
        let went_back = watched.positions.is_some_and(|(_, reached)| position < reached);
        let changed = went_back || !watched.known || watched.objects != objects;
        watched.known = true;
        let floor = watched.positions.map_or(position, |(floor, _)| if changed { position } else { floor });
        watched.positions = Some((floor, position));
        if changed {
            watched.objects = objects;
        }
        self.note_change(changed, now);
        self.begun_anew |= went_back;
        changed
    }

    /// One object is new or another than before; `None`: it is gone, or nothing we keep. Returns whether anything is new.
    pub fn applied(
        &mut self,
        watch: &'static str,
        name: Name,
        object: Option<Object>,
        position: u64,
        now: Instant,
    ) -> bool {
        let Some(watched) = self.watches.get_mut(watch) else { return false };
        watched.hear(now);
        let changed = match object {
            Some(object) if watched.objects.get(&name).is_some_and(|before| **before == object) => false,
            Some(object) => {
                watched.objects.insert(name, Arc::new(object));
                true
            }
            None => watched.objects.remove(&name).is_some(),
        };
        let (floor, reached) = watched.positions.unwrap_or_default();
        watched.positions = Some((if changed { floor.max(position) } else { floor }, reached.max(position)));
        self.note_change(changed, now);
        changed
    }

    /// The watch is at `position`, and nothing we were not told has happened before it.
    pub fn reached_by(&mut self, watch: &'static str, position: u64, now: Instant) {
        let Some(watched) = self.watches.get_mut(watch) else { return };
        watched.hear(now);
        if let Some((_, reached)) = &mut watched.positions {
            *reached = (*reached).max(position);
        }
    }

    /// Whether the watch has been told more than is known at `position`: the storage is another, or older. Where versions
    /// are no numbers, nobody can tell.
    pub fn has_passed(&self, watch: &str, position: u64) -> bool {
        position > 0 && self.position(watch).is_some_and(|reached| position < reached)
    }

    /// Which objects of a list can't be used, and why.
    pub fn unusable_are(&mut self, watch: &'static str, unusable: BTreeMap<Name, String>) {
        if let Some(watched) = self.watches.get_mut(watch) {
            watched.unusable = unusable;
        }
    }

    /// One object can't be used.
    pub fn unusable(&mut self, watch: &'static str, name: Name, problem: String) {
        if let Some(watched) = self.watches.get_mut(watch) {
            watched.unusable.insert(name, problem);
        }
    }

    /// It can, or is gone.
    pub fn usable_again(&mut self, watch: &'static str, name: &Name) {
        if let Some(watched) = self.watches.get_mut(watch) {
            watched.unusable.remove(name);
        }
    }

    /// Objects of each watch that can't be used: how many, and what is wrong with the first.
    pub fn all_unusable(&self) -> impl Iterator<Item = (&'static str, usize, Option<String>)> {
        self.watches.iter().map(|(watch, watched)| {
            let first = watched.unusable.iter().next();
            let first = first.map(|((namespace, name), problem)| format!("{watch} {namespace}/{name}: {problem}"));
            (*watch, watched.unusable.len(), first)
        })
    }

    /// The API server's storage spoke about the watch.
    pub fn heard_of(&mut self, watch: &'static str, now: Instant) {
        if let Some(watched) = self.watches.get_mut(watch) {
            watched.hear(now);
        }
    }

    /// There is no such kind. Returns whether anything is new.
    pub fn absent(&mut self, watch: &'static str, now: Instant) -> bool {
        let Some(watched) = self.watches.get_mut(watch) else { return false };
        watched.hear(now);
        let changed = !watched.known || !watched.objects.is_empty();
        watched.known = true;
        watched.objects.clear();
        watched.unusable.clear();
        watched.positions = None;
        self.note_change(changed, now);
        changed
    }

    /// The watch does not work, for the reason given.
    pub fn failed(&mut self, watch: &'static str, problem: String) {
        if let Some(watched) = self.watches.get_mut(watch) {
            watched.problem = Some(problem);
        }
    }

    /// Changed facts, once every watch knows what there is.
    pub fn take_news(&mut self) -> Option<News> {
        if self.watches.values().any(|watched| !watched.known) {
            return None;
        }
        let heard = self.changed.take()?;
        Some(News {
            heard,
            objects: self.watches.values().flat_map(|watched| watched.objects.values().cloned()).collect(),
            counts: self.watches.iter().map(|(watch, watched)| (*watch, watched.objects.len())).collect(),
            progress: self.progress(|(floor, _)| floor),
            begun_anew: std::mem::take(&mut self.begun_anew),
        })
    }

    /// How far each watch has come; empty while there is news, which must be in force first.
    pub fn reached(&self) -> Progress {
        if self.changed.is_some() { Progress::default() } else { self.progress(|(_, reached)| reached) }
    }

    /// How far one watch has come.
    pub fn position(&self, watch: &str) -> Option<u64> {
        self.watches.get(watch).and_then(|watched| watched.positions).map(|(_, reached)| reached)
    }

    /// When the watch that has been silent longest was heard.
    pub fn oldest_heard(&self) -> Instant {
        self.heard().map(|(_, heard)| heard).min().unwrap_or(self.started)
    }

    /// When each watch was last heard.
    pub fn heard(&self) -> impl Iterator<Item = (&'static str, Instant)> {
        self.watches.iter().map(|(watch, watched)| (*watch, watched.heard.unwrap_or(self.started)))
    }

    /// Why there are no facts yet.
    pub fn missing(&self) -> Option<String> {
        let unknown: Vec<_> = self.watches.iter().filter(|(_, watched)| !watched.known).collect();
        let reasons = unknown.iter().map(|(watch, watched)| match &watched.problem {
            Some(problem) => format!("{watch}: {problem}"),
            None => format!("{watch} are being read"),
        });
        (!unknown.is_empty()).then(|| reasons.collect::<Vec<_>>().join("; "))
    }

    fn note_change(&mut self, changed: bool, now: Instant) {
        if changed {
            self.changed.get_or_insert(now);
        }
    }

    fn progress(&self, position: impl Fn((u64, u64)) -> u64) -> Progress {
        let mut progress = Progress::default();
        for (watch, watched) in &self.watches {
            if let Some(positions) = watched.positions {
                progress.advance(&Progress::of(watch, position(positions)));
            }
        }
        progress
    }
}

impl Watched {
    fn hear(&mut self, now: Instant) {
        self.heard = Some(now);
        self.problem = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crd::model::{Metadata, Namespace};

    use super::*;

    fn name(name: &str) -> Name {
        (String::new(), name.to_owned())
    }

    fn namespace(name: &str, label: &str) -> Object {
        let labels = [("l".to_owned(), label.to_owned())].into();
        Object::Namespace(Namespace { metadata: Metadata { name: name.to_owned(), labels, ..Metadata::default() } })
    }

    fn list(names: &[&str]) -> HashMap<Name, Arc<Object>> {
        names.iter().map(|it| (name(it), Arc::new(namespace(it, "")))).collect()
    }

    fn news(inventory: &mut Inventory) -> Option<(usize, String)> {
        inventory.take_news().map(|news| (news.objects.len(), news.progress.to_string()))
    }

    fn two_watches(now: Instant) -> Inventory {
        let mut inventory = Inventory::new(now);
        inventory.register("a");
        inventory.register("b");
        assert!(inventory.listed("a", list(&["x"]), 10, now) && inventory.absent("b", now));
        assert_eq!(news(&mut inventory), Some((1, "a 10".to_owned())));
        inventory
    }

    #[test]
    fn no_news_before_every_watch_has_answered() {
        let now = Instant::now();
        let mut inventory = Inventory::new(now);
        inventory.register("a");
        inventory.register("b");
        inventory.listed("a", list(&["x", "y"]), 10, now);
        inventory.failed("b", "no such right".to_owned());
        assert_eq!((news(&mut inventory), inventory.reached()), (None, Progress::default()));
        assert_eq!(inventory.missing().unwrap(), "b: no such right");
        inventory.listed("b", HashMap::new(), 12, now);
        assert_eq!(inventory.missing(), None);
        assert_eq!(news(&mut inventory), Some((2, "a 10, b 12".to_owned())));
        assert_eq!(news(&mut inventory), None);
    }

    #[test]
    fn what_changes_nothing_we_keep_only_shows_how_far_the_facts_hold() {
        let now = Instant::now();
        let mut inventory = two_watches(now);
        assert!(!inventory.applied("a", name("x"), Some(namespace("x", "")), 20, now));
        assert!(!inventory.applied("a", name("z"), None, 21, now));
        inventory.reached_by("a", 30, now);
        assert!(!inventory.listed("a", list(&["x"]), 40, now));
        assert_eq!(news(&mut inventory), None);
        assert_eq!(inventory.reached(), Progress::of("a", 40));
        assert!(inventory.applied("a", name("x"), Some(namespace("x", "new")), 50, now));
        assert_eq!(inventory.reached(), Progress::default(), "not before it is in force");
        assert_eq!(news(&mut inventory), Some((1, "a 50".to_owned())));
        assert!(inventory.applied("a", name("x"), None, 51, now));
        assert_eq!(news(&mut inventory), Some((0, "a 51".to_owned())));
    }

    #[test]
    fn a_kind_comes_and_goes() {
        let now = Instant::now();
        let mut inventory = two_watches(now);
        assert!(!inventory.absent("b", now));
        assert!(inventory.listed("b", list(&["y"]), 20, now));
        assert_eq!(news(&mut inventory), Some((2, "a 10, b 20".to_owned())));
        assert!(inventory.absent("b", now));
        assert_eq!(news(&mut inventory), Some((1, "a 10".to_owned())));
    }

    #[test]
    fn storage_that_went_back_is_told() {
        let now = Instant::now();
        let mut inventory = two_watches(now);
        inventory.reached_by("a", 30, now);
        assert!(inventory.listed("a", list(&["x"]), 5, now));
        let news = inventory.take_news().unwrap();
        assert!(news.begun_anew);
        assert_eq!((news.progress, inventory.position("a")), (Progress::of("a", 5), Some(5)));
    }

    #[test]
    fn the_oldest_watch_gives_the_age() {
        let start = Instant::now();
        let mut inventory = two_watches(start);
        let later = start + Duration::from_secs(9);
        inventory.reached_by("a", 11, later);
        assert_eq!(inventory.oldest_heard(), start);
        inventory.heard_of("b", later);
        assert_eq!(inventory.oldest_heard(), later);
    }
}
