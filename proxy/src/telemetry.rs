//! What the proxy says about itself: metrics, the ring of recent failures, the log.
//!
//! The rule for everything here: whatever runs once per request is a few relaxed atomic operations. Labels are
//! resolved into a series once per connection and route ([`Metrics::requests`], [`Metrics::tcp`]), text is made
//! only when somebody scrapes.

pub mod callers;
pub mod exposition;
pub mod failures;
pub mod histogram;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod process;
pub mod series;

pub use failures::{Failures, Occurrence};
pub use labels::{
    Direction, EdgeLabels, PeerLabels, Reporter, RequestLabels, RequestProtocol, RetryOutcome, SecurityPolicy,
    ServiceLabels,
};
pub use metrics::Metrics;
pub use series::{RequestOutcome, RequestSeries, TcpSeries};

/// Metrics and failures, handed together to everything that serves traffic. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Counters, gauges and histograms.
    pub metrics: Metrics,
    /// The ring of recent failures; recording one counts it in `metrics` as well.
    pub failures: Failures,
}

impl Telemetry {
    /// Fresh telemetry with room for `series` series (see [`Metrics::new`]).
    pub fn new(series: usize) -> Self {
        let metrics = Metrics::new(series);
        Self { failures: Failures::new(metrics.clone()), metrics }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new(metrics::DEFAULT_SERIES)
    }
}
