//! What a workload's own proxy must know of it.

use crate::outbound::{Protocol, ServicePort};

/// The workload a proxy stands beside, as the controller knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Deployment, pod or machine name, for labels.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// `app` label.
    pub app: String,
    /// `version` label.
    pub version: String,
    /// Cluster name.
    pub cluster: String,
    /// Zone.
    pub zone: String,
    /// Service account.
    pub service_account: String,
    /// Ports some Service selects, sorted by number; every other port is undeclared.
    pub ports: Vec<InboundPort>,
    /// What PeerAuthentication asks for.
    pub mutual_tls: MutualTls,
}

/// One port of the workload that a Service selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPort {
    /// Port of the pod.
    pub port: u16,
    /// Declared protocol.
    pub protocol: Protocol,
    /// The Service it is known by, the oldest where several select it.
    pub service: Option<ServicePort>,
}

/// PeerAuthentication's modes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum MutualTls {
    /// Mesh TLS and plaintext.
    #[default]
    Permissive,
    /// Mesh TLS only.
    Strict,
    /// Plaintext only.
    Disable,
}

impl Inbound {
    /// What is declared for a port of the workload.
    pub fn port(&self, port: u16) -> Option<&InboundPort> {
        self.ports.binary_search_by_key(&port, |declared| declared.port).ok().map(|at| &self.ports[at])
    }
}
