//! The newest [`World`], for every stream to watch, and when its sources were last known to be live; and for the sources,
//! how far proxies have seen.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use resolve::{Facts, Mesh};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::progress::Progress;
use crate::world::World;

/// What streams watch: nothing until the first facts are whole.
pub type Worlds = watch::Receiver<Option<Arc<World>>>;

/// The newest world. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    world: watch::Sender<Option<Arc<World>>>,
    mesh: Arc<Mesh>,
    bundle: Mutex<Option<Arc<str>>>,
    live: Mutex<Instant>,
    wanted: watch::Sender<Progress>,
    reached: watch::Sender<()>,
}

impl Hub {
    /// No world yet; sources count as live from `now`.
    pub fn new(mesh: Mesh, now: Instant) -> Self {
        let shared = Shared {
            world: watch::Sender::new(None),
            mesh: Arc::new(mesh),
            bundle: Mutex::default(),
            live: Mutex::new(now),
            wanted: watch::Sender::default(),
            reached: watch::Sender::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Puts facts in force that a change brought which arrived at `heard`; `false` if they are behind what is in force,
    /// which then stays.
    pub fn publish(&self, facts: Facts, progress: Progress, heard: Instant) -> bool {
        let bundle = self.shared.bundle.lock();
        self.shared.world.send_if_modified(|world| {
            let newer = newer(world.as_deref(), facts, &self.shared.mesh, bundle.clone(), progress);
            let publish = newer.is_some();
            if let Some(newer) = newer {
                *world = Some(Arc::new(newer.heard_at(heard)));
            }
            publish
        })
    }

    /// Puts facts in force that need not be ahead of those before: their source has begun anew.
    pub fn restart(&self, facts: Facts, progress: Progress) {
        let bundle = self.shared.bundle.lock();
        let world = World::new(Arc::new(facts), self.shared.mesh.clone(), bundle.clone(), progress);
        self.shared.world.send_replace(Some(Arc::new(world)));
    }

    /// The facts in force are known to hold up to here.
    pub fn reach(&self, reached: &Progress) {
        if let Some(world) = self.shared.world.borrow().as_ref() {
            world.reach(reached);
        }
        self.shared.reached.send_replace(());
    }

    /// Tells when the facts in force are known to hold further. For streams that wait for it alone: a mark that nobody
    /// ever comes to must not wake the others.
    pub fn reached(&self) -> watch::Receiver<()> {
        self.shared.reached.subscribe()
    }

    /// A proxy has seen facts up to here: sources that can tell whether they are behind should find out. Of watches that
    /// there are none of here nobody can, and whatever a proxy calls one is not remembered.
    pub fn want(&self, mark: &Progress) {
        let Some(world) = self.shared.world.borrow().clone() else { return };
        let mark = &mark.of_watches_in(world.progress());
        self.shared.wanted.send_if_modified(|wanted| {
            let further =
                wanted.is_behind(mark) || mark.positions().keys().any(|key| !wanted.positions().contains_key(key));
            wanted.advance(mark);
            further
        });
    }

    /// Everything there is of one watch has been read up to here: who said that there is more was wrong, and the next who
    /// says so is heard again.
    pub fn refute(&self, watch: &str, position: u64) {
        self.shared.wanted.send_if_modified(|wanted| wanted.lower(watch, position));
    }

    /// Follows how far proxies have seen that this process has not.
    pub fn wanted(&self) -> watch::Receiver<Progress> {
        self.shared.wanted.subscribe()
    }

    /// Puts other trust anchors (PEM) in force.
    pub fn set_bundle(&self, pem: Option<Arc<str>>) {
        let mut bundle = self.shared.bundle.lock();
        if *bundle == pem {
            return;
        }
        bundle.clone_from(&pem);
        self.shared.world.send_if_modified(|world| {
            let Some(current) = world else { return false };
            *world = Some(Arc::new(current.with_bundle(pem)));
            true
        });
    }

    /// The sources were heard from at `now`.
    pub fn live(&self, now: Instant) {
        *self.shared.live.lock() = now;
    }

    /// How long the sources have been silent.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.shared.live.lock())
    }

    /// Follows the newest world.
    pub fn worlds(&self) -> Worlds {
        self.shared.world.subscribe()
    }
}

/// The world that follows `current`, pure; `None` if the facts are behind it. Facts never go back within a process,
/// whatever order they arrive in.
pub fn newer(
    current: Option<&World>,
    facts: Facts,
    mesh: &Arc<Mesh>,
    bundle: Option<Arc<str>>,
    mut progress: Progress,
) -> Option<World> {
    let Some(current) = current else { return Some(World::new(Arc::new(facts), mesh.clone(), bundle, progress)) };
    if progress.is_behind(current.progress()) {
        return None;
    }
    progress.advance(current.progress());
    Some(World::new(Arc::new(facts), mesh.clone(), bundle, progress).after(current))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::session::tests::{facts, mesh};

    #[tokio::test]
    async fn who_waits_for_a_quiet_replica_is_told_when_its_facts_are_known_to_hold() {
        let hub = Hub::new(mesh(), Instant::now());
        assert!(hub.publish(facts(&[1]), Progress::of("pods", 10), Instant::now()));
        let mut worlds = hub.worlds();
        let mark = Progress::of("pods", 30);
        hub.want(&mark);
        let is_behind = |worlds: &mut Worlds| worlds.borrow_and_update().as_ref().unwrap().is_behind(&mark);
        assert!(is_behind(&mut worlds));
        let mut reached = hub.reached();
        hub.reach(&Progress::of("pods", 30));
        assert!(reached.has_changed().unwrap() && !worlds.has_changed().unwrap(), "only those that wait");
        reached.mark_unchanged();
        assert!(!is_behind(&mut worlds));
        let progress = worlds.borrow().as_ref().unwrap().progress().clone();
        assert_eq!(progress, Progress::of("pods", 10), "what proxies are told is where facts last changed");
        hub.want(&Progress::of("pods", u64::MAX));
        hub.reach(&Progress::of("pods", 40));
        assert!(!worlds.has_changed().unwrap(), "whatever a proxy says, others have their peace");
        hub.refute("pods", 40);
        assert_eq!(*hub.wanted().borrow(), Progress::of("pods", 40), "a mark nobody came to is forgotten");
        assert!(hub.publish(facts(&[2]), Progress::of("pods", 50), Instant::now()));
        assert!(!hub.publish(facts(&[1]), Progress::of("pods", 45), Instant::now()), "facts never go back");
        hub.restart(facts(&[1]), Progress::of("pods", 5));
        assert!(is_behind(&mut worlds), "but where their source begins anew");
    }
}
