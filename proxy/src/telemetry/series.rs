//! Series: handles that were resolved once and are then only counted into.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use proto::Reason;

use super::histogram::{self, Histogram};
use super::labels::{EdgeLabels, RequestLabels};

/// Requests of one edge, protocol and route. Resolve it once ([`super::Metrics::requests`]) and keep it with the
/// connection or route; cloning is cheap.
#[derive(Debug, Clone)]
pub struct RequestSeries(pub(crate) Arc<RequestCells>);

/// Opaque connections of one edge. Resolve it once ([`super::Metrics::tcp`]).
#[derive(Debug, Clone)]
pub struct TcpSeries(pub(crate) Arc<TcpCells>);

/// An opaque connection that is open; dropping it counts it as closed.
#[derive(Debug)]
pub struct OpenTcp(Arc<TcpCells>);

/// How one request ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestOutcome {
    /// HTTP status sent to the caller; 0 where none was sent.
    pub status: u16,
    /// `grpc-status`, for gRPC only.
    pub grpc_status: Option<u16>,
    /// Why the mesh answered itself, if it did; the `response_flags` label.
    pub reason: Option<Reason>,
    /// From the request's first byte to the response's last.
    pub duration: Duration,
    /// Body bytes of the request.
    pub request_bytes: u64,
    /// Body bytes of the response.
    pub response_bytes: u64,
}

impl RequestSeries {
    /// Counts a finished request.
    pub fn observe(&self, outcome: &RequestOutcome) {
        self.0.codes.count(Code { status: outcome.status, grpc: outcome.grpc_status, reason: outcome.reason });
        self.0.duration.observe(u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX));
        self.0.request_bytes.observe(outcome.request_bytes);
        self.0.response_bytes.observe(outcome.response_bytes);
    }
}

impl TcpSeries {
    /// Counts a connection as opened, and as closed when the guard goes.
    pub fn open(&self) -> OpenTcp {
        self.0.opened.fetch_add(1, Relaxed);
        OpenTcp(self.0.clone())
    }
}

impl OpenTcp {
    /// Bytes on their way to the client.
    pub fn sent(&self, bytes: u64) {
        self.0.sent.fetch_add(bytes, Relaxed);
    }

    /// Bytes that came from the client.
    pub fn received(&self, bytes: u64) {
        self.0.received.fetch_add(bytes, Relaxed);
    }
}

impl Drop for OpenTcp {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Relaxed);
    }
}

/// What a request series counts into. Durations and sizes are not split by response code: that would multiply
/// forty lines of every edge by the number of codes, and Istio's dashboards do not ask for it.
#[derive(Debug)]
pub(crate) struct RequestCells {
    pub(crate) labels: RequestLabels,
    pub(crate) codes: Codes,
    pub(crate) duration: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
    /// Total at the last look for idle series.
    pub(crate) total_at_sweep: AtomicU64,
}

/// What a TCP series counts into.
#[derive(Debug)]
pub(crate) struct TcpCells {
    pub(crate) labels: EdgeLabels,
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) total_at_sweep: AtomicU64,
}

impl RequestCells {
    pub(crate) fn new(labels: RequestLabels) -> Self {
        Self {
            labels,
            codes: Codes::default(),
            duration: Histogram::new(&histogram::REQUEST_DURATION),
            request_bytes: Histogram::new(&histogram::BODY_BYTES),
            response_bytes: Histogram::new(&histogram::BODY_BYTES),
            total_at_sweep: AtomicU64::new(0),
        }
    }
}

impl TcpCells {
    pub(crate) fn new(labels: EdgeLabels) -> Self {
        Self {
            labels,
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            total_at_sweep: AtomicU64::new(0),
        }
    }
}

/// The labels of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) status: u16,
    pub(crate) grpc: Option<u16>,
    pub(crate) reason: Option<Reason>,
}

/// Request counts by [`Code`]: an append-only table of packed keys, claimed with one compare-and-swap. What does not
/// fit any more (an application that invents statuses) is counted as `other`.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    slots: [Slot; SLOTS],
    pub(crate) other: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    /// 0 while free.
    key: AtomicU64,
    count: AtomicU64,
}

impl Codes {
    fn count(&self, code: Code) {
        let key = code.pack();
        for slot in &self.slots {
            let mut found = slot.key.load(Relaxed);
            if found == 0 {
                found = match slot.key.compare_exchange(0, key, Relaxed, Relaxed) {
                    Ok(_) => key,
                    Err(taken_meanwhile) => taken_meanwhile,
                };
            }
            if found == key {
                slot.count.fetch_add(1, Relaxed);
                return;
            }
        }
        self.other.fetch_add(1, Relaxed);
    }

    /// Every code seen, with its count.
    pub(crate) fn read(&self) -> impl Iterator<Item = (Code, u64)> {
        self.slots
            .iter()
            .map(|slot| (slot.key.load(Relaxed), slot.count.load(Relaxed)))
            .take_while(|(key, _)| *key != 0)
            .map(|(key, count)| (Code::unpack(key), count))
    }

    pub(crate) fn total(&self) -> u64 {
        self.read().map(|(_, count)| count).sum::<u64>() + self.other.load(Relaxed)
    }
}

impl Code {
    /// A non-zero number: bit 63, reason + 1, grpc + 1, status.
    fn pack(self) -> u64 {
        let reason = self.reason.map_or(0, |reason| reason as u64 + 1);
        let grpc = self.grpc.map_or(0, |grpc| u64::from(grpc.min(GRPC_MAX)) + 1);
        1 << 63 | reason << 32 | grpc << 16 | u64::from(self.status)
    }

    fn unpack(key: u64) -> Self {
        let field = |shift: u32| u16::try_from(key >> shift & 0xffff).expect("masked to 16 bits");
        Self {
            status: field(0),
            grpc: field(16).checked_sub(1),
            reason: field(32).checked_sub(1).and_then(|index| Reason::ALL.get(usize::from(index)).copied()),
        }
    }
}

const SLOTS: usize = 32;
/// gRPC's codes end at 16; anything larger is the application's invention and counted as one.
const GRPC_MAX: u16 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_pack_and_unpack() {
        for reason in [None, Some(Reason::DiscoveryUnavailable), Some(Reason::Internal)] {
            for grpc in [None, Some(0), Some(16)] {
                let code = Code { status: 503, grpc, reason };
                assert_eq!(Code::unpack(code.pack()), code);
            }
        }
    }

    #[test]
    fn a_flood_of_statuses_ends_in_other() {
        let codes = Codes::default();
        for status in 100..200 {
            codes.count(Code { status, grpc: None, reason: None });
            codes.count(Code { status: 100, grpc: None, reason: None });
        }
        assert_eq!(codes.total(), 200);
        assert_eq!(codes.read().count(), SLOTS);
        assert_eq!(codes.read().next().unwrap().1, 101);
    }
}
