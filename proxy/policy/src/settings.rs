//! Mesh-wide settings that every proxy follows.

use std::net::IpAddr;

use ipnet::IpNet;

/// Mesh-wide settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// Networks of the cluster's pods and Services.
    pub cluster_networks: Vec<IpNet>,
}

impl Settings {
    /// Whether an address is one of the cluster's: a destination there is never assumed to be foreign.
    pub fn is_cluster(&self, address: IpAddr) -> bool {
        self.cluster_networks.iter().any(|network| network.contains(&address))
    }
}
