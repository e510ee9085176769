//! What an address the application dialled turned out to be.

use std::fmt;

use crate::endpoint::Endpoint;
use crate::route::Routes;

/// The answer for one destination address and port.
#[derive(Debug, Clone, PartialEq)]
pub enum Outbound {
    /// A Service's cluster address.
    Service(Service),
    /// A pod or machine, dialled by its own address: no routes, no balancing.
    Workload(Endpoint),
    /// Not of this mesh: passes through as it is, counted.
    Foreign,
}

/// One port of a Service, seen by a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Which Service, and which of its ports.
    pub id: ServicePort,
    /// Protocol declared for the port.
    pub protocol: Protocol,
    /// Routes attached to the Service, in order of precedence.
    pub routes: Routes,
    /// The Service's own endpoints: in force while it has no routes (a GAMMA route replaces it), and for everything
    /// that is not HTTP.
    pub default_backend: Option<ServicePort>,
}

/// Names one port of a Service; the key of a backend's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Port of the Service (not of its pods).
    pub port: u16,
}

/// What a port speaks, as declared by `appProtocol`, a route's kind or the port's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Nobody said: look at the bytes.
    #[default]
    Undeclared,
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 without TLS (`kubernetes.io/h2c`).
    Http2,
    /// gRPC: HTTP/2 with gRPC's way of telling errors.
    Grpc,
    /// Bytes; the server may speak first.
    Tcp,
    /// The application's own TLS: bytes.
    Tls,
}

impl Protocol {
    /// Bytes that nobody should look into.
    pub fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// HTTP of some version.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2 | Self::Grpc)
    }
}

impl ServicePort {
    /// Names one port of a Service.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, port: u16) -> Self {
        Self { namespace: namespace.into(), name: name.into(), port }
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}
