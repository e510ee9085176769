//! The workload's side of a certificate: its key and request, the certificate it got, when to renew it, and the file both
//! are kept in so that a restart needs nobody.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SanType};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::FromDer;

use crate::bundle::{certificate_pem, pem_section};
use crate::file::{read_limited, write_private};
use crate::peer::spiffe_id_of;
use crate::spiffe_id::SpiffeId;

/// A fresh P-256 key and the request for a certificate of it.
pub struct KeyAndRequest {
    key: KeyPair,
    csr: Vec<u8>,
}

impl KeyAndRequest {
    /// A new key, and a request that names `id`.
    pub fn new(id: &SpiffeId) -> Result<Self, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::Crypto)?;
        let name = id.as_str().try_into().map_err(CertificateError::Crypto)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(name)];
        let csr = params.serialize_request(&key).map_err(CertificateError::Crypto)?.der().to_vec();
        Ok(Self { key, csr })
    }

    /// The request, PKCS #10 in DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Joins the key with the chain signed for it (leaf first, DER).
    pub fn complete(&self, chain: Vec<CertificateDer<'static>>) -> Result<LeafCertificate, CertificateError> {
        LeafCertificate::new(chain, self.key.serialize_der())
    }
}

impl fmt::Debug for KeyAndRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyAndRequest").finish_non_exhaustive()
    }
}

/// A workload's certificate with its key, ready for handshakes. Cheap to clone.
#[derive(Clone)]
pub struct LeafCertificate {
    inner: Arc<Inner>,
}

struct Inner {
    certified: Arc<CertifiedKey>,
    key: Vec<u8>,
    id: SpiffeId,
    validity: Validity,
}

impl LeafCertificate {
    /// Checks that key and chain belong together. `key` is PKCS #8 in DER.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: Vec<u8>) -> Result<Self, CertificateError> {
        let leaf = chain.first().ok_or(CertificateError::Empty)?;
        let id = spiffe_id_of(leaf).map_err(|_| CertificateError::NoSpiffeId)?;
        let mut valid = validity(leaf)?;
        for intermediate in &chain[1..] {
            valid.not_after = valid.not_after.min(validity(intermediate)?.not_after);
        }
        let pair = KeyPair::try_from(key.as_slice()).map_err(CertificateError::Crypto)?;
        if pair.subject_public_key_info() != public_key_of(leaf)? {
            return Err(CertificateError::OtherKey);
        }
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.clone()));
        let signer =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|_| CertificateError::KeyKind)?;
        let certified = Arc::new(CertifiedKey::new(chain, signer));
        Ok(Self { inner: Arc::new(Inner { certified, key, id, validity: valid }) })
    }

    /// Whose certificate it is.
    pub fn id(&self) -> &SpiffeId {
        &self.inner.id
    }

    /// Leaf first, then intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.inner.certified.cert
    }

    /// Beginning of its life.
    pub fn not_before(&self) -> SystemTime {
        self.inner.validity.not_before
    }

    /// End of its life, or of an intermediate's if that ends earlier.
    pub fn not_after(&self) -> SystemTime {
        self.inner.validity.not_after
    }

    /// Whether it may be used at `now`.
    pub fn valid_at(&self, now: SystemTime) -> bool {
        self.inner.validity.contains(now)
    }

    /// The serial number in hexadecimal, for people.
    pub fn serial(&self) -> &str {
        &self.inner.validity.serial
    }

    /// When to renew it: a point between half and two thirds of its life, chosen by `random` (0 to 1), so that workloads
    /// started together do not renew together. Never before `now`.
    pub fn renew_at(&self, now: SystemTime, random: f64) -> SystemTime {
        let life = self.not_after().duration_since(self.not_before()).unwrap_or_default();
        let share = 0.5 + random.clamp(0.0, 1.0) / 6.0;
        (self.not_before() + life.mul_f64(share)).max(now)
    }

    /// Writes key and chain into `directory` as one file for the owner only, replaced at once: never a key with another
    /// key's certificate.
    pub fn save(&self, directory: &Path) -> Result<(), CertificateError> {
        let mut text = pem_section("PRIVATE KEY", &self.inner.key);
        for certificate in self.chain() {
            text.push_str(&certificate_pem(certificate));
        }
        let path = directory.join(FILE);
        write_private(&path, text.as_bytes(), 0o600).map_err(|source| CertificateError::File { path, source })
    }

    /// What [`save`](Self::save) wrote; none if there is no file. The caller checks whether it is still valid and whose
    /// it is.
    pub fn load(directory: &Path) -> Result<Option<Self>, CertificateError> {
        let path = directory.join(FILE);
        let text = match read_limited(&path, MAX_FILE_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CertificateError::File { path, source }),
        };
        let (mut rest, mut key, mut chain) = (text.as_slice(), None, Vec::new());
        while let Some((kind, der)) = pem::from_buf(&mut rest).map_err(|_| CertificateError::Encoding)? {
            match kind {
                SectionKind::PrivateKey => key = Some(der),
                SectionKind::Certificate => chain.push(CertificateDer::from(der)),
                _ => return Err(CertificateError::Encoding),
            }
        }
        Self::new(chain, key.ok_or(CertificateError::Encoding)?).map(Some)
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.inner.certified
    }
}

impl fmt::Debug for LeafCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafCertificate")
            .field("id", &self.inner.id)
            .field("not_after", &self.inner.validity.not_after)
            .finish_non_exhaustive()
    }
}

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file can't be read or written.
    #[error("cannot use the certificate file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Broken DER or PEM.
    #[error("the certificate is not validly encoded")]
    Encoding,
    /// No certificate at all.
    #[error("the certificate chain is empty")]
    Empty,
    /// Not a workload's certificate.
    #[error("the certificate does not name exactly one workload by SPIFFE id")]
    NoSpiffeId,
    /// The certificate belongs to another key.
    #[error("the certificate was signed for another key")]
    OtherKey,
    /// A kind of key TLS 1.3 can't use.
    #[error("the private key is of a kind that can't be used")]
    KeyKind,
    /// The cryptographic library refused.
    #[error("cannot use the key: {0}")]
    Crypto(rcgen::Error),
}

/// When a certificate lives.
#[derive(Debug, Clone)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) self_issued: bool,
    serial: String,
}

impl Validity {
    pub(crate) fn contains(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

pub(crate) fn validity(certificate: &[u8]) -> Result<Validity, CertificateError> {
    let (_, parsed) =
        x509_parser::certificate::X509Certificate::from_der(certificate).map_err(|_| CertificateError::Encoding)?;
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(CertificateError::Encoding)
    };
    Ok(Validity {
        not_before: time(parsed.validity().not_before.timestamp())?,
        not_after: time(parsed.validity().not_after.timestamp())?,
        self_issued: parsed.subject().as_raw() == parsed.issuer().as_raw(),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

fn public_key_of(certificate: &[u8]) -> Result<Vec<u8>, CertificateError> {
    let (_, parsed) =
        x509_parser::certificate::X509Certificate::from_der(certificate).map_err(|_| CertificateError::Encoding)?;
    Ok(parsed.public_key().raw.to_vec())
}

const FILE: &str = "identity.pem";
const MAX_FILE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::tests::{id, issuer, leaf};

    #[test]
    fn saved_and_loaded() {
        let directory = tempfile::tempdir().unwrap();
        assert!(LeafCertificate::load(directory.path()).unwrap().is_none());
        let leaf = leaf(&issuer(), "cart");
        leaf.save(directory.path()).unwrap();
        let loaded = LeafCertificate::load(directory.path()).unwrap().unwrap();
        assert_eq!(loaded.chain(), leaf.chain());
        assert_eq!(loaded.id(), leaf.id());
        assert_eq!(loaded.not_after(), leaf.not_after());
        std::fs::write(directory.path().join(FILE), "garbage").unwrap();
        assert!(matches!(LeafCertificate::load(directory.path()), Err(CertificateError::Encoding)));
    }

    #[test]
    fn a_chain_for_another_key_is_refused() {
        let leaf = leaf(&issuer(), "cart");
        let other = KeyAndRequest::new(&id("cart")).unwrap();
        assert!(matches!(other.complete(leaf.chain().to_vec()), Err(CertificateError::OtherKey)));
        assert!(matches!(other.complete(Vec::new()), Err(CertificateError::Empty)));
    }

    #[test]
    fn renewed_between_half_and_two_thirds() {
        let leaf = leaf(&issuer(), "cart");
        let life = leaf.not_after().duration_since(leaf.not_before()).unwrap();
        let at = |random| leaf.renew_at(leaf.not_before(), random).duration_since(leaf.not_before()).unwrap();
        assert_eq!(at(0.0), life / 2);
        assert!(at(1.0) <= life * 2 / 3 + Duration::from_secs(1) && at(1.0) > life * 13 / 20);
        assert_eq!(leaf.renew_at(leaf.not_after(), 0.5), leaf.not_after());
    }
}
