//! Proxies, replicas and the wire between them, simulated: facts come late, twice, in any order or not at all, streams
//! break with messages on the way, replicas start anew or stay in the past. Whatever happens, no proxy goes back, and once
//! it all stops every proxy has what the facts say.
//!
//! The code under test is the real one: [`newer`] decides what a replica believes, [`Session`] what a stream says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crd::model::{Metadata, Object, PortOfService, Service, TargetPort, Workload};
use proptest::prelude::*;
use proto::discovery as wire;
use resolve::{Facts, Mesh};

use crate::hub::newer;
use crate::progress::Progress;
use crate::serve::session::Session;
use crate::serve::session::tests::PLENTY;
use crate::world::World;

/// Services and the number of versions of the facts after which each has another endpoint.
const SERVICES: [(&str, u64); 3] = [("quick", 1), ("slow", 4), ("still", u64::MAX)];
const REPLICAS: usize = 3;
const PROXIES: usize = 2;
const VERSIONS: u64 = 12;

#[derive(Debug, Clone)]
enum Step {
    /// A replica hears of a version of the facts, perhaps again, perhaps an old one.
    Facts { replica: usize, version: u64 },
    /// A replica forgets everything.
    Restart { replica: usize },
    /// A proxy opens a stream, leaving the one it has with all that is on the way.
    Connect { proxy: usize, replica: usize },
    /// A proxy subscribes or unsubscribes.
    Toggle { proxy: usize, service: usize },
    /// A replica sends, as much as it may.
    Send { proxy: usize, at_most: usize },
    /// A replica sends a heartbeat.
    Heartbeat { proxy: usize },
    /// A proxy reads.
    Read { proxy: usize, at_most: usize },
}

struct Replica {
    world: Option<Arc<World>>,
}

struct Stream {
    replica: usize,
    session: Session,
    floor: Progress,
    on_the_way: VecDeque<Message>,
}

enum Message {
    Update(Box<wire::Update>),
    Heartbeat(Progress),
}

#[derive(Default)]
struct Proxy {
    wants: Vec<usize>,
    held: BTreeMap<usize, (Vec<u8>, u64)>,
    mark: Progress,
    stream: Option<Stream>,
}

struct Simulation {
    mesh: Arc<Mesh>,
    replicas: Vec<Replica>,
    proxies: Vec<Proxy>,
}

/// Facts in which every Service has one endpoint, whose address says since which version.
fn facts(version: u64) -> Facts {
    let mut objects = Vec::new();
    for (name, every) in SERVICES {
        let metadata = Metadata {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            ..Metadata::default()
        };
        objects.push(Object::Service(Service {
            metadata: metadata.clone(),
            cluster_ips: Vec::new(),
            selector: metadata.labels.clone(),
            ports: vec![PortOfService {
                name: String::new(),
                port: 80,
                target: TargetPort::Number(80),
                app_protocol: None,
            }],
            ..Service::default()
        }));
        let since = u8::try_from(version / every).unwrap();
        objects.push(Object::Workload(Workload {
            metadata,
            addresses: vec![[10, 0, 0, since].into()],
            ready: true,
            ..Workload::default()
        }));
    }
    Facts::new(objects.into_iter().map(Arc::new))
}

fn key(service: usize) -> wire::Key {
    let id = wire::ServicePort { namespace: "shop".to_owned(), name: SERVICES[service].0.to_owned(), port: 80 };
    wire::Key { kind: Some(wire::key::Kind::Endpoints(id)) }
}

impl Simulation {
    fn new() -> Self {
        let mesh = Mesh { trust_domain: "t".to_owned(), cluster: String::new(), cluster_networks: Vec::new() };
        Self {
            mesh: Arc::new(mesh),
            replicas: (0..REPLICAS).map(|_| Replica { world: None }).collect(),
            proxies: (0..PROXIES).map(|_| Proxy { wants: vec![0, 1], ..Proxy::default() }).collect(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Facts { replica, version } => self.hear(replica, version),
            Step::Restart { replica } => {
                self.replicas[replica].world = None;
                let lost = |stream: &Stream| stream.replica == replica;
                self.proxies.iter_mut().filter(|proxy| proxy.stream.as_ref().is_some_and(lost)).for_each(|proxy| {
                    proxy.stream = None;
                });
            }
            Step::Connect { proxy, replica } => self.proxies[proxy].connect(replica, &self.replicas[replica]),
            Step::Toggle { proxy, service } => {
                let proxy = &mut self.proxies[proxy];
                let world = proxy.stream.as_ref().and_then(|stream| self.replicas[stream.replica].world.clone());
                proxy.toggle(service, world.as_deref());
            }
            Step::Send { proxy, at_most } => self.proxies[proxy].be_sent(at_most),
            Step::Heartbeat { proxy } => {
                if let Some(stream) = &mut self.proxies[proxy].stream
                    && let Some(world) = &self.replicas[stream.replica].world
                {
                    stream.on_the_way.push_back(Message::Heartbeat(world.progress().clone()));
                }
            }
            Step::Read { proxy, at_most } => self.proxies[proxy].read(at_most),
        }
    }

    fn hear(&mut self, replica: usize, version: u64) {
        let current = self.replicas[replica].world.clone();
        let progress = Progress::of("directory", version);
        let Some(world) = newer(current.as_deref(), facts(version), &self.mesh, None, progress) else { return };
        for stream in self.proxies.iter_mut().filter_map(|proxy| proxy.stream.as_mut()) {
            if stream.replica == replica {
                stream.session.observe(&world);
            }
        }
        self.replicas[replica].world = Some(Arc::new(world));
    }

    /// Everything is mended, and every proxy reads on.
    fn calm_down(&mut self) {
        for replica in 0..REPLICAS {
            self.hear(replica, VERSIONS);
        }
        for (number, proxy) in self.proxies.iter_mut().enumerate() {
            if proxy.stream.is_none() {
                proxy.connect(number % REPLICAS, &self.replicas[number % REPLICAS]);
            }
            proxy.be_sent(usize::MAX);
            proxy.read(usize::MAX);
        }
    }
}

impl Proxy {
    fn connect(&mut self, number: usize, replica: &Replica) {
        let known = self.held.iter().map(|(service, (hash, _))| (*service, hash.clone()));
        let held = known.map(|(service, hash)| wire::Held { key: Some(key(service)), hash: hash.into() });
        let hello = wire::Hello { mark: Some(self.mark.to_wire()), held: held.collect(), ..wire::Hello::default() };
        let mut session = Session::open(hello, "shop", "client").unwrap();
        session.take_in(PLENTY);
        if let Some(world) = &replica.world {
            session.observe(world);
        }
        let mut stream = Stream { replica: number, session, floor: self.mark.clone(), on_the_way: VecDeque::new() };
        for service in self.wants.iter().filter(|service| !self.held.contains_key(service)) {
            stream.tell(subscribe(*service), replica.world.as_deref());
        }
        self.stream = Some(stream);
    }

    fn toggle(&mut self, service: usize, world: Option<&World>) {
        let request = if let Some(at) = self.wants.iter().position(|other| *other == service) {
            self.wants.remove(at);
            self.held.remove(&service);
            let unsubscribe = wire::Unsubscribe { key: Some(key(service)) };
            wire::discover_request::Kind::Unsubscribe(unsubscribe)
        } else {
            self.wants.push(service);
            subscribe(service)
        };
        if let Some(stream) = &mut self.stream {
            stream.tell(request, world);
        }
    }

    fn be_sent(&mut self, at_most: usize) {
        let Some(stream) = &mut self.stream else { return };
        let updates = std::iter::from_fn(|| stream.session.next_update().map(|push| push.update)).take(at_most);
        stream.on_the_way.extend(updates.map(|update| Message::Update(Box::new(update))));
    }

    fn read(&mut self, at_most: usize) {
        for _ in 0..at_most {
            let Some(stream) = &mut self.stream else { return };
            let Some(message) = stream.on_the_way.pop_front() else { return };
            match message {
                Message::Heartbeat(as_of) => self.mark.advance(&as_of),
                Message::Update(update) => {
                    let as_of = Progress::from_wire(update.as_of.clone());
                    assert!(!as_of.is_behind(&stream.floor), "an answer from before the proxy's mark");
                    self.mark.advance(&as_of);
                    self.apply(&update);
                }
            }
        }
    }

    fn apply(&mut self, update: &wire::Update) {
        let service = (0..SERVICES.len()).find(|service| update.key.as_ref() == Some(&key(*service))).unwrap();
        let Some(wire::update::Value::Endpoints(endpoints)) = &update.value else { panic!("{update:?}") };
        let since = u64::from(*endpoints.endpoints[0].address.as_ref().unwrap().ip.last().unwrap());
        let (_, every) = SERVICES[service];
        let as_of = update.as_of.as_ref().unwrap().positions["directory"];
        assert_eq!(since, as_of / every, "the value is that of the progress it comes with");
        // Unsubscribed with the update on its way.
        if !self.wants.contains(&service) {
            return;
        }
        if let Some((_, before)) = self.held.get(&service) {
            assert!(since >= *before, "{} went back from {before} to {since}", SERVICES[service].0);
        }
        self.held.insert(service, (update.hash.to_vec(), since));
    }
}

impl Stream {
    fn tell(&mut self, kind: wire::discover_request::Kind, world: Option<&World>) {
        self.session.receive(wire::DiscoverRequest { kind: Some(kind) }, world).unwrap();
        for key in self.session.take_in(PLENTY) {
            world.into_iter().for_each(|world| self.session.look(&key, world));
        }
    }
}

fn subscribe(service: usize) -> wire::discover_request::Kind {
    wire::discover_request::Kind::Subscribe(wire::Subscribe { key: Some(key(service)) })
}

fn step() -> impl Strategy<Value = Step> {
    let (replica, proxy, service) = (0..REPLICAS, 0..PROXIES, 0..SERVICES.len());
    prop_oneof![
        6 => (replica.clone(), 1..=VERSIONS).prop_map(|(replica, version)| Step::Facts { replica, version }),
        1 => replica.clone().prop_map(|replica| Step::Restart { replica }),
        3 => (proxy.clone(), replica).prop_map(|(proxy, replica)| Step::Connect { proxy, replica }),
        2 => (proxy.clone(), service).prop_map(|(proxy, service)| Step::Toggle { proxy, service }),
        5 => (proxy.clone(), 0..4_usize).prop_map(|(proxy, at_most)| Step::Send { proxy, at_most }),
        1 => proxy.clone().prop_map(|proxy| Step::Heartbeat { proxy }),
        5 => (proxy, 0..4_usize).prop_map(|(proxy, at_most)| Step::Read { proxy, at_most }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_proxy_converges_and_none_goes_back(steps in proptest::collection::vec(step(), 0..80)) {
        let mut simulation = Simulation::new();
        for step in &steps {
            simulation.step(step);
        }
        simulation.calm_down();
        for proxy in &simulation.proxies {
            let mut wants = proxy.wants.clone();
            wants.sort_unstable();
            let has: Vec<_> = proxy.held.iter().map(|(service, (_, since))| (*service, *since)).collect();
            let should: Vec<_> = wants.iter().map(|service| (*service, VERSIONS / SERVICES[*service].1)).collect();
            prop_assert_eq!(has, should);
        }
    }
}

#[test]
fn a_replica_frozen_in_the_past_brings_no_endpoint_back() {
    let mut simulation = Simulation::new();
    for replica in [0, 1] {
        simulation.hear(replica, 1);
    }
    simulation.hear(0, 2);
    let all = usize::MAX;
    let read = |simulation: &mut Simulation| {
        simulation.step(&Step::Send { proxy: 0, at_most: all });
        simulation.step(&Step::Read { proxy: 0, at_most: all });
        simulation.proxies[0].held.get(&0).map(|(_, since)| *since)
    };
    simulation.step(&Step::Connect { proxy: 0, replica: 0 });
    assert_eq!(read(&mut simulation), Some(2));
    // The frozen one answers nothing, not even new keys.
    simulation.step(&Step::Connect { proxy: 0, replica: 1 });
    simulation.step(&Step::Toggle { proxy: 0, service: 2 });
    assert_eq!(read(&mut simulation), Some(2));
    assert!(!simulation.proxies[0].held.contains_key(&2));
    simulation.hear(1, 2);
    assert_eq!(read(&mut simulation), Some(2));
    assert!(simulation.proxies[0].held.contains_key(&2));
}
