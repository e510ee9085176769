//! HTTP: the one view of a message's head that matching, filters and telemetry use ([`head`]), and the wire codec for
//! HTTP/1 ([`h1`]), HTTP/2's settings and bodies ([`mod@h2`]), and the responses the mesh makes itself ([`respond`]).
//!
//! HTTP/1 is our own: heads are spans of the read buffer and are forwarded as they came, apart from the fields that were
//! edited or belong to one hop. Bodies are checked and relayed byte for byte, never re-encoded. What two readers could
//! understand differently is refused, so that nothing behind this proxy ever disagrees with it about where a message ends.

pub mod client;
pub mod filter;
pub mod h1;
pub mod h2;
pub mod head;
pub mod pool;
pub mod respond;
