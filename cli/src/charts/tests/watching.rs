//! Dashboards and alerts: off by default, well-formed, and about metrics that exist.

use std::collections::BTreeSet;

use regex_lite::Regex;
use serde_json::{Value, json};

use super::{find, render};

/// Names as they are scraped, of what the sources of the programs register.
fn exported() -> BTreeSet<String> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let quoted = Regex::new(r#""((?:istio|mesh|process)_[a-z_]+)""#).unwrap();
    let mut proxies = |source: &str| {
        for name in quoted.captures_iter(source) {
            // The proxy writes names as they are; those of histograms with the three suffixes.
            names.extend(["", "_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", &name[1])));
        }
    };
    for source in [
        include_str!("../../../../proto/src/names.rs").split("pub mod metric").nth(1).unwrap(),
        include_str!("../../../../proxy/src/telemetry/exposition.rs"),
        include_str!("../../../../proxy/src/admin.rs"),
    ] {
        proxies(source);
    }
    let registered =
        Regex::new(r#"register\(\s*"([a-z_]+)",\s*(?:"[^"]*"|\w+),\s*\w+\.(\w+)(?:\.0)?\.clone\(\)"#).unwrap();
    for (prefix, source) in [
        ("mesh_controller_", include_str!("../../../../controller/src/metrics.rs")),
        ("", include_str!("../../../../controller/runtime/src/incoming.rs")),
        ("", include_str!("../../../../controller/runtime/src/certificate.rs")),
        ("", include_str!("../../../../identity/server/src/metrics.rs")),
        ("", include_str!("../../../../injector/src/metrics.rs")),
    ] {
        let mut found = 0;
        for metric in registered.captures_iter(source) {
            found += 1;
            let (name, field) = (format!("{prefix}{}", &metric[1]), &metric[2]);
            let kind = Regex::new(&format!(r"\b{field}: ([^\n]+),")).unwrap();
            let kind = kind.captures(source).unwrap_or_else(|| panic!("{field}"))[1].to_owned();
            names.extend(match &kind {
                kind if kind.contains("Counter") => vec![format!("{name}_total")],
                kind if kind.contains("Gauge") => vec![name],
                _ => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec(),
            });
        }
        assert!(found > 0, "{prefix}: nothing is registered any more?");
    }
    names
}

/// Names of metrics in an expression: neither labels to match nor labels to group by.
fn metrics(expression: &str) -> Vec<String> {
    let labels = Regex::new(r"\{[^}]*\}|\b(by|on) \([^)]*\)").unwrap();
    // A variable of a dashboard: label_values(METRIC, LABEL).
    let expression =
        expression.strip_prefix("label_values(").and_then(|it| it.rsplit_once(", ")).map_or(expression, |it| it.0);
    let bare = labels.replace_all(expression, " ");
    let name = Regex::new(r"\b[a-z]+_[a-z_]+\b").unwrap();
    let names = name.find_iter(&bare).map(|name| name.as_str().to_owned());
    names.filter(|name| name != "histogram_quantile").collect()
}

fn all_on() -> Vec<Value> {
    render(&json!({
        "prometheus": {"rules": true, "podMonitors": true, "ruleLabels": {"release": "stack"}},
        "grafana": {"dashboards": true},
    }))
}

#[test]
fn dashboards_and_alerts_name_metrics_that_exist() {
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
        let named = metrics(&expression);
        assert!(!named.is_empty(), "{expression}");
        for name in named {
            assert!(exported.contains(&name), "nobody exports {name}\n{expression}");
        }
        let balanced = |open: char, close: char| expression.matches(open).count() == expression.matches(close).count();
        assert!(balanced('(', ')') && balanced('{', '}') && balanced('[', ']'), "{expression}");
    }
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
