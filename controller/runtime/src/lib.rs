//! What the mesh's control-plane programs share: how they log, show their health, listen, prove who they are and stop.
//!
//! ```text
//!   logs           --log, --log-format ─► tracing
//!   listen         bind a port, or say in one sentence why not
//!   health         /live, /ready, /metrics on a port of its own
//!   incoming       TCP ─► mesh TLS, many handshakes at once, each with a time limit ─► streams for tonic
//!   certificate    the program's own certificate: from the state directory or from mesh-identity, renewed while it runs
//!   bundle_source  the trust bundle: from a file, or from a ConfigMap through the API
//!   kubernetes     a client of the Kubernetes API, and its errors in words
//!   lease          which of several replicas leads
//!   duration       20s, 90m or 24h on a command line
//!   preferred      addresses that come first where all is full
//!   rate           how often something may happen, for all or for each
//!   sources        who holds how much of what there is only so much of, by address
//!   shutdown       SIGTERM or SIGINT, for everybody who asks
//! ```
//!
//! No messages here: what is said over these connections is each program's own business.

pub mod bundle_source;
pub mod certificate;
pub mod duration;
pub mod health;
pub mod incoming;
pub mod kubernetes;
pub mod lease;
pub mod listen;
pub mod logs;
pub mod preferred;
pub mod rate;
pub mod shutdown;
pub mod sources;
