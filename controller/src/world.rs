//! [`World`]: the facts of one moment with how far they had come, and the values made of them so far.
//!
//! A value is made once per key, [`Audience`] (nearly always everybody) and world, encoded and hashed, and shared by every
//! stream that subscribes to it. A world never changes; a change of facts is a new world.
//!
//! What is shared is what the facts have so many of: anybody may ask for any address and any name, and whatever is foreign
//! or absent is one value for all. So is whatever differs by the port alone: a workload's addresses are as many as there
//! are ports, its values as many as there are [kinds](PortKind) of them, and the port is written in where one is told.
//!
//! Two positions belong to facts: where they last changed ([`World::progress`], which proxies are told and remember), and
//! how far they are known to hold ([`World::is_behind`]), which grows while nothing changes. Comparing what one replica
//! knows with where another's facts last changed keeps a quiet replica from looking as if it were behind.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use policy::{Outbound, ServicePort};
use prost::Message;
use proto::discovery as wire;
use resolve::{Audience, Caller, Dialled, Direct, Facts, Mesh, PortKind};
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

/// SHA-256 of a value's encoding, the first 16 bytes: tells versions of one key apart, and no more.
pub type Hash = [u8; 16];

/// One value, encoded.
#[derive(Debug)]
pub struct Value {
    /// What tells versions apart.
    pub hash: Hash,
    /// The value as it goes over the wire, but for the port where it is that of a workload that was dialled.
    wire: wire::update::Value,
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
    /// By whom they are for first: a look makes no key of its own.
    made: HashMap<Audience, HashMap<Key, Arc<Value>>>,
    /// How many these are.
    places_taken: usize,
    workloads: HashMap<(IpAddr, Audience), Arc<DirectValues>>,
}

/// A workload that is dialled by its own address, and the values made of it.
#[derive(Debug)]
struct DirectValues {
    direct: Direct,
    made: Mutex<HashMap<PortKind, Arc<Value>>>,
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
        let audience = self.audience(key, caller);
        if let Key::Outbound(address) = key {
            let address = canonical(*address);
            if let Dialled::Workload(workload) = resolve::dialled(&self.facts, address, &audience) {
                let make = || Direct::of(&self.facts, &self.mesh, address.ip(), workload);
                return self.workload(address.ip(), audience, make).value(address.port());
            }
        }
        if let Some(value) = self.values.lock().made.get(&audience).and_then(|made| made.get(key)) {
            return value.clone();
        }
        // Made outside the lock: two streams may make the same value at once, and one of them is dropped.
        let (is_shared, value) = self.make(key, &audience);
        let values = &mut *self.values.lock();
        if !is_shared || values.places_taken >= MAX_SHARED {
            return value;
        }
        let place = values.made.entry(audience).or_default().entry(key.clone());
        place
            .or_insert_with(|| {
                values.places_taken += 1;
                value
            })
            .clone()
    }

    fn workload(&self, address: IpAddr, audience: Audience, make: impl FnOnce() -> Direct) -> Arc<DirectValues> {
        let shared = (address, audience);
        if let Some(workload) = self.values.lock().workloads.get(&shared) {
            return workload.clone();
        }
        let made = Arc::new(DirectValues { direct: make(), made: Mutex::default() });
        let mut values = self.values.lock();
        if values.workloads.len() >= MAX_SHARED {
            return values.workloads.get(&shared).cloned().unwrap_or(made);
        }
        values.workloads.entry(shared).or_insert(made).clone()
    }

    fn audience(&self, key: &Key, caller: &Caller) -> Audience {
        match key {
            Key::Bundle | Key::Settings => Audience::Everybody,
            Key::Endpoints(id) => Audience::of_endpoints(&self.facts, id, caller),
            Key::Inbound => Audience::Workload(caller.clone()),
            Key::Outbound(address) => Audience::of_outbound(&self.facts, canonical(*address), caller),
        }
    }

    /// A value, and whether there are only so many of its sort that they are worth a place.
    fn make(&self, key: &Key, audience: &Audience) -> (bool, Arc<Value>) {
        use wire::update::Value as Wire;
        let mut addresses = Vec::new();
        let wire = match key {
            Key::Bundle => self.bundle.as_ref().map(|pem| Wire::Bundle(wire::Bundle { pem: pem.to_string() })),
            Key::Settings => Some(Wire::Settings(encode::settings(&self.mesh))),
            Key::Inbound => match audience {
                Audience::Workload(caller) => {
                    resolve::inbound(&self.facts, &self.mesh, caller).map(|it| Wire::Inbound(encode::inbound(&it)))
                }
                Audience::Everybody | Audience::Namespace(_) | Audience::Node(_) | Audience::Zone(_) => None,
            },
            Key::Outbound(address) => {
                let outbound = resolve::outbound(&self.facts, &self.mesh, canonical(*address), audience);
                if outbound == Some(Outbound::Foreign) {
                    return (false, FOREIGN.clone());
                }
                outbound.map(|it| Wire::Outbound(encode::outbound(&it)))
            }
            Key::Endpoints(id) => resolve::endpoints(&self.facts, &self.mesh, id, audience).map(|it| {
                addresses = it.list.iter().map(|endpoint| endpoint.address).collect();
                Wire::Endpoints(encode::endpoints(&it))
            }),
        };
        match wire {
            // A proxy's own is asked for by nobody else.
            Some(wire) => (*key != Key::Inbound, Arc::new(Value::new(wire, addresses))),
            None => (false, ABSENT.clone()),
        }
    }
}

impl DirectValues {
    fn value(&self, port: u16) -> Arc<Value> {
        let kind = self.direct.kind(port);
        let make = || {
            let outbound = Outbound::Workload(self.direct.endpoint(kind));
            Arc::new(Value::new(wire::update::Value::Outbound(encode::outbound(&outbound)), Vec::new()))
        };
        self.made.lock().entry(kind).or_insert_with(make).clone()
    }
}

impl Value {
    fn new(wire: wire::update::Value, addresses: Vec<SocketAddr>) -> Self {
        let alone = wire::Update { value: Some(wire), ..wire::Update::default() };
        let hash = hash(&alone);
        Self { hash, wire: alone.value.expect("it was put there"), addresses }
    }

    /// As it goes over the wire in answer to a key.
    pub fn message(&self, key: &Key) -> wire::update::Value {
        let mut message = self.wire.clone();
        if let wire::update::Value::Outbound(outbound) = &mut message
            && let Some(wire::outbound::Target::Workload(endpoint)) = &mut outbound.target
            && let Key::Outbound(address) = key
        {
            endpoint.address = Some(encode::socket_address(canonical(*address)));
        }
        message
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

/// The hash of a value is that of an update with nothing but the value in it.
fn hash(alone: &wire::Update) -> Hash {
    let encoded = alone.encode_to_vec();
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

/// Of workloads and of other values. Beyond these, they are made for each stream: a proxy that asks for everything there is
/// fills no memory.
const MAX_SHARED: usize = 100_000;

#[cfg(test)]
mod cost;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::session::Session;
    use crate::serve::session::tests::{mesh, subscribe, world};

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
        for n in 1..=10_000 {
            assert!(Arc::ptr_eq(&foreign, &value(outbound([192, 0, 2, 7], n))));
            value(outbound([10, 96, 0, 1], n.max(81)));
            value(endpoints(format!("a{n}")));
        }
        assert!(world.values.lock().made.is_empty());
        let web = endpoints("web".to_owned());
        assert!(Arc::ptr_eq(&value(web.clone()), &value(web)));
        let values = world.values.lock();
        assert_eq!((values.made[&Audience::Everybody].len(), values.places_taken), (1, 1));
    }

    /// As many streams as an address may have, with as many keys: half of all the ports of one pod.
    #[test]
    fn a_greedy_address_costs_as_many_values_as_a_pod_has_kinds_of_ports() {
        let pod = serde_json::json!({
            "metadata": {
                "name": "victim",
                "namespace": "shop",
                "annotations": {"meshctl.io/opaque-ports": "3306,9000-9999"},
            },
            "spec": {
                "initContainers": [
                    {"name": "mesh-init", "image": "i", "args": ["init", "--skip-inbound-ports=5000-5999,9500-9600"]},
                    {"name": "mesh-proxy", "image": "i", "restartPolicy": "Always"},
                ],
                "containers": [{"name": "app", "image": "i", "ports": [
                    {"name": "http", "containerPort": 8080},
                    {"name": "grpc", "containerPort": 5001},
                ]}],
            },
            "status": {"podIP": "10.1.0.1"},
        });
        let pod = crd::pod::pod(&serde_json::from_value(pod).unwrap()).unwrap();
        let facts = Facts::new([Arc::new(crd::Object::Workload(pod))]);
        let world = World::new(Arc::new(facts), Arc::new(mesh()), None, Progress::of("directory", 1));
        let mut values = std::collections::BTreeSet::new();
        for stream in 0..512_u16 {
            let mut session = Session::open(wire::Hello::default(), "evil", "evil").unwrap();
            session.observe(&world);
            for port in 1 + stream * 64..=(stream + 1) * 64 {
                let key = Key::Outbound(([10, 1, 0, 1], port).into());
                subscribe(&mut session, &key, &world);
                values.insert(Arc::as_ptr(&world.value(&key, &caller("evil"))));
                let Some(wire::update::Value::Outbound(outbound)) = session.next_update().unwrap().update.value else {
                    panic!("{port}");
                };
                let Some(wire::outbound::Target::Workload(endpoint)) = outbound.target else { panic!("{port}") };
                let protocol = match port {
                    3306 | 9000..=9999 => wire::Protocol::Tcp,
                    8080 => wire::Protocol::Http1,
                    5001 => wire::Protocol::Grpc,
                    _ => wire::Protocol::Undeclared,
                };
                assert_eq!(endpoint.address, Some(encode::socket_address(([10, 1, 0, 1], port).into())));
                assert_eq!(endpoint.protocol(), protocol, "{port}");
                // 15020: the proxy itself.
                let is_skipped = matches!(port, 5000..=5999 | 9500..=9600 | 15020);
                assert_eq!(endpoint.identity.is_empty(), is_skipped, "{port}");
            }
        }
        assert_eq!(values.len(), 6, "as bytes, as HTTP/1 and undeclared; as bytes, as gRPC and undeclared in plain");
        let values = world.values.lock();
        assert_eq!((values.made.len(), values.workloads.len()), (0, 1));
    }
}
