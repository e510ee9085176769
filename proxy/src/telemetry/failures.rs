//! The ring of recent failures: "since when, and why" for people, without a log system.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use proto::Reason;
use proto::admin::Failure;

use super::{Direction, Metrics};

/// The last [`CAPACITY`] failures. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Failures(Arc<Ring>);

/// One failure, as whoever met it describes it.
#[derive(Debug, Clone, Copy)]
pub struct Occurrence<'a> {
    /// Why.
    pub reason: Reason,
    /// Which way the traffic went.
    pub direction: Direction,
    /// Who called: SPIFFE id or address.
    pub source: &'a str,
    /// What was called: Service, workload or address.
    pub destination: &'a str,
    /// Status answered, 0 where bytes were relayed.
    pub status: u16,
    /// More for people, without header values or bodies; cut at 256 bytes.
    pub detail: &'a str,
}

impl Failures {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let quiet_until = Reason::ALL.iter().map(|_| Throttle::default()).collect();
        Self(Arc::new(Ring { metrics, entries: Mutex::new(VecDeque::with_capacity(CAPACITY)), throttles: quiet_until }))
    }

    /// Counts a failure, keeps it in the ring, and logs it, at most one line per reason and second.
    pub fn record(&self, what: &Occurrence<'_>) {
        let Occurrence { reason, direction, source, destination, status, detail } = *what;
        self.0.metrics.failure(reason, direction);
        let at_ms = now_ms();
        let failure = Failure {
            at_ms,
            reason: reason.as_str().to_owned(),
            direction: direction.as_str().to_owned(),
            source: cut(source).to_owned(),
            destination: cut(destination).to_owned(),
            status,
            detail: cut(detail).to_owned(),
        };
        {
            let mut entries = self.0.entries.lock();
            if entries.len() == CAPACITY {
                entries.pop_front();
            }
            entries.push_back(failure);
        }
        if let Some(suppressed) = self.0.throttles[reason as usize].admit(at_ms / 1000) {
            let (direction, source, destination, detail) =
                (direction.as_str(), cut(source), cut(destination), cut(detail));
            tracing::warn!(%reason, direction, source, destination, status, detail, suppressed, "failed");
        }
    }

    /// Everything in the ring, newest first.
    pub fn list(&self) -> Vec<Failure> {
        self.0.entries.lock().iter().rev().cloned().collect()
    }
}

#[derive(Debug)]
struct Ring {
    metrics: Metrics,
    entries: Mutex<VecDeque<Failure>>,
    throttles: Box<[Throttle]>,
}

/// Lets one event per second through and counts the others.
#[derive(Debug, Default)]
struct Throttle {
    second: AtomicU64,
    suppressed: AtomicU64,
}

impl Throttle {
    /// `Some` with the number suppressed since the last one that passed.
    fn admit(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Relaxed) == second {
            self.suppressed.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Relaxed))
    }
}

/// At most [`LONGEST`] bytes of text from somewhere else.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Failures kept.
pub const CAPACITY: usize = proto::admin::FAILURES_KEPT;
const LONGEST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_and_counts_all() {
        let metrics = Metrics::new(10);
        let failures = Failures::new(metrics.clone());
        let long = "é".repeat(500);
        for status in 0..300 {
            failures.record(&Occurrence {
                reason: Reason::NoEndpoints,
                direction: Direction::Outbound,
                source: "spiffe://cluster.local/ns/shop/sa/web",
                destination: "shop/cart:80",
                status,
                detail: &long,
            });
        }
        let list = failures.list();
        assert_eq!(list.len(), CAPACITY);
        assert_eq!(list[0].status, 299);
        assert_eq!(list[0].detail.len(), 256);
        let counted = &metrics.0.failures[Direction::Outbound as usize][Reason::NoEndpoints as usize];
        assert_eq!(counted.load(Relaxed), 300);
    }

    #[test]
    fn one_line_per_second_says_how_many_were_left_out() {
        let throttle = Throttle::default();
        assert_eq!(throttle.admit(7), Some(0));
        assert_eq!(throttle.admit(7), None);
        assert_eq!(throttle.admit(7), None);
        assert_eq!(throttle.admit(8), Some(2));
    }
}
