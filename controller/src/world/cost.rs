//! What one change costs in a large cluster, measured.

use std::collections::HashMap;
use std::net::IpAddr;

use crd::model::{
    EndpointSlice, EndpointState, Metadata, Node, Object, Origin, PortOfService, Service, SliceEndpoint, TargetPort,
    Workload, WorkloadPort,
};

use super::*;
use crate::hub::newer;
use crate::kubernetes::inventory::Inventory;
use crate::serve::session::Session;
use crate::serve::session::tests::{mesh, subscribe};

/// Services of twenty pods, and as many proxies that subscribe to ten of these each and to what is their own: a pod changes,
/// and those ten that know its Service are told. How long that takes is said, with `MESH_MEASURE=1` in the environment of
/// 20,000 pods and 1,000 proxies: `cargo test --release -p controller --lib cost -- --nocapture`.
#[test]
fn of_a_change() {
    let (now, all) = (Instant::now(), if std::env::var_os("MESH_MEASURE").is_some() { 1000 } else { 50 });
    let mut inventory = Inventory::new(now);
    inventory.register("everything");
    let objects = (0..NODES).map(node).chain((0..all).flat_map(served)).map(Arc::new);
    let objects: HashMap<_, _> =
        objects.map(|object| ((object.id().kind.to_owned(), object.id().name), object)).collect();
    inventory.listed("everything", objects, 1, now);
    let mut world = World::new(
        Arc::new(Facts::new(inventory.take_news().unwrap().objects)),
        Arc::new(mesh()),
        None,
        Progress::of("everything", 1),
    );
    let mut sessions: Vec<Session> = (0..all).map(|number| proxy(number, all, &world)).collect();
    for position in 2..7 {
        let mut pod = pod(0, 0);
        pod.metadata.labels.insert("version".to_owned(), position.to_string());
        let name = ("Pod".to_owned(), pod.metadata.name.clone());
        inventory.applied("everything", name, Some(Object::Workload(pod)), position, now);
        let start = Instant::now();
        let facts = Facts::new(inventory.take_news().unwrap().objects);
        let made = Instant::now();
        let next = newer(Some(&world), facts, &world.mesh, None, Progress::of("everything", position)).unwrap();
        let mut updates = 0;
        for session in &mut sessions {
            session.observe(&next);
            while session.next_update().is_some() {
                updates += 1;
            }
        }
        let told = Instant::now();
        let values = next.values.lock().places_taken;
        assert_eq!(updates, 10);
        world = next;
        println!(
            "facts {:?}; {values} values looked at by {all} proxies, {updates} updates: {:?}; the world before dropped {:?}",
            made - start,
            told - made,
            Instant::now() - told
        );
    }
}

fn proxy(number: usize, all: usize, world: &World) -> Session {
    let hello = wire::Hello { workload: format!("pod-{number}-0"), ..wire::Hello::default() };
    let mut session = Session::open(hello, &namespace(number), "web").unwrap();
    session.observe(world);
    for key in [Key::Bundle, Key::Settings, Key::Inbound] {
        subscribe(&mut session, &key, world);
    }
    for other in (0..10).map(|step| (number + step * 97) % all) {
        subscribe(&mut session, &Key::Outbound(SocketAddr::new(address(96, other), 80)), world);
        subscribe(&mut session, &Key::Endpoints(ServicePort::new(namespace(other), format!("web-{other}"), 80)), world);
    }
    while session.next_update().is_some() {}
    session
}

/// A Service, its slice and its pods.
fn served(service: usize) -> Vec<Object> {
    let port = WorkloadPort { name: "http".to_owned(), port: 8080 };
    let ports =
        vec![PortOfService { name: "http".to_owned(), port: 80, target: TargetPort::Number(8080), app_protocol: None }];
    let name = format!("web-{service}");
    let metadata = metadata(&namespace(service), &name);
    let pods: Vec<Workload> = (0..PODS).map(|number| pod(service, number)).collect();
    let endpoints = pods.iter().map(|pod| SliceEndpoint {
        address: pod.addresses[0],
        pod: Some(pod.metadata.name.clone()),
        zone: "a".to_owned(),
        node: pod.node.clone(),
        state: EndpointState::Ready,
        hints: None,
    });
    let slice =
        EndpointSlice { metadata: metadata.clone(), service: name, ports: vec![port], endpoints: endpoints.collect() };
    let service = Service { cluster_ips: vec![address(96, service)], ports, metadata, ..Service::default() };
    let mut objects: Vec<Object> = pods.into_iter().map(Object::Workload).collect();
    objects.extend([Object::Service(service), Object::EndpointSlice(slice)]);
    objects
}

fn pod(service: usize, number: usize) -> Workload {
    Workload {
        metadata: metadata(&namespace(service), &format!("pod-{service}-{number}")),
        origin: Origin::Pod,
        addresses: vec![address(128, service * PODS + number)],
        ports: vec![WorkloadPort { name: "http".to_owned(), port: 8080 }],
        service_account: Some("web".to_owned()),
        owner: format!("web-{service}"),
        node: format!("node-{}", (service + number) % NODES),
        ready: true,
        ..Workload::default()
    }
}

fn node(number: usize) -> Object {
    Object::Node(Node { metadata: metadata("", &format!("node-{number}")), zone: "a".to_owned() })
}

fn metadata(namespace: &str, name: &str) -> Metadata {
    let labels = [("app".to_owned(), name.to_owned()), ("tier".to_owned(), "back".to_owned())].into();
    Metadata { namespace: namespace.to_owned(), name: name.to_owned(), labels, ..Metadata::default() }
}

fn namespace(service: usize) -> String {
    format!("shop-{}", service % 100)
}

fn address(network: u8, number: usize) -> IpAddr {
    let [_, high, middle, low] = u32::try_from(number).unwrap().to_be_bytes();
    IpAddr::from([10, network + high, middle, low])
}

const NODES: usize = 200;
const PODS: usize = 20;
