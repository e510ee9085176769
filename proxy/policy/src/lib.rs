//! The model a proxy decides with, and the deciding itself. Pure: no I/O, no clock, no runtime.
//!
//! - [`outbound`]: what a dialled address turned out to be: a Service with routes and backends, one workload, or
//!   nothing of ours.
//! - [`route`]: HTTP routes; [`route::Routes::find`] picks the rule for a request.
//! - [`endpoint`]: who can serve a backend.
//! - [`inbound`]: what the workload's own proxy must know of it.
//!
//! The controller's `resolve` makes these values, the discovery stream carries them, the proxy decides with them,
//! and `meshctl` runs the same code offline. Values are parsed once: what exists here is valid.

pub mod endpoint;
pub mod inbound;
pub mod outbound;
pub mod route;
pub mod settings;

pub use endpoint::{Endpoint, Endpoints};
pub use inbound::{Inbound, InboundPort, MutualTls};
pub use outbound::{Outbound, Protocol, Service, ServicePort};
pub use route::{Backend, Request, Routes, Rule};
pub use settings::Settings;
