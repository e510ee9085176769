//! Prometheus text (exposition format 0.0.4), made piece by piece so that a large scrape needs no large buffer.

use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use identity::HandshakeFailure;
use proto::Reason;
use proto::names::metric;

use super::histogram::Histogram;
use super::labels::{Direction, RequestProtocol, RetryOutcome, label};
use super::series::{Code, RequestCells, TcpCells};
use super::{Metrics, process};

/// Writes samples of single families.
#[derive(Debug, Default)]
pub struct Text(String);

/// The whole scrape as pieces of a few dozen KiB.
#[derive(Debug)]
pub struct Exposition {
    metrics: Metrics,
    /// What others have to say (discovery, certificates); comes first.
    preamble: Option<String>,
    requests: Vec<Arc<RequestCells>>,
    tcp: Vec<Arc<TcpCells>>,
    family: usize,
    row: usize,
}

impl Text {
    /// Begins a family: `kind` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample; `labels` are names and values.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let mut text = String::new();
        for (name, value) in labels {
            label(&mut text, name, value);
        }
        self.line(name, &text, "", value);
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// What was written.
    pub fn into_string(self) -> String {
        self.0
    }

    fn line(&mut self, name: &str, labels: &str, more: &str, value: impl Display) {
        let labels = if more.is_empty() { labels.trim_end_matches(',') } else { labels };
        let _ = match labels.is_empty() && more.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{labels}{more}}} {value}"),
        };
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let (sum, count) = histogram.read(|bound, total| {
            let more = bound.map_or_else(|| "le=\"+Inf\"".to_owned(), |bound| format!("le=\"{bound}\""));
            self.line(&bucket, labels, &more, total);
        });
        self.line(&format!("{name}_sum"), labels, "", sum);
        self.line(&format!("{name}_count"), labels, "", count);
    }
}

impl Exposition {
    /// Everything in `metrics`, behind `preamble`.
    pub fn new(metrics: &Metrics, preamble: String) -> Self {
        let tables = metrics.0.tables.lock();
        Self {
            metrics: metrics.clone(),
            preamble: Some(preamble),
            requests: tables.requests.values().cloned().collect(),
            tcp: tables.tcp.values().cloned().collect(),
            family: 0,
            row: 0,
        }
    }

    /// Series in use, of all the budget.
    fn fixed(&self) -> String {
        let registry = &self.metrics.0;
        let mut text = Text::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        text.single(metric::TIME, "gauge", "When this was written, seconds since 1970.", now);
        text.family(metric::FAILURES, "counter", "Responses and closed connections the mesh itself caused.");
        let words: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        by_reason(&mut text, metric::FAILURES, &registry.failures, &words);
        text.family(metric::TLS_FAILURES, "counter", "Refused or failed mesh TLS handshakes.");
        let words: Vec<_> = HandshakeFailure::ALL.iter().map(|reason| reason.as_str()).collect();
        by_reason(&mut text, metric::TLS_FAILURES, &registry.handshakes, &words);
        text.family(metric::RETRIES, "counter", "Requests tried again.");
        for outcome in RetryOutcome::ALL {
            let count = registry.retries[outcome as usize].load(Relaxed);
            text.sample(metric::RETRIES, &[("outcome", outcome.as_str())], count);
        }
        let trips = registry.breaker_trips.load(Relaxed);
        text.single(metric::BREAKER_TRIPS, "counter", "Endpoints set aside because they could not be reached.", trips);
        for (name, help, gauge) in [
            (metric::INFLIGHT, "Requests in flight.", &registry.in_flight),
            (metric::CONNECTIONS, "Open connections.", &registry.connections),
        ] {
            text.family(name, "gauge", help);
            for direction in Direction::ALL {
                let value = gauge[direction as usize].load(Relaxed);
                text.sample(name, &[("direction", direction.as_str())], value);
            }
        }
        text.family(metric::OVERHEAD, "histogram", "Time a request spent in this proxy rather than behind it.");
        text.histogram(metric::OVERHEAD, "", &registry.overhead);
        text.single("mesh_series", "gauge", "Metric series in use.", registry.tables.lock().series());
        let refused = registry.refused.load(Relaxed);
        text.single("mesh_series_overflow_total", "counter", "Label sets counted under \"overflow\".", refused);
        process_metrics(&mut text);
        text.into_string()
    }

    /// Writes row `self.row` of request family `name`; false when there is none.
    fn request_row(&self, name: &str, text: &mut Text) -> bool {
        let Some(cells) = self.requests.get(self.row) else { return false };
        let mut labels = String::with_capacity(1024);
        cells.labels.write(&mut labels);
        match name {
            metric::REQUESTS => {
                for (code, count) in cells.codes.read() {
                    text.line(name, &labels, &code_labels(code), count);
                }
                let other = cells.codes.other.load(Relaxed);
                if other > 0 {
                    text.line(name, &labels, "response_code=\"other\",response_flags=\"-\"", other);
                }
            }
            metric::REQUEST_DURATION => text.histogram(name, &labels, &cells.duration),
            metric::REQUEST_BYTES => text.histogram(name, &labels, &cells.request_bytes),
            _ => text.histogram(name, &labels, &cells.response_bytes),
        }
        true
    }

    fn tcp_row(&self, name: &str, text: &mut Text) -> bool {
        let Some(cells) = self.tcp.get(self.row) else { return false };
        let mut labels = String::with_capacity(1024);
        cells.labels.write(RequestProtocol::Tcp, &mut labels);
        let value = match name {
            metric::TCP_OPENED => &cells.opened,
            metric::TCP_CLOSED => &cells.closed,
            metric::TCP_SENT => &cells.sent,
            _ => &cells.received,
        };
        text.line(name, &labels, "response_flags=\"-\"", value.load(Relaxed));
        true
    }
}

impl Iterator for Exposition {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if let Some(preamble) = self.preamble.take() {
            return Some(preamble + &self.fixed());
        }
        let mut text = Text::default();
        while let Some((name, kind, help)) = FAMILIES.get(self.family) {
            if self.row == 0 {
                text.family(name, kind, help);
            }
            let more = match self.family < REQUEST_FAMILIES {
                true => self.request_row(name, &mut text),
                false => self.tcp_row(name, &mut text),
            };
            (self.family, self.row) = if more { (self.family, self.row + 1) } else { (self.family + 1, 0) };
            if text.0.len() > PIECE {
                break;
            }
        }
        (!text.0.is_empty()).then(|| text.into_string())
    }
}

/// Only what happened: most reasons never do.
fn by_reason(text: &mut Text, name: &str, table: &[Box<[AtomicU64]>; 2], words: &[&str]) {
    for direction in Direction::ALL {
        for (word, count) in words.iter().zip(&table[direction as usize]) {
            let count = count.load(Relaxed);
            if count > 0 {
                text.sample(name, &[("direction", direction.as_str()), ("reason", word)], count);
            }
        }
    }
}

fn code_labels(code: Code) -> String {
    let mut text = String::new();
    label(&mut text, "response_code", &code.status.to_string());
    if let Some(grpc) = code.grpc {
        label(&mut text, "grpc_response_status", &grpc.to_string());
    }
    label(&mut text, "response_flags", code.reason.map_or("-", Reason::as_str));
    text.pop();
    text
}

fn process_metrics(text: &mut Text) {
    let process = process::read();
    let whole = |value: Option<u64>| value.map(|value| value.to_string());
    let part = |value: Option<f64>| value.map(|value| value.to_string());
    for (name, kind, help, value) in [
        ("process_cpu_seconds_total", "counter", "User and system CPU time.", part(process.cpu_seconds)),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", whole(process.resident_bytes)),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory.", whole(process.virtual_bytes)),
        ("process_open_fds", "gauge", "Open file descriptors.", whole(process.open_files)),
        ("process_max_fds", "gauge", "Most file descriptors allowed.", whole(process.max_files)),
        ("process_threads", "gauge", "Threads.", whole(process.threads)),
        ("process_start_time_seconds", "gauge", "Start, seconds since 1970.", part(process.start_seconds)),
    ] {
        if let Some(value) = value {
            text.single(name, kind, help, value);
        }
    }
}

/// The first [`REQUEST_FAMILIES`] are of requests, the others of opaque connections.
const FAMILIES: [(&str, &str, &str); 8] = [
    (metric::REQUESTS, "counter", "Requests."),
    (metric::REQUEST_DURATION, "histogram", "Duration of requests in milliseconds."),
    (metric::REQUEST_BYTES, "histogram", "Body bytes of requests."),
    (metric::RESPONSE_BYTES, "histogram", "Body bytes of responses."),
    (metric::TCP_OPENED, "counter", "Opaque connections opened."),
    (metric::TCP_CLOSED, "counter", "Opaque connections closed."),
    (metric::TCP_SENT, "counter", "Bytes sent towards the client on opaque connections."),
    (metric::TCP_RECEIVED, "counter", "Bytes received from the client on opaque connections."),
];
const REQUEST_FAMILIES: usize = 4;
const PIECE: usize = 32 * 1024;

#[cfg(test)]
mod tests;
