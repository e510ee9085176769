//! How many requests are looked at: a token bucket in front of the signatures, which are what costs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use parking_lot::Mutex;

/// A bucket that fills at a steady rate and holds a burst.
#[derive(Debug)]
pub(crate) struct Limit {
    per_second: f64,
    burst: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Instant,
}

impl Limit {
    /// Full at `now`.
    pub(crate) fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        Self { per_second, burst, state: Mutex::new(State { tokens: burst, at: now }) }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.tokens = self.filled(&state, now);
        state.at = state.at.max(now);
        if state.tokens < 1.0 {
            return false;
        }
        state.tokens -= 1.0;
        true
    }

    fn has_room(&self, now: Instant) -> bool {
        self.filled(&self.state.lock(), now) >= 1.0
    }

    fn is_full(&self, now: Instant) -> bool {
        self.filled(&self.state.lock(), now) >= self.burst
    }

    fn filled(&self, state: &State, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(state.at).as_secs_f64();
        (state.tokens + elapsed * self.per_second).min(self.burst)
    }
}

/// Who has shown nothing valid lately: each address may fail a few times, and then once in a second.
///
/// Without it, one client with junk for a token could use up what all share, and the log besides.
#[derive(Debug, Default)]
pub(crate) struct Offenders(Mutex<HashMap<IpAddr, Limit>>);

impl Offenders {
    /// Whether an address has failed so often that it is not looked at for now.
    pub(crate) fn is_shut_out(&self, ip: IpAddr, now: Instant) -> bool {
        self.0.lock().get(&ip).is_some_and(|limit| !limit.has_room(now))
    }

    /// Takes note of a failure.
    pub(crate) fn failed(&self, ip: IpAddr, now: Instant) {
        let mut all = self.0.lock();
        if all.len() >= MOST_OFFENDERS && !all.contains_key(&ip) {
            all.retain(|_, limit| !limit.is_full(now));
            if all.len() >= MOST_OFFENDERS {
                all.clear();
            }
        }
        all.entry(ip).or_insert_with(|| Limit::new(FAILURES_PER_SECOND, FAILURES_BURST, now)).take(now);
    }
}

const FAILURES_PER_SECOND: f64 = 1.0;
const FAILURES_BURST: f64 = 20.0;
const MOST_OFFENDERS: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let limit = Limit::new(10.0, 3.0, start);
        assert!((0..3).all(|_| limit.take(start)));
        assert!(!limit.take(start));
        assert!(limit.take(start + Duration::from_millis(150)));
        assert!(!limit.take(start + Duration::from_millis(160)));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| limit.take(later)).count(), 3);
    }

    #[test]
    fn who_fails_is_shut_out_alone_and_for_a_moment() {
        let (now, offenders) = (Instant::now(), Offenders::default());
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..20 {
            assert!(!offenders.is_shut_out(one, now));
            offenders.failed(one, now);
        }
        assert!(offenders.is_shut_out(one, now) && !offenders.is_shut_out(other, now));
        assert!(!offenders.is_shut_out(one, now + Duration::from_secs(1)));
        for n in 0..10_000_u32 {
            offenders.failed(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(offenders.0.lock().len() <= MOST_OFFENDERS);
    }
}
