//! A real Prometheus asks proxies and control plane where their annotations say: the usual queries answer, and the chart's alerts are
//! evaluated by its own tool.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use integration_tests::cluster::Cluster;
use integration_tests::cluster::looks::output;
use integration_tests::mesh::eventually;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::shop::Shop;

/// A hundred requests a second, a fifth of which the application answers 503: the three queries that everybody begins with, word for
/// word as they are written for Istio, say just that.
#[test]
fn the_usual_queries_answer() {
    let shop = Shop::open("watched", 2);
    let (namespace, cluster) = (&shop.namespace, &shop.namespace.cluster);
    let prometheus = Prometheus::start(cluster);
    let components = ["mesh-controller", "mesh-identity", "mesh-injector"];
    let scraped = |pod: &str| prometheus.ask(&format!("sum(up{{pod=~\"{pod}-.*\"}})")).first().map(|(_, value)| *value);
    let all = || components.iter().all(|component| scraped(component) == Some(1.0)) && scraped("web") == Some(2.0);
    eventually(Duration::from_secs(30), all).unwrap_or_else(|_| panic!("{:?}", prometheus.ask("up")));

    namespace.start_load("well", "web:80", 80, 30).unwrap();
    let failing = "[load, --target, 'web:80', --host, 'web:80', --rate=20, --seconds=30, --path, '/?status=503']";
    namespace.start_job("failing", failing).unwrap();
    prometheus.find(cluster);
    let (well, failed) = (namespace.report("well").unwrap(), namespace.report("failing").unwrap());
    assert_eq!((well.failed(), failed.succeeded), (0, 0));

    let sent = (well.sent + failed.sent) as f64;
    let of_web = |query: &str| {
        let found = prometheus.ask(query);
        let web = found.iter().find(|(labels, _)| labels["destination_service"] == SERVICE);
        web.unwrap_or_else(|| panic!("{query}: {found:?}")).1
    };
    // The rate is over five minutes, of which the load took a part.
    let counted = || of_web(RATE) * 300.0;
    eventually(Duration::from_secs(10), || (counted() / sent - 1.0).abs() < 0.2)
        .unwrap_or_else(|_| panic!("{} of {sent}", counted()));
    let errors = of_web(ERRORS);
    assert!((errors - 0.2).abs() < 0.03, "{errors} of the requests fail");
    let slowest = of_web(P99);
    assert!(slowest > 0.0 && slowest < 2000.0, "{slowest} ms");
}

/// The chart's alerts fire when they should and only then, with the words that they have for it, as `alerts.yaml` has it.
#[test]
fn alerts_fire_when_they_should() {
    let rules = rules(&Cluster::running().unwrap());
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("rules.yaml"), rules.to_string()).unwrap();
    std::fs::write(directory.path().join("alerts.yaml"), include_str!("alerts.yaml")).unwrap();
    let promtool = |what: [&str; 3]| output(Command::new("promtool").args(what).current_dir(directory.path())).unwrap();
    let count: usize =
        rules["groups"].as_array().unwrap().iter().map(|group| group["rules"].as_array().unwrap().len()).sum();
    let said = promtool(["check", "rules", "rules.yaml"]);
    assert!(said.contains(&format!("SUCCESS: {count} rules found")), "{said}");
    promtool(["test", "rules", "alerts.yaml"]);
}

/// Until it goes.
struct Prometheus {
    process: Child,
    address: String,
    directory: TempDir,
}

impl Prometheus {
    fn start(cluster: &Cluster) -> Self {
        let directory = TempDir::new().unwrap();
        // Debian's Prometheus is built without discovery in Kubernetes: we read the annotations for it.
        let configuration =
            CONFIGURATION.replace("TARGETS", &directory.path().join("targets.json").display().to_string());
        let file = directory.path().join("prometheus.yaml");
        std::fs::write(&file, configuration).unwrap();
        // It tells nobody which port it was given.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let prometheus = Self { process, address, directory };
        prometheus.find(cluster);
        prometheus
    }

    /// Tells it of every pod that runs and is annotated to be scraped.
    fn find(&self, cluster: &Cluster) {
        let pods = cluster.kubectl(&[
            "get",
            "pods",
            "--all-namespaces",
            "--field-selector=status.phase=Running",
            "--output=json",
        ]);
        let pods: Value = serde_json::from_str(&pods.unwrap()).unwrap();
        let target = |pod: &Value| {
            let says = |word: &str| pod["metadata"]["annotations"][format!("prometheus.io/{word}")].as_str();
            let (Some("true"), Some(port), Some(path)) = (says("scrape"), says("port"), says("path")) else {
                return None;
            };
            let address = format!("{}:{port}", pod["status"]["podIP"].as_str()?);
            Some(json!({"targets": [address], "labels": {"pod": pod["metadata"]["name"], "__metrics_path__": path}}))
        };
        let targets: Vec<Value> = pods["items"].as_array().unwrap().iter().filter_map(target).collect();
        let file = self.directory.path().join("targets.json");
        std::fs::write(&file, serde_json::to_string(&targets).unwrap()).unwrap();
    }

    /// Labels and value of each series that answers an instant query; none while it does not answer.
    fn ask(&self, query: &str) -> Vec<(Value, f64)> {
        let url = format!("http://{}/api/v1/query", self.address);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--get", "--max-time", "5", "--data-urlencode", &format!("query={query}"), &url]);
        let Ok(answer) = output(&mut curl) else { return Vec::new() };
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let value = |series: &Value| Some((series["metric"].clone(), series["value"][1].as_str()?.parse().ok()?));
        answer["data"]["result"].as_array().into_iter().flatten().filter_map(value).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The groups of the chart's PrometheusRule.
fn rules(cluster: &Cluster) -> Value {
    let objects = cluster.meshctl(&["install", "--output=yaml", "--set=prometheus.rules=true"]).unwrap();
    let objects = serde_yaml_ng::Deserializer::from_str(&objects).map(|object| Value::deserialize(object).unwrap());
    let rule = objects.into_iter().find(|object| object["kind"] == "PrometheusRule").unwrap();
    json!({"groups": rule["spec"]["groups"]})
}

const SERVICE: &str = "web.watched.svc.cluster.local";
const RATE: &str = r#"sum(rate(istio_requests_total{reporter="source"}[5m])) by (destination_service)"#;
const ERRORS: &str = r#"sum(rate(istio_requests_total{response_code=~"5.*"}[5m])) by (destination_service) / sum(rate(istio_requests_total[5m])) by (destination_service)"#;
const P99: &str =
    "histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket[5m])) by (le, destination_service))";
const CONFIGURATION: &str = "
global: { scrape_interval: 1s }
scrape_configs:
  - { job_name: pods, file_sd_configs: [{ files: [TARGETS] }] }
";
