//! Who can serve a backend.

use std::net::SocketAddr;
use std::time::Duration;

use crate::outbound::Protocol;

/// Everybody who can serve one backend, sorted by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Sorted by address; both address families together.
    pub list: Vec<Endpoint>,
    /// The Service's `internalTrafficPolicy` is `Local`: whoever is on another node than the client was left out.
    pub node_local: bool,
    /// The Service's `sessionAffinity` is `ClientIP`: a client keeps its endpoint until it has not used it for this long.
    pub affinity: Option<Duration>,
}

/// One address that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// SPIFFE id its proxy must show; `None`: not meshed, dialled as plain bytes.
    pub identity: Option<String>,
    /// Deployment, pod or machine name, for labels.
    pub workload: String,
    /// Namespace of the workload.
    pub namespace: String,
    /// `app` label.
    pub app: String,
    /// `version` label.
    pub version: String,
    /// Cluster name.
    pub cluster: String,
    /// Zone.
    pub zone: String,
    /// `false`: terminating but still serving; used only when nobody is ready (Kubernetes' ProxyTerminatingEndpoints).
    pub ready: bool,
    /// Protocol declared for this port, for connections that dial the address itself.
    pub protocol: Protocol,
}

impl Endpoints {
    /// Who may be chosen now, of the address family the client used: the ready ones, else those that terminate but
    /// still serve. A family nobody has an address in is ignored rather than failed.
    pub fn usable(&self, ipv6: bool) -> impl Iterator<Item = &Endpoint> {
        let any_of_family = self.list.iter().any(|endpoint| endpoint.address.is_ipv6() == ipv6);
        let of_family = move |endpoint: &&Endpoint| !any_of_family || endpoint.address.is_ipv6() == ipv6;
        let any_ready = self.list.iter().filter(of_family).any(|endpoint| endpoint.ready);
        self.list.iter().filter(of_family).filter(move |endpoint| endpoint.ready || !any_ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, ready: bool) -> Endpoint {
        Endpoint {
            address: address.parse().unwrap(),
            identity: None,
            workload: String::new(),
            namespace: String::new(),
            app: String::new(),
            version: String::new(),
            cluster: String::new(),
            zone: String::new(),
            ready,
            protocol: Protocol::Undeclared,
        }
    }

    fn usable(list: &[(&str, bool)], ipv6: bool) -> Vec<String> {
        let list = list.iter().map(|(address, ready)| endpoint(address, *ready)).collect();
        Endpoints { list, ..Endpoints::default() }.usable(ipv6).map(|e| e.address.to_string()).collect()
    }

    #[test]
    fn ready_ones_first_then_those_that_terminate() {
        assert_eq!(usable(&[("1.0.0.1:1", true), ("1.0.0.2:1", false)], false), ["1.0.0.1:1"]);
        assert_eq!(usable(&[("1.0.0.1:1", false), ("1.0.0.2:1", false)], false).len(), 2);
        assert!(usable(&[], false).is_empty());
    }

    #[test]
    fn the_clients_family_is_kept_where_it_exists() {
        let both = [("1.0.0.1:1", true), ("[fd00::1]:1", true)];
        assert_eq!(usable(&both, true), ["[fd00::1]:1"]);
        assert_eq!(usable(&both, false), ["1.0.0.1:1"]);
        assert_eq!(usable(&[("1.0.0.1:1", true)], true), ["1.0.0.1:1"]);
    }
}
