//! [`World`]: the facts of one moment with how far they had come, and the values made of them so far.
//!
//! A value is made once per key, [`Audience`] (nearly always everybody) and world, encoded and hashed, and shared by every
//! stream that subscribes to it. A world never changes; a change of facts is a new world.
//!
//! What is shared is what the facts have so many of: anybody may ask for any address and any name, and whatever is foreign
//! or absent is one value for all. Pods have as many addresses as there are ports, and get half of the places at most.
//!
//! Two positions belong to facts: where they last changed ([`World::progress`], which proxies are told and remember), and
//! how far they are known to hold ([`World::is_behind`]), which grows while nothing changes. Comparing what one replica
//! knows with where another's facts last changed keeps a quiet replica from looking as if it were behind.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use policy::{Outbound, ServicePort};
use prost::Message;
use proto::discovery as wire;
use resolve::{Audience, Caller, Facts, Mesh};
use tokio::time::Instant;

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
    /// When the first change arrived that made this world another than the one before.
    heard: Option<Instant>,
    /// Shared with the worlds that follow.
    reached: Arc<Mutex<Progress>>,
    values: Mutex<Values>,
}

/// What is shared.
#[derive(Debug, Default)]
struct Values {
    made: HashMap<(Key, Audience), Arc<Value>>,
    /// Of these, values of [`Bound::Ports`].
    of_ports: usize,
}

/// How many values of a sort there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// As many as the facts have Services and ports.
    Facts,
    /// As many as pods have ports that somebody could dial.
    Ports,
    /// One for each proxy, which nobody else asks for.
    Proxies,
}

impl World {
    /// The world these facts make.
    pub fn new(facts: Arc<Facts>, mesh: Arc<Mesh>, bundle: Option<Arc<str>>, progress: Progress) -> Self {
        let reached = Arc::new(Mutex::new(progress.clone()));
        Self { facts, mesh, bundle, progress, heard: None, reached, values: Mutex::default() }
    }

    /// The same world as successor of `before` in one process.
    pub fn after(mut self, before: &Self) -> Self {
        self.reached = before.reached.clone();
        self.reached.lock().advance(&self.progress);
        self
    }

    /// The same world, because of a change that arrived then.
    pub fn heard_at(mut self, heard: Instant) -> Self {
        self.heard = Some(heard);
        self
    }

    /// When the change arrived that made this world.
    pub fn heard(&self) -> Option<Instant> {
        self.heard
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
        let shared = (key.clone(), self.audience(key, caller));
        if let Some(value) = self.values.lock().made.get(&shared) {
            return value.clone();
        }
        // Made outside the lock: two streams may make the same value at once, and one of them is dropped.
        let (bound, value) = self.make(key, &shared.1);
        let mut values = self.values.lock();
        let has_place = match bound {
            None | Some(Bound::Proxies) => false,
            Some(Bound::Facts) => values.made.len() < MAX_SHARED,
            Some(Bound::Ports) => values.of_ports < MAX_SHARED / 2 && values.made.len() < MAX_SHARED,
        };
        if !has_place || values.made.contains_key(&shared) {
            return values.made.get(&shared).cloned().unwrap_or(value);
        }
        values.of_ports += usize::from(bound == Some(Bound::Ports));
        values.made.insert(shared, value.clone());
        value
    }

    fn audience(&self, key: &Key, caller: &Caller) -> Audience {
        match key {
            Key::Bundle | Key::Settings => Audience::Everybody,
            Key::Endpoints(id) => Audience::of_endpoints(&self.facts, id, caller),
            Key::Inbound => Audience::Workload(caller.clone()),
            Key::Outbound(address) => Audience::of_outbound(&self.facts, canonical(*address), caller),
        }
    }

    /// A value, and how many of its sort there can be; not how many there are of what is the same for all.
    fn make(&self, key: &Key, audience: &Audience) -> (Option<Bound>, Arc<Value>) {
        use wire::update::Value as Wire;
        let mut addresses = Vec::new();
        let mut bound = Bound::Facts;
        let wire = match key {
            Key::Bundle => self.bundle.as_ref().map(|pem| Wire::Bundle(wire::Bundle { pem: pem.to_string() })),
            Key::Settings => Some(Wire::Settings(encode::settings(&self.mesh))),
            Key::Inbound => match audience {
                Audience::Workload(caller) => {
                    bound = Bound::Proxies;
                    resolve::inbound(&self.facts, &self.mesh, caller).map(|it| Wire::Inbound(encode::inbound(&it)))
                }
                Audience::Everybody | Audience::Namespace(_) | Audience::Node(_) => None,
            },
            Key::Outbound(address) => {
                let outbound = resolve::outbound(&self.facts, &self.mesh, canonical(*address), audience);
                match outbound {
                    Some(Outbound::Foreign) => return (None, FOREIGN.clone()),
                    Some(Outbound::Workload(_)) => bound = Bound::Ports,
                    Some(Outbound::Service(_)) | None => {}
                }
                outbound.map(|it| Wire::Outbound(encode::outbound(&it)))
            }
            Key::Endpoints(id) => resolve::endpoints(&self.facts, &self.mesh, id, audience).map(|it| {
                addresses = it.list.iter().map(|endpoint| endpoint.address).collect();
                Wire::Endpoints(encode::endpoints(&it))
            }),
        };
        match wire {
            Some(wire) => (Some(bound), Arc::new(Value::new(wire, addresses))),
            None => (None, ABSENT.clone()),
        }
    }
}

impl Value {
    fn new(wire: wire::update::Value, addresses: Vec<SocketAddr>) -> Self {
        Self { hash: hash(&wire), wire, addresses }
    }

    /// Whether an endpoint of `before` is not here any more.
    pub fn removes_endpoints_of(&self, before: &Self) -> bool {
        before.addresses.iter().any(|address| self.addresses.binary_search(address).is_err())
    }
}

/// An IPv4 address in IPv6 clothes is the same address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The hash is that of an [`wire::Update`] with nothing but the value in it.
fn hash(value: &wire::update::Value) -> Hash {
    let encoded = wire::Update { value: Some(value.clone()), ..wire::Update::default() }.encode_to_vec();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &encoded);
    let mut hash = Hash::default();
    hash.copy_from_slice(&digest.as_ref()[..16]);
    hash
}

/// There is no such thing.
static ABSENT: LazyLock<Arc<Value>> =
    LazyLock::new(|| Arc::new(Value::new(wire::update::Value::Absent(wire::Unit {}), Vec::new())));

/// An address that is nobody's of ours.
static FOREIGN: LazyLock<Arc<Value>> = LazyLock::new(|| {
    let foreign = wire::update::Value::Outbound(encode::outbound(&Outbound::Foreign));
    Arc::new(Value::new(foreign, Vec::new()))
});

/// Beyond these, values are made for each stream: a proxy that asks for every address there is fills no memory.
const MAX_SHARED: usize = 100_000;

#[cfg(test)]
mod cost;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::session::tests::world;

    fn caller(namespace: &str) -> Caller {
        Caller {
            namespace: namespace.to_owned(),
            service_account: "client".to_owned(),
            name: String::new(),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn values_are_made_once_for_everybody_they_are_for() {
        let world = world(1, &[1]);
        let value =
            |address: &str, namespace: &str| world.value(&Key::Outbound(address.parse().unwrap()), &caller(namespace));
        assert!(Arc::ptr_eq(&value("10.96.0.1:80", "shop"), &value("10.96.0.1:80", "other")));
        assert!(Arc::ptr_eq(&value("192.0.2.1:80", "shop"), &value("192.0.2.1:80", "other")));
        let machine = value("10.1.0.1:80", "shop");
        assert_eq!(machine.hash, value("[::ffff:10.1.0.1]:80", "shop").hash);
        assert_ne!(machine.hash, value("10.1.0.1:80", "other").hash, "an ExternalWorkload is its namespace's alone");
        assert_ne!(machine.hash, value("[::ffff:10.1.0.1]:80", "other").hash);
    }

    #[test]
    fn whatever_anybody_asks_for_the_places_are_for_what_there_is() {
        let world = world(1, &[1]);
        let value = |key: Key| world.value(&key, &caller("shop"));
        let outbound = |address: [u8; 4], port: u16| Key::Outbound((address, port).into());
        let endpoints = |name: String| Key::Endpoints(ServicePort::new("shop", &name, 80));
        let foreign = value(outbound([192, 0, 2, 1], 1));
        for n in 1..=60_000 {
            assert!(Arc::ptr_eq(&foreign, &value(outbound([192, 0, 2, 7], n))));
            value(outbound([10, 96, 0, 1], n.max(81)));
            value(endpoints(format!("a{n}")));
            value(outbound([10, 1, 0, 1], n));
        }
        let values = world.values.lock();
        assert_eq!((values.made.len(), values.of_ports), (MAX_SHARED / 2, MAX_SHARED / 2));
        drop(values);
        let web = endpoints("web".to_owned());
        assert!(Arc::ptr_eq(&value(web.clone()), &value(web)));
        assert_eq!(world.values.lock().made.len(), MAX_SHARED / 2 + 1);
    }
}
