//! A histogram of fixed buckets that many threads fill without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where the buckets end, and in which unit they are shown.
#[derive(Debug)]
pub struct Layout {
    /// Upper bounds, inclusive, ascending, in the unit that is observed.
    pub bounds: &'static [u64],
    /// Observed units in one shown unit.
    pub divisor: f64,
}

/// Counts of observations by bucket.
#[derive(Debug)]
pub struct Histogram {
    layout: &'static Layout,
    /// One per bound and one for what is larger; not cumulative.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(layout: &'static Layout) -> Self {
        let counts = (0..=layout.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { layout, counts, sum: AtomicU64::new(0) }
    }

    /// Counts one observation, in the unit of the layout's bounds.
    pub fn observe(&self, value: u64) {
        let bucket = self.layout.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Calls `each` with every upper bound (`None`: infinity) and the cumulative count, and returns sum and count.
    pub(crate) fn read(&self, mut each: impl FnMut(Option<f64>, u64)) -> (f64, u64) {
        let mut total = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            total += count.load(Relaxed);
            each(self.layout.bounds.get(bucket).map(|bound| shown(*bound, self.layout)), total);
        }
        (shown(self.sum.load(Relaxed), self.layout), total)
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people; exact to 2^53")]
fn shown(value: u64, layout: &Layout) -> f64 {
    value as f64 / layout.divisor
}

/// Istio's buckets for `istio_request_duration_milliseconds`; observed in microseconds.
pub const REQUEST_DURATION: Layout = Layout {
    bounds: &[
        500,
        1_000,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        30_000_000,
        60_000_000,
        300_000_000,
        600_000_000,
        1_800_000_000,
        3_600_000_000,
    ],
    divisor: 1000.0,
};

/// Powers of ten from 100 bytes to 100 MB, for `istio_request_bytes` and `istio_response_bytes`. Istio uses its
/// duration buckets for bytes as well, of which most are useless; queries by quantile work with either.
pub const BODY_BYTES: Layout =
    Layout { bounds: &[100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000], divisor: 1.0 };

/// 50 µs to 1 s; observed in microseconds, shown in seconds.
pub const OVERHEAD: Layout = Layout {
    bounds: &[50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000],
    divisor: 1_000_000.0,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_counts_cumulative() {
        static LAYOUT: Layout = Layout { bounds: &[10, 20], divisor: 10.0 };
        let histogram = Histogram::new(&LAYOUT);
        for value in [0, 10, 11, 20, 21] {
            histogram.observe(value);
        }
        let mut seen = Vec::new();
        let (sum, count) = histogram.read(|bound, total| seen.push((bound, total)));
        assert_eq!(seen, [(Some(1.0), 2), (Some(2.0), 4), (None, 5)]);
        assert!((sum - 6.2).abs() < 1e-9);
        assert_eq!(count, 5);
    }
}
