//! Judging a certificate request (PKCS #10): what is taken from it is its public key, and nothing else.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;

use crate::spiffe_id::SpiffeId;

/// Checks that the request is sound, signed by its own key, of a kind of key we sign, and names exactly `id`.
pub(super) fn check(request: &[u8], id: &SpiffeId) -> Result<SubjectPublicKeyInfo, InvalidRequest> {
    if request.len() > MAX_REQUEST_BYTES {
        return Err(InvalidRequest::Malformed);
    }
    let (rest, parsed) = X509CertificationRequest::from_der(request).map_err(|_| InvalidRequest::Malformed)?;
    if !rest.is_empty() {
        return Err(InvalidRequest::Malformed);
    }
    let public_key = &parsed.certification_request_info.subject_pki;
    if !accepted_key(&public_key.algorithm) {
        return Err(InvalidRequest::Key);
    }
    parsed.verify_signature().map_err(|_| InvalidRequest::Signature)?;
    let mut names = Vec::new();
    for extension in parsed.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(san) = extension {
            names.extend(san.general_names.iter());
        }
    }
    match names.as_slice() {
        [GeneralName::URI(name)] if *name == id.as_str() => {}
        [GeneralName::URI(name)] => {
            let asked = name.chars().filter(|c| c.is_ascii_graphic()).take(MAX_SHOWN_NAME).collect();
            return Err(InvalidRequest::OtherIdentity { asked, allowed: id.clone() });
        }
        _ => return Err(InvalidRequest::Names),
    }
    SubjectPublicKeyInfo::from_der(public_key.raw).map_err(|_| InvalidRequest::Key)
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// Not a PKCS #10 request in DER of at most 16 KiB.
    #[error("the certificate request is not valid PKCS #10 in DER")]
    Malformed,
    /// A key that is not P-256, P-384 or Ed25519.
    #[error("the certificate request has a key that is not P-256, P-384 or Ed25519")]
    Key,
    /// Not signed by its own key.
    #[error("the certificate request's signature is wrong")]
    Signature,
    /// No name, several, or one that is not a URI.
    #[error("the certificate request must have exactly one subject alternative name, a SPIFFE id")]
    Names,
    /// The name of somebody else.
    #[error("the certificate request asks for {asked}, but the token is {allowed}'s")]
    OtherIdentity {
        /// What it asked for, cut to what can be shown.
        asked: String,
        /// What the caller has proved to be.
        allowed: SpiffeId,
    },
}

fn accepted_key(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    if algorithm.algorithm == OID_SIG_ED25519 {
        return true;
    }
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
}

const MAX_REQUEST_BYTES: usize = 16 << 10;
const MAX_SHOWN_NAME: usize = 256;
