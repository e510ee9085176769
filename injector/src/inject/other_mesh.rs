//! Another mesh's proxy in the same pod: two sets of redirect rules, each of which takes the other proxy for an application, and
//! ports that both want. Whoever moves from one mesh to the other does so pod by pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use proto::names::{INJECT, INJECT_MIRRORED};

use crate::decision::{On, OtherMesh, Skipped, Word};

/// Fails if another mesh has the pod. `asked` is the word by which it would have been ours.
pub(super) fn has_it(pod: &Pod, spec: &PodSpec, namespace: &ObjectMeta, asked: &Word) -> Result<(), Skipped> {
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let by_container = CONTAINERS.iter().find(|(name, _)| containers().any(|container| container.name == *name));
    let (mesh, sign) = match by_container {
        Some((name, mesh)) => (*mesh, format!("container {name}")),
        None if is_ambient(pod, namespace) => (ISTIO, format!("label {MODE}={AMBIENT}")),
        None => return Ok(()),
    };
    let is_mirrored = asked.on == On::Namespace && !has(namespace.annotations.as_ref(), INJECT);
    let is_istios = is_mirrored && has(namespace.annotations.as_ref(), INJECT_MIRRORED);
    // Istio does not follow its label for sidecars in an ambient namespace, so that nobody would have the pod.
    let is_surprising = by_container.is_none() || asked.key == INJECT && !is_istios;
    Err(Skipped::OtherMesh(OtherMesh { mesh, sign, is_surprising }))
}

/// The pod's own word counts before its namespace's.
fn is_ambient(pod: &Pod, namespace: &ObjectMeta) -> bool {
    let mode = |metadata: &ObjectMeta| metadata.labels.as_ref()?.get(MODE).cloned();
    mode(&pod.metadata).or_else(|| mode(namespace)).is_some_and(|mode| mode == AMBIENT)
}

fn has(map: Option<&BTreeMap<String, String>>, key: &str) -> bool {
    map.is_some_and(|map| map.contains_key(key))
}

const ISTIO: &str = "Istio";
const CONTAINERS: [(&str, &str); 9] = [
    ("istio-proxy", ISTIO),
    ("istio-init", ISTIO),
    ("istio-validation", ISTIO),
    ("linkerd-proxy", "Linkerd"),
    ("linkerd-init", "Linkerd"),
    ("linkerd-network-validator", "Linkerd"),
    ("kuma-sidecar", "Kuma"),
    ("kuma-init", "Kuma"),
    ("consul-dataplane", "Consul"),
];
/// Istio's ambient mode redirects without a container of its own.
const MODE: &str = "istio.io/dataplane-mode";
const AMBIENT: &str = "ambient";
