//! Which new streams are let in, pure: so many at once, so many per second, and everybody else is told when to come back,
//! each at another time.

use std::time::Duration;

use tokio::time::Instant;

/// Limits on new streams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdmissionLimits {
    /// Streams at once.
    pub streams: usize,
    /// New streams per second, in the long run.
    pub per_second: f64,
    /// New streams at once after a quiet time.
    pub burst: f64,
}

/// A token bucket, and a timetable for those it turns away.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    tokens: f64,
    filled: Instant,
    /// When the next refused stream is told to come back.
    next_slot: Instant,
}

impl Admission {
    /// A full bucket.
    pub fn new(limits: AdmissionLimits, now: Instant) -> Self {
        Self { limits, tokens: limits.burst, filled: now, next_slot: now }
    }

    /// Lets one more stream in, with `open` of them open; or says when to come back.
    pub fn admit(&mut self, now: Instant, open: usize) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.limits.per_second).min(self.limits.burst);
        self.filled = now;
        if open < self.limits.streams && self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let step = Duration::from_secs_f64(1.0 / self.limits.per_second);
        self.next_slot = self.next_slot.max(now + SHORTEST).min(now + LONGEST) + step;
        Err(self.next_slot - now)
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(streams: usize) -> AdmissionLimits {
        AdmissionLimits { streams, per_second: 10.0, burst: 3.0 }
    }

    #[test]
    fn a_burst_then_a_rate_and_everybody_else_at_another_time() {
        let start = Instant::now();
        let mut admission = Admission::new(limits(100), start);
        assert!((0..3).all(|open| admission.admit(start, open).is_ok()));
        let first = admission.admit(start, 3).unwrap_err();
        let second = admission.admit(start, 3).unwrap_err();
        assert!(first >= SHORTEST && second == first + Duration::from_millis(100), "{first:?} {second:?}");
        assert!(admission.admit(start + Duration::from_millis(150), 3).is_ok());
        assert!(admission.admit(start + Duration::from_millis(151), 4).is_err());
        for _ in 0..1000 {
            assert!(admission.admit(start + Duration::from_millis(151), 4).unwrap_err() <= LONGEST * 2);
        }
    }

    #[test]
    fn no_more_than_so_many_at_once() {
        let start = Instant::now();
        let mut admission = Admission::new(limits(1), start);
        assert!(admission.admit(start, 1).is_err());
        assert!(admission.admit(start, 0).is_ok());
    }
}
