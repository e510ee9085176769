//! Pods to facts: what a proxy of its own and its peers' proxies must know of a pod, which is little of what it says.
//!
//! Whether a pod has a proxy, and what is not redirected to it, decides whether its peers speak TLS to it. Both are read
//! from its spec, which cannot change: annotations can at any time, and by people with far fewer rights.
//!
//! The names are those of `proto::names`, which this package can't link; a test of the controller compares them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::manifest::{Invalid, metadata};
use crate::model::{Origin, Workload, WorkloadPort};
use crate::port_set::PortSet;

/// The name of the init container that redirects connections to the sidecar.
pub const INIT_CONTAINER: &str = "mesh-init";
/// The sidecar's name.
pub const PROXY_CONTAINER: &str = "mesh-proxy";
/// Annotation: ports that carry bytes.
pub const OPAQUE_PORTS: &str = "meshctl.io/opaque-ports";
/// Argument of `mesh-init`: ports that are not redirected to the proxy.
pub const SKIP_INBOUND_PORTS: &str = "--skip-inbound-ports";

/// The port of a proxy that is never redirected, and speaks no TLS: probes and metrics.
pub const HEALTH_PORT: u16 = 15020;

/// The object as a fact.
pub fn pod(object: &core::Pod) -> Result<Workload, Invalid> {
    let metadata = metadata(&object.metadata, true)?;
    let spec = object.spec.as_ref();
    let host_network = spec.is_some_and(|spec| spec.host_network == Some(true));
    let opaque_ports = metadata.annotations.get(OPAQUE_PORTS).map(|text| PortSet::parse(text)).unwrap_or_default();
    let redirect = spec.and_then(redirect);
    let meshed = redirect.is_some();
    // What Kubernetes runs a pod as that names no account.
    let account = || spec.and_then(|spec| spec.service_account_name.clone()).filter(|name| !name.is_empty());
    Ok(Workload {
        origin: Origin::Pod,
        addresses: addresses(object),
        ports: spec.map(container_ports).unwrap_or_default(),
        service_account: meshed.then(|| account().unwrap_or_else(|| "default".to_owned())),
        owner: owner(&object.metadata),
        zone: String::new(),
        node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        host_network,
        ready: metadata_says_it_stays(&object.metadata),
        opaque_ports,
        skipped_ports: redirect.map(skipped_ports).unwrap_or_default(),
        metadata,
    })
}

/// Whether a pod of this spec, which may be that of a template, has a proxy: our init container redirects its connections
/// to our sidecar. Containers that are called as ours are may be somebody's own, and annotations say what was meant.
pub fn has_proxy(spec: &core::PodSpec) -> bool {
    redirect(spec).is_some()
}

fn metadata_says_it_stays(object: &ObjectMeta) -> bool {
    object.deletion_timestamp.is_none()
}

/// The container that redirects connections to our sidecar, where both are there. In the node's own network there is
/// nothing to redirect.
fn redirect(spec: &core::PodSpec) -> Option<&core::Container> {
    if spec.host_network == Some(true) {
        return None;
    }
    let named = |name| spec.init_containers.iter().flatten().find(move |container| container.name == name);
    let is_init = |init: &&core::Container| arguments(init).next() == Some("init") && !is_sidecar(init);
    named(INIT_CONTAINER).filter(is_init).filter(|_| named(PROXY_CONTAINER).is_some_and(is_sidecar))
}

/// As the program reads it: `--flag=value` or `--flag value`, of several the last; and the proxy's own.
fn skipped_ports(init: &core::Container) -> PortSet {
    let following = arguments(init).skip(1);
    let values = arguments(init).zip(following.map(Some).chain([None])).filter_map(|(argument, next)| {
        let rest = argument.strip_prefix(SKIP_INBOUND_PORTS)?;
        if rest.is_empty() { next } else { rest.strip_prefix('=') }
    });
    PortSet::parse(&format!("{HEALTH_PORT},{}", values.last().unwrap_or_default()))
}

fn arguments(container: &core::Container) -> impl Iterator<Item = &str> {
    container.args.iter().flatten().map(String::as_str)
}

/// A native sidecar: an init container that goes on.
fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn addresses(object: &core::Pod) -> Vec<IpAddr> {
    let status = object.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|one| one.ip.as_str());
    let first = status.and_then(|status| status.pod_ip.as_deref());
    let mut addresses: Vec<IpAddr> = all.chain(first).filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// TCP ports of the containers and of the user's sidecars; our own are nobody's to dial.
fn container_ports(spec: &core::PodSpec) -> Vec<WorkloadPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let containers = spec.containers.iter().chain(sidecars).filter(|container| container.name != PROXY_CONTAINER);
    let written = containers.flat_map(|container| container.ports.iter().flatten());
    let tcp = written.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok().filter(|number| *number != 0)?;
        Some(WorkloadPort { name: port.name.clone().unwrap_or_default(), port: number })
    })
    .collect()
}

/// What people call the workload: the Deployment rather than its ReplicaSet, the CronJob rather than each Job, so that
/// labels of metrics don't grow with every rollout.
fn owner(object: &ObjectMeta) -> String {
    let controller = object.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let Some(owner) = controller else { return String::new() };
    let hash = object.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let shorter = match (owner.kind.as_str(), hash) {
        ("ReplicaSet", Some(hash)) => owner.name.strip_suffix(hash.as_str()).and_then(|name| name.strip_suffix('-')),
        ("Job", _) => owner.name.rsplit_once('-').and_then(|(name, minute)| is_minute(minute).then_some(name)),
        _ => None,
    };
    shorter.filter(|name| !name.is_empty()).unwrap_or(&owner.name).to_owned()
}

/// A CronJob names its Jobs by the minute they were due, counted since 1970.
fn is_minute(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Workload {
        pod(&serde_yaml_ng::from_str(text).unwrap()).unwrap()
    }

    const MESHED: &str = r"
metadata:
  name: cart-7f9c-x
  namespace: shop
  creationTimestamp: '2026-01-01T00:00:00Z'
  labels: {app: cart, pod-template-hash: 7f9c}
  annotations: {meshctl.io/opaque-ports: '3306', meshctl.io/skip-inbound-ports: 1-65535, other: large}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: cart-7f9c, uid: u, controller: true}]
  managedFields: [{manager: kubelet}]
spec:
  serviceAccountName: cart
  nodeName: node-1
  initContainers:
  - {name: mesh-init, image: i, args: [init, --skip-inbound-ports=9000-9001, --skip-outbound-ports=25]}
  - {name: setup, image: i, ports: [{containerPort: 1}]}
  - {name: mesh-proxy, image: i, restartPolicy: Always, ports: [{containerPort: 15020, name: health}]}
  - {name: helper, image: i, restartPolicy: Always, ports: [{containerPort: 81, name: side}]}
  containers:
  - {name: cart, image: i, ports: [{containerPort: 8080, name: http}, {containerPort: 53, protocol: UDP}]}
status: {phase: Running, podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}, {ip: 'fd00::2'}]}
";

    #[test]
    fn a_pod_keeps_what_somebody_reads() {
        let pod = read(MESHED);
        assert_eq!(pod.service_account.as_deref(), Some("cart"));
        assert_eq!((pod.owner.as_str(), pod.node.as_str(), pod.ready), ("cart", "node-1", true));
        assert_eq!(pod.addresses, ["10.1.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
        let ports: Vec<_> = pod.ports.iter().map(|port| (port.name.as_str(), port.port)).collect();
        assert_eq!(ports, [("http", 8080), ("side", 81)]);
        assert!(pod.opaque_ports.contains(3306));
        assert!(!pod.metadata.annotations.contains_key("other"));
    }

    #[test]
    fn who_has_a_proxy() {
        let account = |from: &str, to: &str| {
            assert!(MESHED.contains(from), "{from}");
            let object: core::Pod = serde_yaml_ng::from_str(&MESHED.replace(from, to)).unwrap();
            let account = pod(&object).unwrap().service_account;
            assert_eq!(has_proxy(object.spec.as_ref().unwrap()), account.is_some());
            account
        };
        assert_eq!(account("name: cart-7f9c-x", "name: other").as_deref(), Some("cart"));
        assert_eq!(account("name: mesh-init", "name: another"), None, "a container of its own of that name");
        assert_eq!(account("[init, ", "[sleep, "), None, "another of its own");
        assert_eq!(account("name: mesh-proxy", "name: another"), None, "without a proxy");
        assert_eq!(account("name: mesh-proxy, image: i, restartPolicy: Always", "name: mesh-proxy, image: i"), None);
        let moved =
            MESHED.replace("name: mesh-proxy", "name: another").replace("name: cart, image", "name: mesh-proxy, image");
        assert_eq!(read(&moved).service_account, None, "no sidecar");
        assert_eq!(account("nodeName: node-1", "hostNetwork: true"), None);
        assert!(read(&MESHED.replace("nodeName: node-1", "hostNetwork: true")).host_network);
        let nameless = MESHED.replace("serviceAccountName: cart", "restartPolicy: Always");
        assert_eq!(read(&nameless).service_account.as_deref(), Some("default"));
    }

    #[test]
    fn what_is_not_redirected_is_what_was_decided_when_it_started() {
        let redirected = |arguments: &str| {
            let text = MESHED.replace("--skip-inbound-ports=9000-9001", arguments);
            let skipped = read(&text).skipped_ports;
            assert!(skipped.contains(HEALTH_PORT), "somebody in the mesh may want the proxy's metrics");
            [22, 25, 9000, 9001, 9002].map(|port| !skipped.contains(port))
        };
        assert_eq!(
            redirected("--skip-inbound-ports=9000-9001"),
            [true, true, false, false, true],
            "no annotation's word"
        );
        assert_eq!(redirected("--skip-inbound-ports, '22,9002'"), [false, true, true, true, false]);
        assert_eq!(redirected("--skip-inbound-ports=22, --skip-inbound-ports=25"), [true, false, true, true, true]);
        for none in ["--skip-inbound-ports-not=22", "--uid=1", "--skip-inbound-ports=wrong"] {
            assert_eq!(redirected(none), [true; 5], "{none}");
        }
    }

    /// Of the pods the injector's own tests compare its work with.
    #[test]
    fn what_the_injector_writes_is_what_is_read() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../injector/src/golden/");
        let injected = |name: &str| {
            let text = std::fs::read_to_string(format!("{golden}{name}.out.yaml")).unwrap();
            let mut object: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
            // Where these spread out for people what the pod has as one text.
            for container in object["spec"]["initContainers"].as_sequence_mut().unwrap() {
                container.as_mapping_mut().unwrap().remove("env");
            }
            pod(&serde_yaml_ng::from_value(object).unwrap()).unwrap()
        };
        let (ports, none) = (injected("ports"), injected("settings"));
        assert!(ports.service_account.is_some() && none.service_account.is_some());
        assert_eq!([21, 22, 9010, 9011].map(|port| ports.skipped_ports.contains(port)), [false, true, true, false]);
        assert_eq!(none.skipped_ports, PortSet::parse(&HEALTH_PORT.to_string()));
    }

    #[test]
    fn names_that_stay_from_rollout_to_rollout() {
        let owned = |kind: &str, name: &str| {
            let text = format!(
                "metadata: {{name: p, namespace: n, labels: {{pod-template-hash: abc}}, ownerReferences: [{{apiVersion: v1, kind: {kind}, name: {name}, uid: u, controller: true}}]}}"
            );
            read(&text).owner
        };
        assert_eq!(owned("ReplicaSet", "web-abc"), "web");
        assert_eq!(owned("ReplicaSet", "web-other"), "web-other");
        assert_eq!(owned("StatefulSet", "db"), "db");
        assert_eq!(owned("Job", "backup-29384756"), "backup");
        assert_eq!(owned("Job", "backup-once"), "backup-once");
        assert_eq!(read("metadata: {name: p}").owner, "");
        assert!(read("metadata: {name: p}").addresses.is_empty());
        assert!(!read("metadata: {name: p, deletionTimestamp: '2026-01-01T00:00:00Z'}").ready);
    }
}
