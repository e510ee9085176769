//! Verifying a peer: its chain against the bundle in force, and exactly one SPIFFE id in its certificate.
//!
//! The outcome is cached by the chain's digest inside the bundle it was reached under: resumed sessions bring a chain
//! that nobody verified in that handshake, and asking again must cost a hash, not two signatures.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::bundle::{Fingerprint, TrustBundle};
use crate::certificate::{Validity, validity};
use crate::spiffe_id::SpiffeId;

/// A peer that has proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// The SPIFFE id in its certificate.
    pub id: SpiffeId,
    /// When the first certificate of its chain ends.
    pub valid_until: SystemTime,
}

/// Which end of the connection the peer is; its certificate must allow that use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// It dialled us.
    Client,
    /// We dialled it.
    Server,
}

/// Why a peer's certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// It showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// Its chain does not lead to an anchor of the bundle in force.
    #[error("the peer's certificate comes from an authority that is not in the trust bundle")]
    UnknownAuthority,
    /// Its certificate has ended.
    #[error("the peer's certificate has expired: its proxy could not renew it, or a clock is wrong")]
    Expired,
    /// Its certificate begins later.
    #[error("the peer's certificate is not valid yet: a clock is wrong")]
    NotYetValid,
    /// No SPIFFE id of a workload, or more than one name that could be one.
    #[error("the peer's certificate does not name exactly one workload by SPIFFE id")]
    NoSpiffeId,
    /// It is somebody else.
    #[error("the peer is {actual}, expected was {expected}")]
    WrongId {
        /// Who it may be, separated by commas.
        expected: String,
        /// Who it is.
        actual: SpiffeId,
    },
    /// Not a certificate, or one that may not be used so.
    #[error("the peer's certificate can't be used: {0}")]
    Unusable(webpki::Error),
    /// More intermediates than any of ours has.
    #[error("the peer's certificate chain is longer than {MAX_CHAIN}")]
    ChainTooLong,
}

/// A bundle with what has been verified under it. Replaced as a whole, so nothing outlives its bundle.
#[derive(Debug)]
pub(crate) struct Trust {
    bundle: Option<Arc<TrustBundle>>,
    verified: Mutex<HashMap<Fingerprint, Cached>>,
}

#[derive(Debug)]
struct Cached {
    peer: VerifiedPeer,
    not_before: SystemTime,
}

impl Trust {
    pub(crate) fn new(bundle: Option<Arc<TrustBundle>>) -> Self {
        Self { bundle, verified: Mutex::default() }
    }

    pub(crate) fn bundle(&self) -> Option<&Arc<TrustBundle>> {
        self.bundle.as_ref()
    }

    /// Verifies a chain, leaf first, or finds that it was verified before and is still within its life.
    pub(crate) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        role: PeerRole,
        now: SystemTime,
    ) -> Result<VerifiedPeer, PeerRefused> {
        let bundle = self.bundle.as_ref().ok_or(PeerRefused::UnknownAuthority)?;
        let key = chain_fingerprint(chain, role);
        if let Some(cached) = self.verified.lock().get(&key)
            && cached.not_before <= now
            && now < cached.peer.valid_until
        {
            return Ok(cached.peer.clone());
        }
        let (peer, not_before) = verify_chain(chain, bundle, role, now)?;
        let mut verified = self.verified.lock();
        if verified.len() >= MAX_CACHED {
            verified.clear();
        }
        verified.insert(key, Cached { peer: peer.clone(), not_before });
        Ok(peer)
    }
}

/// Verifies a chain, leaf first; also tells since when all of it is valid.
pub(crate) fn verify_chain(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    role: PeerRole,
    now: SystemTime,
) -> Result<(VerifiedPeer, SystemTime), PeerRefused> {
    let (leaf, intermediates) = chain.split_first().ok_or(PeerRefused::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(PeerRefused::ChainTooLong);
    }
    let certificate = EndEntityCert::try_from(leaf).map_err(refusal)?;
    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO));
    let path = certificate
        .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, bundle.anchors(), intermediates, time, usage, None, None)
        .map_err(refusal)?;
    let mut life = lifetime(leaf)?;
    for intermediate in path.intermediate_certificates() {
        let valid = lifetime(&intermediate.der())?;
        life.not_before = life.not_before.max(valid.not_before);
        life.not_after = life.not_after.min(valid.not_after);
    }
    Ok((VerifiedPeer { id: spiffe_id_of(leaf)?, valid_until: life.not_after }, life.not_before))
}

/// The one SPIFFE id of a certificate. Other URIs beside it are refused as X509-SVID §2 demands; DNS names are ignored.
pub(crate) fn spiffe_id_of(certificate: &[u8]) -> Result<SpiffeId, PeerRefused> {
    let (_, parsed) =
        x509_parser::certificate::X509Certificate::from_der(certificate).map_err(|_| PeerRefused::NoSpiffeId)?;
    let names = parsed.subject_alternative_name().map_err(|_| PeerRefused::NoSpiffeId)?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().map_err(|_| PeerRefused::NoSpiffeId),
        _ => Err(PeerRefused::NoSpiffeId),
    }
}

fn lifetime(certificate: &[u8]) -> Result<Validity, PeerRefused> {
    validity(certificate).map_err(|_| PeerRefused::Unusable(webpki::Error::BadDer))
}

fn refusal(error: webpki::Error) -> PeerRefused {
    match error {
        webpki::Error::CertExpired { .. } => PeerRefused::Expired,
        webpki::Error::CertNotValidYet { .. } => PeerRefused::NotYetValid,
        // A signature that does not fit means the issuer only has the anchor's name: somebody else's authority.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => PeerRefused::UnknownAuthority,
        other => PeerRefused::Unusable(other),
    }
}

fn chain_fingerprint(chain: &[CertificateDer<'_>], role: PeerRole) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[match role {
        PeerRole::Client => 0,
        PeerRole::Server => 1,
    }]);
    for certificate in chain {
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    Fingerprint::of(context)
}

const MAX_CHAIN: usize = 8;
/// Peers remembered per bundle, about 300 bytes each; over it the cache starts anew.
const MAX_CACHED: usize = 4096;
