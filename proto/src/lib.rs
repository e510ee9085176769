//! Everything two programs of the mesh must agree on.
//!
//! - [`discovery`], [`identity`], [`preface`]: the messages on the wire (`mesh/v1/*.proto`).
//! - [`names`]: ports, labels, annotations, ALPN names, metric names.
//! - [`Reason`]: the closed list of why the mesh answered instead of the application.
//! - [`Bootstrap`]: the one piece of configuration a proxy starts from.
//! - [`admin`]: what a proxy tells the command line.
//!
//! Nothing here does anything: no I/O, no clock.

pub mod admin;
pub mod bootstrap;
pub mod names;
pub mod reason;

pub use bootstrap::Bootstrap;
pub use reason::Reason;

/// The discovery stream between proxy and controller.
pub mod discovery {
    pub use crate::generated::{
        Acknowledge, Bundle, DiscoverRequest, DiscoverResponse, Endpoint, Endpoints, Goodbye, Header, HeaderEdits,
        Heartbeat, Held, Hello, HttpFilter, HttpMatch, HttpRoute, HttpRule, Inbound, InboundPort, Key, MutualTls,
        Outbound, Progress, Protocol, Reject, Service, ServicePort, Settings, SocketAddress, Subscribe, Unit,
        Unsubscribe, Update, ValueMatch, WeightedBackend, discover_request, discover_response, discovery_client,
        discovery_server, http_filter, http_match, key, outbound, update, value_match,
    };
}

/// The identity service.
pub mod identity {
    pub use crate::generated::{CertifyRequest, CertifyResponse, identity_client, identity_server};
}

/// The first message inside mesh TLS.
pub mod preface {
    pub use crate::generated::Preface;
}

#[allow(
    missing_debug_implementations,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction
)]
mod generated {
    tonic::include_proto!("mesh.v1");
}
