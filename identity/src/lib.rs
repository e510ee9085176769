//! Who a workload is, and how it proves it: everything about identity that needs neither a cluster nor a runtime.
//!
//! ```text
//!   SpiffeId          spiffe://<trust-domain>/ns/<namespace>/sa/<service account>, parsed strictly
//!   KeyAndRequest ─► Issuer::issue ─► LeafCertificate       a key never leaves the workload; 24 h, renewed early
//!   TokenSigner  ─► TokenVerifier     what a workload shows the first time, in place of a certificate
//!   TrustBundle, BundleFile           the anchors, which rotate while everything runs
//!   MeshTls                           rustls configurations that always use the current leaf and bundle
//!   HandshakeFailure                  why a handshake failed, in the words of the metric label
//! ```
//!
//! Time is always an argument here, or comes from the clock [`MeshTls`] was made with.

mod bundle;
mod certificate;
mod failure;
mod file;
mod issuer;
mod peer;
mod spiffe_id;
mod tls;
mod token;

pub use bundle::{BundleError, BundleFile, Fingerprint, TrustBundle};
pub use certificate::{CertificateError, KeyAndRequest, LeafCertificate};
pub use failure::HandshakeFailure;
pub use file::write_private;
pub use issuer::{
    DEFAULT_LEAF_LIFETIME, InvalidRequest, IssueError, IssuedCertificate, Issuer, IssuerError, IssuerFiles,
    LEAF_LIFETIMES,
};
pub use peer::{PeerRefused, PeerRole, VerifiedPeer};
pub use spiffe_id::{InvalidSpiffeId, SpiffeId, TrustDomain};
pub use tls::{ClientCertificates, EndpointTls, MeshTls};
pub use token::{JOIN_TOKEN_LIFETIME, TokenError, TokenKeyError, TokenSigner, TokenVerifier};
