//! What ports speak, as Services, workloads, routes and annotations declare together.
//!
//! `meshctl.io/opaque-ports` counts most: on a pod for its own ports, on a Service for the Service's, on a namespace for
//! both where they don't have it themselves. A Service's port is opaque as well where a pod behind it says so of the port
//! it leads to: what one end sends as bytes the other can't take apart. All of this decides how bytes are read, at both
//! ends from the same facts, so that it may change while pods run.
//!
//! `meshctl.io/skip-inbound-ports` is different: it decides whether there is a proxy on a port at all, and that the
//! redirect rules say, which were written when the pod started. Only the pod's own annotation counts, which the injector
//! writes in the same breath as the rules: believed of a namespace that was annotated later, it would have peers speak
//! plaintext to a proxy that is there.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crd::PortSet;
use crd::model::{PortOfService, Service, Workload};
use crd::pod::OPAQUE_PORTS;
use policy::{InboundPort, Protocol, ServicePort};

use crate::endpoints::{of_slices, owner, selects, target_port};
use crate::facts::Facts;
use crate::protocol::declared;

/// Ports that Services select, and those the workload declares itself; sorted by number. The oldest Service names a
/// port; the oldest that declares a protocol declares it; else the workload's own port name does.
pub(crate) fn of_workload(facts: &Facts, workload: &Workload) -> Vec<InboundPort> {
    let mut ports: BTreeMap<u16, InboundPort> = BTreeMap::new();
    let services = facts.services_of(&workload.metadata.namespace);
    for service in services.into_iter().filter(|service| selects(service, workload)) {
        for port in &service.ports {
            let Some(target) = target_port(port, workload) else { continue };
            let protocol = declared_or_routed(facts, service, port);
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
        let protocol = declared(None, &port.name);
        let entry = ports.entry(port.port).or_insert_with(|| InboundPort { port: port.port, protocol, service: None });
        if entry.protocol == Protocol::Undeclared {
            entry.protocol = protocol;
        }
    }
    let opaque = opaque_of(facts, workload);
    for port in ports.values_mut().filter(|port| opaque.contains(port.port)) {
        port.protocol = Protocol::Tcp;
    }
    ports.into_values().collect()
}

/// Protocol of a Service's port, for clients of the Service: also what the pods behind it say counts.
pub(crate) fn of_service(facts: &Facts, service: &Service, port: &PortOfService) -> Protocol {
    let behind = |(address, written)| {
        owner(facts, service, address, written).is_some_and(|pod| is_opaque(facts, pod, address.port()))
    };
    if of_slices(facts, service, port).any(behind) {
        return Protocol::Tcp;
    }
    declared_or_routed(facts, service, port)
}

/// Declared by the Service alone.
pub(crate) fn declared_by_service(facts: &Facts, service: &Service, port: &PortOfService) -> Protocol {
    let own = service.metadata.annotations.get(OPAQUE_PORTS);
    if listed(own.or_else(|| opaque_in(facts, &service.metadata.namespace)), port.port) {
        return Protocol::Tcp;
    }
    declared(port.app_protocol.as_deref(), &port.name)
}

/// Whether the workload's proxy takes the port for bytes.
pub(crate) fn is_opaque(facts: &Facts, workload: &Workload, port: u16) -> bool {
    opaque_of(facts, workload).contains(port)
}

/// The ports that the workload's proxy takes for bytes.
pub(crate) fn opaque_of<'f>(facts: &Facts, workload: &'f Workload) -> Cow<'f, PortSet> {
    if workload.metadata.annotations.contains_key(OPAQUE_PORTS) {
        return Cow::Borrowed(&workload.opaque_ports);
    }
    let text = opaque_in(facts, &workload.metadata.namespace);
    Cow::Owned(text.map(|text| PortSet::parse(text)).unwrap_or_default())
}

/// Declared by the Service, else by the kind of a route attached to it.
fn declared_or_routed(facts: &Facts, service: &Service, port: &PortOfService) -> Protocol {
    match declared_by_service(facts, service, port) {
        Protocol::Undeclared if crate::routes::has_routes(facts, service, port.port) => Protocol::Http1,
        declared => declared,
    }
}

fn opaque_in<'f>(facts: &'f Facts, namespace: &str) -> Option<&'f String> {
    facts.namespace(namespace).and_then(|namespace| namespace.metadata.annotations.get(OPAQUE_PORTS))
}

fn listed(annotation: Option<&String>, port: u16) -> bool {
    annotation.is_some_and(|text| PortSet::parse(text).contains(port))
}
