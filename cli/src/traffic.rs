//! Figures from two looks at every proxy: what changed between them, per second.
//!
//! Nothing here asks anybody anything but [`look`]; the rest is arithmetic on samples.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::names::metric;
use tokio::time::{Instant, sleep};

use crate::exposition::{self, Labels, Sample};
use crate::transport::{self, Transport, TransportError};

/// What one proxy said at one moment.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// Name of the proxy.
    pub proxy: String,
    /// When it answered.
    pub at: Instant,
    /// Samples of the metrics below, or why there are none.
    pub samples: Result<Vec<Sample>, TransportError>,
}

/// What happened at all proxies that answered twice.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// One entry per proxy and set of labels.
    pub series: Vec<Series>,
    /// Proxies that answered both times.
    pub answered: BTreeSet<String>,
    /// Proxies that did not, and why.
    pub silent: BTreeMap<String, TransportError>,
    /// The longest time between two answers of one proxy.
    pub window: Duration,
    /// What the proxies themselves took.
    pub costs: BTreeMap<String, Cost>,
}

/// What one proxy took, or several together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cost {
    /// Cores in use.
    pub cpu: f64,
    /// Resident bytes.
    pub memory: f64,
    /// Requests per second by upper bound of the time they spent in the proxy, cumulative; milliseconds as bits of a float.
    pub added: BTreeMap<u64, f64>,
}

/// What happened under one set of labels at one proxy.
#[derive(Debug, Clone)]
pub struct Series {
    /// Who counted.
    pub proxy: String,
    /// Labels, without the bucket's.
    pub labels: Labels,
    /// What happened, per second.
    pub figures: Figures,
}

/// Rates, to be added up. All are per second, so windows of different length add up too.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Requests.
    pub requests: f64,
    /// Requests that did not fail.
    pub successes: f64,
    /// Requests answered with 4xx: successes of a server, and somebody's mistake all the same.
    pub client_errors: f64,
    /// Requests, or bytes and connections where nothing parses them, that came by mutual TLS.
    pub mutual_tls: f64,
    /// The whole of which [`Figures::mutual_tls`] is a part: what is known to have come by mutual TLS or not.
    pub known_security: f64,
    /// Bytes on connections that nothing parses, both directions.
    pub tcp_bytes: f64,
    /// Opened connections that nothing parses.
    pub tcp_connections: f64,
    /// Requests per upper bound of duration, cumulative as Prometheus has them; milliseconds as bits of a float.
    pub buckets: BTreeMap<u64, f64>,
}

/// Asks every proxy of a mesh for its metrics.
pub async fn look(transport: &impl Transport, proxies: &[String]) -> Vec<Scrape> {
    let answers = transport::ask(transport, proxies, "/metrics").await;
    let read = |body: bytes::Bytes| {
        let malformed = |problem: String| TransportError::Malformed { path: "/metrics".to_owned(), problem };
        let text = std::str::from_utf8(&body).map_err(|error| malformed(error.to_string()))?;
        exposition::parse(text, &WANTED).map_err(|error| malformed(error.to_string()))
    };
    answers
        .into_iter()
        .map(|answer| Scrape { proxy: answer.proxy, at: answer.at, samples: answer.result.and_then(read) })
        .collect()
}

/// Looks twice, `window` apart. A proxy that did not answer the first time is not asked again; where there is none, nobody
/// waits.
pub async fn observe(transport: &impl Transport, proxies: &[String], window: Duration) -> Traffic {
    if proxies.is_empty() {
        return Traffic::default();
    }
    let before = look(transport, proxies).await;
    sleep(window).await;
    let (well, silent): (Vec<_>, Vec<_>) = before.iter().partition(|scrape| scrape.samples.is_ok());
    let well: Vec<String> = well.iter().map(|scrape| scrape.proxy.clone()).collect();
    let mut after = look(transport, &well).await;
    after.extend(silent.into_iter().cloned());
    between(&before, &after)
}

/// What happened between two looks.
pub fn between(before: &[Scrape], after: &[Scrape]) -> Traffic {
    let mut traffic = Traffic::default();
    for after in after {
        let before = before.iter().find(|before| before.proxy == after.proxy);
        let (first, second) = match (before.map(|before| &before.samples), &after.samples) {
            (Some(Ok(first)), Ok(second)) => (first, second),
            (_, Err(error)) | (Some(Err(error)), _) => {
                traffic.silent.insert(after.proxy.clone(), error.clone());
                continue;
            }
            (None, Ok(_)) => continue,
        };
        let here = before.map_or(Duration::ZERO, |before| after.at.saturating_duration_since(before.at));
        let elapsed = by_its_clock(first, second, here).unwrap_or(here);
        traffic.window = traffic.window.max(elapsed);
        traffic.answered.insert(after.proxy.clone());
        let seconds = elapsed.as_secs_f64().max(0.001);
        let earlier: BTreeMap<(&str, &Labels), f64> =
            first.iter().map(|sample| ((sample.name.as_str(), &sample.labels), sample.value)).collect();
        let mut series: BTreeMap<Labels, Figures> = BTreeMap::new();
        let cost = traffic.costs.entry(after.proxy.clone()).or_default();
        for sample in second {
            if sample.name == PROCESS_MEMORY {
                cost.memory = sample.value;
            }
            if [PROCESS_MEMORY, metric::TIME].contains(&sample.name.as_str()) {
                continue;
            }
            let before = earlier.get(&(sample.name.as_str(), &sample.labels)).copied().unwrap_or(0.0);
            // A counter that went back began anew: the proxy was started again in between.
            let change = if sample.value >= before { sample.value - before } else { sample.value };
            if !(change.is_finite() && change > 0.0) {
                continue;
            }
            let rate = change / seconds;
            if sample.name == PROCESS_CPU {
                cost.cpu = rate;
            } else if sample.name.starts_with(metric::OVERHEAD) {
                // Seconds, where every other duration here is in milliseconds.
                if let Some(bound) = bound(sample.labels.get("le").map(String::as_str)) {
                    *cost.added.entry((bound * 1000.0).to_bits()).or_default() += rate;
                }
            } else {
                add(&mut series, sample, rate);
            }
        }
        let proxy = &after.proxy;
        let named = |(labels, figures)| Series { proxy: proxy.clone(), labels, figures };
        traffic.series.extend(series.into_iter().map(named));
    }
    traffic
}

/// The time between two answers as the proxy itself tells it, which says nothing of how long they were under way. A clock that was set
/// in between, or that is not there (an older proxy), tells nothing.
fn by_its_clock(first: &[Sample], second: &[Sample], here: Duration) -> Option<Duration> {
    let time = |samples: &[Sample]| Some(samples.iter().find(|sample| sample.name == metric::TIME)?.value);
    let elapsed = Duration::try_from_secs_f64(time(second)? - time(first)?).ok()?;
    (elapsed > here / 2 && elapsed < here * 2).then_some(elapsed)
}

fn add(series: &mut BTreeMap<Labels, Figures>, sample: &Sample, rate: f64) {
    let mut labels = sample.labels.clone();
    let le = labels.remove("le");
    let mutual = labels.get(SECURITY).map(String::as_str);
    let secured = |weight: f64| match mutual {
        Some("mutual_tls") => (weight, weight),
        Some("none") => (0.0, weight),
        _ => (0.0, 0.0),
    };
    let (status, success) = (status(&labels), succeeded(&labels));
    let figures = series.entry(labels.clone()).or_default();
    let weight = match sample.name.as_str() {
        metric::REQUESTS => {
            figures.requests += rate;
            figures.successes += if success { rate } else { 0.0 };
            figures.client_errors += if (400..500).contains(&status) { rate } else { 0.0 };
            rate
        }
        metric::TCP_SENT | metric::TCP_RECEIVED => {
            figures.tcp_bytes += rate;
            rate
        }
        metric::TCP_OPENED => {
            figures.tcp_connections += rate;
            rate
        }
        _ => {
            if let Some(bound) = bound(le.as_deref()) {
                *figures.buckets.entry(bound.to_bits()).or_default() += rate;
            }
            0.0
        }
    };
    let (mutual, known) = secured(weight);
    figures.mutual_tls += mutual;
    figures.known_security += known;
}

/// A histogram's upper bound.
fn bound(le: Option<&str>) -> Option<f64> {
    let bound = if le? == "+Inf" { f64::INFINITY } else { le?.parse().ok()? };
    (bound >= 0.0).then_some(bound)
}

/// HTTP status; 0 where there was no answer.
fn status(labels: &Labels) -> u16 {
    labels.get("response_code").and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// Not a 5xx, not without an answer, and for gRPC none of the statuses that are the server's doing.
fn succeeded(labels: &Labels) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    let grpc = labels.get("grpc_response_status").and_then(|code| code.parse::<u8>().ok());
    (100..500).contains(&status(labels)) && !matches!(grpc, Some(2 | 4 | 8 | 13 | 14 | 15))
}

impl Figures {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.successes += other.successes;
        self.client_errors += other.client_errors;
        self.mutual_tls += other.mutual_tls;
        self.known_security += other.known_security;
        self.tcp_bytes += other.tcp_bytes;
        self.tcp_connections += other.tcp_connections;
        for (bound, rate) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += rate;
        }
    }

    /// Share of requests that did not fail, 0 to 1; none without requests.
    pub fn success(&self) -> Option<f64> {
        share(self.successes, self.requests)
    }

    /// Failures per second: what [`Figures::success`] leaves out; none without requests.
    pub fn failures(&self) -> Option<f64> {
        Some(self.success()?).map(|success| if success >= 1.0 { 0.0 } else { self.requests - self.successes })
    }

    /// Share that came by mutual TLS, 0 to 1; none where it is not known.
    pub fn mutual_tls_share(&self) -> Option<f64> {
        share(self.mutual_tls, self.known_security)
    }

    /// Requests per second; none where nothing was parsed.
    pub fn rps(&self) -> Option<f64> {
        (self.requests > 0.0).then_some(self.requests)
    }

    /// Duration in milliseconds below which `quantile` (0 to 1) of the requests stayed, as PromQL's `histogram_quantile`
    /// estimates it: evenly spread inside a bucket; the highest finite bound for what lies beyond.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        quantile_of(&self.buckets, quantile)
    }
}

impl Cost {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        self.memory += other.memory;
        for (bound, rate) in &other.added {
            *self.added.entry(*bound).or_default() += rate;
        }
    }

    /// Time in milliseconds below which `quantile` (0 to 1) of the requests stayed in the proxy.
    pub fn added(&self, quantile: f64) -> Option<f64> {
        quantile_of(&self.added, quantile)
    }
}

fn quantile_of(buckets: &BTreeMap<u64, f64>, quantile: f64) -> Option<f64> {
    let total = buckets.get(&f64::INFINITY.to_bits()).copied().filter(|total| *total > 0.0)?;
    let rank = quantile * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, cumulative) in buckets {
        let bound = f64::from_bits(*bound);
        if *cumulative >= rank && bound.is_finite() {
            let inside = cumulative - below;
            return Some(if inside > 0.0 {
                lower + (bound - lower) * ((rank - below) / inside).max(0.0)
            } else {
                bound
            });
        }
        if bound.is_finite() {
            (lower, below) = (bound, *cumulative);
        }
    }
    Some(lower)
}

fn share(part: f64, whole: f64) -> Option<f64> {
    // The parts of a sum of rates may differ from the sum by rounding; a share of all of it is all of it.
    (whole > 0.0).then(|| if part >= whole * (1.0 - 1e-9) { 1.0 } else { part / whole })
}

/// Label that says how a connection was secured.
pub const SECURITY: &str = "connection_security_policy";

const WANTED: [&str; 9] = [
    metric::TIME,
    metric::REQUESTS,
    metric::REQUEST_DURATION,
    metric::TCP_OPENED,
    metric::TCP_SENT,
    metric::TCP_RECEIVED,
    metric::OVERHEAD,
    PROCESS_CPU,
    PROCESS_MEMORY,
];
const PROCESS_CPU: &str = "process_cpu_seconds_total";
const PROCESS_MEMORY: &str = "process_resident_memory_bytes";

#[cfg(test)]
pub(crate) mod tests;
