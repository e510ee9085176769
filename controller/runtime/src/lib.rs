//! What every control-plane program needs and none should write twice: logs, health and metrics, a listener that speaks
//! mesh TLS, and a way to stop.
//!
//! ```text
//!   LogArgs::start          logs to standard error, as text or JSON
//!   Health, serve_health    /livez, /readyz (with what is missing), /metrics
//!   bind, mesh_incoming     a stream of connections for tonic; each carries who the peer is (PeerInfo)
//!   stop_requested          SIGTERM or SIGINT
//! ```

mod health;
mod listen;
mod logs;
mod shutdown;

pub use health::{Condition, Health, serve_health};
pub use listen::{BindError, HandshakeMetrics, MeshListener, MeshStream, PeerInfo, bind, mesh_incoming};
pub use logs::{LogArgs, LogFormat};
pub use shutdown::stop_requested;
