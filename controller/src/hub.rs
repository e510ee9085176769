//! The newest [`World`], for every stream to watch, and when its sources were last known to be live.

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
}

impl Hub {
    /// No world yet; sources count as live from `now`.
    pub fn new(mesh: Mesh, now: Instant) -> Self {
        let shared = Shared {
            world: watch::Sender::new(None),
            mesh: Arc::new(mesh),
            bundle: Mutex::default(),
            live: Mutex::new(now),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Puts new facts in force; `false` if they are behind what is in force, which then stays.
    pub fn publish(&self, facts: Facts, progress: Progress) -> bool {
        let bundle = self.shared.bundle.lock();
        self.shared.world.send_if_modified(|world| {
            let newer = newer(world.as_deref(), facts, &self.shared.mesh, bundle.clone(), progress);
            let publish = newer.is_some();
            if let Some(newer) = newer {
                *world = Some(Arc::new(newer));
            }
            publish
        })
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
    if let Some(current) = current {
        if progress.is_behind(current.progress()) {
            return None;
        }
        progress.advance(current.progress());
    }
    Some(World::new(Arc::new(facts), mesh.clone(), bundle, progress))
}
