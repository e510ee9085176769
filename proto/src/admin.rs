//! What a proxy answers on its admin port and socket, as JSON. `meshctl` reads these.
//!
//! | path | answer |
//! |---|---|
//! | `/info` | [`Info`] |
//! | `/identity` | [`IdentityStatus`] |
//! | `/discovery` | [`DiscoveryStatus`] |
//! | `/failures` | list of [`Failure`], newest first |
//! | `/config` | the [`crate::Bootstrap`] in force |
//! | `/metrics` | Prometheus text (also on the health port) |
//! | `/log` | GET the log filter; PUT a new one as plain text |
//! | `/drain` | POST starts draining |
//! | `/ready`, `/live` | 200 or 503 |
//!
//! Times are milliseconds since 1970 unless their name says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which proxy this is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Version of the program.
    pub version: String,
    /// Pod or machine name.
    pub workload: String,
    /// Deployment or the like.
    pub owner: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Process id in its own namespace.
    pub pid: u32,
    /// When the process started.
    pub started_ms: u64,
    /// Certificate and first configuration are in hand.
    pub ready: bool,
    /// No new work is wanted.
    pub draining: bool,
}

/// The certificate in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// SPIFFE id.
    pub id: String,
    /// Start of validity; 0 while there is none.
    pub not_before_ms: u64,
    /// End of validity; 0 while there is none.
    pub not_after_ms: u64,
    /// When it will be renewed.
    pub renew_at_ms: u64,
    /// Certificates obtained since the process started.
    pub renewals: u64,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
    /// Fingerprint (SHA-256, hex) of the trust bundle in force.
    pub bundle: String,
    /// Subjects of the trust anchors in force.
    pub anchors: Vec<String>,
}

/// How current the proxy's picture is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryStatus {
    /// A stream is up.
    pub connected: bool,
    /// Replica that serves it, or served it last.
    pub controller: String,
    /// Milliseconds since the sources behind this picture were last known to be live.
    pub age_ms: u64,
    /// Progress of every watch, as last heard.
    pub as_of: BTreeMap<String, u64>,
    /// Why the last stream ended, if it did.
    pub last_error: Option<String>,
    /// Streams opened since the process started.
    pub streams: u64,
    /// What is subscribed.
    pub subscriptions: Vec<Subscription>,
}

/// One subscribed key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// `outbound 10.96.0.7:80`, `endpoints shop/web:80`, `inbound`, `bundle`, `settings`.
    pub key: String,
    /// Hash of the value in force, hex; empty while waiting for the first.
    pub version: String,
    /// Why a newer version was rejected, if one was.
    pub rejected: Option<String>,
}

/// One entry of the failure ring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at_ms: u64,
    /// Word of [`crate::Reason`].
    pub reason: String,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// Who called: SPIFFE id or address.
    pub source: String,
    /// What was called: Service, workload or address.
    pub destination: String,
    /// Status answered, 0 where bytes were relayed.
    pub status: u16,
    /// More for people, without header values or bodies.
    pub detail: String,
}

/// Failures a proxy keeps; the newest push out the oldest.
pub const FAILURES_KEPT: usize = 256;
