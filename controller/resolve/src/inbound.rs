//! What a proxy must know of its own workload.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crd::model::{Service, Workload};
use policy::{Inbound, InboundPort, MutualTls, Protocol, ServicePort};

use crate::endpoints::{label, selects, target_port};
use crate::facts::{Facts, Mesh};
use crate::protocol;

/// Who asks, as far as its certificate and its first message say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    /// Namespace in the certificate.
    pub namespace: String,
    /// Service account in the certificate.
    pub service_account: String,
    /// Addresses it says it has, sorted.
    pub addresses: Vec<IpAddr>,
}

/// The caller's own workload: one with its identity and one of its addresses; `None` if there is none.
pub fn inbound(facts: &Facts, mesh: &Mesh, caller: &Caller) -> Option<Inbound> {
    let mut workloads = facts.workloads_of(&caller.namespace);
    let workload = workloads.find(|workload| {
        workload.service_account.as_ref() == Some(&caller.service_account)
            && workload.addresses.iter().any(|address| caller.addresses.contains(address))
    })?;
    Some(Inbound {
        workload: workload.metadata.name.clone(),
        namespace: caller.namespace.clone(),
        app: label(workload, ["app", "app.kubernetes.io/name"]),
        version: label(workload, ["version", "app.kubernetes.io/version"]),
        cluster: mesh.cluster.clone(),
        zone: workload.zone.clone(),
        service_account: caller.service_account.clone(),
        ports: ports(facts, workload),
        mutual_tls: MutualTls::Permissive,
    })
}

/// Protocol of one port of a workload, for connections that dial it directly.
pub(crate) fn port_protocol(facts: &Facts, workload: &Workload, port: u16) -> Protocol {
    let ports = ports(facts, workload);
    ports.iter().find(|declared| declared.port == port).map_or(Protocol::Undeclared, |declared| declared.protocol)
}

/// Ports that Services select, and those the workload declares itself; sorted by number. The oldest Service names a
/// port; the oldest that declares a protocol declares it; else the workload's own port name does.
fn ports(facts: &Facts, workload: &Workload) -> Vec<InboundPort> {
    let mut ports: BTreeMap<u16, InboundPort> = BTreeMap::new();
    let services = facts.services_of(&workload.metadata.namespace);
    for service in services.into_iter().filter(|service| selects(service, workload)) {
        for port in &service.ports {
            let Some(target) = target_port(port, workload) else { continue };
            let protocol = service_port_protocol(facts, service, port.port);
            let entry = ports.entry(target).or_insert_with(|| InboundPort {
                port: target,
                protocol,
                service: Some(ServicePort::new(&service.metadata.namespace, &service.metadata.name, port.port)),
            });
            if entry.protocol == Protocol::Undeclared {
                entry.protocol = protocol;
            }
        }
    }
    for port in &workload.ports {
        let protocol = protocol::declared(None, &port.name);
        let entry = ports.entry(port.port).or_insert_with(|| InboundPort { port: port.port, protocol, service: None });
        if entry.protocol == Protocol::Undeclared {
            entry.protocol = protocol;
        }
    }
    ports.into_values().collect()
}

/// Declared by the Service, else by the kind of a route attached to it.
pub(crate) fn service_port_protocol(facts: &Facts, service: &Service, port: u16) -> Protocol {
    let declared = service.ports.iter().find(|written| written.port == port);
    let declared = declared
        .map_or(Protocol::Undeclared, |written| protocol::declared(written.app_protocol.as_deref(), &written.name));
    if declared == Protocol::Undeclared && crate::routes::has_routes(facts, service, port) {
        return Protocol::Http1;
    }
    declared
}
