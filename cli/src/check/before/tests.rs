//! A cluster that is ready, and each thing that can be wrong with one.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::check::Outcome;

const NOW: u64 = 1_800_000_000_000;

fn ready() -> Before {
    let info = NodeSystemInfo {
        operating_system: "linux".into(),
        architecture: "amd64".into(),
        kernel_version: "6.1.0-13-amd64".into(),
        kubelet_version: "v1.34.4".into(),
        ..NodeSystemInfo::default()
    };
    let node = Node {
        metadata: ObjectMeta { name: Some("one".into()), ..ObjectMeta::default() },
        status: Some(NodeStatus { node_info: Some(info), ..NodeStatus::default() }),
        ..Node::default()
    };
    Before {
        server: "https://api:6443".into(),
        version: "v1.34.4".into(),
        minor_version: Some((1, 34)),
        now_ms: NOW,
        date_ms: Ok(NOW + 900),
        rights: Ok(Vec::new()),
        gateway: Ok(Some(gateway_crd("v1"))),
        namespaces: Ok(vec![namespace("shop", None), namespace("kube-system", Some("restricted"))]),
        nodes: Ok(vec![node]),
        leases: Ok(vec![lease(NOW - 9000)]),
        installed: Ok(None),
    }
}

pub(in crate::check) fn gateway_crd(version: &str) -> CustomResourceDefinition {
    serde_json::from_value(json!({
        "metadata": {"name": HTTP_ROUTES, "annotations": {BUNDLE_VERSION: "v1.5.1"}},
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced", "names": {"kind": "HTTPRoute", "plural": "httproutes"},
            "versions": [{"name": version, "served": true, "storage": true}],
        },
    }))
    .unwrap()
}

fn namespace(name: &str, level: Option<&str>) -> Namespace {
    let labels = level.map(|level| [(ENFORCE.to_owned(), level.to_owned())].into());
    Namespace {
        metadata: ObjectMeta { name: Some(name.into()), labels, ..ObjectMeta::default() },
        ..Namespace::default()
    }
}

fn lease(renewed_ms: u64) -> Lease {
    let time = Timestamp::from_millisecond(i64::try_from(renewed_ms).unwrap()).unwrap();
    Lease {
        metadata: ObjectMeta { name: Some("one".into()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec { renew_time: Some(MicroTime(time)), ..LeaseSpec::default() }),
    }
}

fn right(verb: &str) -> Right {
    Right {
        group: "apps".into(),
        resource: "deployments".into(),
        verb: verb.into(),
        namespace: Some(names::SYSTEM_NAMESPACE.into()),
        name: None,
    }
}

fn info(facts: &mut Before) -> &mut NodeSystemInfo {
    let node = &mut facts.nodes.as_mut().unwrap()[0];
    node.status.as_mut().unwrap().node_info.as_mut().unwrap()
}

#[test]
fn a_cluster_that_is_ready() {
    let report = judge(&ready());
    assert_eq!(report.outcome, Outcome::Passed, "{}", report.render());
    assert_eq!(report.checks.len(), 8, "{}", report.render());
    assert!(
        report.render().starts_with("Kubernetes\n√ the API server https://api:6443 answers"),
        "{}",
        report.render()
    );
}

#[test]
fn each_thing_that_can_be_wrong() {
    for (name, break_it, outcome, text, hint) in CASES {
        let mut facts = ready();
        break_it(&mut facts);
        let report = judge(&facts);
        let wrong: Vec<_> = report.checks.iter().filter(|line| line.outcome != Outcome::Passed).collect();
        assert_eq!(wrong.len(), 1, "{name}: {}", report.render());
        assert_eq!((wrong[0].name, wrong[0].outcome), (*name, *outcome), "{}", report.render());
        assert!(wrong[0].text.contains(text), "{}", report.render());
        assert!(wrong[0].hint.as_deref().unwrap().contains(hint), "{}", report.render());
    }
}

/// Only who asks for proxies needs the level, and nobody should lower it everywhere with one command.
#[test]
fn one_namespace_that_asks_for_proxies_is_let_in() {
    let refusing = |name: &str, word: Option<(&str, &str)>| {
        let mut namespace = namespace(name, Some("restricted"));
        namespace.labels_mut().extend(word.map(|(key, value)| (key.to_owned(), value.to_owned())));
        namespace
    };
    let mut facts = ready();
    facts.namespaces = Ok(vec![
        refusing("bank", None),
        refusing("ci", Some((names::INJECT, "disabled"))),
        refusing("shop", Some((names::INJECT, "enabled"))),
        refusing("tea", Some((names::INJECT, "enabled"))),
    ]);
    let report = judge(&facts);
    let line = report.checks.iter().find(|line| line.name == "pod-security").unwrap();
    assert!(
        line.text.ends_with("in namespace shop, tea, asking for proxies; in 2 more, which ask for none"),
        "{line:?}"
    );
    let hint = "kubectl label --overwrite namespace shop pod-security.kubernetes.io/enforce=privileged";
    assert_eq!(line.hint.as_deref(), Some(hint));
}

/// Istio injects by its label: who keeps Istio keeps that, and is told so about one namespace at a time.
#[test]
fn istio_keeps_its_label() {
    let mut facts = ready();
    let both = ["shop", "tea"];
    facts.namespaces = Ok(both.map(|name| namespace(name, None)).into());
    for namespace in facts.namespaces.as_mut().unwrap() {
        namespace.labels_mut().insert(ISTIO.to_owned(), "enabled".to_owned());
    }
    let hint = |facts: &Before| judge(facts).checks.into_iter().find(|line| line.name == "istio")?.hint;
    for name in both {
        let expected = format!("kubectl annotate namespace {name} meshctl.io/inject=disabled");
        assert_eq!(hint(&facts), Some(expected));
        let namespaces = facts.namespaces.as_mut().unwrap();
        let namespace = namespaces.iter_mut().find(|namespace| namespace.name_any() == name).unwrap();
        namespace.annotations_mut().insert(names::INJECT.to_owned(), "disabled".to_owned());
    }
    assert_eq!(hint(&facts), None);
}

#[test]
fn the_gateway_api_that_is_recommended_is_the_one_that_is_tested() {
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../integration-tests/kubernetes/gateway-api/go.mod");
    let module = std::fs::read_to_string(module).unwrap();
    let version = module.split("sigs.k8s.io/gateway-api ").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(GATEWAY_COMMAND.contains(&format!("/{version}/")), "{version}: {GATEWAY_COMMAND}");
}

#[test]
fn what_may_not_be_read_is_said_and_nothing_else_suffers() {
    let mut facts = ready();
    let refused = || "nodes is forbidden".to_owned();
    (facts.nodes, facts.leases, facts.namespaces) = (Err(refused()), Err(refused()), Err(refused()));
    (facts.gateway, facts.installed) = (Err(refused()), Err(refused()));
    let report = judge(&facts);
    assert_eq!(report.outcome, Outcome::Warning, "{}", report.render());
    assert_eq!(report.count(Outcome::Warning), 3, "{}", report.render());
}

/// What is broken, how, and what is said of it.
type Case = (&'static str, fn(&mut Before), Outcome, &'static str, &'static str);

const CASES: &[Case] = &[
    ("version", |facts| facts.minor_version = Some((1, 28)), Outcome::Failed, "needs 1.29", "upgrade the cluster"),
    ("version", |facts| facts.minor_version = None, Outcome::Warning, "not understood", "1.29"),
    (
        "rights",
        |facts| facts.rights = Ok(vec![right("create"), right("patch")]),
        Outcome::Failed,
        "may not create/patch deployments",
        "kubectl auth can-i create deployments.apps --namespace mesh-system",
    ),
    (
        "rights",
        |facts| facts.rights = Err("your rights cannot be asked for: no".into()),
        Outcome::Warning,
        "cannot be asked for",
        "can-i --list",
    ),
    ("clock", |facts| facts.date_ms = Ok(NOW + 61_000), Outcome::Warning, "is 1m01s behind the API server's", "NTP"),
    ("clock", |facts| facts.date_ms = Ok(NOW - 8000), Outcome::Warning, "is 8.0s ahead of", "NTP"),
    (
        "gateway-api",
        |facts| facts.gateway = Ok(None),
        Outcome::Warning,
        "not installed",
        "kubectl apply --server-side -f https://",
    ),
    (
        "gateway-api",
        |facts| facts.gateway = Ok(Some(gateway_crd("v1beta1"))),
        Outcome::Warning,
        "do not serve version v1",
        "kubectl apply",
    ),
    (
        "nodes",
        |facts| info(facts).operating_system = "windows".into(),
        Outcome::Warning,
        "node one runs windows",
        "cordon",
    ),
    ("nodes", |facts| info(facts).architecture = "s390x".into(), Outcome::Warning, "architecture s390x", "cordon"),
    (
        "nodes",
        |facts| info(facts).kubelet_version = "v1.28.9+k3s1".into(),
        Outcome::Warning,
        "kubelet v1.28.9+k3s1",
        "cordon",
    ),
    ("nodes", |facts| info(facts).kernel_version = "4.14.336".into(), Outcome::Warning, "kernel 4.14.336", "cordon"),
    ("nodes", |facts| facts.nodes = Ok(Vec::new()), Outcome::Failed, "no node", "kubectl get nodes"),
    (
        "node-clocks",
        |facts| facts.leases = Ok(vec![lease(NOW + 31_000)]),
        Outcome::Failed,
        "ahead of the API server's: one (30s)",
        "NTP",
    ),
    (
        "istio",
        |facts| {
            let labels = Some([("istio-injection".to_owned(), "enabled".to_owned())].into());
            facts.namespaces.as_mut().unwrap()[0].metadata.labels = labels;
        },
        Outcome::Warning,
        "namespace shop: pods that Istio has are left alone",
        "kubectl annotate namespace shop meshctl.io/inject=disabled",
    ),
    (
        "pod-security",
        |facts| facts.namespaces = Ok(vec![namespace("shop", Some("baseline"))]),
        Outcome::Warning,
        "in namespace shop",
        "kubectl label --overwrite namespace NAMESPACE pod-security.kubernetes.io/enforce=privileged",
    ),
    (
        "present",
        |facts| facts.installed = Ok(Some(Deployment::default())),
        Outcome::Warning,
        "installed here already",
        "meshctl check",
    ),
];
