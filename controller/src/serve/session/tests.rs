//! One stream, without sockets.

use std::sync::Arc;

use crd::model::{Metadata, Object, PortOfService, Service, TargetPort, Workload};
use resolve::{Facts, Mesh};

use super::*;

/// A Service `shop/web:80` at 10.96.0.1 with these endpoints.
pub(crate) fn facts(endpoints: &[u8]) -> Facts {
    let metadata = |name: &str| Metadata {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ..Metadata::default()
    };
    let service = Service {
        metadata: metadata("web"),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        selector: [("app".to_owned(), "web".to_owned())].into(),
        ports: vec![PortOfService {
            name: "http".to_owned(),
            port: 80,
            target: TargetPort::Number(8080),
            app_protocol: None,
        }],
        ..Service::default()
    };
    let workload = |last: &u8| Workload {
        metadata: metadata(&format!("web-{last}")),
        addresses: vec![IpAddr::from([10, 1, 0, *last])],
        service_account: Some("web".to_owned()),
        ready: true,
        ..Workload::default()
    };
    let workloads = endpoints.iter().map(|last| Arc::new(Object::Workload(workload(last))));
    Facts::new(workloads.chain([Arc::new(Object::Service(service))]))
}

pub(crate) fn mesh() -> Mesh {
    Mesh { trust_domain: "cluster.local".to_owned(), cluster: String::new(), cluster_networks: Vec::new() }
}

pub(crate) fn world(position: u64, endpoints: &[u8]) -> World {
    World::new(
        Arc::new(facts(endpoints)),
        Arc::new(mesh()),
        Some("anchors".into()),
        Progress::of("directory", position),
    )
}

/// Room for all.
pub(crate) const PLENTY: Room = Room { keys: usize::MAX, line: 0, is_spare: true };

pub(crate) fn web() -> Key {
    Key::Endpoints(ServicePort::new("shop", "web", 80))
}

fn session(mark: u64, held: Vec<wire::Held>) -> Session {
    let mark = Some(Progress::of("directory", mark).to_wire());
    let mut session = Session::open(wire::Hello { mark, held, ..wire::Hello::default() }, "shop", "client").unwrap();
    session.take_in(PLENTY);
    session
}

fn request(kind: wire::discover_request::Kind) -> wire::DiscoverRequest {
    wire::DiscoverRequest { kind: Some(kind) }
}

pub(crate) fn subscribe(session: &mut Session, key: &Key, world: &World) {
    let kind = wire::discover_request::Kind::Subscribe(wire::Subscribe { key: Some(wire_key(key)) });
    session.receive(request(kind), Some(world)).unwrap();
    for key in session.take_in(PLENTY) {
        session.look(&key, world);
    }
}

fn sent(session: &mut Session) -> Vec<(Key, Option<usize>)> {
    let updates = std::iter::from_fn(|| session.next_update().map(|push| push.update));
    let endpoints = |update: &wire::Update| match &update.value {
        Some(wire::update::Value::Endpoints(endpoints)) => Some(endpoints.endpoints.len()),
        _ => None,
    };
    updates.map(|update| (key(update.key.clone()).unwrap().unwrap(), endpoints(&update))).collect()
}

impl Session {
    /// All that a change of the world brings, in one go.
    pub(crate) fn observe(&mut self, world: &World) {
        for key in self.turn_to(world) {
            self.look(&key, world);
        }
    }
}

#[test]
fn a_key_is_answered_once_and_again_when_it_changes() {
    let mut session = session(0, Vec::new());
    let first = world(1, &[1, 2]);
    session.observe(&first);
    assert!(sent(&mut session).is_empty());
    subscribe(&mut session, &web(), &first);
    subscribe(&mut session, &web(), &first);
    assert_eq!(sent(&mut session), [(web(), Some(2))]);
    session.observe(&world(2, &[1, 2]));
    assert!(sent(&mut session).is_empty(), "the same value of newer facts");
    session.observe(&world(3, &[1, 2, 3]));
    session.observe(&world(4, &[1]));
    session.observe(&world(5, &[1, 4]));
    assert_eq!(sent(&mut session), [(web(), Some(2))], "only the latest");
    session.observe(&world(6, &[]));
    session.observe(&world(7, &[1, 4]));
    assert!(!session.has_update(), "back to what the proxy has");
}

#[test]
fn what_is_held_is_answered_only_if_it_differs() {
    let caller = Caller {
        namespace: "shop".into(),
        service_account: "client".into(),
        name: String::new(),
        addresses: Vec::new(),
    };
    let now = world(5, &[1]);
    let held = |key: &Key, hash: &[u8]| wire::Held { key: Some(wire_key(key)), hash: hash.to_vec().into() };
    let settings = now.value(&Key::Settings, &caller).hash;
    let mut session =
        session(5, vec![held(&Key::Settings, &settings), held(&Key::Bundle, b"old"), held(&web(), b"old")]);
    session.observe(&now);
    assert_eq!(session.subscriptions(), 3);
    assert_eq!(sent(&mut session).len(), 2);
}

#[test]
fn removals_go_first() {
    let mut session = session(0, Vec::new());
    let address = Key::Outbound("10.1.0.1:80".parse().unwrap());
    let first = world(1, &[1, 2]);
    session.observe(&first);
    for key in [&address, &web(), &Key::Bundle] {
        subscribe(&mut session, key, &first);
    }
    let keys: Vec<Key> = sent(&mut session).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [address.clone(), web(), Key::Bundle], "as asked for");
    let rotated = world(2, &[3]).with_bundle(Some("others".into()));
    session.observe(&rotated);
    let keys: Vec<Key> = sent(&mut session).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [web(), Key::Bundle, address]);
}

#[test]
fn a_replica_behind_the_mark_says_nothing() {
    let mut session = session(5, Vec::new());
    let old = world(4, &[1, 2]);
    session.observe(&old);
    subscribe(&mut session, &web(), &old);
    assert!(session.is_behind() && !session.has_update() && session.next_update().is_none());
    session.observe(&world(5, &[1]));
    assert!(!session.is_behind());
    let update = session.next_update().unwrap().update;
    assert_eq!(update.as_of.unwrap().positions["directory"], 5);
}

#[test]
fn nothing_before_the_first_facts() {
    let mut session = session(0, Vec::new());
    let kind = wire::discover_request::Kind::Subscribe(wire::Subscribe { key: Some(wire_key(&web())) });
    session.receive(request(kind), None).unwrap();
    session.take_in(PLENTY);
    assert!(!session.has_update());
    session.observe(&world(1, &[1]));
    assert_eq!(sent(&mut session), [(web(), Some(1))]);
}

#[test]
fn unsubscribed_keys_are_forgotten() {
    let mut session = session(0, Vec::new());
    let first = world(1, &[1]);
    session.observe(&first);
    subscribe(&mut session, &web(), &first);
    let kind = wire::discover_request::Kind::Unsubscribe(wire::Unsubscribe { key: Some(wire_key(&web())) });
    session.receive(request(kind), Some(&first)).unwrap();
    assert!(!session.has_update() && session.subscriptions() == 0);
}

#[test]
fn what_no_proxy_of_ours_sends_ends_the_stream() {
    let open = |hello| Session::open(hello, "shop", "client").map(|_| ()).unwrap_err();
    let wrong = wire::Hello { addresses: vec![vec![1, 2, 3].into()], ..wire::Hello::default() };
    assert!(matches!(open(wrong), ProtocolViolation::Malformed(_)));
    let key = |kind| Some(wire::Key { kind: Some(kind) });
    let long = wire::ServicePort { namespace: "n".repeat(300), name: String::new(), port: 1 };
    let held = |kind, hash: &[u8]| wire::Held { key: key(kind), hash: hash.to_vec().into() };
    let long = wire::Hello { held: vec![held(wire::key::Kind::Endpoints(long), b"")], ..wire::Hello::default() };
    assert!(matches!(open(long), ProtocolViolation::Malformed(_)));
    let hash = wire::Hello { held: vec![held(wire::key::Kind::Bundle(wire::Unit {}), &[0; 33])], ..Default::default() };
    assert!(matches!(open(hash), ProtocolViolation::Malformed(_)));

    let mut session = session(0, Vec::new());
    let again = request(wire::discover_request::Kind::Hello(wire::Hello::default()));
    assert_eq!(session.receive(again, None), Err(ProtocolViolation::SecondHello));
    let now = world(1, &[]);
    let outbound = |index: usize| {
        let [high, low] = u16::try_from(index).unwrap().to_be_bytes();
        Key::Outbound(SocketAddr::from(([10, 2, high, low], 80)))
    };
    for index in 0..MAX_SUBSCRIPTIONS {
        subscribe(&mut session, &outbound(index), &now);
    }
    let kind = wire::discover_request::Kind::Subscribe(wire::Subscribe { key: Some(wire_key(&Key::Bundle)) });
    assert_eq!(session.receive(request(kind), Some(&now)), Err(ProtocolViolation::TooManySubscriptions));
}

#[test]
fn a_rejection_is_heard_with_its_reason_cut_short() {
    let mut session = session(0, Vec::new());
    let reject = wire::Reject { key: Some(wire_key(&web())), reason: "x".repeat(1000), ..wire::Reject::default() };
    let reject = request(wire::discover_request::Kind::Reject(reject));
    assert_eq!(session.receive(reject.clone(), None), Ok(Heard::Nothing), "nobody asked for it");
    subscribe(&mut session, &web(), &world(1, &[1]));
    let heard = session.receive(reject, None).unwrap();
    assert_eq!(heard, Heard::Rejected { key: web(), reason: "x".repeat(MAX_REASON) });
}

#[test]
fn what_there_is_no_room_for_is_answered_once_there_is() {
    let mut session = session(0, Vec::new());
    let now = world(1, &[1]);
    session.observe(&now);
    let ask = |session: &mut Session, key: &Key| {
        let kind = wire::discover_request::Kind::Subscribe(wire::Subscribe { key: Some(wire_key(key)) });
        session.receive(request(kind), Some(&now)).unwrap();
    };
    let dialled = |port: u16| Key::Outbound(([10, 96, 0, 1], port).into());
    for key in [dialled(80), web(), dialled(81), dialled(82), Key::Inbound, Key::Bundle, Key::Settings] {
        ask(&mut session, &key);
    }
    let what_all_need = [Key::Inbound, Key::Bundle, Key::Settings];
    assert_eq!(sent(&mut session).into_iter().map(|(key, _)| key).collect::<Vec<_>>(), what_all_need);
    assert!(session.take_in(Room { keys: 0, line: 3, is_spare: false }).is_empty());
    assert_eq!((session.subscriptions(), session.in_line(), session.left_out()), (3, 3, true), "who came last goes");
    // Changes do not bring them in.
    session.observe(&world(2, &[2]));
    assert!(!session.has_update());
    session.remove(&dialled(80));
    let keys = session.take_in(Room { keys: 1, line: 3, is_spare: false });
    assert_eq!(keys, [web()], "in the order they came");
    session.look(&web(), &now);
    assert_eq!(sent(&mut session), [(web(), Some(1))]);
    assert_eq!((session.subscriptions(), session.in_line()), (4, 1));
    // One that was left out may be asked for again.
    ask(&mut session, &dialled(82));
    assert_eq!(session.take_in(PLENTY), [dialled(81), dialled(82)]);
}
