//! `meshctl stat`: how every workload does, or every Service, namespace or version.
//!
//! Workloads and namespaces are told by their own proxies (what arrived); Services and versions by the callers' (what was
//! asked for, and where the mesh sent it).

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use proto::names;
use serde::Serialize;

use crate::output::Format;
use crate::table::{self, Table};
use crate::traffic::{self, Figures, Traffic};
use crate::transport::{Pod, Transport, TransportError};
use crate::{args::StatArgs, output};

/// What a row stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Deployment or the like.
    Workload,
    /// Service that requests were sent to.
    Service,
    /// Namespace.
    Namespace,
    /// Service that requests were sent to, and version of the workload behind it.
    #[value(alias = "backend")]
    Version,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stat {
    /// What a row stands for.
    pub by: By,
    /// Seconds between the two looks.
    pub window_seconds: f64,
    /// Proxies that answered.
    pub answered: usize,
    /// Proxies there should be.
    pub proxies: usize,
    /// Why the others did not.
    pub silent: BTreeMap<String, String>,
    /// Sorted by namespace and name.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Namespace.
    pub namespace: String,
    /// Workload, Service or `Service/version`; empty for a namespace.
    pub name: String,
    /// Pods whose proxy answered, and pods there are. Absent where a row stands for no pods.
    pub meshed: Option<(usize, usize)>,
    /// Figures.
    #[serde(flatten)]
    pub figures: Summary,
}

/// Figures of a row or an edge, ready to print.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Share of requests that did not fail, 0 to 1.
    pub success: Option<f64>,
    /// Requests per second.
    pub rps: Option<f64>,
    /// Median duration in milliseconds.
    pub p50_ms: Option<f64>,
    /// 95th percentile, milliseconds.
    pub p95_ms: Option<f64>,
    /// 99th percentile, milliseconds.
    pub p99_ms: Option<f64>,
    /// Share that came by mutual TLS, 0 to 1.
    pub mtls: Option<f64>,
    /// Bytes per second on connections that nothing parses.
    pub tcp_bytes_per_second: Option<f64>,
}

/// Runs the command.
pub async fn run(transport: &impl Transport, args: &StatArgs, format: Format) -> anyhow::Result<()> {
    let stat = gather(transport, args.by, args.window).await?;
    output::print(&match format {
        Format::Json => output::json(&stat),
        Format::Table => stat.render(),
    })?;
    anyhow::ensure!(stat.answered > 0 || stat.proxies == 0, "no proxy answered; see what is wrong with: meshctl check");
    Ok(())
}

/// Looks twice and adds up.
pub async fn gather(transport: &impl Transport, by: By, window: Duration) -> Result<Stat, TransportError> {
    let pods = transport.pods().await?;
    Ok(Stat::new(by, &pods, &traffic::observe(transport, window).await?))
}

impl Stat {
    /// Adds up what happened.
    pub fn new(by: By, pods: &[Pod], traffic: &Traffic) -> Self {
        let mut sums: BTreeMap<(String, String), Figures> = BTreeMap::new();
        let mut meshed: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
        // The control plane speaks mesh TLS by itself: it has no proxies to count.
        let counted =
            |pod: &&Pod| matches!(by, By::Workload | By::Namespace) && pod.namespace != names::SYSTEM_NAMESPACE;
        for pod in pods.iter().filter(counted) {
            let name = if by == By::Workload { pod.workload.clone() } else { String::new() };
            let key = (pod.namespace.clone(), name);
            let (answered, known) = meshed.entry(key.clone()).or_default();
            *answered += usize::from(pod.meshed && traffic.answered.contains(&pod.name));
            *known += 1;
            sums.entry(key).or_default();
        }
        for series in &traffic.series {
            let label = |name: &str| series.labels.get(name).map_or("unknown", String::as_str);
            let own = label("reporter") == "destination";
            let (namespace, name) = match by {
                By::Workload if own => {
                    (label("destination_workload_namespace"), label("destination_workload").to_owned())
                }
                By::Namespace if own => (label("destination_workload_namespace"), String::new()),
                By::Service if !own => {
                    (label("destination_service_namespace"), label("destination_service_name").to_owned())
                }
                By::Version if !own => {
                    let name = format!("{}/{}", label("destination_service_name"), label("destination_version"));
                    (label("destination_service_namespace"), name)
                }
                _ => continue,
            };
            sums.entry((namespace.to_owned(), name)).or_default().add(&series.figures);
        }
        let row = |((namespace, name), figures): ((String, String), Figures)| {
            let meshed = meshed.get(&(namespace.clone(), name.clone())).copied();
            Row { namespace, name, meshed, figures: Summary::new(&figures) }
        };
        Self {
            by,
            window_seconds: seconds(traffic.window),
            answered: traffic.answered.len(),
            proxies: traffic.answered.len() + traffic.silent.len(),
            silent: traffic.silent.iter().map(|(proxy, error)| (proxy.clone(), error.to_string())).collect(),
            rows: sums.into_iter().map(row).collect(),
        }
    }

    /// The table, and below it what it is made of.
    pub fn render(&self) -> String {
        let heading = match self.by {
            By::Workload => "WORKLOAD",
            By::Service => "SERVICE",
            By::Namespace => "PODS",
            By::Version => "SERVICE/VERSION",
        };
        let mut table =
            Table::new(&["NAMESPACE", heading, ">MESHED", ">SUCCESS", ">RPS", ">P50", ">P95", ">P99", ">MTLS"]);
        for row in &self.rows {
            let meshed = row.meshed.map_or_else(|| "-".to_owned(), |(answered, known)| format!("{answered}/{known}"));
            let name = if self.by == By::Namespace { "all".to_owned() } else { row.name.clone() };
            let figures = &row.figures;
            table.row(vec![
                row.namespace.clone(),
                name,
                meshed,
                table::percent(figures.success),
                figures.rate(),
                table::milliseconds(figures.p50_ms),
                table::milliseconds(figures.p95_ms),
                table::milliseconds(figures.p99_ms),
                table::percent(figures.mtls),
            ]);
        }
        table.render() + &footer(self.window_seconds, self.answered, self.proxies, &self.silent)
    }
}

impl Summary {
    /// From rates.
    pub fn new(figures: &Figures) -> Self {
        Self {
            success: figures.success(),
            rps: figures.rps(),
            p50_ms: figures.quantile(0.5),
            p95_ms: figures.quantile(0.95),
            p99_ms: figures.quantile(0.99),
            mtls: figures.mutual_tls_share(),
            tcp_bytes_per_second: (figures.tcp_bytes > 0.0).then_some(figures.tcp_bytes),
        }
    }

    /// Requests per second; bytes per second where nothing but bytes was seen.
    pub fn rate(&self) -> String {
        self.rps.map_or_else(|| volume(self.tcp_bytes_per_second), |rps| table::rate(Some(rps)))
    }
}

/// Says which window, how many proxies answered, and why the others did not.
pub fn footer(window_seconds: f64, answered: usize, proxies: usize, silent: &BTreeMap<String, String>) -> String {
    let mut text = format!("\nover {window_seconds:.1} s, {answered} of {proxies} proxies answered\n");
    for (proxy, why) in silent {
        text.push_str(&format!("‼ {proxy} {why}\n"));
    }
    text
}

fn volume(bytes: Option<f64>) -> String {
    match bytes {
        None => "-".to_owned(),
        Some(bytes) if bytes < 1e3 => format!("{bytes:.0}B/s"),
        Some(bytes) if bytes < 1e6 => format!("{:.1}kB/s", bytes / 1e3),
        Some(bytes) => format!("{:.1}MB/s", bytes / 1e6),
    }
}

/// Seconds to the millisecond.
pub fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::tests::traffic;

    const SEEN: &str = "istio_requests_total{reporter=\"destination\",destination_workload=\"reviews-v1\",\
        destination_workload_namespace=\"shop\",response_code=\"200\",connection_security_policy=\"mutual_tls\"} 40\n\
        istio_requests_total{reporter=\"source\",destination_service_name=\"payments\",destination_service_namespace=\"shop\",\
        destination_version=\"v2\",response_code=\"503\",connection_security_policy=\"mutual_tls\"} 10\n\
        istio_request_duration_milliseconds_bucket{reporter=\"destination\",destination_workload=\"reviews-v1\",\
        destination_workload_namespace=\"shop\",response_code=\"200\",connection_security_policy=\"mutual_tls\",le=\"5\"} 40\n\
        istio_request_duration_milliseconds_bucket{reporter=\"destination\",destination_workload=\"reviews-v1\",\
        destination_workload_namespace=\"shop\",response_code=\"200\",connection_security_policy=\"mutual_tls\",le=\"+Inf\"} 40\n";

    fn pod(name: &str, workload: &str) -> Pod {
        Pod { name: name.into(), namespace: "shop".into(), workload: workload.into(), meshed: true }
    }

    #[test]
    fn workloads_are_listed_with_and_without_traffic() {
        let control = Pod { namespace: names::SYSTEM_NAMESPACE.into(), meshed: false, ..pod("identity", "identity") };
        let pods =
            [control, pod("reviews-v1-1", "reviews-v1"), pod("reviews-v1-2", "reviews-v1"), pod("cart-1", "cart")];
        let stat = Stat::new(By::Workload, &pods, &traffic(&[("reviews-v1-1", SEEN), ("cart-1", "")]));
        assert_eq!(
            stat.render(),
            "NAMESPACE  WORKLOAD    MESHED  SUCCESS   RPS    P50    P95    P99     MTLS\n\
             shop       cart           1/1        -     -      -      -      -        -\n\
             shop       reviews-v1     1/2  100.00%  20.0  2.5ms  4.8ms  5.0ms  100.00%\n\
             \nover 2.0 s, 2 of 2 proxies answered\n"
        );
    }

    #[test]
    fn versions_are_told_by_the_callers() {
        let stat = Stat::new(By::Version, &[], &traffic(&[("cart-1", SEEN)]));
        assert_eq!(stat.rows.len(), 1);
        assert_eq!((stat.rows[0].name.as_str(), stat.rows[0].figures.success), ("payments/v2", Some(0.0)));
        let json: serde_json::Value = serde_json::from_str(&output::json(&stat)).unwrap();
        assert_eq!(json["rows"][0]["rps"], 5.0);
        assert_eq!(json["by"], "version");
    }
}
