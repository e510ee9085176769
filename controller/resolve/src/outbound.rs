//! What an address is that an application dialled.
//!
//! - A Service's cluster address and one of its ports: the Service. Another port of that address: nothing (`None`), as
//!   kube-proxy has it.
//! - A pod's address, whatever the port: the pod.
//! - A node's address and a port that a pod on the node's network declares: that pod.
//! - An outer address of a Service and one of its ports: the Service, as kube-proxy forwards what is sent there from
//!   inside the cluster ([`Facts::outer_service`] says whose word counts). Other ports of it are not the Service's.
//! - An address that an ExternalWorkload of the client's own namespace says it has: that workload. To clients elsewhere it
//!   is nobody's: whoever may write into one namespace could else become the API server, or anybody's database, for all.
//!   They reach it through a Service.
//! - Everything else is foreign, inside the cluster's networks as well: this is an answer from the facts, not a guess, so
//!   "nobody of ours" is true. What the proxy must never do is guess so itself.

use std::net::SocketAddr;

use crd::model::Workload;
use policy::{Endpoint, Outbound, Service, ServicePort};

use crate::audience::Audience;
use crate::direct::Direct;
use crate::facts::{Facts, Mesh};
use crate::ports;
use crate::routes::routes;

/// What an address leads to.
#[derive(Debug, Clone, Copy)]
pub enum Dialled<'f> {
    /// A Service, which need not have the port.
    Service(&'f crd::Service),
    /// A workload that has the address to itself, and so all of its ports.
    Workload(&'f Workload),
    /// A workload that has this port of its node's address.
    HostPort(&'f Workload),
    /// Nobody of ours.
    Foreign,
}

/// What an address leads to for an audience.
pub fn dialled<'f>(facts: &'f Facts, address: SocketAddr, audience: &Audience) -> Dialled<'f> {
    let ip = address.ip();
    let namespace = audience.namespace();
    let cluster = || facts.service_at(ip).map(Dialled::Service);
    let pod = || facts.pod_at(ip).map(Dialled::Workload);
    let host = || facts.host_workload_at(address).map(Dialled::HostPort);
    let outer = || facts.outer_service(address, namespace).map(Dialled::Service);
    let external = || namespace.and_then(|namespace| facts.external_at(namespace, ip)).map(Dialled::Workload);
    cluster().or_else(pod).or_else(host).or_else(outer).or_else(external).unwrap_or(Dialled::Foreign)
}

/// The target behind an address for an audience; `None` if there is a Service, but it has no such port.
pub fn outbound(facts: &Facts, mesh: &Mesh, address: SocketAddr, audience: &Audience) -> Option<Outbound> {
    match dialled(facts, address, audience) {
        Dialled::Service(service) => through(facts, service, address.port()),
        Dialled::Workload(workload) | Dialled::HostPort(workload) => {
            let direct = Direct::of(facts, mesh, address.ip(), workload);
            Some(Outbound::Workload(Endpoint { address, ..direct.endpoint(direct.kind(address.port())) }))
        }
        Dialled::Foreign => Some(Outbound::Foreign),
    }
}

fn through(facts: &Facts, service: &crd::Service, port: u16) -> Option<Outbound> {
    let port = service.ports.iter().find(|written| written.port == port)?;
    let id = ServicePort::new(&service.metadata.namespace, &service.metadata.name, port.port);
    Some(Outbound::Service(Service {
        protocol: ports::of_service(facts, service, port),
        routes: routes(facts, service, port.port),
        default_backend: Some(id.clone()),
        id,
    }))
}
