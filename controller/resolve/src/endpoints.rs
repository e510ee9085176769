//! Who serves a backend: what the Service's EndpointSlices say, read as kube-proxy reads them, and the ExternalWorkloads
//! its selector picks.
//!
//! Kubernetes has decided already which pods are endpoints and on which port (named ports may differ from pod to pod), so
//! pods are looked up here, never selected: they say whether a proxy of ours answers, and as whom.

use std::net::SocketAddr;
use std::time::Duration;

use crd::model::{EndpointState, Origin, PortOfService, Service, SliceEndpoint, TargetPort, Workload};
use policy::{Endpoint, Endpoints, Protocol, ServicePort};

use crate::audience::Audience;
use crate::facts::{Facts, Mesh};
use crate::ports;
use crate::topology::Followed;

/// Endpoints of one port of a Service, sorted by address; `None` if there is no such Service or port.
///
/// Where `internalTrafficPolicy` is `Local`, only those on the audience's node; where Kubernetes gives hints, those meant for the
/// audience ([`topology`](crate::topology)). Others are left out here rather than by the proxy: its list stays what it balances over,
/// of whatever length the cluster's is, and it need not know about nodes and zones.
pub fn endpoints(facts: &Facts, mesh: &Mesh, id: &ServicePort, audience: &Audience) -> Option<Endpoints> {
    let service = facts.service(&id.namespace, &id.name)?;
    let port = service.ports.iter().find(|port| port.port == id.port)?;
    let protocol = ports::declared_by_service(facts, service, port);
    let near = match audience {
        Audience::Node(node) if service.node_local => Some(node),
        _ => None,
    };
    let is_near = |node: &String| near.is_none_or(|near| node == near && !node.is_empty());
    let written: Vec<_> = of_slices(facts, service, port).collect();
    let externals = || facts.externals_of(&id.namespace).filter(|workload| selects(service, workload));
    // ExternalWorkloads are meant for everybody, so that nobody keeps to others' hints beside them.
    let followed = match service.node_local || externals().next().is_some() {
        true => Followed::None,
        false => Followed::of(facts, &written, audience),
    };
    let mut list: Vec<Endpoint> = Vec::new();
    for (address, written) in written.into_iter().filter(|(_, endpoint)| followed.keeps(endpoint)) {
        let owner = owner(facts, service, address, written);
        if !is_near(owner.map_or(&written.node, |workload| &workload.node)) {
            continue;
        }
        list.push(match owner {
            Some(workload) => Endpoint {
                ready: written.state == EndpointState::Ready,
                ..endpoint(facts, mesh, workload, address, protocol)
            },
            None => stranger(mesh, service, address, written, protocol),
        });
    }
    for workload in externals().filter(|workload| is_near(&workload.node)) {
        let Some(target) = target_port(port, workload) else { continue };
        let addresses = workload.addresses.iter().map(|address| SocketAddr::new(*address, target));
        list.extend(addresses.map(|address| endpoint(facts, mesh, workload, address, protocol)));
    }
    // An address is one endpoint, whoever else claims it: while it moves from slice to slice it may be in two.
    list.sort_by_key(|endpoint| (endpoint.address, !endpoint.ready));
    list.dedup_by_key(|endpoint| endpoint.address);
    let affinity = service.affinity_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    Some(Endpoints { list, node_local: service.node_local, affinity })
}

/// What the slices of a Service say of one of its ports, without those that must not be used.
pub(crate) fn of_slices<'f>(
    facts: &'f Facts,
    service: &'f Service,
    port: &'f PortOfService,
) -> impl Iterator<Item = (SocketAddr, &'f SliceEndpoint)> {
    facts.slices_of(service).flat_map(|slice| {
        let numbers = slice.ports.iter().filter(|written| written.name == port.name).map(|written| written.port);
        numbers.flat_map(|number| {
            let usable = slice.endpoints.iter().filter(|endpoint| is_usable(facts, service, endpoint));
            usable.map(move |endpoint| (SocketAddr::new(endpoint.address, number), endpoint))
        })
    })
}

/// A pod we have not heard of yet, or any more, must wait: dialled now it would be dialled in plain. So must one that has
/// another address by now: whoever has the old one is somebody else.
fn is_usable(facts: &Facts, service: &Service, endpoint: &SliceEndpoint) -> bool {
    let has_address = |pod: &Workload| pod.addresses.is_empty() || pod.addresses.contains(&endpoint.address);
    let known = |pod: &String| facts.pod(&service.metadata.namespace, pod).is_some_and(has_address);
    endpoint.state != EndpointState::Unusable && endpoint.pod.as_ref().is_none_or(known)
}

/// Whose address it is. The slice's word counts where it names a pod, and only that can tell pods on one node's network
/// apart; slices that people write name nobody. An ExternalWorkload says of itself which addresses it has, so it is
/// believed within its own namespace only.
pub(crate) fn owner<'f>(
    facts: &'f Facts,
    service: &Service,
    address: SocketAddr,
    written: &SliceEndpoint,
) -> Option<&'f Workload> {
    let namespace = &service.metadata.namespace;
    let named = written.pod.as_ref().and_then(|pod| facts.pod(namespace, pod));
    named
        .or_else(|| facts.pod_at(address.ip()))
        .or_else(|| facts.external_at(namespace, address.ip()))
        .or_else(|| facts.host_workload_at(address))
}

/// Whether the Service's selector picks the workload; an empty selector picks nobody.
pub(crate) fn selects(service: &Service, workload: &Workload) -> bool {
    !service.selector.is_empty()
        && service.metadata.namespace == workload.metadata.namespace
        && service.selector.iter().all(|(key, value)| workload.metadata.labels.get(key) == Some(value))
}

/// Where a Service's port leads on one workload; `None` if the workload has no port of that name.
pub(crate) fn target_port(port: &PortOfService, workload: &Workload) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => workload.ports.iter().find(|port| &port.name == name).map(|port| port.port),
    }
}

pub(crate) fn endpoint(
    facts: &Facts,
    mesh: &Mesh,
    workload: &Workload,
    address: SocketAddr,
    protocol: Protocol,
) -> Endpoint {
    let namespace = &workload.metadata.namespace;
    let account = workload.service_account.as_ref().filter(|_| !workload.skipped_ports.contains(address.port()));
    let opaque = ports::is_opaque(facts, workload, address.port());
    Endpoint {
        address,
        identity: account.map(|account| proto::bootstrap::spiffe_id(&mesh.trust_domain, namespace, account)),
        workload: label_of(workload),
        namespace: namespace.clone(),
        app: label(workload, ["app", "app.kubernetes.io/name"]),
        version: label(workload, ["version", "app.kubernetes.io/version"]),
        cluster: mesh.cluster.clone(),
        zone: zone(facts, workload),
        ready: workload.ready,
        protocol: if opaque { Protocol::Tcp } else { protocol },
    }
}

/// An endpoint that is no workload we know: a machine outside, the API server.
fn stranger(
    mesh: &Mesh,
    service: &Service,
    address: SocketAddr,
    written: &SliceEndpoint,
    protocol: Protocol,
) -> Endpoint {
    Endpoint {
        address,
        identity: None,
        workload: String::new(),
        namespace: service.metadata.namespace.clone(),
        app: String::new(),
        version: String::new(),
        cluster: mesh.cluster.clone(),
        zone: written.zone.clone(),
        ready: written.state == EndpointState::Ready,
        protocol,
    }
}

/// What labels of metrics call it.
pub(crate) fn label_of(workload: &Workload) -> String {
    if workload.owner.is_empty() { workload.metadata.name.clone() } else { workload.owner.clone() }
}

/// Zone of the machine, or of the pod's node.
pub(crate) fn zone(facts: &Facts, workload: &Workload) -> String {
    match workload.origin {
        Origin::External => workload.zone.clone(),
        Origin::Pod => facts.node(&workload.node).map(|node| node.zone.clone()).unwrap_or_default(),
    }
}

/// The first of two labels that is there (Istio's precedence for `app` and `version`).
pub(crate) fn label(workload: &Workload, names: [&str; 2]) -> String {
    names.iter().find_map(|name| workload.metadata.labels.get(*name)).cloned().unwrap_or_default()
}
