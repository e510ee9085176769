//! A proxy at its bound of connections: what it holds goes on, what comes is refused with a reason, and afterwards all is well.

use std::time::Duration;

use integration_tests::mesh::{Settings, eventually};
use proto::names::metric;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::shop::{Shop, WEB_BYTES};

#[test]
fn connections_beyond_the_bound_are_refused_and_the_others_go_on() {
    let mut shop = Shop::open(Settings::default(), 1);
    let echo = shop.backends[0].pod.traffic("echo", &["echo", "[::]:9000"]).unwrap();
    echo.wait_for_output("listening", Duration::from_secs(5)).unwrap();
    shop.client.proxy.take().unwrap().kill().unwrap();
    // Its bound follows from the descriptors it may have, which it inherits.
    let usual = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(400), maximum: usual.maximum };
    setrlimit(Resource::Nofile, few).unwrap();
    let started = shop.client.start_proxy();
    setrlimit(Resource::Nofile, usual).unwrap();
    started.unwrap();

    let mut held = shop.client.traffic("held", &["hold", WEB_BYTES, "100"]).unwrap();
    held.wait_for_output("holding", Duration::from_secs(20)).unwrap();
    let mut more = shop.client.traffic("more", &["hold", WEB_BYTES, "100"]).unwrap();
    assert!(!more.wait(Duration::from_secs(20)).unwrap().success(), "{}", more.output().unwrap());
    let refused = shop.client.metric(metric::FAILURES, &["reason=\"overloaded\""]).unwrap();
    assert!(refused >= 1.0, "{}", shop.client.admin("/metrics").unwrap());
    assert!(shop.client.log("proxy").contains("overloaded"));
    assert!(held.is_running(), "{}", held.output().unwrap());
    let open = || shop.client.metric(metric::CONNECTIONS, &["direction=\"outbound\""]).unwrap();
    eventually(Duration::from_secs(5), || (open() - 100.0).abs() < f64::EPSILON).unwrap();
    held.stop().unwrap();
    eventually(Duration::from_secs(5), || open() < 1.0).unwrap();
    let again = shop.client.traffic("again", &["hold", WEB_BYTES, "100"]).unwrap();
    again.wait_for_output("holding", Duration::from_secs(20)).unwrap();
}
