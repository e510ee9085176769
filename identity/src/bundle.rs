//! The trust bundle: the anchors a peer's certificate must chain to, and the file they are watched in.
//!
//! A bundle is never empty: an empty one would refuse every peer, which nobody means. Rotation is a bundle with the old
//! and the new anchor, then one with the new only.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::{self, SectionKind};
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::file::read_limited;

/// The anchors of a trust domain.
#[derive(Clone)]
pub struct TrustBundle {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    fingerprint: Fingerprint,
}

impl TrustBundle {
    /// Reads PEM: every `CERTIFICATE` section is an anchor; text around the sections is ignored, other sections are an
    /// error (a private key in a bundle would be published with it).
    pub fn from_pem(text: &[u8]) -> Result<Self, BundleError> {
        if text.len() > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge);
        }
        let mut rest = text;
        let mut certificates = Vec::new();
        while let Some((kind, der)) = pem::from_buf(&mut rest).map_err(|_| BundleError::Pem)? {
            if kind != SectionKind::Certificate {
                return Err(BundleError::NotACertificate);
            }
            certificates.push(CertificateDer::from(der));
        }
        Self::from_certificates(certificates)
    }

    /// A bundle of these anchors; duplicates are dropped and order does not matter.
    pub fn from_certificates(mut certificates: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        certificates.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        certificates.dedup();
        if certificates.is_empty() {
            return Err(BundleError::Empty);
        }
        if certificates.len() > MAX_ANCHORS {
            return Err(BundleError::TooLarge);
        }
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let mut anchors = Vec::with_capacity(certificates.len());
        for (index, certificate) in certificates.iter().enumerate() {
            let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| BundleError::Anchor(index + 1))?;
            anchors.push(anchor.to_owned());
            digest.update(certificate);
        }
        Ok(Self { certificates, anchors, fingerprint: Fingerprint::of(digest) })
    }

    /// The anchors as PEM, the way bundles are published.
    pub fn to_pem(&self) -> String {
        self.certificates.iter().map(|certificate| certificate_pem(certificate)).collect()
    }

    /// What tells two bundles apart: SHA-256 over the sorted anchors.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The anchors' certificates, sorted.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The anchors' subjects, for people.
    pub fn subjects(&self) -> Vec<String> {
        self.certificates.iter().map(|certificate| subject(certificate)).collect()
    }

    /// Whether every anchor of `other` is trusted here as well.
    pub fn contains_all(&self, other: &Self) -> bool {
        other.certificates.iter().all(|certificate| self.certificates.contains(certificate))
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustBundle({} anchors, {})", self.anchors.len(), self.fingerprint)
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for TrustBundle {}

/// SHA-256 of something public, shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(context: aws_lc_rs::digest::Context) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }

    /// The raw digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A bundle in a file that others rewrite, such as a mounted ConfigMap. Call [`poll`](Self::poll) about once a second.
#[derive(Debug)]
pub struct BundleFile {
    path: PathBuf,
    last: Option<Vec<u8>>,
    failing: bool,
}

impl BundleFile {
    /// A watch on `path`, which need not exist yet; the first poll reads it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), last: None, failing: false }
    }

    /// The file watched.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bundle, if the file's content changed since the last poll. Reads the content each time: it is small, and
    /// times of modification miss two writes within their grain. An error is told once, not at every poll; the caller
    /// keeps the bundle it has.
    pub fn poll(&mut self) -> Result<Option<Arc<TrustBundle>>, BundleError> {
        let content = match read_limited(&self.path, MAX_BUNDLE_BYTES) {
            Ok(content) => content,
            Err(_) if self.failing => return Ok(None),
            Err(source) => {
                self.failing = true;
                return Err(BundleError::Read { path: self.path.clone(), source });
            }
        };
        self.failing = false;
        if self.last.as_ref() == Some(&content) {
            return Ok(None);
        }
        let bundle = TrustBundle::from_pem(&content);
        self.last = Some(content);
        bundle.map(|bundle| Some(Arc::new(bundle)))
    }
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file can't be read.
    #[error("cannot read the trust bundle {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Broken PEM.
    #[error("the trust bundle is not valid PEM")]
    Pem,
    /// A section of another kind.
    #[error("the trust bundle holds something else than certificates; a private key must never be in it")]
    NotACertificate,
    /// A certificate that can't be an anchor; counted from 1, in sorted order.
    #[error("anchor {0} of the trust bundle is not a valid certificate")]
    Anchor(usize),
    /// No certificate.
    #[error("the trust bundle holds no certificate")]
    Empty,
    /// Over 1 MiB or 256 anchors.
    #[error("the trust bundle is larger than {MAX_BUNDLE_BYTES} bytes or {MAX_ANCHORS} anchors")]
    TooLarge,
}

fn subject(certificate: &[u8]) -> String {
    use x509_parser::prelude::FromDer;
    let parsed = x509_parser::certificate::X509Certificate::from_der(certificate);
    parsed.map_or_else(|_| "unreadable".to_owned(), |(_, certificate)| certificate.subject().to_string())
}

pub(crate) fn certificate_pem(der: &[u8]) -> String {
    pem_section("CERTIFICATE", der)
}

/// One PEM section, RFC 7468 §3: base64 in lines of 64.
pub(crate) fn pem_section(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// A ConfigMap's limit.
const MAX_BUNDLE_BYTES: usize = 1 << 20;
const MAX_ANCHORS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::tests::issuer;

    #[test]
    fn reads_what_people_write() {
        let (one, two) = (issuer(), issuer());
        let text = format!(
            "# the old anchor\n\n{}\n\nsome words\n{}{}\n\n\n",
            one.bundle().to_pem(),
            two.bundle().to_pem(),
            one.bundle().to_pem()
        );
        let bundle = TrustBundle::from_pem(text.as_bytes()).unwrap();
        assert_eq!(bundle.certificates().len(), 2);
        assert!(bundle.contains_all(one.bundle()) && !one.bundle().contains_all(&bundle));
        assert_eq!(TrustBundle::from_pem(bundle.to_pem().as_bytes()).unwrap(), bundle);
        assert_ne!(bundle.fingerprint(), one.bundle().fingerprint());
    }

    #[test]
    fn never_silently_empty_or_wrong() {
        let read = |text: &str| TrustBundle::from_pem(text.as_bytes()).unwrap_err();
        assert!(matches!(read(""), BundleError::Empty));
        assert!(matches!(read("no PEM in here"), BundleError::Empty));
        assert!(matches!(read("-----BEGIN CERTIFICATE-----\nAAAA\n"), BundleError::Pem));
        assert!(matches!(read("-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n"), BundleError::Pem));
        assert!(matches!(read(&pem_section("CERTIFICATE", b"abc")), BundleError::Anchor(1)));
        assert!(matches!(read(&pem_section("PRIVATE KEY", b"abc")), BundleError::NotACertificate));
    }

    #[test]
    fn a_watched_file_tells_changes_and_errors_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.crt");
        let mut file = BundleFile::new(&path);
        assert!(matches!(file.poll(), Err(BundleError::Read { .. })));
        assert!(matches!(file.poll(), Ok(None)));
        let (one, two) = (issuer(), issuer());
        std::fs::write(&path, one.bundle().to_pem()).unwrap();
        assert_eq!(*file.poll().unwrap().unwrap(), *one.bundle());
        assert!(file.poll().unwrap().is_none());
        std::fs::write(&path, "").unwrap();
        assert!(matches!(file.poll(), Err(BundleError::Empty)));
        assert!(matches!(file.poll(), Ok(None)));
        std::fs::write(&path, two.bundle().to_pem()).unwrap();
        assert_eq!(*file.poll().unwrap().unwrap(), *two.bundle());
    }
}
