//! Choosing among endpoints, with the clock and the dice in the test's hand.

use policy::Protocol;

use super::*;

fn endpoint(address: &str, ready: bool) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        identity: None,
        workload: String::new(),
        namespace: String::new(),
        app: String::new(),
        version: String::new(),
        cluster: String::new(),
        zone: String::new(),
        ready,
        protocol: Protocol::Undeclared,
    }
}

fn members(count: usize, loads: &Loads, now: Instant) -> Members {
    let list = (1..=count).map(|i| endpoint(&format!("10.0.0.{i}:80"), true)).collect();
    let mut members = Members::default();
    members.update(&Arc::new(Endpoints { list, ..Endpoints::default() }), loads, now);
    members
}

/// A small generator: tests must not depend on luck.
fn dice(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    }
}

#[test]
fn a_slow_endpoint_gets_little() {
    let (now, loads) = (Instant::now(), Loads::default());
    let members = members(3, &loads, now);
    for (address, millis) in [("10.0.0.1:80", 1), ("10.0.0.2:80", 1), ("10.0.0.3:80", 200)] {
        loads.of(address.parse().unwrap(), now).answered(Duration::from_millis(millis), now);
    }
    let mut draw = dice(7);
    let slow = (0..300).filter(|_| {
        members.choose(false, &[], now, &mut draw).unwrap().endpoint.address.ip().to_string() == "10.0.0.3"
    });
    assert_eq!(slow.count(), 0, "two of three are always quicker than the slow one");
    let later = now + Duration::from_secs(60);
    let again = (0..300).filter(|_| {
        members.choose(false, &[], later, &mut draw).unwrap().endpoint.address.ip().to_string() == "10.0.0.1"
    });
    assert!(again.count() > 50, "the quick ones share");
}

#[test]
fn what_is_in_flight_counts() {
    let (now, loads) = (Instant::now(), Loads::default());
    let members = members(2, &loads, now);
    let mut draw = dice(3);
    let first = members.choose(false, &[], now, &mut draw).unwrap();
    let guard = first.load.start();
    let second = members.choose(false, &[], now, &mut draw).unwrap();
    assert_ne!(first.endpoint.address, second.endpoint.address);
    drop(guard);
    assert_eq!(first.load.in_flight(), 0);
}

#[test]
fn peaks_count_at_once_and_fade() {
    let now = Instant::now();
    let load = Load::new(now);
    load.answered(Duration::from_millis(1), now);
    load.answered(Duration::from_millis(100), now);
    assert!((load.cost(now) - 0.1).abs() < 1e-9);
    let later = now + FADING;
    load.answered(Duration::from_millis(1), later);
    assert!(load.cost(later) < 0.05 && load.cost(later) > 0.03, "{}", load.cost(later));
}

#[test]
fn one_that_failed_waits_behind_the_others() {
    let (now, loads) = (Instant::now(), Loads::default());
    let members = members(2, &loads, now);
    let bad: SocketAddr = "10.0.0.1:80".parse().unwrap();
    assert!(loads.of(bad, now).failed(now), "it trips");
    assert!(!loads.of(bad, now).failed(now), "once");
    loads.of(bad, now).connected();
    loads.of(bad, now).failed(now);
    let mut draw = dice(11);
    let mut chosen = |at, tried: &[SocketAddr]| members.choose(false, tried, at, &mut draw).map(|m| m.endpoint.address);
    for _ in 0..20 {
        assert_ne!(chosen(now, &[]), Some(bad));
    }
    let good = chosen(now, &[]).unwrap();
    assert_eq!(chosen(now, &[good]), Some(bad), "better than nobody");
    assert_eq!(chosen(now, &[good, bad]), None);
    assert!(!loads.of(bad, now).is_held_off(now + HOLD_OFF));
    for _ in 0..20 {
        loads.of(bad, now).failed(now);
    }
    assert!(!loads.of(bad, now).is_held_off(now + LONGEST_HOLD_OFF));
    loads.of(bad, now).connected();
    assert!(!loads.of(bad, now).is_held_off(now));
}

#[test]
fn an_update_keeps_what_is_known_and_forgets_who_is_gone() {
    let (now, loads) = (Instant::now(), Loads::default());
    let mut members = members(2, &loads, now);
    let stays: SocketAddr = "10.0.0.2:80".parse().unwrap();
    loads.of(stays, now).answered(Duration::from_millis(5), now);
    members.update(
        &Arc::new(Endpoints { list: vec![endpoint("10.0.0.2:80", true)], ..Endpoints::default() }),
        &loads,
        now,
    );
    assert_eq!(members.count(false), 1);
    let only = members.choose(false, &[], now, |_| 0).unwrap();
    assert_eq!(only.endpoint.address, stays);
    assert!(only.load.cost(now) > 0.0);
}

#[test]
fn each_family_has_its_own_members() {
    let (now, loads) = (Instant::now(), Loads::default());
    let mut members = Members::default();
    let list = vec![endpoint("10.0.0.1:80", true), endpoint("[fd00::1]:80", true)];
    members.update(&Arc::new(Endpoints { list, ..Endpoints::default() }), &loads, now);
    assert!(members.choose(true, &[], now, |_| 0).unwrap().endpoint.address.is_ipv6());
    assert!(members.choose(false, &[], now, |_| 0).unwrap().endpoint.address.is_ipv4());
}
