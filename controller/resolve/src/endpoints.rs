//! Who serves a backend.

use std::net::SocketAddr;

use crd::model::{PortOfService, Service, TargetPort, Workload};
use policy::{Endpoint, Endpoints, Protocol, ServicePort};

use crate::facts::{Facts, Mesh};
use crate::protocol;

/// Endpoints of one port of a Service, sorted by address; `None` if there is no such Service or port.
pub fn endpoints(facts: &Facts, mesh: &Mesh, id: &ServicePort) -> Option<Endpoints> {
    let service = facts.service(&id.namespace, &id.name)?;
    let port = service.ports.iter().find(|port| port.port == id.port)?;
    let protocol = protocol::declared(port.app_protocol.as_deref(), &port.name);
    let mut list = Vec::new();
    for workload in facts.workloads_of(&id.namespace).filter(|workload| selects(service, workload)) {
        let Some(target) = target_port(port, workload) else { continue };
        let addresses = workload.addresses.iter().map(|address| SocketAddr::new(*address, target));
        list.extend(addresses.map(|address| endpoint(mesh, workload, address, protocol)));
    }
    list.sort_by_key(|endpoint| endpoint.address);
    // An address is one endpoint, whoever else claims it.
    list.dedup_by_key(|endpoint| endpoint.address);
    Some(Endpoints { list })
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

pub(crate) fn endpoint(mesh: &Mesh, workload: &Workload, address: SocketAddr, protocol: Protocol) -> Endpoint {
    let namespace = &workload.metadata.namespace;
    Endpoint {
        address,
        identity: workload
            .service_account
            .as_ref()
            .map(|account| proto::bootstrap::spiffe_id(&mesh.trust_domain, namespace, account)),
        workload: workload.metadata.name.clone(),
        namespace: namespace.clone(),
        app: label(workload, ["app", "app.kubernetes.io/name"]),
        version: label(workload, ["version", "app.kubernetes.io/version"]),
        cluster: mesh.cluster.clone(),
        zone: workload.zone.clone(),
        ready: workload.ready,
        protocol,
    }
}

/// The first of two labels that is there (Istio's precedence for `app` and `version`).
pub(crate) fn label(workload: &Workload, names: [&str; 2]) -> String {
    names.iter().find_map(|name| workload.metadata.labels.get(*name)).cloned().unwrap_or_default()
}
