//! Pure: facts and a key make a value.
//!
//! ```text
//!   Facts ──┬─ outbound(address)      ─► policy::Outbound    a Service with its routes, a workload, or foreign
//!           ├─ endpoints(ServicePort) ─► policy::Endpoints   who serves a backend
//!           └─ inbound(Caller)        ─► policy::Inbound     what a proxy must know of its own workload
//! ```
//!
//! The same facts always make the same value, sorted, so that values can be compared by their hash. `None` means that
//! the key names nothing. The controller serves these values, and `meshctl` explains them offline. [`audience`] says whom
//! a value is for: everybody, as a rule.

pub mod audience;
pub mod endpoints;
pub mod facts;
pub mod inbound;
pub mod outbound;
mod ports;
pub mod protocol;
pub mod routes;

pub use audience::Audience;
pub use endpoints::endpoints;
pub use facts::{Facts, Mesh};
pub use inbound::{Caller, inbound};
pub use outbound::outbound;

#[cfg(test)]
mod tests;
