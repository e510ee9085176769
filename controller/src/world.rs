//! [`World`]: the facts of one moment with how far they had come, and the values made of them so far.
//!
//! A value is made once per key and world, encoded and hashed, and shared by every stream that subscribes to it. A world
//! never changes; a change of facts is a new world.
//!
//! Two positions belong to facts: where they last changed ([`World::progress`], which proxies are told and remember), and
//! how far they are known to hold ([`World::is_behind`]), which grows while nothing changes. Comparing what one replica
//! knows with where another's facts last changed keeps a quiet replica from looking as if it were behind.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use policy::ServicePort;
use prost::Message;
use proto::discovery as wire;
use resolve::{Caller, Facts, Mesh};

use crate::progress::Progress;
use crate::serve::encode;

/// What a proxy subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Trust anchors.
    Bundle,
    /// Mesh-wide settings.
    Settings,
    /// The proxy's own workload.
    Inbound,
    /// A dialled address.
    Outbound(SocketAddr),
    /// Endpoints of a backend.
    Endpoints(ServicePort),
}

/// SHA-256 of a value's encoding, the first 16 bytes.
pub type Hash = [u8; 16];

/// One value, encoded.
#[derive(Debug)]
pub struct Value {
    /// What tells versions apart.
    pub hash: Hash,
    /// The value as it goes over the wire.
    pub wire: wire::update::Value,
    /// Where endpoints are, sorted; empty for values of other kinds.
    addresses: Vec<SocketAddr>,
}

/// Facts, progress and values.
#[derive(Debug)]
pub struct World {
    facts: Arc<Facts>,
    mesh: Arc<Mesh>,
    bundle: Option<Arc<str>>,
    progress: Progress,
    /// Shared with the worlds that follow.
    reached: Arc<Mutex<Progress>>,
    values: Mutex<Values>,
}

/// Only the answer about the own workload depends on who asks.
type Values = HashMap<(Key, Option<Caller>), Arc<Value>>;

impl World {
    /// The world these facts make.
    pub fn new(facts: Arc<Facts>, mesh: Arc<Mesh>, bundle: Option<Arc<str>>, progress: Progress) -> Self {
        let reached = Arc::new(Mutex::new(progress.clone()));
        Self { facts, mesh, bundle, progress, reached, values: Mutex::default() }
    }

    /// The same world as successor of `before` in one process.
    pub fn after(mut self, before: &Self) -> Self {
        self.reached = before.reached.clone();
        self.reached.lock().advance(&self.progress);
        self
    }

    /// The same facts with other trust anchors.
    pub fn with_bundle(&self, bundle: Option<Arc<str>>) -> Self {
        Self::new(self.facts.clone(), self.mesh.clone(), bundle, self.progress.clone()).after(self)
    }

    /// What was read.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Where reading had come when the facts last changed.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether the facts may be older than the mark.
    pub fn is_behind(&self, mark: &Progress) -> bool {
        self.reached.lock().is_behind(mark)
    }

    /// The facts are known to hold up to here.
    pub fn reach(&self, reached: &Progress) {
        self.reached.lock().advance(reached);
    }

    /// The value of a key, for this caller.
    pub fn value(&self, key: &Key, caller: &Caller) -> Arc<Value> {
        let shared = (key.clone(), (*key == Key::Inbound).then(|| caller.clone()));
        if let Some(value) = self.values.lock().get(&shared) {
            return value.clone();
        }
        // Made outside the lock: two streams may make the same value at once, and one of them is dropped.
        let value = Arc::new(self.make(key, caller));
        let mut values = self.values.lock();
        if values.len() < MAX_SHARED {
            return values.entry(shared).or_insert(value).clone();
        }
        value
    }

    fn make(&self, key: &Key, caller: &Caller) -> Value {
        use wire::update::Value as Wire;
        let mut addresses = Vec::new();
        let wire = match key {
            Key::Bundle => self.bundle.as_ref().map(|pem| Wire::Bundle(wire::Bundle { pem: pem.to_string() })),
            Key::Settings => Some(Wire::Settings(encode::settings(&self.mesh))),
            Key::Inbound => {
                resolve::inbound(&self.facts, &self.mesh, caller).map(|it| Wire::Inbound(encode::inbound(&it)))
            }
            Key::Outbound(address) => {
                // An IPv4 address in IPv6 clothes is the same address.
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                resolve::outbound(&self.facts, &self.mesh, address).map(|it| Wire::Outbound(encode::outbound(&it)))
            }
            Key::Endpoints(id) => resolve::endpoints(&self.facts, &self.mesh, id).map(|it| {
                addresses = it.list.iter().map(|endpoint| endpoint.address).collect();
                Wire::Endpoints(encode::endpoints(&it))
            }),
        };
        let wire = wire.unwrap_or(Wire::Absent(wire::Unit {}));
        Value { hash: hash(&wire), wire, addresses }
    }
}

impl Value {
    /// Whether an endpoint of `before` is not here any more.
    pub fn removes_endpoints_of(&self, before: &Self) -> bool {
        before.addresses.iter().any(|address| self.addresses.binary_search(address).is_err())
    }
}

/// The hash is that of an [`wire::Update`] with nothing but the value in it.
fn hash(value: &wire::update::Value) -> Hash {
    let encoded = wire::Update { value: Some(value.clone()), ..wire::Update::default() }.encode_to_vec();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &encoded);
    let mut hash = Hash::default();
    hash.copy_from_slice(&digest.as_ref()[..16]);
    hash
}

/// Beyond these, values are made for each stream: a proxy that asks for every address there is fills no memory.
const MAX_SHARED: usize = 100_000;
