//! [`Audience`]: for whom a value is made.
//!
//! Nearly every value is the same for everybody, and made once. Those that are not are made once for each of as few as
//! the difference allows: a namespace, a node, a zone, one workload. What a proxy is told is final that way: it neither learns
//! what others may know, nor has rules of its own for leaving out what is not meant for it.

use std::net::SocketAddr;

use policy::ServicePort;

use crate::endpoints;
use crate::facts::Facts;
use crate::inbound::{Caller, own_workload};
use crate::topology::{self, TellsApart};

/// Whom a value is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Audience {
    /// Whoever asks.
    Everybody,
    /// Clients in a namespace: only they believe what it says of addresses that are nobody's in Kubernetes.
    Namespace(String),
    /// Clients on a node, of a Service that tells nodes apart; empty where the client's is unknown.
    Node(String),
    /// Clients in a zone, of a Service that tells zones apart; empty where the client's is unknown.
    Zone(String),
    /// One workload.
    Workload(Caller),
}

impl Audience {
    /// Whom the answer about a dialled address is for, where `caller` asks.
    pub fn of_outbound(facts: &Facts, address: SocketAddr, caller: &Caller) -> Self {
        let ip = address.ip();
        let is_settled = facts.service_at(ip).is_some()
            || facts.pod_at(ip).is_some()
            || facts.outer_service(address, None).is_some();
        if !is_settled && facts.is_claimed(address) {
            return Self::Namespace(caller.namespace.clone());
        }
        Self::Everybody
    }

    /// Whom a backend's endpoints are for, where `caller` asks.
    pub fn of_endpoints(facts: &Facts, id: &ServicePort, caller: &Caller) -> Self {
        let Some(service) = facts.service(&id.namespace, &id.name) else { return Self::Everybody };
        let tells_apart = if service.node_local { TellsApart::Nodes } else { topology::tells_apart(facts, service) };
        if tells_apart == TellsApart::Nobody {
            return Self::Everybody;
        }
        let own = own_workload(facts, caller);
        let node = own.map(|workload| workload.node.clone()).unwrap_or_default();
        // A client on no node may be in a zone all the same.
        if tells_apart == TellsApart::Nodes && (service.node_local || !node.is_empty()) {
            return Self::Node(node);
        }
        Self::Zone(own.map(|workload| endpoints::zone(facts, workload)).unwrap_or_default())
    }

    /// The namespace whose word about addresses counts.
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Namespace(namespace) => Some(namespace),
            Self::Workload(caller) => Some(&caller.namespace),
            Self::Everybody | Self::Node(_) | Self::Zone(_) => None,
        }
    }
}
