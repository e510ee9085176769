//! Which of a Service's endpoints a client keeps to, where Kubernetes says whom each is meant for: the hints that a Service with
//! `trafficDistribution` gets (KEP-2433, KEP-3015), read as kube-proxy reads them.
//!
//! Hints count only if every ready endpoint has them and one is meant for the client: while Kubernetes is still writing them, or
//! where there is nobody near, all endpoints serve. Hints for nodes come before those for zones. Endpoints that are about to end
//! need no hint: they serve where nobody is ready, wherever they are.

use std::net::SocketAddr;

use crd::model::{EndpointState, Hints, Service, SliceEndpoint};

use crate::audience::Audience;
use crate::facts::Facts;

/// Who may have other endpoints than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TellsApart {
    Nobody,
    Zones,
    Nodes,
}

/// What the hints of a Service can tell apart; found without a look at all of its endpoints, so it may say more than is true in the
/// end, never less.
pub(crate) fn tells_apart(facts: &Facts, service: &Service) -> TellsApart {
    let mut all = TellsApart::Nobody;
    for slice in facts.slices_of(service) {
        let Some(first) = slice.endpoints.iter().find(|endpoint| endpoint.state == EndpointState::Ready) else {
            continue;
        };
        match first.hints.as_deref() {
            None => return TellsApart::Nobody,
            Some(hints) if hints.nodes.is_empty() => all = TellsApart::Zones,
            Some(_) if all == TellsApart::Nobody => all = TellsApart::Nodes,
            Some(_) => {}
        }
    }
    all
}

/// The hints that count for an audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Followed {
    None,
    Zone(String),
    Node(String),
}

impl Followed {
    pub(crate) fn of(facts: &Facts, endpoints: &[(SocketAddr, &SliceEndpoint)], audience: &Audience) -> Self {
        let (node, zone) = match audience {
            Audience::Node(node) => (node.as_str(), facts.node(node).map_or("", |node| node.zone.as_str())),
            Audience::Zone(zone) => ("", zone.as_str()),
            Audience::Everybody | Audience::Namespace(_) | Audience::Workload(_) => return Self::None,
        };
        let count = |names: fn(&Hints) -> &[String], own: &str| {
            let all = endpoints.iter().map(|(_, endpoint)| *endpoint);
            let mut ready = all.filter(|endpoint| endpoint.state == EndpointState::Ready);
            let all_have = ready.clone().all(|endpoint| !names_of(endpoint, names).is_empty());
            all_have && ready.any(|endpoint| names_of(endpoint, names).iter().any(|name| name == own))
        };
        if count(|hints| &hints.nodes, node) {
            Self::Node(node.to_owned())
        } else if count(|hints| &hints.zones, zone) {
            Self::Zone(zone.to_owned())
        } else {
            Self::None
        }
    }

    pub(crate) fn keeps(&self, endpoint: &SliceEndpoint) -> bool {
        let meant_for = |names: fn(&Hints) -> &[String], own: &String| names_of(endpoint, names).contains(own);
        endpoint.state != EndpointState::Ready
            || match self {
                Self::None => true,
                Self::Zone(zone) => meant_for(|hints| &hints.zones, zone),
                Self::Node(node) => meant_for(|hints| &hints.nodes, node),
            }
    }
}

fn names_of(endpoint: &SliceEndpoint, names: fn(&Hints) -> &[String]) -> &[String] {
    endpoint.hints.as_deref().map(names).unwrap_or_default()
}
