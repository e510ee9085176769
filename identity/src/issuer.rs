//! The issuer: a CA key and certificate that turn a certificate request into a workload's leaf certificate.
//!
//! Made at first start, it is a P-256 root that lives ten years: long enough that no cluster dies of a forgotten date
//! within its hardware's life, and anchors can be exchanged any day without a restart, so a shorter life buys nothing.
//! Brought along (by cert-manager, say), it may be an intermediate; the names of the files are those of a
//! `kubernetes.io/tls` Secret: `tls.crt`, `tls.key` and, where `tls.crt` does not end in its root, `ca.crt`.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::bundle::{BundleError, TrustBundle, certificate_pem};
use crate::certificate::{CertificateError, KeyAndRequest, validity};
use crate::file::{create_private_directory, read_limited, write_private};
use crate::peer::{PeerRefused, PeerRole, verify_chain};
use crate::spiffe_id::{SpiffeId, TrustDomain};

mod request;

pub use request::InvalidRequest;

/// How long leaf certificates live unless told otherwise.
pub const DEFAULT_LEAF_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How long whoever runs an identity may let them live: 5 s to a year.
pub const LEAF_LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(8760 * 3600);

/// A CA that signs workload certificates.
pub struct Issuer {
    signer: rcgen::Issuer<'static, KeyPair>,
    intermediates: Vec<CertificateDer<'static>>,
    bundle: TrustBundle,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Issuer {
    /// A new self-signed root, and its certificate and key as PEM.
    pub fn create(trust_domain: &TrustDomain, now: SystemTime) -> Result<(Self, IssuerFiles), IssuerError> {
        let key = KeyPair::generate().map_err(IssuerError::Crypto)?;
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "mesh");
        name.push(DnType::CommonName, format!("root of {trust_domain}"));
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + ROOT_LIFETIME).into();
        params.serial_number = Some(random_serial());
        params.distinguished_name = name;
        // It signs leaves only; a new kind of issuer means a new root, which rotation makes easy.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(IssuerError::Crypto)?;
        let files =
            IssuerFiles { certificate: certificate_pem(certificate.der()), key: key.serialize_pem(), anchors: None };
        Ok((Self::from_pem(&files, now)?, files))
    }

    /// The issuer of these files. Signs a certificate on trial, so whatever would make peers refuse its leaves (another
    /// key, not a CA, a path length, a missing intermediate) is found here.
    pub fn from_pem(files: &IssuerFiles, now: SystemTime) -> Result<Self, IssuerError> {
        let chain = CertificateDer::pem_slice_iter(files.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| IssuerError::Certificate)?;
        let certificate = chain.first().ok_or(IssuerError::Certificate)?;
        let key = KeyPair::from_pem(&files.key).map_err(IssuerError::Key)?;
        let signer = rcgen::Issuer::from_ca_cert_der(certificate, key).map_err(|_| IssuerError::Certificate)?;
        let (mut not_before, mut not_after) = (SystemTime::UNIX_EPOCH, now + ROOT_LIFETIME * 100);
        let (mut intermediates, mut roots) = (Vec::new(), Vec::new());
        for certificate in &chain {
            let valid = validity(certificate).map_err(|_| IssuerError::Certificate)?;
            not_before = not_before.max(valid.not_before);
            not_after = not_after.min(valid.not_after);
            if valid.self_issued { &mut roots } else { &mut intermediates }.push(certificate.clone());
        }
        let bundle = match &files.anchors {
            Some(pem) => TrustBundle::from_pem(pem.as_bytes()),
            None => TrustBundle::from_certificates(roots),
        }
        .map_err(|error| match error {
            BundleError::Empty => IssuerError::NoAnchor,
            other => IssuerError::Anchors(other),
        })?;
        let issuer = Self { signer, intermediates, bundle, not_before, not_after };
        issuer.try_out(now)?;
        Ok(issuer)
    }

    /// The issuer of a directory.
    pub fn load(directory: &Path, now: SystemTime) -> Result<Self, IssuerError> {
        Self::from_pem(&IssuerFiles::read(directory)?, now)
    }

    /// The issuer of a directory, made there if there is none.
    pub fn load_or_create(directory: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, IssuerError> {
        if directory.join(CERTIFICATE_FILE).exists() {
            return Self::load(directory, now);
        }
        let (issuer, files) = Self::create(trust_domain, now)?;
        files.write(directory)?;
        Ok(issuer)
    }

    /// Signs a certificate for `id`. Of the request only the public key is used; its name must be `id` all the same, or
    /// somebody asked for what is not theirs. The certificate never outlives the issuer's own.
    pub fn issue(
        &self,
        request: &[u8],
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, IssueError> {
        self.issue_named(request, id, &[], lifetime, now)
    }

    /// As [`issue`](Self::issue), with DNS names beside the SPIFFE id, for clients outside the mesh that check those.
    /// The names are the caller's, never the request's.
    pub fn issue_named(
        &self,
        request: &[u8],
        id: &SpiffeId,
        dns_names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, IssueError> {
        if now >= self.not_after {
            return Err(IssueError::IssuerExpired { since: now.duration_since(self.not_after).unwrap_or_default() });
        }
        if now < self.not_before {
            return Err(IssueError::IssuerNotYetValid);
        }
        let public_key = request::check(request, id)?;
        // Whole seconds, as certificates have them.
        let not_after = whole_seconds(now + lifetime.clamp(MIN_LEAF_LIFETIME, MAX_LEAF_LIFETIME)).min(self.not_after);
        let not_before = whole_seconds(now - CLOCK_SKEW.min(lifetime / 4)).max(self.not_before);
        let mut names = vec![SanType::URI(id.as_str().try_into().map_err(IssueError::Signing)?)];
        for name in dns_names {
            names.push(SanType::DnsName(name.as_str().try_into().map_err(IssueError::Signing)?));
        }
        let leaf = self.sign(&public_key, names, not_before, not_after).map_err(IssueError::Signing)?;
        let mut chain = vec![leaf];
        chain.extend(self.intermediates.iter().cloned());
        Ok(IssuedCertificate { chain, not_before, not_after })
    }

    /// The anchors peers need to trust this issuer.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// When every certificate of its chain is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When this issuer, or an intermediate above it, ends; from then on it refuses to sign.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    fn sign(
        &self,
        public_key: &SubjectPublicKeyInfo,
        names: Vec<SanType>,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.serial_number = Some(random_serial());
        params.subject_alt_names = names;
        // No subject: the SPIFFE id is the name, and nothing can be read out of another.
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(public_key, &self.signer)?.der().clone())
    }

    fn try_out(&self, now: SystemTime) -> Result<(), IssuerError> {
        let id: SpiffeId = "spiffe://trial/ns/trial/sa/trial".parse().expect("a valid SPIFFE id");
        let request = KeyAndRequest::new(&id).map_err(IssuerError::Trial)?;
        let issued = match self.issue(request.csr(), &id, MIN_LEAF_LIFETIME, now) {
            Ok(issued) => issued,
            // It says so at every request, and in a metric; the bundle is still good for verifying.
            Err(IssueError::IssuerExpired { .. } | IssueError::IssuerNotYetValid) => return Ok(()),
            Err(IssueError::Signing(error)) => return Err(IssuerError::Crypto(error)),
            Err(IssueError::Request(_)) => return Err(IssuerError::Certificate),
        };
        verify_chain(&issued.chain, &self.bundle, PeerRole::Server, now).map_err(IssuerError::Refused)?;
        Ok(())
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("bundle", &self.bundle)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What an issuer is kept in, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuerFiles {
    /// `tls.crt`: the issuer's certificate, then its intermediates, then (possibly) its root.
    pub certificate: String,
    /// `tls.key`: its private key, PKCS #8, SEC 1 or PKCS #1.
    pub key: String,
    /// `ca.crt`: the anchors, where they are not in `tls.crt`, or where there are more of them.
    pub anchors: Option<String>,
}

impl IssuerFiles {
    /// Reads a directory.
    pub fn read(directory: &Path) -> Result<Self, IssuerError> {
        let read = |name: &str| {
            let path = directory.join(name);
            read_limited(&path, MAX_FILE_BYTES)
                .and_then(|bytes| {
                    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not text"))
                })
                .map_err(|source| IssuerError::File { path, source })
        };
        let anchors = match read(ANCHORS_FILE) {
            Ok(text) => Some(text),
            Err(IssuerError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { certificate: read(CERTIFICATE_FILE)?, key: read(KEY_FILE)?, anchors })
    }

    /// Writes a directory, made when missing, for its owner only. The certificate comes last: it marks the rest complete.
    pub fn write(&self, directory: &Path) -> Result<(), IssuerError> {
        let file = |path: PathBuf| move |source: io::Error| IssuerError::File { path, source };
        create_private_directory(directory).map_err(file(directory.to_owned()))?;
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            write_private(&path, text.as_bytes(), 0o600).map_err(file(path))
        };
        write(KEY_FILE, &self.key)?;
        if let Some(anchors) = &self.anchors {
            write(ANCHORS_FILE, anchors)?;
        }
        write(CERTIFICATE_FILE, &self.certificate)
    }
}

impl fmt::Debug for IssuerFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerFiles").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A signed certificate.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// Leaf first, then intermediates, without the anchor.
    pub chain: Vec<CertificateDer<'static>>,
    /// Beginning of its life, a little in the past for clocks that go slow.
    pub not_before: SystemTime,
    /// End of its life.
    pub not_after: SystemTime,
}

/// Why there is no issuer.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file can't be read or written.
    #[error("cannot use the issuer's file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a certificate.
    #[error("the issuer's tls.crt does not hold valid certificates in PEM")]
    Certificate,
    /// Not a key.
    #[error("the issuer's tls.key does not hold a private key in PEM that can be used: {0}")]
    Key(rcgen::Error),
    /// `ca.crt` is broken.
    #[error("the issuer's ca.crt: {0}")]
    Anchors(BundleError),
    /// No root anywhere.
    #[error("the issuer's tls.crt does not hold its root; put the root into ca.crt")]
    NoAnchor,
    /// The certificate signed on trial was refused.
    #[error(
        "certificates of this issuer would be refused ({0}); check that tls.key belongs to tls.crt, that it is a CA, and that ca.crt is its root"
    )]
    Refused(PeerRefused),
    /// No trial request could be made.
    #[error("cannot make a certificate request: {0}")]
    Trial(CertificateError),
    /// The cryptographic library refused.
    #[error("cannot sign: {0}")]
    Crypto(rcgen::Error),
}

/// Why a certificate was not signed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The issuer's own certificate has ended.
    #[error("the issuer's certificate expired {} s ago: renew it, certificates in use go on until they end", since.as_secs())]
    IssuerExpired {
        /// How long ago.
        since: Duration,
    },
    /// The issuer's own certificate begins later.
    #[error("the issuer's certificate is not valid yet: check the clock")]
    IssuerNotYetValid,
    /// The request is not acceptable.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The cryptographic library refused.
    #[error("cannot sign: {0}")]
    Signing(rcgen::Error),
}

fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    // Positive and never short, RFC 5280 §4.1.2.2.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";
const ANCHORS_FILE: &str = "ca.crt";
const MAX_FILE_BYTES: usize = 1 << 20;
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(2);
const MAX_LEAF_LIFETIME: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// How far a peer's clock may be behind the issuer's; a quarter of the life for leaves that live for seconds.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
pub(crate) mod tests;
