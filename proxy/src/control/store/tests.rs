//! Subscriptions come, are filled, are refused, and go.

use super::*;
use crate::control::{Discovery, FIRST_VALUE};
use proto::Reason;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, last], 80))
}

fn progress(position: u64) -> Progress {
    Progress { positions: [("services".to_owned(), position)].into() }
}

fn foreign(last: u8, position: u64) -> wire::Update {
    let target = Some(wire::outbound::Target::Foreign(wire::Unit {}));
    wire::Update {
        key: Some(Key::Outbound(address(last)).to_wire()),
        hash: vec![last; 16].into(),
        as_of: Some(progress(position)),
        value: Some(wire::update::Value::Outbound(wire::Outbound { target })),
    }
}

#[tokio::test(start_paused = true)]
async fn first_use_subscribes_and_later_uses_read() {
    let discovery = Discovery::new(10);
    discovery.store().begin();
    let watch = discovery.outbound(address(1));
    let _again = discovery.outbound(address(1));
    assert_eq!(discovery.store().take_changes(), [Change::Subscribe(Key::Outbound(address(1)))]);
    let waiting = tokio::spawn({
        let watch = watch.clone();
        async move { watch.first().await }
    });
    tokio::task::yield_now().await;
    let verdict = discovery.store().apply(foreign(1, 5), &Progress::default());
    assert_eq!(verdict, Verdict::Accepted(Key::Outbound(address(1))));
    assert_eq!(*waiting.await.unwrap().unwrap().unwrap(), Outbound::Foreign);
    assert_eq!(watch.current(), Known::Value(Arc::new(Outbound::Foreign)));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_after_three_seconds_with_its_reason() {
    let discovery = Discovery::new(10);
    let began = Instant::now();
    assert_eq!(discovery.outbound(address(1)).first().await, Err(Reason::DiscoveryUnavailable));
    assert_eq!(Instant::now().duration_since(began), FIRST_VALUE);
}

#[tokio::test(start_paused = true)]
async fn the_past_and_the_unusable_change_nothing() {
    let discovery = Discovery::new(10);
    let watch = discovery.outbound(address(1));
    let store = discovery.store();
    store.apply(foreign(1, 5), &Progress::default());
    let absent = wire::Update { value: Some(wire::update::Value::Absent(wire::Unit {})), ..foreign(1, 4) };
    let behind = Verdict::Behind(Key::Outbound(address(1)), "services".to_owned());
    assert_eq!(store.apply(absent.clone(), &progress(5)), behind);
    let unusable = wire::Update { value: None, ..foreign(1, 6) };
    assert!(matches!(store.apply(unusable, &progress(5)), Verdict::Rejected(..)));
    assert_eq!(watch.current(), Known::Value(Arc::new(Outbound::Foreign)));
    assert!(store.list().iter().any(|row| row.rejected.is_some() && row.version == "01".repeat(16)));
    assert_eq!(store.begin().1, progress(5));
    store.apply(wire::Update { as_of: Some(progress(6)), ..absent }, &progress(5));
    assert_eq!(watch.current(), Known::Absent);
    assert!(store.list().iter().all(|row| row.rejected.is_none()));
    assert_eq!(store.apply(foreign(9, 9), &Progress::default()), Verdict::Unwanted);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_goes_after_its_idle_time() {
    let discovery = Discovery::new(10);
    let store = discovery.store();
    let kept = discovery.outbound(address(1));
    drop(discovery.outbound(address(2)));
    store.begin();
    let start = Instant::now();
    store.sweep(start);
    store.sweep(start + SWEEP);
    store.sweep(start + IDLE);
    assert_eq!(store.take_changes(), [], "idle since the second sweep");
    store.sweep(start + SWEEP + IDLE);
    assert_eq!(store.take_changes(), [Change::Unsubscribe(Key::Outbound(address(2)))]);
    assert_eq!(store.list().len(), 4, "inbound, bundle, settings and the one in use");
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn a_full_table_gives_up_the_unused_and_refuses_otherwise() {
    let discovery = Discovery::new(5);
    discovery.store().begin();
    let first = discovery.outbound(address(1));
    drop(discovery.outbound(address(2)));
    let third = discovery.outbound(address(3));
    let changes = discovery.store().take_changes();
    assert!(changes.contains(&Change::Unsubscribe(Key::Outbound(address(2)))), "{changes:?}");
    assert_eq!(discovery.outbound(address(4)).first().await, Err(Reason::Overloaded));
    drop((first, third));
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_says_what_is_held_and_asks_for_the_rest() {
    let discovery = Discovery::new(10);
    let _watches = (discovery.outbound(address(1)), discovery.outbound(address(2)));
    discovery.store().apply(foreign(1, 5), &Progress::default());
    let (held, mark, wanted) = discovery.store().begin();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].hash, vec![1; 16]);
    assert_eq!(mark, progress(5));
    assert_eq!(wanted, [Key::Inbound, Key::Bundle, Key::Settings, Key::Outbound(address(2))]);
    assert_eq!(discovery.store().take_changes(), []);
}

#[tokio::test(start_paused = true)]
async fn changes_are_kept_only_for_a_stream() {
    let discovery = Discovery::new(5);
    let store = discovery.store();
    let churn = || (1..=100).for_each(|port| drop(discovery.outbound(address(port))));
    churn();
    assert_eq!(store.take_changes(), [], "nobody to tell");
    assert_eq!(store.begin().2.len(), 5, "all of it is in the first words");
    churn();
    assert!(store.take_changes().len() > 100);
    churn();
    store.end();
    assert_eq!(store.take_changes(), []);
}
