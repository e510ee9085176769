//! `meshctl edges`: who calls whom, how it goes, and which identities both ends showed.
//!
//! Both ends of an edge count it. Figures are the caller's where the caller is meshed (they include what the network does),
//! the called's otherwise; how the connection was secured, and by whom, is believed from the called's proxy first: it is the
//! one that verified the caller.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::args::{EdgesArgs, StatArgs};
use crate::output::{self, Format};
use crate::stat::{By, Question, QuestionError, Summary, footer, seconds};
use crate::table::{self, Table};
use crate::traffic::{self, Figures, Series, Traffic};
use crate::transport::{Pod, Transport};

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Edges {
    /// Seconds between the two looks.
    pub window_seconds: f64,
    /// Proxies that answered.
    pub answered: usize,
    /// Proxies there should be.
    pub proxies: usize,
    /// Why the others did not.
    pub silent: BTreeMap<String, String>,
    /// Sorted by source and destination.
    pub edges: Vec<Edge>,
}

/// One workload calls another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Edge {
    /// Who calls.
    pub source: End,
    /// Who is called.
    pub destination: End,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// Figures.
    #[serde(flatten)]
    pub figures: Summary,
}

/// One end of an edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct End {
    /// Its namespace.
    pub namespace: String,
    /// Deployment or the like.
    pub workload: String,
    /// SPIFFE id its certificate showed; none where it showed none.
    pub id: Option<String>,
}

/// What was typed, as `stat` would take it.
pub fn question(args: &EdgesArgs, namespace: Option<&str>) -> Result<Question, QuestionError> {
    Question::new(&StatArgs { target: args.target.clone(), ..StatArgs::default() }, namespace)
}

/// Runs the command.
pub async fn run(
    transport: &impl Transport,
    args: &EdgesArgs,
    namespace: Option<&str>,
    format: Format,
) -> anyhow::Result<()> {
    let question = question(args, namespace)?;
    let pods = transport.pods().await?;
    if let Some(missing) = question.missing(&pods) {
        return Err(missing.into());
    }
    let proxies: Vec<String> = pods.iter().filter(|pod| pod.meshed).map(|pod| pod.proxy.clone()).collect();
    let mut traffic = traffic::observe(transport, &proxies, args.window).await;
    if question.kind.is_some() {
        traffic.series.retain(|series| concerns(series, &question, &pods));
    }
    let mut edges = Edges::new(&traffic);
    if let Some(namespace) = namespace {
        edges.edges.retain(|edge| edge.source.namespace == namespace || edge.destination.namespace == namespace);
    }
    output::print(&match format {
        Format::Json => output::json(&edges),
        Format::Table => edges.render(),
    })?;
    if edges.proxies == 0 && namespace.is_some() {
        eprintln!("meshctl: there is no proxy here; all namespaces: meshctl edges -A");
    }
    anyhow::ensure!(
        edges.answered > 0 || edges.proxies == 0,
        "no proxy answered; see what is wrong with: meshctl check"
    );
    Ok(())
}

/// Whether one of the ends is what was asked for.
fn concerns(series: &Series, question: &Question, pods: &[Pod]) -> bool {
    let label = |name: &str| series.labels.get(name).map_or("", String::as_str);
    let is_row = |namespace: &str, name: &str| {
        pods.iter().any(|pod| question.rows_of(pod).into_iter().any(|row| row == (namespace, name)))
    };
    match question.by {
        By::Pod => pods.iter().any(|pod| pod.proxy == series.proxy && !question.rows_of(pod).is_empty()),
        By::Service | By::Version => is_row(label("destination_service_namespace"), label("destination_service_name")),
        By::Namespace => {
            ["source", "destination"].iter().any(|end| is_row(label(&format!("{end}_workload_namespace")), ""))
        }
        By::Workload => ["source", "destination"]
            .iter()
            .any(|end| is_row(label(&format!("{end}_workload_namespace")), label(&format!("{end}_workload")))),
    }
}

#[derive(Debug, Default)]
struct BothEnds {
    source: Figures,
    destination: Figures,
    ids: [Option<String>; 2],
}

impl Edges {
    /// Adds up what happened.
    pub fn new(traffic: &Traffic) -> Self {
        let mut pairs: BTreeMap<[String; 5], BothEnds> = BTreeMap::new();
        for series in &traffic.series {
            let label = |name: &str| series.labels.get(name).map_or("unknown", String::as_str);
            let key = [
                "source_workload_namespace",
                "source_workload",
                "destination_workload_namespace",
                "destination_workload",
                "request_protocol",
            ];
            let pair = pairs.entry(key.map(|name| label(name).to_owned())).or_default();
            let by_source = label("reporter") == "source";
            if by_source { &mut pair.source } else { &mut pair.destination }.add(&series.figures);
            for (id, name) in pair.ids.iter_mut().zip(["source_principal", "destination_principal"]) {
                let shown = Some(label(name)).filter(|id| *id != "unknown").map(str::to_owned);
                *id = if by_source { id.take().or(shown) } else { shown.or_else(|| id.take()) };
            }
        }
        Self {
            window_seconds: seconds(traffic.window),
            answered: traffic.answered.len(),
            proxies: traffic.answered.len() + traffic.silent.len(),
            silent: traffic.silent.iter().map(|(proxy, error)| (proxy.clone(), error.to_string())).collect(),
            edges: pairs.into_iter().map(|(key, pair)| edge(key, pair)).collect(),
        }
    }

    /// The table, and below it what it is made of.
    pub fn render(&self) -> String {
        // What matters most comes first: a terminal of 80 columns cuts the rest.
        let headings = [
            "SOURCE",
            "DESTINATION",
            "PROTOCOL",
            ">RPS",
            ">SUCCESS",
            ">MTLS",
            ">P50",
            ">P99",
            "CLIENT ID",
            "SERVER ID",
        ];
        let mut table = Table::new(&headings);
        for edge in &self.edges {
            let figures = &edge.figures;
            table.row(vec![
                edge.source.name(),
                edge.destination.name(),
                edge.protocol.clone(),
                figures.rate(),
                table::percent(figures.success),
                table::percent(figures.mtls),
                table::milliseconds(figures.p50_ms),
                table::milliseconds(figures.p99_ms),
                short(edge.source.id.as_deref()),
                short(edge.destination.id.as_deref()),
            ]);
        }
        table.render() + &footer(self.window_seconds, self.answered, self.proxies, &self.silent)
    }
}

impl End {
    fn name(&self) -> String {
        // A request that found no backend went nowhere that has a name.
        if self.namespace == self.workload && self.workload == "unknown" {
            return self.workload.clone();
        }
        format!("{}/{}", self.namespace, self.workload)
    }
}

fn edge(key: [String; 5], pair: BothEnds) -> Edge {
    let BothEnds { source, destination, ids: [client, server] } = pair;
    let seen_by_source = source.requests > 0.0 || source.tcp_bytes > 0.0 || source.tcp_connections > 0.0;
    let mut figures = Summary::new(if seen_by_source { &source } else { &destination });
    figures.mtls = destination.mutual_tls_share().or(figures.mtls);
    let [source_namespace, source_workload, destination_namespace, destination_workload, protocol] = key;
    Edge {
        source: End { namespace: source_namespace, workload: source_workload, id: client },
        destination: End { namespace: destination_namespace, workload: destination_workload, id: server },
        protocol,
        figures,
    }
}

/// `spiffe://cluster.local/ns/shop/sa/web` as `shop/web`, where the words in between are those of Kubernetes.
fn short(id: Option<&str>) -> String {
    let Some(id) = id else { return "-".to_owned() };
    let parts: Vec<&str> = id.trim_start_matches("spiffe://").split('/').collect();
    match parts[..] {
        [_, "ns", namespace, "sa", account] => format!("{namespace}/{account}"),
        _ => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::args::ScopeArgs;
    use crate::traffic::tests::traffic;

    fn line(reporter: &str, security: &str, client: &str, count: u32) -> String {
        format!(
            "istio_requests_total{{reporter=\"{reporter}\",source_workload=\"web\",source_workload_namespace=\"shop\",\
             source_principal=\"{client}\",destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",\
             destination_workload=\"cart\",destination_workload_namespace=\"shop\",request_protocol=\"http\",\
             response_code=\"200\",connection_security_policy=\"{security}\"}} {count}\n"
        )
    }

    #[test]
    fn both_ends_make_one_edge() {
        let client = "spiffe://cluster.local/ns/shop/sa/web";
        let edges = Edges::new(&traffic(&[
            ("web-1", &line("source", "unknown", "unknown", 20)),
            ("cart-1", &line("destination", "mutual_tls", client, 22)),
        ]));
        assert_eq!(
            edges.render(),
            "SOURCE    DESTINATION  PROTOCOL   RPS  SUCCESS     MTLS  P50  P99  CLIENT ID  SERVER ID\n\
             shop/web  shop/cart    http      10.0  100.00%  100.00%    -    -  shop/web   shop/cart\n\
             \nover 2.0 s, 2 of 2 proxies answered\n"
        );
    }

    #[test]
    fn only_edges_of_what_was_asked_for() {
        let pod = |workload: &str| Pod {
            proxy: format!("{workload}-1"),
            name: format!("{workload}-1"),
            namespace: "shop".into(),
            workload: workload.into(),
            kind: Some(crate::target::Kind::Deployment),
            services: vec![workload.to_owned()],
            meshed: true,
            ..Pod::default()
        };
        let pods = ["web", "cart", "idle"].map(pod);
        let service = line("source", "unknown", "unknown", 20)
            .replace("{reporter", "{destination_service_name=\"cart\",destination_service_namespace=\"shop\",reporter");
        let traffic = traffic(&[("web-1", &service)]);
        for (words, expected) in [
            ("deploy", true),
            ("deploy/web", true),
            ("deploy cart", true),
            ("deploy/idle", false),
            ("sts", false),
            ("pod/web-1", true),
            ("pod/cart-1", false),
            ("svc/cart", true),
            ("svc/web", false),
            ("ns/shop", true),
        ] {
            let target = words.split_whitespace().map(str::to_owned).collect();
            let args = EdgesArgs { target, scope: ScopeArgs::default(), window: Duration::from_secs(2) };
            let question = question(&args, Some("shop")).unwrap();
            assert_eq!(traffic.series.iter().any(|series| concerns(series, &question, &pods)), expected, "{words}");
        }
    }

    #[test]
    fn a_caller_outside_the_mesh_is_shown_by_the_called() {
        let edges = Edges::new(&traffic(&[("cart-1", &line("destination", "none", "unknown", 4))]));
        let edge = &edges.edges[0];
        assert_eq!((edge.figures.rps, edge.figures.mtls, edge.source.id.as_deref()), (Some(2.0), Some(0.0), None));
    }

    #[test]
    fn bytes_are_shown_where_nothing_is_parsed() {
        let text = "istio_tcp_sent_bytes_total{reporter=\"source\",source_workload=\"a\",destination_workload=\"db\",\
                    request_protocol=\"tcp\",connection_security_policy=\"mutual_tls\"} 5000\n";
        let edges = Edges::new(&traffic(&[("a-1", text)]));
        assert!(edges.render().contains("2.5kB/s        -  100.00%    -    -"), "{}", edges.render());
    }
}
