//! The issuer in force and the bundle it belongs to: read from a directory, followed as they change, published.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use identity::{
    CertificateError, IssueError, Issuer, IssuerError, IssuerFiles, KeyAndRequest, LeafCertificate, MeshTls, SpiffeId,
    TrustBundle, TrustDomain, write_private,
};

use crate::metrics::Metrics;
use crate::rotation::{Anchors, Rotation};

/// What signing needs, as it is at this moment.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) bundle: Arc<TrustBundle>,
    pub(crate) bundle_pem: String,
}

/// Where the authority lives, and how it behaves.
#[derive(Debug)]
pub(crate) struct AuthorityConfig {
    pub(crate) directory: PathBuf,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) bundle_file: Option<PathBuf>,
    pub(crate) leaf_lifetime: Duration,
    pub(crate) rotation_delay: Duration,
    /// Our own identity.
    pub(crate) id: SpiffeId,
}

/// Keeps [`Current`], the published bundle and our own certificate up to date.
pub(crate) struct Authority {
    config: AuthorityConfig,
    files: IssuerFiles,
    /// Files that were refused; told once.
    refused: Option<IssuerFiles>,
    unreadable: bool,
    unpublished: bool,
    rotation: Rotation,
    current: Arc<ArcSwap<Current>>,
    published: Option<TrustBundle>,
    tls: MeshTls,
    renew_at: SystemTime,
    metrics: Metrics,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The issuer can't be used.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The issuer refuses to sign our own certificate.
    #[error("the issuer cannot sign: {0}")]
    Sign(#[from] IssueError),
    /// Our own certificate can't be used.
    #[error("cannot use the certificate of mesh-identity itself: {0}")]
    Certificate(#[from] CertificateError),
    /// The bundle can't be written.
    #[error("cannot write the trust bundle to {path}: {source}")]
    Publish {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Authority {
    /// Reads the issuer, or makes it, publishes the bundle and signs our own certificate.
    pub(crate) fn open(config: AuthorityConfig, metrics: Metrics, now: SystemTime) -> Result<Self, AuthorityError> {
        Issuer::load_or_create(&config.directory, &config.trust_domain, now)?;
        let files = IssuerFiles::read(&config.directory)?;
        let issuer = Arc::new(Issuer::from_pem(&files, now)?);
        let before = config.bundle_file.as_ref().and_then(|path| std::fs::read(path).ok());
        let before = before.and_then(|pem| TrustBundle::from_pem(&pem).ok());
        let times = (config.rotation_delay, config.leaf_lifetime);
        let rotation = Rotation::new(issuer, anchors(&files), before, times, now);
        let current = Arc::new(ArcSwap::from_pointee(current(&rotation)));
        let tls = MeshTls::new(Some(current.load().bundle.clone()));
        let mut authority = Self {
            config,
            files,
            refused: None,
            unreadable: false,
            unpublished: false,
            rotation,
            current,
            published: None,
            tls,
            renew_at: now,
            metrics,
        };
        authority.publish()?;
        authority.renew(now)?;
        Ok(authority)
    }

    /// What requests are signed with; follows all changes.
    pub(crate) fn current(&self) -> Arc<ArcSwap<Current>> {
        self.current.clone()
    }

    /// Our own certificate and bundle; follows all changes.
    pub(crate) fn tls(&self) -> MeshTls {
        self.tls.clone()
    }

    /// Looks at the issuer's files and at the clock; call about once a second.
    pub(crate) fn tick(&mut self, now: SystemTime) {
        self.read_changes(now);
        let before = self.rotation.issuer().clone();
        self.rotation.advance(now);
        let published = self.publish();
        let failing = published.is_err();
        if let Err(error) = published
            && !self.unpublished
        {
            tracing::error!(%error, "the trust bundle is not published, nothing new is signed with; trying again");
        }
        self.unpublished = failing;
        if !Arc::ptr_eq(&before, self.rotation.issuer()) {
            tracing::info!(bundle = %self.rotation.issuer().bundle().fingerprint(), "signing with the new issuer");
            self.renew_at = now;
        }
        if self.renew_at <= now
            && let Err(error) = self.renew(now)
        {
            // The one in use goes on; the next tick but a few tries again.
            self.renew_at = now + RETRY;
            tracing::error!(%error, "cannot renew the certificate of mesh-identity itself");
        }
    }

    fn read_changes(&mut self, now: SystemTime) {
        let files = match IssuerFiles::read(&self.config.directory) {
            Ok(files) => files,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    tracing::error!(%error, "going on with the issuer of before");
                }
                return;
            }
        };
        self.unreadable = false;
        if files == self.files || self.refused.as_ref() == Some(&files) {
            return;
        }
        match Issuer::from_pem(&files, now) {
            Ok(issuer) => {
                tracing::info!(bundle = %issuer.bundle().fingerprint(), "the issuer's files have changed");
                self.rotation.change(Arc::new(issuer), anchors(&files), now);
                self.files = files;
                self.refused = None;
                self.renew_at = now;
            }
            // Also seen while files are replaced one after another: the next look finds them whole.
            Err(error) => {
                tracing::error!(%error, "the issuer's new files are refused, going on with the issuer of before");
                self.refused = Some(files);
            }
        }
    }

    fn publish(&mut self) -> Result<(), AuthorityError> {
        let next = current(&self.rotation);
        self.metrics.issuer(next.issuer.not_after(), next.bundle.certificates().len());
        if self.published.as_ref() == Some(&*next.bundle) && Arc::ptr_eq(&self.current.load().issuer, &next.issuer) {
            return Ok(());
        }
        let bundle = next.bundle.clone();
        if let Some(path) = &self.config.bundle_file {
            write_private(path, next.bundle_pem.as_bytes(), 0o644)
                .map_err(|source| AuthorityError::Publish { path: path.clone(), source })?;
        }
        tracing::info!(anchors = bundle.certificates().len(), fingerprint = %bundle.fingerprint(), "trust bundle published");
        self.tls.set_bundle(bundle.clone());
        self.current.store(Arc::new(next));
        self.published = Some((*bundle).clone());
        Ok(())
    }

    fn renew(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        let key = KeyAndRequest::new(&self.config.id)?;
        let issued = self.rotation.issuer().issue(key.csr(), &self.config.id, self.config.leaf_lifetime, now)?;
        let leaf: LeafCertificate = key.complete(issued.chain)?;
        // We are one, not many: there is nobody to keep out of step with.
        self.renew_at = leaf.renew_at(now, 0.0);
        self.tls.set_leaf(leaf);
        Ok(())
    }
}

fn anchors(files: &IssuerFiles) -> Anchors {
    if files.anchors.is_some() { Anchors::Explicit } else { Anchors::Derived }
}

fn current(rotation: &Rotation) -> Current {
    let bundle = rotation.bundle();
    Current { issuer: rotation.issuer().clone(), bundle_pem: bundle.to_pem(), bundle: Arc::new(bundle) }
}

const RETRY: Duration = Duration::from_secs(10);
