//! A workload that is dialled by its own address, whatever the port.
//!
//! Anybody may dial any of 65,535 ports, and a workload says something of few of them. What is answered depends on the port's
//! [`PortKind`] alone, so that there are no more answers than kinds.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crd::PortSet;
use crd::model::Workload;
use policy::{Endpoint, Protocol};

use crate::endpoints::endpoint;
use crate::facts::{Facts, Mesh};
use crate::ports;

/// What there is to say of all ports of one workload.
#[derive(Debug)]
pub struct Direct {
    /// The endpoint of a port of which nothing is said, with 0 for its number.
    endpoint: Endpoint,
    declared: HashMap<u16, Protocol>,
    opaque: PortSet,
    skipped: PortSet,
}

/// What tells the ports of a workload apart: endpoints of one kind differ by their numbers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortKind {
    is_skipped: bool,
    protocol: Protocol,
}

impl Direct {
    /// Of a workload that has this address.
    pub fn of(facts: &Facts, mesh: &Mesh, address: IpAddr, workload: &Workload) -> Self {
        let declared = ports::of_workload(facts, workload).into_iter().map(|port| (port.port, port.protocol));
        Self {
            // No list of ports has 0.
            endpoint: endpoint(facts, mesh, workload, SocketAddr::new(address, 0), Protocol::Undeclared),
            declared: declared.collect(),
            opaque: ports::opaque_of(facts, workload).into_owned(),
            skipped: workload.skipped_ports.clone(),
        }
    }

    /// The kind of a port.
    pub fn kind(&self, port: u16) -> PortKind {
        let declared = || self.declared.get(&port).copied().unwrap_or_default();
        let protocol = if self.opaque.contains(port) { Protocol::Tcp } else { declared() };
        PortKind { is_skipped: self.skipped.contains(port), protocol }
    }

    /// The endpoint that all ports of a kind are, but for the number, which is 0.
    pub fn endpoint(&self, kind: PortKind) -> Endpoint {
        let identity = self.endpoint.identity.clone().filter(|_| !kind.is_skipped);
        Endpoint { identity, protocol: kind.protocol, ..self.endpoint.clone() }
    }
}
