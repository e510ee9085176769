//! How often something may happen: token buckets, one for everybody or one for each.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use parking_lot::Mutex;

/// A bucket that fills at a steady rate and holds a burst.
#[derive(Debug)]
pub struct Rate {
    per_second: f64,
    burst: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Instant,
}

impl Rate {
    /// Full at `now`.
    pub fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        Self { per_second, burst, state: Mutex::new(State { tokens: burst, at: now }) }
    }

    /// Takes one, if there is one.
    pub fn take(&self, now: Instant) -> bool {
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

/// A bucket for each of those who have taken something lately; 4,096 of them at most.
#[derive(Debug)]
pub struct Rates<K> {
    per_second: f64,
    burst: f64,
    all: Mutex<HashMap<K, Rate>>,
}

impl<K: Eq + Hash> Rates<K> {
    /// All full.
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, all: Mutex::default() }
    }

    /// Takes one of somebody's, if there is one.
    pub fn take(&self, key: K, now: Instant) -> bool {
        let mut all = self.all.lock();
        if all.len() >= MOST && !all.contains_key(&key) {
            all.retain(|_, rate| !rate.is_full(now));
            if all.len() >= MOST {
                all.clear();
            }
        }
        all.entry(key).or_insert_with(|| Rate::new(self.per_second, self.burst, now)).take(now)
    }

    /// Whether somebody has taken nothing lately.
    pub fn is_full(&self, key: &K, now: Instant) -> bool {
        self.all.lock().get(key).is_none_or(|rate| rate.is_full(now))
    }

    /// Whether there is one of somebody's to take.
    pub fn has_room(&self, key: &K, now: Instant) -> bool {
        self.all.lock().get(key).is_none_or(|rate| rate.has_room(now))
    }
}

const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let rate = Rate::new(10.0, 3.0, start);
        assert!((0..3).all(|_| rate.take(start)));
        assert!(!rate.take(start));
        assert!(rate.take(start + Duration::from_millis(150)));
        assert!(!rate.take(start + Duration::from_millis(160)));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| rate.take(later)).count(), 3);
    }

    #[test]
    fn each_has_a_bucket_and_there_are_so_many() {
        let (now, rates) = (Instant::now(), Rates::new(1.0, 20.0));
        assert!((0..20).all(|_| rates.has_room(&1, now) && rates.take(1, now)));
        assert!(!rates.has_room(&1, now) && !rates.take(1, now) && rates.has_room(&2, now));
        assert!(rates.has_room(&1, now + Duration::from_secs(1)) && !rates.is_full(&1, now + Duration::from_secs(19)));
        assert!(rates.is_full(&1, now + Duration::from_secs(20)) && rates.is_full(&2, now));
        for n in 0..10_000 {
            rates.take(n, now);
        }
        assert!(rates.all.lock().len() <= MOST);
    }
}
