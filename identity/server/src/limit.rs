//! How many requests are looked at: a token bucket in front of the signatures, which are what costs.

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
        let elapsed = now.saturating_duration_since(state.at).as_secs_f64();
        state.tokens = (state.tokens + elapsed * self.per_second).min(self.burst);
        state.at = state.at.max(now);
        if state.tokens < 1.0 {
            return false;
        }
        state.tokens -= 1.0;
        true
    }
}

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
}
