//! What the proxy knows of the world, and how it comes to know it.
//!
//! [`Discovery`] is what the data path holds: it asks for a key once (which subscribes), and from then on reads the
//! latest value without a lock and without waiting. Behind it, on a thread of its own, one stream to a controller
//! keeps every subscribed value current, the values are remembered on disk, and the workload's certificate is
//! obtained and renewed.

mod backoff;
mod certify;
pub mod clients;
pub mod decode;
mod dial;
#[cfg(test)]
pub(crate) mod fake;
pub mod key;
mod picture;
pub mod progress;
pub mod state;
mod store;
mod stream;
mod trust;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use policy::{Endpoints, Inbound, Outbound, ServicePort, Settings};
use proto::Reason;
use tokio::sync::watch;

use self::store::Store;

/// The proxy's view of the world. Cloning is cheap; clones share everything.
#[derive(Debug, Clone)]
pub struct Discovery {
    store: Arc<Store>,
}

/// A subscription to one value. Reading it costs one atomic load. The controller keeps it current while any clone
/// lives, and for [`IDLE`] after the last is gone.
#[derive(Debug)]
pub struct Watch<T> {
    slot: Arc<Slot<T>>,
    seen: watch::Receiver<u64>,
}

/// What is known under a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// No controller has answered yet.
    Waiting,
    /// The latest value.
    Value(Arc<T>),
    /// A controller says the key names nothing.
    Absent,
}

impl Discovery {
    /// A view that knows nothing yet, with room for `capacity` subscriptions at a time.
    pub fn new(capacity: usize) -> Self {
        Self { store: Arc::new(Store::new(capacity)) }
    }

    /// What lies behind an address the application dialled.
    pub fn outbound(&self, destination: SocketAddr) -> Watch<Outbound> {
        self.store.outbound(destination).watch()
    }

    /// Who serves one port of a Service. Keep the watch with the backend instead of asking per request: asking takes
    /// a lock.
    pub fn endpoints(&self, backend: &ServicePort) -> Watch<Endpoints> {
        self.store.endpoints(backend).watch()
    }

    /// The proxy's own workload.
    pub fn inbound(&self) -> Watch<Inbound> {
        self.store.inbound().watch()
    }

    /// Mesh-wide settings.
    pub fn settings(&self) -> Watch<Settings> {
        self.store.settings().watch()
    }

    /// The trust bundle as the controller knows it, PEM.
    pub fn bundle(&self) -> Watch<String> {
        self.store.bundle().watch()
    }

    /// Puts a value in place as a controller would, for tests of the data path.
    pub fn put_outbound(&self, destination: SocketAddr, value: Known<Outbound>) {
        self.store.outbound(destination).set(value);
    }

    /// Puts a value in place as a controller would, for tests of the data path.
    pub fn put_endpoints(&self, backend: &ServicePort, value: Known<Endpoints>) {
        self.store.endpoints(backend).set(value);
    }

    /// Puts a value in place as a controller would, for tests of the data path.
    pub fn put_inbound(&self, value: Known<Inbound>) {
        self.store.inbound().set(value);
    }

    /// Puts a value in place as a controller would, for tests of the data path.
    pub fn put_settings(&self, value: Known<Settings>) {
        self.store.settings().set(value);
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl<T> Watch<T> {
    /// What is known now.
    pub fn current(&self) -> Known<T> {
        (**self.slot.value.load()).clone()
    }

    /// The first value, waited for at most [`FIRST_VALUE`]; `None` where the key names nothing. Returns at once when
    /// something is known, however old it is.
    pub async fn first(&self) -> Result<Option<Arc<T>>, Reason> {
        match self.current() {
            Known::Value(value) => return Ok(Some(value)),
            Known::Absent => return Ok(None),
            Known::Waiting if self.slot.refused => return Err(Reason::Overloaded),
            Known::Waiting => {}
        }
        let arrives = async {
            let mut seen = self.slot.version.subscribe();
            loop {
                match self.current() {
                    Known::Value(value) => return Some(value),
                    Known::Absent => return None,
                    // The sender lives in the slot, which `self` holds: an error cannot happen.
                    Known::Waiting => seen.changed().await.unwrap_or_default(),
                }
            }
        };
        tokio::time::timeout(FIRST_VALUE, arrives).await.map_err(|_| Reason::DiscoveryUnavailable)
    }

    /// Resolves when the value is another than when this last resolved (or the watch was made). May be cancelled.
    pub async fn changed(&mut self) {
        // The sender lives in the slot, which `self` holds: an error cannot happen.
        let _ = self.seen.changed().await;
    }
}

impl<T> Clone for Watch<T> {
    fn clone(&self) -> Self {
        Self { slot: self.slot.clone(), seen: self.seen.clone() }
    }
}

impl<T> Known<T> {
    /// The value, if there is one.
    pub fn value(self) -> Option<Arc<T>> {
        match self {
            Self::Value(value) => Some(value),
            Self::Waiting | Self::Absent => None,
        }
    }
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Waiting => Self::Waiting,
            Self::Value(value) => Self::Value(value.clone()),
            Self::Absent => Self::Absent,
        }
    }
}

/// Where the value of one key is kept.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    value: ArcSwap<Known<T>>,
    version: watch::Sender<u64>,
    /// There was no room to subscribe: no value will ever come.
    refused: bool,
}

impl<T> Slot<T> {
    fn new(refused: bool) -> Arc<Self> {
        Arc::new(Self { value: ArcSwap::from_pointee(Known::Waiting), version: watch::Sender::new(0), refused })
    }

    fn watch(self: &Arc<Self>) -> Watch<T> {
        Watch { slot: self.clone(), seen: self.version.subscribe() }
    }

    fn set(&self, value: Known<T>) {
        self.value.store(Arc::new(value));
        self.version.send_modify(|version| *version += 1);
    }
}

/// How long a first value is waited for before the connection fails with `discovery_unavailable`.
pub const FIRST_VALUE: Duration = Duration::from_secs(3);
/// How long a subscription outlives its last user.
pub const IDLE: Duration = Duration::from_secs(300);
/// Subscriptions at a time, unless told otherwise.
pub const CAPACITY: usize = 4096;
