//! The stream against controllers that behave as real ones may.

use std::sync::Arc;

use policy::Outbound;
use proto::discovery as wire;
use tokio::task::JoinHandle;

use super::*;
use crate::control::Known;
use crate::control::fake::{CONTROLLER, FakeController, FakeStream, WORKLOAD, World, progress};
use crate::control::key::Key;

struct Proxy {
    discovery: Discovery,
    state: ControlState,
    task: JoinHandle<()>,
}

impl Proxy {
    fn start(world: &World, controllers: &[&FakeController]) -> Self {
        let addresses: Vec<_> = controllers.iter().map(|controller| controller.address).collect();
        let (discovery, state) = (Discovery::default(), ControlState::new(WORKLOAD));
        let client = StreamClient {
            discovery: discovery.clone(),
            state: state.clone(),
            dialer: world.dialer(&world.tls(WORKLOAD), &addresses, CONTROLLER),
            introduction: Introduction {
                workload: "web-1".to_owned(),
                namespace: "shop".to_owned(),
                addresses: vec![],
            },
            silence: Duration::from_millis(300),
        };
        Self { discovery, state, task: tokio::spawn(client.run()) }
    }

    /// Until the state says so.
    async fn until(&self, what: impl Fn(&proto::admin::DiscoveryStatus) -> bool) {
        let watching = async {
            while !what(&self.state.discovery(&self.discovery)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let status = || self.state.discovery(&self.discovery);
        timeout(Duration::from_secs(10), watching).await.unwrap_or_else(|_| panic!("{:?}", status()));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn address() -> SocketAddr {
    "10.96.0.7:80".parse().unwrap()
}

fn update(position: u64, value: wire::update::Value) -> Response {
    Response::Update(Update {
        key: Some(Key::Outbound(address()).to_wire()),
        hash: vec![u8::try_from(position).unwrap(); 16].into(),
        as_of: Some(progress(position)),
        value: Some(value),
    })
}

fn foreign() -> wire::update::Value {
    wire::update::Value::Outbound(wire::Outbound { target: Some(wire::outbound::Target::Foreign(wire::Unit {})) })
}

fn absent() -> wire::update::Value {
    wire::update::Value::Absent(wire::Unit {})
}

async fn hello(stream: &mut FakeStream) -> Hello {
    match stream.asked().await {
        Some(Request::Hello(hello)) => hello,
        other => panic!("{other:?} instead of hello"),
    }
}

/// Reads on to the next acknowledgement or rejection.
async fn verdict(stream: &mut FakeStream) -> Request {
    loop {
        match stream.asked().await.expect("the stream is up") {
            verdict @ (Request::Acknowledge(_) | Request::Reject(_)) => return verdict,
            Request::Hello(_) | Request::Subscribe(_) | Request::Unsubscribe(_) => {}
        }
    }
}

#[tokio::test]
async fn what_is_asked_for_arrives_is_acknowledged_and_resumed() {
    let world = World::new();
    let mut controller = world.controller(CONTROLLER).await;
    let proxy = Proxy::start(&world, &[&controller]);
    let watch = proxy.discovery.outbound(address());
    let mut stream = controller.stream().await;
    let first = hello(&mut stream).await;
    assert_eq!((first.workload.as_str(), first.held.len()), ("web-1", 0));
    stream.heartbeat(4, 0).await;
    stream.say(update(5, foreign())).await;
    assert_eq!(*watch.first().await.unwrap().unwrap(), Outbound::Foreign);
    assert!(matches!(verdict(&mut stream).await, Request::Acknowledge(_)));
    proxy.until(|status| status.connected && status.as_of.get("services") == Some(&4)).await;
    drop(stream);

    let mut stream = controller.stream().await;
    let second = hello(&mut stream).await;
    assert_eq!(second.mark, Some(progress(5)));
    assert_eq!(second.held.len(), 1);
    assert_eq!(second.held[0].hash, vec![5; 16]);
    proxy.until(|status| status.streams == 2).await;
}

#[tokio::test]
async fn what_cannot_be_used_is_rejected_and_what_was_in_force_stays() {
    let world = World::new();
    let mut controller = world.controller(CONTROLLER).await;
    let proxy = Proxy::start(&world, &[&controller]);
    let watch = proxy.discovery.outbound(address());
    let mut stream = controller.stream().await;
    stream.say(update(1, foreign())).await;
    assert!(matches!(verdict(&mut stream).await, Request::Acknowledge(_)));
    stream.say(update(2, wire::update::Value::Outbound(wire::Outbound { target: None }))).await;
    let Request::Reject(reject) = verdict(&mut stream).await else { panic!() };
    assert!(reject.reason.contains("does not know"), "{}", reject.reason);
    assert_eq!(watch.current(), Known::Value(Arc::new(Outbound::Foreign)));
    proxy.until(|status| status.subscriptions.iter().any(|row| row.rejected.is_some())).await;
}

#[tokio::test]
async fn a_replica_frozen_in_the_past_brings_nothing_back_and_is_left() {
    let world = World::new();
    let (mut live, mut frozen) = (world.controller(CONTROLLER).await, world.controller(CONTROLLER).await);
    let proxy = Proxy::start(&world, &[&live]);
    let watch = proxy.discovery.outbound(address());
    let mut stream = live.stream().await;
    stream.say(update(9, absent())).await;
    assert!(matches!(verdict(&mut stream).await, Request::Acknowledge(_)));

    // The same picture, with both replicas to choose from and only the frozen one answering at first.
    let (held, mark, _) = proxy.discovery.store().begin();
    drop((held, mark, stream));
    proxy.task.abort();
    let client = StreamClient {
        discovery: proxy.discovery.clone(),
        state: proxy.state.clone(),
        dialer: {
            let mut dialer = world.dialer(&world.tls(WORKLOAD), &[live.address, frozen.address], CONTROLLER);
            dialer.others_first(live.address, Duration::from_millis(600));
            dialer
        },
        introduction: Introduction { workload: "web-1".to_owned(), namespace: "shop".to_owned(), addresses: vec![] },
        silence: Duration::from_millis(300),
    };
    let task = tokio::spawn(client.run());
    let mut stream = frozen.stream().await;
    assert_eq!(hello(&mut stream).await.mark, Some(progress(9)));
    let age_before = proxy.state.discovery(&proxy.discovery).age_ms;
    stream.say(update(3, foreign())).await;
    while live.is_alone() {
        stream.heartbeat(3, 0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(watch.current(), Known::Absent, "an endpoint must not come back");
    assert!(proxy.state.discovery(&proxy.discovery).age_ms > age_before, "the past does not make the picture young");
    let mut stream = live.stream().await;
    assert_eq!(hello(&mut stream).await.mark, Some(progress(9)));
    stream.heartbeat(10, 0).await;
    proxy.until(|status| status.as_of.get("services") == Some(&10)).await;
    task.abort();
}

#[tokio::test]
async fn silence_is_noticed_and_another_replica_taken() {
    let world = World::new();
    let (mut one, mut two) = (world.controller(CONTROLLER).await, world.controller(CONTROLLER).await);
    let proxy = Proxy::start(&world, &[&one, &two]);
    let (silent, first_was_one) = tokio::select! {
        stream = one.stream() => (stream, true),
        stream = two.stream() => (stream, false),
    };
    silent.heartbeat(1, 0).await;
    let stream = if first_was_one { two.stream().await } else { one.stream().await };
    stream.heartbeat(1, 0).await;
    proxy.until(|status| status.streams == 2 && status.connected).await;
}

#[tokio::test]
async fn stale_sources_are_a_reason_to_look_for_another_replica() {
    let world = World::new();
    let (mut one, mut two) = (world.controller(CONTROLLER).await, world.controller(CONTROLLER).await);
    let proxy = Proxy::start(&world, &[&one, &two]);
    let (stale, first_was_one) = tokio::select! {
        stream = one.stream() => (stream, true),
        stream = two.stream() => (stream, false),
    };
    stale.heartbeat(1, 40_000).await;
    let stream = if first_was_one { two.stream().await } else { one.stream().await };
    stream.heartbeat(1, 40_000).await;
    proxy.until(|status| status.streams == 2 && status.as_of.contains_key("services")).await;
    // Both are as bad: stays where it is.
    stream.heartbeat(2, 40_000).await;
    proxy.until(|status| status.as_of.get("services") == Some(&2)).await;
    assert!(proxy.state.discovery(&proxy.discovery).connected);
}

#[tokio::test]
async fn goodbye_is_respected() {
    let world = World::new();
    let mut controller = world.controller(CONTROLLER).await;
    let proxy = Proxy::start(&world, &[&controller]);
    let stream = controller.stream().await;
    let said = Instant::now();
    stream.say(Response::Goodbye(Goodbye { reason: "too many streams".to_owned(), retry_after_ms: 700 })).await;
    proxy.until(|status| status.last_error.as_ref().is_some_and(|error| error.contains("too many streams"))).await;
    controller.stream().await;
    assert!(Instant::now().duration_since(said) >= Duration::from_millis(700));
}

#[tokio::test]
async fn a_controller_that_is_somebody_else_learns_nothing() {
    let world = World::new();
    let impostor = world.controller("spiffe://cluster.local/ns/shop/sa/cart").await;
    let proxy = Proxy::start(&world, &[&impostor]);
    proxy.until(|status| status.last_error.as_ref().is_some_and(|error| error.contains("wrong_id"))).await;
    assert!(impostor.is_alone());
}
