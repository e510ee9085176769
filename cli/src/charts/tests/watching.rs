//! Dashboards and alerts: off by default, well-formed, and about metrics that exist.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;
use serde_json::{Value, json};

use super::{find, render};

/// What is scraped, by name: the labels of each, of which whoever scrapes adds two.
fn exported() -> BTreeMap<String, BTreeSet<String>> {
    let mut series: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut take = |name: String, labels: &[&str]| {
        series
            .entry(name)
            .or_default()
            .extend(labels.iter().chain(&["namespace", "pod"]).map(|&label| label.to_owned()));
    };
    // Written by the proxy's own test, of a scrape.
    for line in include_str!("../../../../proxy/src/admin/series.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        take(words[0].to_owned(), &words[1..]);
    }
    let registered =
        Regex::new(r#"register\(\s*"([a-z_]+)",\s*(?:"[^"]*"|\w+),\s*\w+\.(\w+)(?:\.0)?\.clone\(\)"#).unwrap();
    let label = Regex::new(r"\b(\w+): &'static str").unwrap();
    for (prefix, source) in [
        ("mesh_controller_", include_str!("../../../../controller/src/metrics.rs")),
        ("", include_str!("../../../../controller/runtime/src/incoming.rs")),
        ("", include_str!("../../../../controller/runtime/src/certificate.rs")),
        ("", include_str!("../../../../identity/server/src/metrics.rs")),
        ("", include_str!("../../../../injector/src/metrics.rs")),
        ("", include_str!("../../../../injector/src/ca_bundle.rs")),
    ] {
        let mut found = 0;
        for metric in registered.captures_iter(source) {
            found += 1;
            let (name, field) = (format!("{prefix}{}", &metric[1]), &metric[2]);
            let kind = Regex::new(&format!(r"\b{field}: ([^\n]+),")).unwrap();
            let kind = kind.captures(source).unwrap_or_else(|| panic!("{field}"))[1].to_owned();
            let labels = kind.split_once("Family<").map_or("", |(_, labels)| labels.split_once(',').unwrap().0);
            let (_, labels) = source.split_once(&format!("struct {labels} {{")).unwrap_or_default();
            let labels: Vec<_> = label.captures_iter(labels.split('}').next().unwrap_or_default()).collect();
            let labels: Vec<&str> = labels.iter().map(|label| label.get(1).unwrap().as_str()).collect();
            assert_eq!(kind.contains("Family<"), !labels.is_empty(), "labels of {name}: {kind}");
            match &kind {
                kind if kind.contains("Counter") => take(format!("{name}_total"), &labels),
                kind if kind.contains("Gauge") => take(name, &labels),
                _ => {
                    take(format!("{name}_bucket"), &[&labels[..], &["le"]].concat());
                    take(format!("{name}_sum"), &labels);
                    take(format!("{name}_count"), &labels);
                }
            }
        }
        assert!(found > 0, "{prefix}: nothing is registered any more?");
    }
    series
}

/// What is wrong with the metrics and labels of an expression, of a dashboard's variable (`label_values(METRIC, LABEL)`) or of a
/// series in the tests of the alerts.
fn faults(expression: &str, exported: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let (series, wanted) =
        expression.strip_prefix("label_values(").and_then(|it| it.rsplit_once(", ")).unwrap_or((expression, ""));
    let grouped = Regex::new(r"\b(?:by|on|without|ignoring|group_left|group_right) ?\(([^)]*)\)").unwrap();
    let labels =
        grouped.captures_iter(series).flat_map(|labels| labels[1].split(',').map(str::to_owned).collect::<Vec<_>>());
    let wanted: Vec<String> = labels.chain([wanted.trim_end_matches(')').to_owned()]).collect();
    let bare = grouped.replace_all(series, " ");
    // A name is a metric's where it is no function's; what a metric is asked for stands behind it.
    let metric = Regex::new(r"\b([a-z]+_[a-z_]+)\b(?:\{([^}]*)\}|([^(]|$))").unwrap();
    let matcher = Regex::new(r#"(\w+) ?(?:=~|!~|!=|=) ?""#).unwrap();
    let mut faults = Vec::new();
    let mut metrics = 0;
    for found in metric.captures_iter(&bare) {
        metrics += 1;
        let Some(labels) = exported.get(&found[1]) else {
            faults.push(format!("nobody exports {}", &found[1]));
            continue;
        };
        let asked = found.get(2).map_or("", |asked| asked.as_str());
        let asked = matcher.captures_iter(asked).map(|label| label[1].to_owned());
        let unknown = asked.chain(wanted.iter().map(|label| label.trim().to_owned()));
        let unknown = unknown.filter(|label| !label.is_empty() && !labels.contains(label));
        faults.extend(unknown.map(|label| format!("{} has no label {label}", &found[1])));
    }
    if metrics == 0 {
        faults.push("it names no metric".to_owned());
    }
    faults
}

#[test]
fn labels_that_no_series_has_are_found() {
    let exported = exported();
    let wrong = |expression: &str| faults(expression, &exported).join("; ");
    assert_eq!(wrong("max by (watch) (mesh_controller_unusable_objects) > 0"), "");
    assert_eq!(
        wrong("max by (kind) (mesh_controller_unusable_objects) > 0"),
        "mesh_controller_unusable_objects has no label kind"
    );
    assert_eq!(wrong("sum(rate(mesh_injections_total{result=\"skipped\",reason!~\"a|b\"}[5m]))"), "");
    assert_eq!(wrong("sum(rate(mesh_injections_total{cause=~\"a\"}[5m]))"), "mesh_injections_total has no label cause");
    assert_eq!(wrong("sum by (le) (rate(mesh_proxy_overhead_seconds_bucket[5m]))"), "");
    assert_eq!(
        wrong("sum by (le) (mesh_proxy_overhead_seconds_sum)"),
        "mesh_proxy_overhead_seconds_sum has no label le"
    );
    assert_eq!(
        wrong("mesh_build_info unless on (pod, node) mesh_series"),
        "mesh_build_info has no label node; mesh_series has no label node"
    );
    assert_eq!(
        wrong("label_values(istio_requests_total{reporter=\"source\"}, authority)"),
        "istio_requests_total has no label authority"
    );
    assert_eq!(wrong("mesh_nothing_total > 0"), "nobody exports mesh_nothing_total");
    assert_eq!(wrong("1 > 0"), "it names no metric");
}

fn all_on() -> Vec<Value> {
    render(&json!({
        "prometheus": {"rules": true, "podMonitors": true, "ruleLabels": {"release": "stack"}},
        "grafana": {"dashboards": true},
    }))
}

#[test]
fn dashboards_and_alerts_name_metrics_and_labels_that_exist() {
    let objects = all_on();
    let mut expressions: Vec<String> = Vec::new();
    let dashboards = find(&objects, "ConfigMap", "mesh-dashboards")["data"].as_object().unwrap();
    assert_eq!(dashboards.len(), 2);
    for (name, text) in dashboards {
        let dashboard: Value = serde_json::from_str(text.as_str().unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let targets =
            dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
        expressions.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
        let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
        let queries = variables.filter(|variable| variable["type"] == "query");
        expressions.extend(queries.map(|variable| variable["query"].as_str().unwrap().to_owned()));
    }
    let rules = rules(&objects);
    expressions.extend(rules.iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()));
    assert!(expressions.len() > 50, "{}", expressions.len());
    let exported = exported();
    for expression in expressions {
        assert_eq!(faults(&expression, &exported), [""; 0], "{expression}");
        let balanced = |open: char, close: char| expression.matches(open).count() == expression.matches(close).count();
        assert!(balanced('(', ')') && balanced('{', '}') && balanced('[', ']'), "{expression}");
    }
}

/// What `promtool test rules` is given in the tests on a cluster: each alert fires there in one case and does not in another, and
/// every series is one that we export.
#[test]
fn the_alerts_are_tested_with_series_that_exist() {
    let tests = include_str!("../../../../integration-tests/tests/cluster/alerts.yaml");
    let tests: Value = serde_yaml_ng::from_str(tests).unwrap();
    let exported = exported();
    let (mut fire, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for test in tests["tests"].as_array().unwrap() {
        for series in test["input_series"].as_array().unwrap() {
            let series = series["series"].as_str().unwrap();
            assert_eq!(faults(series, &exported), [""; 0], "{series}");
        }
        for case in test["alert_rule_test"].as_array().unwrap() {
            let fires = !case["exp_alerts"].as_array().unwrap().is_empty();
            let seen = if fires { &mut fire } else { &mut silent };
            seen.insert(case["alertname"].as_str().unwrap().to_owned());
        }
    }
    let alerts: BTreeSet<String> =
        rules(&all_on()).iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect();
    assert_eq!((&fire, &silent), (&alerts, &alerts));
}

#[test]
fn alerts_say_what_to_do() {
    let objects = all_on();
    assert_eq!(find(&objects, "PrometheusRule", "mesh")["metadata"]["labels"]["release"], "stack");
    let mut seen = BTreeSet::new();
    for rule in rules(&objects) {
        let name = rule["alert"].as_str().unwrap().to_owned();
        assert!(["info", "warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        let [summary, description] = ["summary", "description"].map(|it| rule["annotations"][it].as_str().unwrap());
        assert!(!description.is_empty() && !summary.contains('`'), "{name}: {summary}");
        assert!(seen.insert(name.clone()), "{name} is there twice");
    }
    let fails = rules(&objects)[0]["annotations"]["summary"].clone();
    assert_eq!(fails, "{{ $value | humanizePercentage }} of the requests to {{ $labels.destination_service }} fail");
}

/// Prometheus Operator asks container ports by name: those that the programs' pods and injected ones have.
#[test]
fn monitors_name_ports_that_are_there() {
    let objects = all_on();
    let port = |monitor: &str| {
        find(&objects, "PodMonitor", monitor)["spec"]["podMetricsEndpoints"][0]["port"].as_str().unwrap().to_owned()
    };
    for program in ["mesh-controller", "mesh-identity", "mesh-injector"] {
        let container = &find(&objects, "Deployment", program)["spec"]["template"]["spec"]["containers"][0];
        let ports = container["ports"].as_array().unwrap();
        let health = ports.iter().find(|one| one["name"] == port("mesh-control-plane").as_str());
        assert_eq!(health.unwrap()["containerPort"], 9090, "{program}");
    }
    let sidecar = include_str!("../../../../injector/src/inject/sidecar.rs");
    assert!(sidecar.contains(&format!(r#""name": "{}", "containerPort": names::HEALTH_PORT"#, port("mesh-proxies"))));
}

#[test]
fn they_are_there_only_where_asked_for() {
    let kinds = |objects: &[Value]| -> BTreeSet<String> {
        objects.iter().map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"])).collect()
    };
    let more: Vec<String> = kinds(&all_on()).difference(&kinds(&render(&json!({})))).cloned().collect();
    let expected = [
        r#""ConfigMap"/"mesh-dashboards""#,
        r#""PodMonitor"/"mesh-control-plane""#,
        r#""PodMonitor"/"mesh-proxies""#,
        r#""PrometheusRule"/"mesh""#,
    ];
    assert_eq!(more, expected);
}

fn rules(objects: &[Value]) -> Vec<Value> {
    let groups = find(objects, "PrometheusRule", "mesh")["spec"]["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}
