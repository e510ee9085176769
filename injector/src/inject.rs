//! What a meshed pod looks like: from a Pod to the JSON patch that makes it one (RFC 6902).
//!
//! - Our init container and native sidecar go before the pod's own init containers, so that those are in the mesh as well; and
//!   again when a webhook after ours has put others before them.
//! - The app's containers stay as they are, but for probes: those prove nothing, or are refused, at the proxy
//!   ([`probes`]).
//! - What the proxy must know travels in one environment variable ([`proto::Bootstrap`]).
//!
//! The patch names single places and never writes back what was read: fields of the Pod that this program is too old to
//! know survive. It is pure, and a second call finds nothing to do unless there are containers that were not there before.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::names;
use serde_json::{Value, json};

use crate::config::Config;
use crate::decision::{self, Decision, Skipped, decide};
use crate::settings::Settings;

mod again;
mod dns;
mod other_mesh;
mod probes;
mod sidecar;
mod workload;

pub use workload::workload_name;

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It gets a proxy.
    Injected(Injection),
    /// It does not, and stays as it is.
    Skipped(Skipped),
}

/// How a pod gets its proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// What to change.
    pub patch: json_patch::Patch,
    /// What people should know of it, one sentence each.
    pub notes: Vec<String>,
    /// Whether the pod had its proxy, and only containers that came after it were looked at.
    pub is_again: bool,
}

/// Decides about a pod and makes it a meshed one. `namespace` is the metadata of its Namespace, `bundle` the trust bundle
/// (PEM), a copy of which lets the proxy make its first contact before the bundle's ConfigMap is there.
pub fn inject(pod: &Pod, namespace: &ObjectMeta, config: &Config, bundle: Option<&str>) -> Outcome {
    match patch(pod, namespace, config, bundle) {
        Ok(injection) => Outcome::Injected(injection),
        Err(skipped) => Outcome::Skipped(skipped),
    }
}

fn patch(pod: &Pod, namespace: &ObjectMeta, config: &Config, bundle: Option<&str>) -> Result<Injection, Skipped> {
    let word = match decide(pod, namespace) {
        Decision::Inject(word) => word,
        Decision::Skip(skipped) => return Err(skipped),
    };
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    if again::has_our_names(spec) {
        return again::look(pod, spec);
    }
    other_mesh::has_it(pod, spec, namespace, &word)?;
    impossible(pod, spec)?;
    dns::finds(spec, &config.control_plane)?;
    let settings = Settings::read(&pod.metadata, namespace, config).map_err(Skipped::Setting)?;
    let rewritten = probes::rewrite(spec);
    let bootstrap = workload::bootstrap(pod, namespace, config, &settings, rewritten.probes, bundle).to_pod_json();
    if bootstrap.len() > LARGEST_BOOTSTRAP {
        return Err(Skipped::TooLarge { bytes: bootstrap.len() });
    }
    // Before the init containers move: these operations count them as they were.
    let mut operations = rewritten.operations;
    let containers =
        [sidecar::init_container(config, &settings), sidecar::proxy_container(config, &settings, &bootstrap)];
    insert(&mut operations, "/spec/initContainers", spec.init_containers.is_some(), containers, true);
    insert(&mut operations, "/spec/volumes", spec.volumes.is_some(), sidecar::volumes(), false);
    annotate(&mut operations, pod, &settings);
    let mut notes = decision::overruled(&word, pod, namespace);
    notes.extend(settings.overruled);
    notes.extend(pod_security(namespace));
    let patch = serde_json::from_value(Value::Array(operations)).expect("operations are written as RFC 6902 has them");
    Ok(Injection { patch, notes, is_again: false })
}

/// What no setting could make good.
fn impossible(pod: &Pod, spec: &PodSpec) -> Result<(), Skipped> {
    if pod.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(MIRROR)) {
        return Err(Skipped::MirrorPod);
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(Skipped::NotLinux);
    }
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        beside_a_proxy(spec, container)?;
    }
    let ours = [names::STATE_VOLUME, names::TOKEN_VOLUME, names::BUNDLE_VOLUME];
    match spec.volumes.iter().flatten().find(|volume| ours.contains(&volume.name.as_str())) {
        Some(volume) => Err(Skipped::VolumeConflict { volume: volume.name.clone() }),
        None => Ok(()),
    }
}

/// Whether a container could run beside a proxy.
fn beside_a_proxy(spec: &PodSpec, container: &Container) -> Result<(), Skipped> {
    if let Some(port) = taken_port(container) {
        return Err(Skipped::PortConflict { container: container.name.clone(), port });
    }
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    let pods = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    if own.or(pods) == Some(names::PROXY_UID.into()) {
        return Err(Skipped::UserConflict { container: container.name.clone() });
    }
    Ok(())
}

fn taken_port(container: &Container) -> Option<u16> {
    let ports = container.ports.iter().flatten();
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    let mut numbers = tcp.filter_map(|port| u16::try_from(port.container_port).ok());
    numbers
        .find(|port| [names::OUTBOUND_PORT, names::INBOUND_PORT, names::ADMIN_PORT, names::HEALTH_PORT].contains(port))
}

/// Puts items into a list that may not be there, at its front or at its end.
fn insert(
    operations: &mut Vec<Value>,
    list: &str,
    exists: bool,
    items: impl IntoIterator<Item = Value>,
    at_front: bool,
) {
    if !exists {
        operations.push(json!({"op": "add", "path": list, "value": []}));
    }
    for (index, item) in items.into_iter().enumerate() {
        let place = if at_front { index.to_string() } else { "-".to_owned() };
        operations.push(json!({"op": "add", "path": format!("{list}/{place}"), "value": item}));
    }
}

fn annotate(operations: &mut Vec<Value>, pod: &Pod, settings: &Settings) {
    let own = pod.metadata.annotations.as_ref();
    let mut wanted = settings.inherited.clone();
    wanted.insert(names::PROXY_VERSION.to_owned(), version(&settings.image).to_owned());
    // Whoever scrapes the app itself by these annotations goes on doing so.
    if !own.is_some_and(|map| map.keys().any(|key| key.starts_with(PROMETHEUS))) {
        let health = names::HEALTH_PORT.to_string();
        for (key, value) in [("scrape", "true"), ("port", health.as_str()), ("path", "/metrics")] {
            wanted.insert(format!("{PROMETHEUS}{key}"), value.to_owned());
        }
    }
    if own.is_none() {
        operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    for (key, value) in wanted {
        let path = format!("/metadata/annotations/{}", key.replace('~', "~0").replace('/', "~1"));
        operations.push(json!({"op": "add", "path": path, "value": value}));
    }
}

/// An image's tag, or all of it where it has none.
fn version(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => image,
    }
}

/// What refuses the init container: the API server will refuse the pod after us, and say less. It is one of the notes of an
/// [`Injection`].
pub fn pod_security(namespace: &ObjectMeta) -> Option<String> {
    let level = namespace.labels.as_ref()?.get(POD_SECURITY)?;
    let name = namespace.name.as_deref().unwrap_or("");
    ["baseline", "restricted"].contains(&level.as_str()).then(|| {
        format!(
            "the namespace's label {POD_SECURITY}={level} refuses the capability NET_ADMIN, which container {} needs: \
             kubectl label namespace {name} --overwrite {POD_SECURITY}=privileged",
            names::INIT_CONTAINER
        )
    })
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const PROMETHEUS: &str = "prometheus.io/";
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Linux takes 128 KiB for one variable.
const LARGEST_BOOTSTRAP: usize = 96 * 1024;

#[cfg(test)]
mod tests;
