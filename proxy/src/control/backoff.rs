//! How long to wait before trying again: longer each time, up to a limit, and never in step with others.

use std::time::Duration;

/// Waits between tries.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    tries: u32,
}

impl Backoff {
    /// Begins at `first`, doubles up to `limit`.
    pub(crate) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, tries: 0 }
    }

    /// The next wait; `random` is from 0 to 1. Between half of the full wait and all of it.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let full = self.first.saturating_mul(2_u32.saturating_pow(self.tries)).min(self.limit);
        self.tries = self.tries.saturating_add(1);
        full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// It worked: begin anew.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        let waits: Vec<_> = (0..5).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(0.0).as_millis(), 500);
        backoff.reset();
        assert_eq!(backoff.next(0.0).as_millis(), 100);
    }
}
