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
}

#[tokio::test]
async fn what_has_not_said_hello_takes_nothing_from_the_others() {
    let control = Control::start_with(AdmissionLimits { burst: 1.0, ..limits(20_000) }).await;
    let channel = channel_from([127, 0, 0, 2], control.address, tls(&control.issuer, EVIL)).await.unwrap();
    let silent = DiscoveryClient::new(channel).discover(tokio_stream::pending()).await.unwrap().into_inner();
    assert!(control.open_from(3, WEB, hello_from(3)).await.is_served().await);
    drop(silent);
}

#[tokio::test]
async fn whoever_has_fewer_streams_gets_the_place_of_whoever_has_most() {
    let control = Control::start_with(limits(8)).await;
    let mut evil = Vec::new();
    for n in 0..9 {
        let mut client = control.open_from(2, if n < 7 { EVIL } else { WEB }, hello_from(2)).await;
        assert_eq!(client.is_served().await, n != 6, "an identity has three quarters of all at most: {n}");
        evil.push(client);
    }
    assert!(control.open_from(3, WEB, hello_from(3)).await.is_served().await);
    assert_eq!(evil[0].goodbye().await.reason, "overloaded");
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
    // The two have 64 each for nothing.
    let mut third = control.open_from(2, EVIL, hello_from(2)).await;
    for n in 0..64 + 128 {
        third
            .subscribe(wire::key::Kind::Endpoints(wire::ServicePort {
                namespace: "shop".into(),
                name: n.to_string(),
                port: 80,
            }))
            .await;
        third.update().await;
    }
    third.subscribe(endpoints()).await;
    assert_eq!(third.goodbye().await.reason, "overloaded");
    drop(second);
    while control.metrics.streams.get() > 1 {
        tokio::task::yield_now().await;
    }
    assert!(control.open_from(2, EVIL, greedy()).await.is_served().await);
}
