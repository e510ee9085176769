//! A mesh that is well, and each thing that can be wrong with one.

use std::time::{Duration, SystemTime};

use identity::{Issuer, TrustDomain};
use k8s_openapi::ByteString;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::check::Outcome;
use crate::check::before::tests::gateway_crd;
use crate::check::trust::Validity;

const NOW_S: u64 = 1_800_000_000;

/// The time as the API server writes it, some seconds after (or before) now.
fn at(seconds: i64) -> String {
    Timestamp::from_second(i64::try_from(NOW_S).unwrap() + seconds).unwrap().to_string()
}

pub(in crate::check) fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// PEM of a root's certificate that began some days ago.
fn root(days_ago: u64) -> String {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S - days_ago * 86_400);
    Issuer::create(&"cluster.local".parse::<TrustDomain>().unwrap(), now).unwrap().1.certificate
}

fn deployment(name: &str) -> Deployment {
    object(json!({
        "metadata": {"name": name, "namespace": "mesh-system", "generation": 3},
        "spec": {
            "replicas": 2,
            "selector": {},
            "template": {"spec": {"containers": [{"name": name, "image": format!("meshctl.io/{name}:{OWN}")}]}},
        },
        "status": {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
    }))
}

fn lease(name: &str) -> Lease {
    object(json!({
        "metadata": {"name": name},
        "spec": {"holderIdentity": format!("{name}-1"), "leaseDurationSeconds": 15, "renewTime": at(-4).replace('Z', ".000000Z")},
    }))
}

fn slice(service: &str) -> EndpointSlice {
    object(json!({
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}],
    }))
}

fn bundle(namespace: &str, pem: &str) -> ConfigMap {
    object(json!({"metadata": {"name": "mesh-trust-bundle", "namespace": namespace}, "data": {"bundle.pem": pem}}))
}

/// An issuer that began some days ago, and lasts ten years.
fn validity(days_ago: u64) -> Option<Validity> {
    let begin = NOW_S - days_ago * 86_400;
    Some(Validity::new(begin * 1000, (begin + 3650 * 86_400) * 1000))
}

fn webhooks(pem: &str) -> MutatingWebhookConfiguration {
    let webhook = |name: &str| {
        json!({
            "name": name, "clientConfig": {"caBundle": ""}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        })
    };
    let mut configuration: MutatingWebhookConfiguration = object(json!({
        "metadata": {"name": "mesh-injector", "creationTimestamp": at(-500)},
        "webhooks": [webhook("pods.meshctl.io"), webhook("namespaces.meshctl.io")],
    }));
    for webhook in configuration.webhooks.as_mut().unwrap() {
        webhook.client_config.ca_bundle = Some(ByteString(pem.as_bytes().to_vec()));
    }
    configuration
}

pub(in crate::check) fn config(yaml: &str) -> ConfigMap {
    object(json!({"metadata": {"name": "mesh-config"}, "data": {"config.yaml": yaml}}))
}

fn kind() -> CustomResourceDefinition {
    object(json!({
        "metadata": {"name": KINDS[0]},
        "spec": {"group": "meshctl.io", "scope": "Namespaced", "names": {"kind": "A", "plural": "as"}, "versions": []},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    }))
}

pub(in crate::check) fn namespace(name: &str) -> Namespace {
    object(json!({"metadata": {
        "name": name,
        "annotations": {"meshctl.io/inject": "enabled"},
        "labels": {"meshctl.io/inject": "enabled"},
        "managedFields": [{"time": at(-400), "fieldsV1": {"f:metadata": {"f:annotations": {"f:meshctl.io/inject": {}}}}}],
    }}))
}

/// A pod of Deployment `web`, created some seconds after now, with a proxy or without.
pub(in crate::check) fn pod(name: &str, created: i64, meshed: bool) -> Pod {
    let proxy = json!([{"name": "mesh-init", "args": ["init"]}, {"name": "mesh-proxy", "restartPolicy": "Always"}]);
    object(json!({
        "metadata": {
            "name": name, "namespace": "shop", "creationTimestamp": at(created),
            "labels": {"pod-template-hash": "5d"},
            "annotations": {"meshctl.io/proxy-version": OWN},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "u", "controller": true},
            ],
        },
        "spec": {"containers": [{"name": "app"}], "initContainers": if meshed { proxy } else { json!([]) }},
        "status": {"phase": "Running", "initContainerStatuses": [
            {"name": "mesh-proxy", "ready": true, "started": true, "restartCount": 0, "image": "", "imageID": ""},
        ]},
    }))
}

pub(in crate::check) fn well() -> Installed {
    let root = root(1);
    Installed {
        now_ms: NOW_S * 1000,
        deployments: Ok(COMPONENTS.map(deployment).into()),
        leases: Ok(vec![lease("mesh-controller"), lease("mesh-identity")]),
        issuer: Ok(true),
        webhook: Ok(Some(webhooks(&root))),
        endpoints: Ok(COMPONENTS.map(slice).into()),
        kinds: vec![(KINDS[0], Ok(Some(kind())))],
        gateway: Ok(Some(gateway_crd("v1"))),
        config: Ok(Some(config("trustDomain: cluster.local"))),
        replicas: vec![
            Replica { pod: "mesh-controller-1".into(), source_age_ms: Some(20_000), ..Replica::default() },
            Replica { pod: "mesh-identity-1".into(), issuer: validity(1), ..Replica::default() },
        ],
        bundles: Ok(["shop", "default", "mesh-system"].map(|namespace| bundle(namespace, &root)).into()),
        namespaces: Ok(vec![namespace("shop"), object(json!({"metadata": {"name": "default"}}))]),
        pods: Ok(vec![pod("web-5d-1", -300, true)]),
        trial: Ok(Trial { namespace: "shop".into(), injected: true, took_ms: 12 }),
    }
}

/// Breaks one thing: exactly one line says so.
pub(in crate::check) type Case = (&'static str, fn(&mut Installed), Outcome, &'static str, &'static str);

pub(in crate::check) fn each(cases: &[Case]) {
    for (name, break_it, outcome, text, hint) in cases {
        let mut facts = well();
        break_it(&mut facts);
        let report = judge(&facts);
        let wrong: Vec<_> = report.checks.iter().filter(|line| line.outcome != Outcome::Passed).collect();
        assert_eq!(wrong.len(), 1, "{name} ({text}):\n{}", report.render());
        assert_eq!((wrong[0].name, wrong[0].outcome), (*name, *outcome), "{}", report.render());
        assert!(wrong[0].text.contains(text), "{text}:\n{}", report.render());
        assert!(wrong[0].hint.as_deref().unwrap().contains(hint), "{hint}:\n{}", report.render());
    }
}

#[test]
fn a_mesh_that_is_well() {
    let report = judge(&well());
    assert_eq!(report.outcome, Outcome::Passed, "{}", report.render());
    let names: Vec<_> = report.checks.iter().map(|line| line.name).collect();
    let expected = [
        "deployment",
        "deployment",
        "deployment",
        "kinds",
        "gateway-api",
        "lease",
        "lease",
        "replica",
        "restarts",
        "issuer",
        "bundle",
        "webhook",
        "endpoints",
        "trial",
        "opted-in",
        "injected",
        "running",
    ];
    assert_eq!(names, expected, "{}", report.render());
}

/// With a surge the pods of the version before stay available for as long as the new ones do not come.
#[test]
fn a_component_is_waited_for_until_its_new_pods_run() {
    let text = |change: fn(&mut Installed)| {
        let mut facts = well();
        change(&mut facts);
        let mut stuck = pod("mesh-controller-6e-1", -10, false);
        stuck.metadata.namespace = Some("mesh-system".to_owned());
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff"}});
        let app = json!({"name": "mesh-controller", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": waiting});
        stuck.status = Some(object(json!({"phase": "Pending", "containerStatuses": [app]})));
        facts.pods.as_mut().unwrap().push(stuck);
        let checks = judge(&facts).checks;
        let line = checks.into_iter().find(|line| line.text.starts_with("mesh-controller")).unwrap();
        assert_eq!(line.outcome == Outcome::Warning, line.passing, "{line:?}");
        line.passing.then_some(line.text)
    };
    assert_eq!(text(|_| {}), None);
    let why = ": mesh-controller-6e-1 is in ImagePullBackOff";
    let cases: [(fn(&mut Installed), _); 3] = [
        (
            |facts| facts.deployments.as_mut().unwrap()[0].metadata.generation = Some(4),
            "its change has not been seen yet",
        ),
        (|facts| status(facts).updated_replicas = Some(1), "1 of 2 pods are ready"),
        (|facts| status(facts).replicas = Some(3), "1 pods of the version before are ending"),
    ];
    for (change, missing) in cases {
        assert_eq!(text(change), Some(format!("mesh-controller is being rolled out: {missing}{why}")));
    }
}

#[test]
fn a_cluster_without_a_mesh_gets_one_line() {
    let mut facts = well();
    facts.deployments = Ok(Vec::new());
    let report = judge(&facts);
    assert_eq!(
        report.render(),
        "control plane\n× the mesh is not installed in this cluster\n    try: meshctl install\n\nfailed: 1 check\n"
    );
}

#[test]
fn each_thing_of_the_control_plane_that_can_be_wrong() {
    each(CONTROL_PLANE);
    let mut late = well();
    late.now_ms += 100_000;
    let report = judge(&late);
    assert!(
        report.checks.iter().any(|line| line.name == "lease" && line.text.contains("ran out")),
        "{}",
        report.render()
    );
}

fn status(facts: &mut Installed) -> &mut k8s_openapi::api::apps::v1::DeploymentStatus {
    facts.deployments.as_mut().unwrap()[0].status.as_mut().unwrap()
}

#[test]
fn each_thing_of_identity_that_can_be_wrong() {
    each(&[
        (
            "issuer",
            |facts| facts.issuer = Ok(false),
            Outcome::Failed,
            "Secret mesh-system/mesh-issuer is missing",
            "logs deploy/mesh-identity",
        ),
        (
            "issuer",
            |facts| facts.issuer = Err("secrets is forbidden".into()),
            Outcome::Warning,
            "whether there is an issuer mesh-system/mesh-issuer: secrets is forbidden",
            "kubectl auth can-i get secrets",
        ),
        (
            "bundle",
            |facts| facts.bundles.as_mut().unwrap().retain(|one| one.namespace().as_deref() != Some("shop")),
            Outcome::Failed,
            "no trust bundle in namespace shop",
            "mesh-identity",
        ),
        (
            "bundle",
            |facts| facts.bundles.as_mut().unwrap()[0].data = None,
            Outcome::Failed,
            "no readable trust bundle in namespace shop",
            "mesh-identity",
        ),
        (
            "bundle",
            |facts| facts.bundles.as_mut().unwrap()[1] = bundle("default", &root(2)),
            Outcome::Failed,
            "of namespace default is not that of the others",
            "mesh-identity",
        ),
        (
            "issuer",
            |facts| facts.replicas[1].issuer = None,
            Outcome::Warning,
            "no replica of mesh-identity says how long",
            "mesh-identity",
        ),
    ]);
}

#[test]
fn certificates_that_end() {
    for (days, outcome, text) in [
        (3650 - 20, Outcome::Warning, "the issuer's certificate ends in 2"),
        (3651, Outcome::Failed, "the issuer's certificate ended"),
    ] {
        let mut facts = well();
        facts.replicas[1].issuer = validity(days);
        let report = judge(&facts);
        assert_eq!(report.outcome, outcome, "{}", report.render());
        assert!(report.render().contains(text), "{}", report.render());
    }
}

#[test]
fn each_thing_of_the_webhook_that_can_be_wrong() {
    fn configuration(facts: &mut Installed) -> &mut Vec<k8s_openapi::api::admissionregistration::v1::MutatingWebhook> {
        facts.webhook.as_mut().unwrap().as_mut().unwrap().webhooks.as_mut().unwrap()
    }
    each(&[
        ("webhook", |facts| facts.webhook = Ok(None), Outcome::Failed, "no pod is injected", "meshctl install"),
        (
            "webhook",
            |facts| configuration(facts).truncate(1),
            Outcome::Failed,
            "webhook namespaces.meshctl.io is missing",
            "meshctl install",
        ),
        (
            "webhook",
            |facts| configuration(facts)[0].client_config.ca_bundle = None,
            Outcome::Failed,
            "pods.meshctl.io has no caBundle yet",
            "logs deploy/mesh-identity",
        ),
        (
            "webhook",
            |facts| configuration(facts)[0].client_config.ca_bundle = Some(ByteString(b"x".to_vec())),
            Outcome::Failed,
            "is unusable",
            "mesh-identity",
        ),
        (
            "webhook",
            |facts| configuration(facts)[0].client_config.ca_bundle = Some(ByteString(root(9).into_bytes())),
            Outcome::Failed,
            "is not the trust bundle",
            "mesh-identity",
        ),
        (
            "endpoints",
            |facts| facts.endpoints.as_mut().unwrap()[2].endpoints[0].conditions.as_mut().unwrap().ready = Some(false),
            Outcome::Failed,
            "Service mesh-injector has no ready endpoint",
            "kubectl",
        ),
        (
            "trial",
            |facts| facts.trial.as_mut().unwrap().injected = false,
            Outcome::Failed,
            "gets none",
            "kubectl describe",
        ),
        (
            "trial",
            |facts| facts.trial = Err("in namespace shop: failed calling webhook: connection refused".into()),
            Outcome::Failed,
            "refused in namespace shop: failed calling",
            "mesh-injector",
        ),
        (
            "trial",
            |facts| facts.trial = Err("in namespace shop: pods is forbidden: User \"u\" cannot create".into()),
            Outcome::Warning,
            "no pod may be put on trial",
            "can-i create pods",
        ),
    ]);
}

#[test]
fn kinds_are_those_of_the_chart() {
    let release = crate::charts::render::Release {
        name: "mesh-crds".into(),
        namespace: "mesh-system".into(),
        service: "Helm".into(),
        kube_version: "v1.34.4".into(),
    };
    let objects = crate::charts::CRDS.objects(&json!({}), &release).unwrap();
    let names: Vec<_> = objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, KINDS);
}

#[test]
fn a_mesh_without_routes_is_well() {
    let facts = Installed { gateway: Ok(None), ..well() };
    let report = judge(&facts);
    assert_eq!(report.outcome, Outcome::Passed, "{}", report.render());
    let line = report.checks.iter().find(|line| line.name == "gateway-api").unwrap();
    assert!(line.text.ends_with("standard-install.yaml"), "{}", line.text);
}

#[test]
fn images_have_tags() {
    for (image, expected) in [("a/b:1", "1"), ("r:5000/b", "latest"), ("r:5000/b:2@sha256:c", "2"), ("b", "latest")] {
        assert_eq!(tag(image), expected, "{image}");
    }
}

const CONTROL_PLANE: &[Case] = &[
    (
        "deployment",
        |facts| facts.deployments.as_mut().unwrap().truncate(2),
        Outcome::Failed,
        "mesh-injector is not installed",
        "meshctl install",
    ),
    (
        "deployment",
        |facts| status(facts).available_replicas = None,
        Outcome::Failed,
        "mesh-controller: none of 2 replicas is available",
        "logs deploy/mesh-controller",
    ),
    (
        "deployment",
        |facts| status(facts).available_replicas = Some(1),
        Outcome::Warning,
        "1 of 2 replicas are available",
        "kubectl -n mesh-system",
    ),
    (
        "deployment",
        |facts| {
            let deployment = &mut facts.deployments.as_mut().unwrap()[0];
            let template = deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
            template.containers[0].image = Some("reg:5000/mesh-controller:9.9.9@sha256:ab".into());
        },
        Outcome::Warning,
        "has version 9.9.9",
        "meshctl upgrade",
    ),
    (
        "deployment",
        |facts| {
            status(facts).available_replicas = None;
            facts.pods.as_mut().unwrap().push(object(json!({
                "metadata": {"name": "mesh-controller-1", "namespace": "mesh-system"},
                "status": {"containerStatuses": [{"name": "mesh-controller", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                    "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
            })));
        },
        Outcome::Failed,
        "mesh-controller-1 is in ImagePullBackOff",
        "kubectl",
    ),
    (
        "kinds",
        |facts| facts.kinds[0].1 = Ok(None),
        Outcome::Failed,
        "externalworkloads.meshctl.io is missing",
        "meshctl install",
    ),
    (
        "kinds",
        |facts| facts.kinds[0].1.as_mut().unwrap().as_mut().unwrap().status = None,
        Outcome::Failed,
        "not established",
        "describe crd",
    ),
    (
        "lease",
        |facts| facts.leases.as_mut().unwrap().truncate(1),
        Outcome::Failed,
        "lease mesh-identity does not exist",
        "logs deploy/mesh-identity",
    ),
    (
        "lease",
        |facts| facts.leases.as_mut().unwrap()[0].spec.as_mut().unwrap().holder_identity = None,
        Outcome::Failed,
        "nobody holds lease mesh-controller",
        "logs deploy/mesh-controller",
    ),
    (
        "restarts",
        |facts| {
            facts.pods.as_mut().unwrap().push(object(json!({
            "metadata": {"name": "mesh-identity-1", "namespace": "mesh-system"},
            "status": {"containerStatuses": [{"name": "mesh-identity", "ready": true, "restartCount": 7, "image": "", "imageID": "",
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": at(-60)}}}]},
        })))
        },
        Outcome::Warning,
        "mesh-identity-1 restarted 7 times, the last time 1m00s ago after OOMKilled with code 137",
        "logs --previous",
    ),
    (
        "replica",
        |facts| facts.replicas[0].unready = Some("lease: not held\n".into()),
        Outcome::Warning,
        "mesh-controller-1 is not ready: lease: not held",
        "kubectl -n mesh-system logs mesh-controller-1",
    ),
    (
        "replica",
        |facts| facts.replicas[0].source_age_ms = Some(90_000),
        Outcome::Warning,
        "mesh-controller-1 has not heard from the API server for 1m30s",
        "logs mesh-controller-1",
    ),
];
