//! `meshctl stat`: how every workload does, or every pod, Service, namespace or version.
//!
//! Workloads, pods and namespaces are told by their own proxies (what arrived); Services and versions by the callers' (what was
//! asked for, and where the mesh sent it). With `--to` rows are the callers, with `--from` the called, and only the traffic
//! between the two counts. [`question`] holds those rules.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use proto::names;
use serde::Serialize;

use crate::args::StatArgs;
use crate::output::{self, Format};
use crate::table::{self, Table};
use crate::target::Kind;
use crate::traffic::{self, Cost, Figures, Traffic};
use crate::transport::{Pod, Transport, TransportError};

pub use question::{By, Question, QuestionError};

mod question;

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stat {
    /// What a row stands for.
    pub by: By,
    /// Rows are workloads of this kind only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
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
    /// The table has columns for errors.
    #[serde(skip)]
    pub errors: bool,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Namespace.
    pub namespace: String,
    /// Workload, pod, Service or `Service/version`; empty for a namespace.
    pub name: String,
    /// Pods whose proxy answered, and pods there are. Absent where a row stands for no pods.
    pub meshed: Option<(usize, usize)>,
    /// Figures.
    #[serde(flatten)]
    pub figures: Summary,
    /// What the proxies of the row took, where that was asked for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostSummary>,
}

/// Figures of a row or an edge, ready to print.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Share of requests that did not fail, 0 to 1.
    pub success: Option<f64>,
    /// Requests per second.
    pub rps: Option<f64>,
    /// Requests per second that were answered with 4xx; they count as successes.
    pub client_errors_rps: Option<f64>,
    /// Requests per second that failed: what `success` leaves out.
    pub failures_rps: Option<f64>,
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

/// What the proxies of a row took together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CostSummary {
    /// Cores in use.
    pub proxy_cpu_cores: f64,
    /// Resident bytes.
    pub proxy_memory_bytes: f64,
    /// Median of the time requests spent in the proxy, milliseconds.
    pub added_p50_ms: Option<f64>,
    /// 99th percentile of it, milliseconds.
    pub added_p99_ms: Option<f64>,
}

/// Runs the command.
pub async fn run(
    transport: &impl Transport,
    question: &Question,
    args: &StatArgs,
    format: Format,
) -> anyhow::Result<()> {
    let pods = transport.pods().await?;
    of_pods(transport, pods, question, args, format).await
}

/// The same with a way that asks the callers everywhere and, where their list may not be read, those of the rows' own namespace
/// by another way: a developer sees his own Services.
pub async fn run_where_allowed<T: Transport>(
    everywhere: &T,
    own: &T,
    question: &Question,
    args: &StatArgs,
    format: Format,
) -> anyhow::Result<()> {
    match (everywhere.pods().await, &question.namespace) {
        (Err(TransportError::NotAllowed(why)), Some(namespace)) => {
            let pods = own.pods().await?;
            eprintln!("meshctl: only callers in namespace {namespace} count: {why}");
            of_pods(own, pods, question, args, format).await
        }
        (pods, _) => of_pods(everywhere, pods?, question, args, format).await,
    }
}

async fn of_pods(
    transport: &impl Transport,
    pods: Vec<Pod>,
    question: &Question,
    args: &StatArgs,
    format: Format,
) -> anyhow::Result<()> {
    if let Some(missing) = question.missing(&pods) {
        return Err(missing.into());
    }
    loop {
        let stat = Stat::new(question, &pods, &traffic::observe(transport, &proxies(&pods), args.window).await);
        output::print(&match format {
            Format::Json => output::json(&stat),
            Format::Table if args.watch => format!("{}{}", clear(), stat.render()),
            Format::Table => stat.render(),
        })?;
        if !args.watch {
            return stat.verdict();
        }
    }
}

/// The proxies of these pods.
pub fn proxies(pods: &[Pod]) -> Vec<String> {
    pods.iter().filter(|pod| pod.meshed).map(|pod| pod.proxy.clone()).collect()
}

/// Takes a terminal back to its beginning; an empty line between tables elsewhere.
fn clear() -> &'static str {
    if std::io::stdout().is_terminal() { "\u{1b}[H\u{1b}[J" } else { "\n" }
}

#[derive(Debug, Default)]
struct Sum {
    figures: Figures,
    cost: Cost,
    meshed: Option<(usize, usize)>,
}

impl Stat {
    /// Adds up what happened.
    pub fn new(question: &Question, pods: &[Pod], traffic: &Traffic) -> Self {
        let mut sums: BTreeMap<(String, String), Sum> = BTreeMap::new();
        // The control plane speaks mesh TLS by itself: it has no proxies to count, unless it is asked for.
        let counted = |pod: &&Pod| {
            pod.namespace != names::SYSTEM_NAMESPACE || question.namespace.as_deref() == Some(names::SYSTEM_NAMESPACE)
        };
        for pod in pods.iter().filter(counted) {
            for (namespace, name) in question.rows_of(pod) {
                let sum = sums.entry((namespace.to_owned(), name.to_owned())).or_default();
                let (answered, known) = sum.meshed.get_or_insert_default();
                *answered += usize::from(pod.meshed && traffic.answered.contains(&pod.proxy));
                *known += 1;
                if let Some(cost) = traffic.costs.get(&pod.proxy) {
                    sum.cost.add(cost);
                }
            }
        }
        let by_proxy: BTreeMap<&str, &Pod> = pods.iter().map(|pod| (pod.proxy.as_str(), pod)).collect();
        for series in &traffic.series {
            let pod = by_proxy.get(series.proxy.as_str()).copied();
            if let Some(row) = question.row(series, pod).filter(|row| of_kind(question, pods, row)) {
                sums.entry(row).or_default().figures.add(&series.figures);
            }
        }
        let row = |((namespace, name), sum): ((String, String), Sum)| Row {
            namespace,
            name,
            meshed: sum.meshed,
            figures: Summary::new(&sum.figures),
            cost: question.costs.then(|| CostSummary::new(&sum.cost)),
        };
        Self {
            by: question.by,
            kind: question.kind,
            window_seconds: seconds(traffic.window),
            answered: traffic.answered.len(),
            proxies: traffic.answered.len() + traffic.silent.len(),
            silent: traffic.silent.iter().map(|(proxy, error)| (proxy.clone(), error.to_string())).collect(),
            rows: sums.into_iter().map(row).collect(),
            errors: question.errors,
        }
    }

    /// The table, and below it what it is made of.
    pub fn render(&self) -> String {
        let heading = match (self.by, self.kind) {
            (By::Namespace, None) => "PODS",
            (_, Some(_)) => "NAME",
            (By::Workload, None) => "WORKLOAD",
            (By::Pod, None) => "POD",
            (By::Service, None) => "SERVICE",
            (By::Version, None) => "SERVICE/VERSION",
        };
        let namespaces = self.by == By::Namespace && self.kind.is_some();
        let mut headings = vec!["NAMESPACE", heading, ">MESHED", ">SUCCESS", ">RPS", ">P50", ">P95", ">P99", ">MTLS"];
        if namespaces {
            headings.remove(0);
        }
        if self.errors {
            headings.extend([">4XX/S", ">FAILED/S"]);
        }
        if self.rows.iter().any(|row| row.cost.is_some()) {
            headings.extend([">CPU", ">MEMORY", ">ADDED P50", ">ADDED P99"]);
        }
        let mut table = Table::new(&headings);
        for row in &self.rows {
            let mut cells = row.cells(self.errors);
            if namespaces {
                // Its name is the namespace's; "all its pods" says nothing new.
                cells.remove(1);
            }
            table.row(cells);
        }
        table.render() + &footer(self.window_seconds, self.answered, self.proxies, &self.silent)
    }

    fn verdict(&self) -> anyhow::Result<()> {
        if self.rows.is_empty() {
            eprintln!("meshctl: there is nothing of that kind here; all namespaces: meshctl stat -A");
        }
        anyhow::ensure!(
            self.answered > 0 || self.proxies == 0,
            "no proxy answered; see what is wrong with: meshctl check"
        );
        Ok(())
    }
}

impl Row {
    fn cells(&self, errors: bool) -> Vec<String> {
        let figures = &self.figures;
        let mut cells = vec![
            self.namespace.clone(),
            if self.name.is_empty() { "all".to_owned() } else { self.name.clone() },
            self.meshed.map_or_else(|| "-".to_owned(), |(answered, known)| format!("{answered}/{known}")),
            table::percent(figures.success),
            figures.rate(),
            table::milliseconds(figures.p50_ms),
            table::milliseconds(figures.p95_ms),
            table::milliseconds(figures.p99_ms),
            table::percent(figures.mtls),
        ];
        if errors {
            cells.extend([figures.client_errors_rps, figures.failures_rps].map(table::rate));
        }
        if let Some(cost) = &self.cost {
            cells.extend([
                format!("{:.0}m", cost.proxy_cpu_cores * 1000.0),
                format!("{:.1}MiB", cost.proxy_memory_bytes / 1024.0 / 1024.0),
                short_time(cost.added_p50_ms),
                short_time(cost.added_p99_ms),
            ]);
        }
        cells
    }
}

impl Summary {
    /// From rates.
    pub fn new(figures: &Figures) -> Self {
        Self {
            success: figures.success(),
            rps: figures.rps(),
            client_errors_rps: figures.rps().map(|_| figures.client_errors),
            failures_rps: figures.failures(),
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

impl CostSummary {
    fn new(cost: &Cost) -> Self {
        Self {
            proxy_cpu_cores: cost.cpu,
            proxy_memory_bytes: cost.memory,
            added_p50_ms: cost.added(0.5),
            added_p99_ms: cost.added(0.99),
        }
    }
}

/// Rows told by labels say no kind: where one was asked for, a pod of that workload must be of it.
fn of_kind(question: &Question, pods: &[Pod], (namespace, name): &(String, String)) -> bool {
    let Some(kind) = question.kind.filter(|kind| kind.is_workload()) else { return true };
    pods.iter().any(|pod| pod.kind == Some(kind) && pod.namespace == *namespace && pod.workload == *name)
}

/// Says which window, how many proxies answered, and why the others did not.
pub fn footer(window_seconds: f64, answered: usize, proxies: usize, silent: &BTreeMap<String, String>) -> String {
    let mut text = format!("\nover {window_seconds:.1} s, {answered} of {proxies} proxies answered\n");
    for (proxy, why) in silent {
        text.push_str(&format!("‼ {proxy} {why}\n"));
    }
    text
}

/// Milliseconds below one, as they are spent in a proxy.
fn short_time(milliseconds: Option<f64>) -> String {
    match milliseconds {
        Some(value) if value < 1.0 => format!("{:.0}µs", value * 1000.0),
        value => table::milliseconds(value),
    }
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
        Pod {
            proxy: name.into(),
            name: name.into(),
            namespace: "shop".into(),
            workload: workload.into(),
            meshed: true,
            ..Pod::default()
        }
    }

    #[test]
    fn workloads_are_listed_with_and_without_traffic() {
        let control = Pod { namespace: names::SYSTEM_NAMESPACE.into(), meshed: false, ..pod("identity", "identity") };
        let pods =
            [control, pod("reviews-v1-1", "reviews-v1"), pod("reviews-v1-2", "reviews-v1"), pod("cart-1", "cart")];
        let stat = Stat::new(&Question::all(By::Workload), &pods, &traffic(&[("reviews-v1-1", SEEN), ("cart-1", "")]));
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
        let stat = Stat::new(&Question::all(By::Version), &[], &traffic(&[("cart-1", SEEN)]));
        assert_eq!(stat.rows.len(), 1);
        assert_eq!((stat.rows[0].name.as_str(), stat.rows[0].figures.success), ("payments/v2", Some(0.0)));
        let json: serde_json::Value = serde_json::from_str(&output::json(&stat)).unwrap();
        assert_eq!(json["rows"][0]["rps"], 5.0);
        assert_eq!(json["by"], "version");
    }

    #[test]
    fn errors_have_columns_when_asked_for() {
        let seen = "istio_requests_total{reporter=\"destination\",destination_workload=\"cart\",\
                    destination_workload_namespace=\"shop\",response_code=\"404\"} 6\n\
                    istio_requests_total{reporter=\"destination\",destination_workload=\"cart\",\
                    destination_workload_namespace=\"shop\",response_code=\"500\"} 2\n";
        let question = Question { errors: true, ..Question::all(By::Workload) };
        let stat = Stat::new(&question, &[pod("cart-1", "cart")], &traffic(&[("cart-1", seen)]));
        assert_eq!(
            stat.render(),
            "NAMESPACE  WORKLOAD  MESHED  SUCCESS  RPS  P50  P95  P99  MTLS  4XX/S  FAILED/S\n\
             shop       cart         1/1   75.00%  4.0    -    -    -     -    3.0       1.0\n\
             \nover 2.0 s, 1 of 1 proxies answered\n"
        );
        let json: serde_json::Value = serde_json::from_str(&output::json(&stat)).unwrap();
        assert_eq!(
            (&json["rows"][0]["client_errors_rps"], &json["rows"][0]["failures_rps"]),
            (&3.0.into(), &1.0.into())
        );
    }

    #[test]
    fn what_the_proxies_take_is_shown_when_asked_for() {
        let text = "process_cpu_seconds_total 0.5\nprocess_resident_memory_bytes 8388608\n\
                    mesh_proxy_overhead_seconds_bucket{le=\"0.0001\"} 40\nmesh_proxy_overhead_seconds_bucket{le=\"+Inf\"} 40\n";
        let question = Question { costs: true, ..Question::all(By::Workload) };
        let pods = [pod("cart-1", "cart"), pod("cart-2", "cart")];
        let stat = Stat::new(&question, &pods, &traffic(&[("cart-1", text), ("cart-2", text)]));
        assert_eq!(
            stat.render(),
            "NAMESPACE  WORKLOAD  MESHED  SUCCESS  RPS  P50  P95  P99  MTLS   CPU   MEMORY  ADDED P50  ADDED P99\n\
             shop       cart         2/2        -    -    -    -    -     -  500m  16.0MiB       50µs       99µs\n\
             \nover 2.0 s, 2 of 2 proxies answered\n"
        );
    }
}
