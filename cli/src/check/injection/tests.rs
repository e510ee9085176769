//! Who should have a proxy, and each way not to have one.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::check::Outcome;
use crate::check::injection::opted_in;
use crate::check::installed::tests::{config, each, namespace, object, pod, well};
use crate::check::installed::{Installed, judge};

fn pods(facts: &mut Installed) -> &mut Vec<Pod> {
    facts.pods.as_mut().unwrap()
}

fn annotate(facts: &mut Installed, value: &str) {
    let metadata = &mut facts.namespaces.as_mut().unwrap()[0].metadata;
    metadata.annotations = Some([("meshctl.io/inject".to_owned(), value.to_owned())].into());
}

fn label(facts: &mut Installed, key: &str, value: &str) {
    let metadata = &mut facts.namespaces.as_mut().unwrap()[0].metadata;
    metadata.labels.as_mut().unwrap().insert(key.to_owned(), value.to_owned());
}

#[test]
fn each_thing_of_injection_that_can_be_wrong() {
    each(&[
        (
            "injected",
            |facts| pods(facts).push(pod("web-5d-2", -450, false)),
            Outcome::Warning,
            "1 pod in namespace shop began before injection: web-5d-2",
            "kubectl rollout restart deployment/web -n shop",
        ),
        (
            "injected",
            |facts| pods(facts).push(pod("web-5d-2", -100, false)),
            Outcome::Failed,
            "1 pod in namespace shop should have a proxy and has none: web-5d-2",
            "kubectl -n shop get events; kubectl -n mesh-system logs deploy/mesh-injector; kubectl rollout restart deployment/web -n shop",
        ),
        (
            "injected",
            |facts| {
                pods(facts).push(pod("web-5d-2", -100, false));
                pods(facts)[1].metadata.annotations = Some([("meshctl.io/inject".to_owned(), "yes".to_owned())].into());
            },
            Outcome::Failed,
            "1 pod not injected because meshctl.io/inject: \"yes\" on the pod is neither enabled nor disabled: shop/web-5d-2",
            "meshctl.io/inject: disabled",
        ),
        (
            "opted-in",
            |facts| facts.namespaces.as_mut().unwrap().remove(0).metadata.name = None,
            Outcome::Warning,
            "no namespace asks",
            "kubectl annotate namespace NAMESPACE meshctl.io/inject=enabled",
        ),
        (
            "pod-security",
            |facts| label(facts, "pod-security.kubernetes.io/enforce", "restricted"),
            Outcome::Failed,
            "namespace shop refuses",
            "kubectl label --overwrite namespace shop",
        ),
        (
            "word",
            |facts| label(facts, "meshctl.io/inject", "disabled"),
            Outcome::Warning,
            "its label is not there yet",
            "mesh-injector",
        ),
        (
            "running",
            |facts| {
                let status = pods(facts)[0].status.as_mut().unwrap().init_container_statuses.as_mut().unwrap();
                (status[0].ready, status[0].started) = (false, Some(false));
                status[0].state = object(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
            },
            Outcome::Failed,
            "1 proxy does not run (CrashLoopBackOff): shop/web-5d-1",
            "kubectl -n shop logs web-5d-1 -c mesh-proxy",
        ),
        (
            "version",
            |facts| {
                pods(facts)[0].metadata.annotations =
                    Some([("meshctl.io/proxy-version".to_owned(), "0.0.9".to_owned())].into());
            },
            Outcome::Warning,
            concat!("1 proxy has version 0.0.9, this meshctl ", env!("CARGO_PKG_VERSION"), ": shop/web-5d-1"),
            "kubectl rollout restart deployment/web -n shop",
        ),
        (
            "injected",
            |facts| facts.pods = Err("pods is forbidden".into()),
            Outcome::Warning,
            "pods may not be listed",
            "can-i list pods",
        ),
    ]);
}

#[test]
fn a_pod_that_cannot_be_injected_is_said_with_the_injectors_own_reason() {
    each(&[
        (
            "injected",
            |facts| {
                let mut taken = pod("web-5d-2", -100, false);
                taken.spec.as_mut().unwrap().containers[0] =
                    object(json!({"name": "app", "ports": [{"containerPort": 15001}]}));
                pods(facts).push(taken);
            },
            Outcome::Failed,
            "15001",
            "meshctl.io/inject: disabled",
        ),
        (
            "injected",
            |facts| {
                pods(facts).push(pod("web-5d-2", -450, false));
                let annotation = ("meshctl.io/proxy-workers".to_owned(), "many".to_owned());
                pods(facts)[1].metadata.annotations = Some([annotation].into());
            },
            Outcome::Failed,
            "meshctl.io/proxy-workers",
            "correct it",
        ),
        ("config", |facts| facts.config = Ok(None), Outcome::Failed, "ConfigMap mesh-config", "meshctl install"),
        (
            "config",
            |facts| facts.config = Ok(Some(config("trustDomian: x"))),
            Outcome::Failed,
            "trustDomian",
            "kubectl -n mesh-system edit configmap mesh-config",
        ),
    ]);
}

#[test]
fn a_word_that_means_nothing_is_a_failure() {
    let mut facts = well();
    annotate(&mut facts, "ture");
    let text = judge(&facts).render();
    assert!(
        text.contains("× namespace shop is not injected: meshctl.io/inject: \"ture\" on the namespace is neither"),
        "{text}"
    );
}

#[test]
fn who_needs_no_proxy_is_left_alone() {
    let mut facts = well();
    let mut opted_out = pod("out", -100, false);
    opted_out.metadata.annotations = Some([("meshctl.io/inject".to_owned(), "disabled".to_owned())].into());
    let mut host = pod("host", -100, false);
    host.spec.as_mut().unwrap().host_network = Some(true);
    let mut done = pod("done", -100, false);
    done.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let mut ending = pod("ending", -450, false);
    ending.metadata.deletion_timestamp = ending.metadata.creation_timestamp.clone();
    let mut elsewhere = pod("elsewhere", -100, false);
    elsewhere.metadata.namespace = Some("default".into());
    pods(&mut facts).extend([opted_out, host, done, ending, elsewhere]);
    let report = judge(&facts);
    assert_eq!(report.outcome, Outcome::Passed, "{}", report.render());
}

/// A Job's pod is not over with its application: its proxy ends after that, and its phase says so later still.
#[test]
fn a_job_that_is_done_is_no_failure() {
    let ended = json!({"terminated": {"exitCode": 0}});
    let state = |name: &str, state: &Value| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    for (policy, app, expected) in [
        ("Never", &ended, Outcome::Passed),
        ("Never", &json!({"running": {}}), Outcome::Failed),
        ("Always", &ended, Outcome::Failed),
    ] {
        let mut facts = well();
        let mut job = pod("job", -100, true);
        job.spec.as_mut().unwrap().restart_policy = Some(policy.to_owned());
        job.status = Some(object(json!({
            "phase": "Running",
            "initContainerStatuses": [state("mesh-proxy", &ended)],
            "containerStatuses": [state("app", app)],
        })));
        pods(&mut facts).push(job);
        let report = judge(&facts);
        assert_eq!(report.outcome, expected, "{policy} {app}: {}", report.render());
    }
}

/// As a kubelet writes it, in the order in which a pod starts.
#[test]
fn a_proxy_that_does_not_run_says_why() {
    let state = |name: &str, state: Value, last: Value| {
        json!({"name": name, "image": "", "imageID": "", "ready": false,
        "restartCount": 0, "state": state, "lastState": last})
    };
    let failed =
        json!({"terminated": {"exitCode": 1, "message": "reading\nmesh-proxy: nftables: Operation not supported\n"}});
    let (done, running) = (json!({"terminated": {"exitCode": 0}}), json!({"running": {}}));
    let waiting = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
    let rules =
        "mesh-init, which writes the redirect rules, ended with code 1: mesh-proxy: nftables: Operation not supported)";
    let held = "(not ready: no certificate or no configuration yet, and its application waits for it)";
    for (init, proxy, expected, hint) in [
        ((&failed, json!({})), (waiting("PodInitializing", ""), json!({})), rules, "logs web-1 -c mesh-init"),
        (
            (&waiting("CrashLoopBackOff", ""), failed.clone()),
            (waiting("PodInitializing", ""), json!({})),
            rules,
            "-c mesh-init",
        ),
        ((&running, json!({})), (waiting("PodInitializing", ""), json!({})), "(PodInitializing)", "describe pod web-1"),
        ((&done, failed.clone()), (waiting("PodInitializing", ""), json!({})), held, "describe pod web-1"),
        (
            (&done, json!({})),
            (waiting("ImagePullBackOff", "no\nsuch image"), json!({})),
            "(ImagePullBackOff: such image)",
            "describe",
        ),
        (
            (&done, json!({})),
            (waiting("CrashLoopBackOff", ""), failed.clone()),
            "(ended with code 1: mesh-proxy",
            "-c mesh-proxy",
        ),
        (
            (&done, json!({})),
            (running.clone(), failed.clone()),
            "(not ready: no certificate",
            "logs web-1 -c mesh-proxy",
        ),
    ] {
        let mut facts = well();
        let mut broken = pod("web-1", -100, true);
        let containers = [state("mesh-init", init.0.clone(), init.1), state("mesh-proxy", proxy.0, proxy.1)];
        broken.status = Some(object(json!({"phase": "Pending", "initContainerStatuses": containers})));
        *pods(&mut facts) = vec![broken];
        let report = judge(&facts);
        let line = report.checks.iter().find(|line| line.name == "running").unwrap();
        assert!(line.outcome == Outcome::Failed && line.text.contains(expected), "{expected}: {line:?}");
        assert!(line.hint.as_deref().unwrap().contains(hint), "{hint}: {line:?}");
    }
}

#[test]
fn a_namespace_that_is_being_deleted_is_not_tried() {
    let mut namespaces = vec![namespace("shop"), namespace("going")];
    namespaces[1].metadata.deletion_timestamp = pod("p", 0, true).metadata.creation_timestamp;
    assert_eq!(opted_in(&namespaces), ["shop"]);
}

#[test]
fn pods_of_no_controller_cannot_be_restarted() {
    let mut facts = well();
    let mut alone = pod("alone", -450, false);
    alone.metadata.owner_references = None;
    pods(&mut facts).push(alone);
    let text = judge(&facts).render();
    let said = "nobody makes it again, start it anew from its own manifest: shop/alone\n    try: kubectl get pod alone -n shop -o yaml\n";
    assert!(text.contains(said), "{text}");
}

/// While a workload is being restarted its old pods go by themselves, and `--wait` waits for them. Nobody replaces pods of one
/// revision.
#[test]
fn pods_that_are_being_replaced_are_waited_for() {
    let revision = |name: &str, created: i64, meshed: bool, revision: &str| {
        let mut pod = pod(name, created, meshed);
        let hash = ("pod-template-hash".to_owned(), revision.to_owned());
        let owner = &mut pod.metadata.owner_references.as_mut().unwrap()[0];
        owner.name = format!("web-{revision}");
        pod.metadata.labels = Some([hash].into());
        pod
    };
    let mut ending = revision("web-5d-3", -450, false, "5d");
    ending.metadata.deletion_timestamp = ending.metadata.creation_timestamp.clone();
    let old = || revision("web-5d-2", -450, false, "5d");
    let mut outdated = revision("web-5d-2", -300, true, "5d");
    outdated.metadata.annotations = Some([("meshctl.io/proxy-version".to_owned(), "0.0.9".to_owned())].into());
    for (pods_now, name, passing) in [
        (vec![old(), revision("web-5d-1", -300, true, "5d")], "injected", false),
        (vec![old(), revision("web-6e-1", -10, true, "6e")], "injected", true),
        (vec![old(), ending], "injected", true),
        (vec![outdated.clone()], "version", false),
        (vec![outdated, revision("web-6e-1", -10, true, "6e")], "version", true),
    ] {
        let mut facts = well();
        *pods(&mut facts) = pods_now;
        let report = judge(&facts);
        let line = report.checks.iter().find(|line| line.name == name).unwrap();
        assert_eq!((line.outcome, line.passing), (Outcome::Warning, passing), "{}", report.render());
        assert_eq!(line.text.ends_with("; being replaced"), passing, "{line:?}");
    }
}
