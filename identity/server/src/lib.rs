//! The mesh's certificate authority: a workload shows a token and a certificate request, and gets a certificate.
//!
//! ```text
//!   Certify(csr, token) ─► limit ─► Authenticator: who is it? ─► Authority: sign for exactly that id ─► chain, bundle
//!                                                                   ▲
//!   issuer: directory or Secret ── every second ── Rotation: when to trust a new root, when to sign with it,
//!                                                                   │                 when to drop the old
//!                                                                   ▼
//!   bundle: file or ConfigMaps ◄── whenever it changes ── the published bundle, also our own MeshTls
//!           and the webhooks' caBundle
//! ```
//!
//! It speaks TLS with a certificate it signs for itself. Clients have none at first: the token stands for it. Outside
//! Kubernetes a living certificate of the same identity does as well later on, as join tokens are good for minutes only;
//! a ServiceAccount token is always at hand, and is asked for every time.
//!
//! In a cluster every replica serves and signs, with the issuer all read from one Secret. One of them, the holder of the
//! Lease, writes the ConfigMaps and caBundle of the injector's webhooks; all look at the ConfigMap in the system namespace
//! before they sign with a new root.

pub mod args;
mod authenticate;
mod authority;
mod ca_bundle;
mod custody;
mod dns_names;
mod issuer_secret;
mod limit;
mod metrics;
mod publisher;
mod rotation;
mod server;
mod service;
mod token_review;

pub use authenticate::Authenticator;
pub use authority::AuthorityError;
pub use server::{Config, Place, Server};
pub use token_review::TokenReviewer;
