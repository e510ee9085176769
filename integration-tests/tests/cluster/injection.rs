//! Who gets a proxy and from when on, who gets none and is told why, and what becomes of pods while nobody injects.

use std::time::Duration;

use integration_tests::cluster::looks::{get, has_proxy};
use integration_tests::cluster::{Cluster, Namespace, container, deployment_manifest, server_manifest};
use integration_tests::mesh::{admin, eventually};
use proto::names::{self, metric};

use super::away::Away;

/// The first connections of an application and of its own init container go through the mesh. Pods that cannot be injected run
/// without a proxy; their ReplicaSets' events, the injector's metric and `check` say why. Of two annotations the pod's own is obeyed, and
/// an event says so.
#[test]
fn the_first_connection_is_in_the_mesh_and_whoever_is_refused_is_told_why() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let namespace = cluster.namespace("early").unwrap();
    let annotations = ["meshctl.io/inject=enabled", "meshctl.io/proxy-log-level=info"];
    cluster.kubectl(&[&["annotate", "namespace", "early"], &annotations[..]].concat()).unwrap();
    let before = REFUSALS.map(|(_, reason, ..)| skipped(&cluster, reason));
    let refused = REFUSALS.map(|(name, _, annotations, more, _)| {
        deployment_manifest(name, annotations, &[container("app", "serve, --listen, '0.0.0.0:8080'", more)], "")
    });
    namespace.apply(&format!("{}{}", server_manifest("web", 1), refused.concat())).unwrap();
    namespace.rolled_out().unwrap();
    every_node_forwards(&namespace, "web");
    let jobs = [("early", ""), ("outside", "meshctl.io/inject: disabled"), ("tuned", TUNED)];
    namespace.apply(&jobs.map(|(name, annotations)| early_job(name, annotations)).concat()).unwrap();

    for ((name, reason, .., note), before) in REFUSALS.iter().zip(before) {
        assert!(!is_injected(&namespace, name), "{name}");
        assert!(skipped(&cluster, reason) > before, "mesh_injections_total counts no {reason}");
        let told = || told(&namespace, name).contains(note);
        eventually(Duration::from_secs(10), told)
            .unwrap_or_else(|_| panic!("{}", namespace.kubectl(&["get", "events"]).unwrap()));
    }
    let check = cluster.try_meshctl(&["check"]).unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(!check.status.success(), "{said}");
    for (name, .., note) in REFUSALS {
        let named = |line: &str| line.contains('×') && line.contains(note) && line.contains(&format!("early/{name}-"));
        assert!(said.lines().any(named), "{name}: {said}");
    }

    namespace
        .kubectl(&["wait", "--for=condition=complete", "job/early", "job/outside", "job/tuned", "--timeout=60s"])
        .unwrap();
    let count = |labels: &[&str]| namespace.sum("web", metric::REQUESTS, labels).unwrap();
    let seen = ["mutual_tls", "none"].map(|policy| count(&[&format!("connection_security_policy=\"{policy}\"")]));
    assert_eq!(
        seen,
        [2.0, 4.0],
        "an init container and an application each sent one request, in the mesh and around it"
    );
    assert!((count(&["source_workload=\"early\""]) - 2.0).abs() < 0.1);
    assert!(is_injected_with(&namespace, "tuned", "11m"));
    let log = namespace.kubectl(&["logs", "job/tuned", "--container=mesh-proxy"]).unwrap();
    assert!(log.contains("DEBUG"), "{log}");
    let counts = |event: &serde_json::Value| {
        let note = event["message"].as_str().unwrap_or_default();
        event["involvedObject"]["name"] == "tuned"
            && event["reason"] == "Injected"
            && note
                .contains(r#"meshctl.io/proxy-log-level: "debug" on the pod counts, "info" on the namespace does not"#)
    };
    eventually(Duration::from_secs(10), || namespace.list("events", "").unwrap().iter().any(counts))
        .unwrap_or_else(|_| panic!("{}", namespace.kubectl(&["get", "events"]).unwrap()));
}

/// Istio's label on a namespace and its annotation on a pod mean the same here; a pod's word counts more than its namespace's.
#[test]
fn istios_words_are_understood() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let asked = cluster.namespace("istio-asked").unwrap();
    let unasked = cluster.namespace("istio-unasked").unwrap();
    cluster.kubectl(&["label", "namespace", "istio-asked", "istio-injection=enabled"]).unwrap();
    let silent = pause("silent", "");
    asked.apply(&[&silent[..], &pause("refuses", "sidecar.istio.io/inject: 'false'")].concat()).unwrap();
    unasked.apply(&[&silent[..], &pause("asks", "sidecar.istio.io/inject: 'true'")].concat()).unwrap();
    for namespace in [&asked, &unasked] {
        namespace.rolled_out().unwrap();
    }
    let seen = [(&asked, "silent"), (&asked, "refuses"), (&unasked, "silent"), (&unasked, "asks")];
    assert_eq!(seen.map(|(namespace, name)| is_injected(namespace, name)), [true, false, false, true]);
}

/// While nobody injects, pods that are to have a proxy wait, and say for whom; all others start. They come when the injector does.
#[test]
fn without_an_injector_only_those_who_asked_for_it_wait() {
    let cluster = Cluster::running().unwrap();
    cluster.meshctl(&["install"]).unwrap();
    let asked = cluster.namespace("waiting").unwrap();
    cluster.kubectl(&["annotate", "namespace", "waiting", "meshctl.io/inject=enabled"]).unwrap();
    let away = Away::send(&cluster, names::INJECTOR_ACCOUNT);
    let others = cluster.namespace("others").unwrap();
    let server = pause("web", "");
    asked.apply(&[&server[..], &pause("refuses", "meshctl.io/inject: disabled")].concat()).unwrap();
    others.apply(&server).unwrap();
    others.rolled_out().unwrap();
    asked.wait_for("deployment/refuses", "{.status.readyReplicas}", |ready| ready == "1").unwrap();
    let refused = || {
        let events = asked.list("events", "").unwrap();
        events.iter().any(|event| {
            event["reason"] == "FailedCreate"
                && event["involvedObject"]["kind"] == "ReplicaSet"
                && event["message"].as_str().is_some_and(|why| why.contains(names::PODS_WEBHOOK))
        })
    };
    eventually(Duration::from_secs(30), refused)
        .unwrap_or_else(|_| panic!("{}", asked.kubectl(&["get", "events"]).unwrap()));
    assert_eq!(asked.list("pods", "app=web").unwrap(), [] as [serde_json::Value; 0]);
    drop(away);
    asked.wait_for("deployment/web", "{.status.readyReplicas}", |ready| ready == "1").unwrap();
    assert!(is_injected(&asked, "web"));
    assert!(!is_injected(&others, "web"));

    // The way out: without the annotation the label goes, and pods come back without a proxy.
    cluster.kubectl(&["annotate", "namespace", "waiting", "meshctl.io/inject-"]).unwrap();
    let label = ["get", "namespace", "waiting", r"--output=jsonpath={.metadata.labels.meshctl\.io/inject}"];
    eventually(Duration::from_secs(5), || cluster.kubectl(&label).unwrap().is_empty()).unwrap();
    asked.kubectl(&["rollout", "restart", "deployment/web"]).unwrap();
    asked.rolled_out().unwrap();
    let is_plain = || !asked.list("pods", "app=web").unwrap().iter().any(has_proxy);
    eventually(Duration::from_secs(30), is_plain).unwrap();
}

/// A Job whose init container and application each send one request, as the first thing they do.
fn early_job(name: &str, annotations: &str) -> String {
    let get = |name: &str| container(name, "get, 'web:80'", "");
    let (first, second) = (get("first"), get("app"));
    format!(
        "
---
apiVersion: batch/v1
kind: Job
metadata: {{ name: {name} }}
spec:
  backoffLimit: 0
  template:
    metadata: {{ annotations: {{ {annotations} }} }}
    spec: {{ restartPolicy: Never, initContainers: [{first}], containers: [{second}] }}
"
    )
}

/// A Deployment that only runs.
fn pause(name: &str, annotations: &str) -> String {
    deployment_manifest(name, annotations, &[container("app", "serve, --listen, '0.0.0.0:8080'", "")], "")
}

fn is_injected(namespace: &Namespace, app: &str) -> bool {
    let pods = namespace.list("pods", &format!("app={app}")).unwrap();
    assert!(!pods.is_empty(), "{app} has no pods");
    pods.iter().all(has_proxy)
}

/// Waits until a plain client on any node gets through to a Service: the nodes' own rules come a moment after its endpoints.
fn every_node_forwards(namespace: &Namespace, service: &str) {
    let address = namespace.kubectl(&["get", "service", service, "--output=jsonpath={.spec.clusterIP}"]).unwrap();
    let dial = format!("</dev/tcp/{address}/80");
    for node in ["node1", "node2"] {
        let connects = || namespace.cluster.on_node(node, &["bash", "-c", &dial]).output().unwrap().status.success();
        eventually(Duration::from_secs(20), connects).unwrap();
    }
}

/// Whether the Job's pod has a proxy that asks for this share of a processor.
fn is_injected_with(namespace: &Namespace, job: &str, share: &str) -> bool {
    let pods = namespace.list("pods", &format!("job-name={job}")).unwrap();
    let asks = |pod: &serde_json::Value| {
        let containers = pod["spec"]["initContainers"].as_array().unwrap();
        let proxy = containers.iter().find(|container| container["name"] == "mesh-proxy");
        proxy.is_some_and(|proxy| proxy["resources"]["requests"]["cpu"] == share)
    };
    !pods.is_empty() && pods.iter().all(asks)
}

/// The warnings on a Deployment's ReplicaSet.
fn told(namespace: &Namespace, app: &str) -> String {
    let events = namespace.list("events", "").unwrap();
    let about = events.iter().filter(|event| {
        let named = event["involvedObject"]["name"].as_str().unwrap_or_default();
        event["involvedObject"]["kind"] == "ReplicaSet" && named.starts_with(app) && event["type"] == "Warning"
    });
    about.map(|event| event["message"].to_string()).collect()
}

/// How many pods the injector has passed over for a reason.
fn skipped(cluster: &Cluster, reason: &str) -> f64 {
    let selector = format!("--selector=app.kubernetes.io/name={}", names::INJECTOR_ACCOUNT);
    let addresses = "--output=jsonpath={.items[?(@.status.phase==\"Running\")].status.podIP}";
    let found = cluster.kubectl(&["get", "pods", &selector, "--namespace=mesh-system", addresses]).unwrap();
    let count = |address: &str| {
        let metrics =
            get((address.parse::<std::net::IpAddr>().unwrap(), names::CONTROL_HEALTH_PORT).into(), "/metrics");
        let reason = format!("reason=\"{reason}\"");
        admin::sum(&metrics.unwrap(), "mesh_injections_total", &["result=\"skipped\"", &reason])
    };
    found.split_whitespace().map(count).sum()
}

/// Annotations of a pod whose own connections go around the proxy.
const TUNED: &str = "meshctl.io/skip-outbound-subnets: '10.0.0.0/8', meshctl.io/proxy-log-level: debug, \
    meshctl.io/proxy-workers: '2', meshctl.io/proxy-cpu-request: 11m";
/// Name, reason, annotations, what else the container says, and words of the explanation.
const REFUSALS: [(&str, &str, &str, &str, &str); 3] = [
    ("misspelt", "invalid_value", "meshctl.io/inject: enable", "", "neither enabled nor disabled"),
    ("many", "invalid_setting", "meshctl.io/skip-inbound-ports: many", "", "meshctl.io/skip-inbound-ports"),
    ("conflict", "port_conflict", "", "ports: [{ containerPort: 15001 }]", "15001"),
];
