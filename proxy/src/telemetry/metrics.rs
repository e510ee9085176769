//! [`Metrics`]: every number the data path counts, and the table that resolves labels into series.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use identity::HandshakeFailure;
use parking_lot::Mutex;
use proto::Reason;

use super::histogram::{self, Histogram};
use super::labels::{Direction, EdgeLabels, RequestLabels, RetryOutcome};
use super::series::{RequestCells, RequestSeries, TcpCells, TcpSeries};

/// All metrics of a proxy. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Metrics(pub(crate) Arc<Registry>);

/// Holds a gauge one higher until it is dropped.
#[derive(Debug)]
pub struct Held {
    registry: Arc<Registry>,
    gauge: Gauge,
    direction: Direction,
}

impl Metrics {
    /// Metrics with room for `budget` series, where a series is one metric with one set of labels (a histogram counts
    /// once). What comes after is counted under labels that say `overflow`.
    pub fn new(budget: usize) -> Self {
        Self(Arc::new(Registry {
            budget,
            tables: Mutex::default(),
            refused: AtomicU64::new(0),
            failures: by_direction(|| Reason::ALL.iter().map(|_| AtomicU64::new(0)).collect()),
            handshakes: by_direction(|| HandshakeFailure::ALL.iter().map(|_| AtomicU64::new(0)).collect()),
            retries: Default::default(),
            breaker_trips: AtomicU64::new(0),
            in_flight: Default::default(),
            connections: Default::default(),
            overhead: Histogram::new(&histogram::OVERHEAD),
        }))
    }

    /// Resolves a request series; takes a lock, so keep what it returns.
    pub fn requests(&self, labels: &RequestLabels) -> RequestSeries {
        let mut tables = self.0.tables.lock();
        if let Some(cells) = tables.requests.get(labels) {
            return RequestSeries(cells.clone());
        }
        let labels = if tables.series() + REQUEST_SERIES > self.0.budget {
            self.0.refused.fetch_add(1, Relaxed);
            RequestLabels::overflow(labels.edge.reporter, labels.protocol)
        } else {
            labels.clone()
        };
        let fresh = || Arc::new(RequestCells::new(labels.clone()));
        RequestSeries(tables.requests.entry(labels.clone()).or_insert_with(fresh).clone())
    }

    /// Resolves a TCP series; takes a lock, so keep what it returns.
    pub fn tcp(&self, labels: &EdgeLabels) -> TcpSeries {
        let mut tables = self.0.tables.lock();
        if let Some(cells) = tables.tcp.get(labels) {
            return TcpSeries(cells.clone());
        }
        let labels = if tables.series() + TCP_SERIES > self.0.budget {
            self.0.refused.fetch_add(1, Relaxed);
            EdgeLabels::overflow(labels.reporter)
        } else {
            labels.clone()
        };
        let fresh = || Arc::new(TcpCells::new(labels.clone()));
        TcpSeries(tables.tcp.entry(labels.clone()).or_insert_with(fresh).clone())
    }

    /// Counts a response or close that the mesh caused. [`super::Failures::record`] does it for you.
    pub fn failure(&self, reason: Reason, direction: Direction) {
        self.0.failures[direction as usize][reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a mesh TLS handshake that was refused or failed.
    pub fn tls_failure(&self, reason: HandshakeFailure, direction: Direction) {
        self.0.handshakes[direction as usize][reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request that was tried again, or should have been.
    pub fn retry(&self, outcome: RetryOutcome) {
        self.0.retries[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts an endpoint that is set aside.
    pub fn breaker_trip(&self) {
        self.0.breaker_trips.fetch_add(1, Relaxed);
    }

    /// A request is in flight until the guard goes.
    pub fn in_flight(&self, direction: Direction) -> Held {
        self.hold(Gauge::InFlight, direction)
    }

    /// A connection is open until the guard goes.
    pub fn connection(&self, direction: Direction) -> Held {
        self.hold(Gauge::Connections, direction)
    }

    /// Time a request spent in this proxy rather than behind it.
    pub fn overhead(&self, time: Duration) {
        self.0.overhead.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Forgets series that nobody holds and that have not moved since the last call, so that workloads which are long
    /// gone free their share of the budget. Called once an hour.
    pub(crate) fn forget_idle(&self) {
        let mut tables = self.0.tables.lock();
        tables.requests.retain(|_, cells| {
            let total = cells.codes.total();
            Arc::strong_count(cells) > 1 || cells.total_at_sweep.swap(total, Relaxed) != total
        });
        tables.tcp.retain(|_, cells| {
            let total = cells.opened.load(Relaxed) + cells.closed.load(Relaxed);
            Arc::strong_count(cells) > 1 || cells.total_at_sweep.swap(total, Relaxed) != total
        });
    }

    fn hold(&self, gauge: Gauge, direction: Direction) -> Held {
        self.0.gauge(gauge, direction).fetch_add(1, Relaxed);
        Held { registry: self.0.clone(), gauge, direction }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.registry.gauge(self.gauge, self.direction).fetch_sub(1, Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Registry {
    budget: usize,
    pub(crate) tables: Mutex<Tables>,
    /// Resolutions that fell into the overflow bucket.
    pub(crate) refused: AtomicU64,
    pub(crate) failures: [Box<[AtomicU64]>; 2],
    pub(crate) handshakes: [Box<[AtomicU64]>; 2],
    pub(crate) retries: [AtomicU64; 3],
    pub(crate) breaker_trips: AtomicU64,
    pub(crate) in_flight: [AtomicI64; 2],
    pub(crate) connections: [AtomicI64; 2],
    pub(crate) overhead: Histogram,
}

#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) requests: HashMap<RequestLabels, Arc<RequestCells>>,
    pub(crate) tcp: HashMap<EdgeLabels, Arc<TcpCells>>,
}

#[derive(Debug, Clone, Copy)]
enum Gauge {
    InFlight,
    Connections,
}

impl Registry {
    fn gauge(&self, gauge: Gauge, direction: Direction) -> &AtomicI64 {
        match gauge {
            Gauge::InFlight => &self.in_flight[direction as usize],
            Gauge::Connections => &self.connections[direction as usize],
        }
    }
}

impl Tables {
    pub(crate) fn series(&self) -> usize {
        self.requests.len() * REQUEST_SERIES + self.tcp.len() * TCP_SERIES
    }
}

fn by_direction(each: impl Fn() -> Box<[AtomicU64]>) -> [Box<[AtomicU64]>; 2] {
    [each(), each()]
}

/// Series of a proxy unless told otherwise.
pub const DEFAULT_SERIES: usize = 5000;
/// One counter with a typical two codes, three histograms.
const REQUEST_SERIES: usize = 5;
const TCP_SERIES: usize = 4;
