//! Those who want more than their share, and the others.

use super::*;

/// As in a cluster, where each pod has an address; the rate is such that nothing comes back while a test runs.
fn limits(streams: usize) -> AdmissionLimits {
    AdmissionLimits { streams, per_second: 0.001, burst: 1000.0, pods_per_address: Some(1) }
}

const EVIL: &str = "spiffe://cluster.local/ns/evil/sa/evil";

impl Control {
    async fn open_from(&self, last: u8, id: &str, hello: wire::Hello) -> Client {
        let channel = channel_from([127, 0, 0, last], self.address, tls(&self.issuer, id)).await.unwrap();
        open_on(channel, hello).await.unwrap()
    }
}

impl Client {
    async fn is_served(&mut self) -> bool {
        match self.next().await {
            Some(wire::discover_response::Kind::Goodbye(goodbye)) => {
                assert_eq!(goodbye.reason, "overloaded");
                false
            }
            other => other.is_some(),
        }
    }
}

#[tokio::test]
async fn whoever_opens_streams_without_end_keeps_nobody_out() {
    let control = Control::start_with(limits(20_000)).await;
    let channel = channel_from([127, 0, 0, 2], control.address, tls(&control.issuer, EVIL)).await.unwrap();
    let mut served = 0;
    for _ in 0..1200 {
        served += usize::from(open_on(channel.clone(), hello_from(2)).await.unwrap().is_served().await);
    }
    // And ten more in each second that this takes.
    assert!((500..900).contains(&served), "{served}");
    assert!(control.open_from(3, WEB, hello_from(3)).await.is_served().await);
    assert_eq!(control.used_up(), ["streams_per_second_of_address"]);
}

#[tokio::test]
async fn what_has_not_said_hello_takes_nothing_from_the_others() {
    let control = Control::start_with(AdmissionLimits { burst: 1.0, ..limits(20_000) }).await;
    let channel = channel_from([127, 0, 0, 2], control.address, tls(&control.issuer, EVIL)).await.unwrap();
    let silent = DiscoveryClient::new(channel).discover(tokio_stream::pending()).await.unwrap().into_inner();
    assert!(control.open_from(3, WEB, hello_from(3)).await.is_served().await);
    drop(silent);
    assert_eq!(control.used_up(), [""; 0]);
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    assert!(!control.open_from(4, other, hello_from(4)).await.is_served().await);
    assert_eq!(control.used_up(), ["streams_per_second"]);
}

#[tokio::test]
async fn whoever_has_fewer_streams_gets_the_place_of_whoever_has_most() {
    let control = Control::start_with(limits(8)).await;
    let mut evil = Vec::new();
    for _ in 0..8 {
        let mut client = control.open_from(2, EVIL, hello_from(2)).await;
        assert!(client.is_served().await);
        evil.push(client);
    }
    assert!(control.open_from(3, WEB, hello_from(3)).await.is_served().await);
    assert_eq!(evil[0].goodbye().await.reason, "overloaded");
    assert_eq!(control.used_up(), ["streams"]);
}

#[tokio::test]
async fn an_address_has_so_many_subscriptions_and_the_others_have_theirs() {
    let control = Control::start_with(limits(20_000)).await;
    control.publish(1, &[1]);
    let greedy = || {
        let outbound = |n: u16| {
            let address = wire::SocketAddress { ip: vec![192, 0, 2, 1].into(), port: n.into() };
            let key = Some(wire::Key { kind: Some(wire::key::Kind::Outbound(address)) });
            wire::Held { key, hash: vec![1].into() }
        };
        wire::Hello { held: (1..=8192).map(outbound).collect(), ..hello_from(2) }
    };
    let (mut first, mut second) =
        (control.open_from(2, EVIL, greedy()).await, control.open_from(2, EVIL, greedy()).await);
    assert!(first.is_served().await && second.is_served().await);
    assert!(control.open_from(3, WEB, greedy()).await.is_served().await, "it is another's share");
    // The two have 32 each that do not count.
    let mut third = control.open_from(2, EVIL, hello_from(2)).await;
    let named = |n: usize| {
        wire::key::Kind::Endpoints(wire::ServicePort { namespace: "shop".into(), name: n.to_string(), port: 80 })
    };
    for n in 0..32 + 64 {
        third.subscribe(named(n)).await;
        third.update().await;
    }
    // What there is no room for waits, and the stream goes on: with what every proxy needs, and with changes.
    third.subscribe(endpoints()).await;
    third.subscribe(wire::key::Kind::Settings(wire::Unit {})).await;
    let update = third.update().await;
    assert!(matches!(update.value, Some(wire::update::Value::Settings(_))), "{update:?}");
    assert_eq!(control.used_up(), ["keys_of_address"]);
    // So does that of a proxy which comes with more than there is room for.
    let (mut fourth, mut fifth, mut sixth) = (
        control.open_from(2, EVIL, greedy()).await,
        control.open_from(2, EVIL, greedy()).await,
        control.open_from(2, EVIL, greedy()).await,
    );
    assert!(fourth.is_served().await && fifth.is_served().await && sixth.is_served().await);
    control.publish(2, &[1, 2]);
    drop(second);
    assert_eq!(count(&third.update().await), 2, "as soon as there is room");
    // Whose keys were too many to be remembered asks for them anew, but not before there is room.
    drop((first, fourth, fifth));
    assert_eq!(sixth.goodbye().await.reason, "rebalance");
}

#[tokio::test]
async fn an_identity_of_thousands_of_pods_never_loses_discovery() {
    let (_trigger, shutdown) = Shutdown::pair();
    let (hub, metrics) = (Hub::new(mesh(), Instant::now()), Metrics::register(&mut Registry::default()));
    let shared = DiscoveryService::new(config(limits(20_000)), hub, metrics, shutdown).shared;
    let mut open = Vec::new();
    for n in 0..20_000_u32 {
        let [_, _, high, low] = n.to_be_bytes();
        let address = IpAddr::from([10, 8, high, low]);
        let place = shared.places.enter(address).expect("room for all streams");
        let mut share = shared.shares.enter(address);
        assert_eq!(share.hold(3, 4096 - 3).keys, 4096 - 3, "{n}");
        open.push((place, share));
    }
    let said = (0..1000).filter(|_| shared.may_note([10, 8, 0, 1].into())).count();
    assert!((10..20).contains(&said) && shared.may_note([10, 8, 0, 2].into()), "lines of an address: {said}");
    let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/default".parse().unwrap();
    assert!(shared.enter([10, 9, 0, 1].into(), &id).is_err());
}
