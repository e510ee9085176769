//! The mesh's certificate authority: a workload shows a token and a certificate request, and gets a certificate.
//!
//! ```text
//!   Certify(csr, token) ─► limit ─► Authenticator: who is it? ─► Authority: sign for exactly that id ─► chain, bundle
//!                                                                   ▲
//!   issuer directory ── every second ── Rotation: when to trust a new root, when to sign with it, when to drop the old
//!                                                                   │
//!                                                                   ▼
//!   bundle file ◄── whenever it changes ── the published bundle, also our own MeshTls
//! ```
//!
//! It speaks TLS with a certificate it signs for itself. Clients have none at first: the token stands for it. Later a
//! living certificate of the same identity does as well, as join tokens are good for minutes only. The same call will
//! take Kubernetes' ServiceAccount tokens; [`Authenticator`] is the place for that.

pub mod args;
mod authenticate;
mod authority;
mod limit;
mod metrics;
mod rotation;
mod server;
mod service;

pub use authenticate::Authenticator;
pub use authority::AuthorityError;
pub use server::{Config, Server};
