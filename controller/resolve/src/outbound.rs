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

use policy::{Outbound, Service, ServicePort};

use crate::audience::Audience;
use crate::endpoints::endpoint;
use crate::facts::{Facts, Mesh};
use crate::ports;
use crate::routes::routes;

/// The target behind an address for an audience; `None` if there is a Service, but it has no such port.
pub fn outbound(facts: &Facts, mesh: &Mesh, address: SocketAddr, audience: &Audience) -> Option<Outbound> {
    if let Some(service) = facts.service_at(address.ip()) {
        return through(facts, service, address.port());
    }
    let direct = |workload| {
        let protocol = ports::of_address(facts, workload, address.port());
        Outbound::Workload(endpoint(facts, mesh, workload, address, protocol))
    };
    if let Some(pod) = facts.pod_at(address.ip()).or_else(|| facts.host_workload_at(address)) {
        return Some(direct(pod));
    }
    if let Some(service) = facts.outer_service(address, audience.namespace()) {
        return through(facts, service, address.port());
    }
    let external = audience.namespace().and_then(|namespace| facts.external_at(namespace, address.ip()));
    Some(external.map_or(Outbound::Foreign, direct))
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
