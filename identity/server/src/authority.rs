//! The issuer in force and the bundle it belongs to: read from where they are kept, followed as they change, published.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use controller_runtime::health::Readiness;
use identity::{
    CertificateError, IssueError, Issuer, IssuerError, KeyAndRequest, LeafCertificate, MeshTls, SpiffeId, TrustBundle,
};

use crate::custody::{Custody, KeptIssuer};
use crate::metrics::Metrics;
use crate::rotation::{Anchors, Published, Rotation};

/// What signing needs, as it is at this moment.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) bundle: Arc<TrustBundle>,
    pub(crate) bundle_pem: String,
    /// False until the issuer's root has been published for long enough.
    pub(crate) may_sign: bool,
}

/// How the authority behaves.
#[derive(Debug)]
pub(crate) struct AuthorityConfig {
    pub(crate) leaf_lifetime: Duration,
    pub(crate) rotation_delay: Duration,
    /// Our own identity.
    pub(crate) id: SpiffeId,
    /// The DNS names of our own certificate.
    pub(crate) dns_names: Vec<String>,
}

/// Keeps [`Current`], the published bundle and our own certificate up to date.
pub(crate) struct Authority {
    config: AuthorityConfig,
    custody: Custody,
    kept: KeptIssuer,
    /// An issuer that was refused; told once.
    refused: Option<KeptIssuer>,
    unreadable: bool,
    unpublished: bool,
    expired: bool,
    rotation: Rotation,
    current: Arc<ArcSwap<Current>>,
    published: Option<Published>,
    tls: MeshTls,
    renew_at: SystemTime,
    readiness: Readiness,
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
    /// Takes the issuer that is kept, publishes its bundle and signs our own certificate.
    pub(crate) fn open(
        config: AuthorityConfig,
        custody: Custody,
        readiness: Readiness,
        metrics: Metrics,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let kept = custody.issuer()?;
        let issuer = Arc::new(Issuer::from_pem(&kept.files, now)?);
        let before = custody.published_before();
        let unheard_of = before.as_ref().is_some_and(|before| !before.bundle.contains_all(issuer.bundle()));
        let times = (config.rotation_delay, config.leaf_lifetime);
        let mut rotation = Rotation::new(issuer, kept.anchors, before, times, now);
        if unheard_of && kept.anchors == Anchors::Derived && custody.is_shared() {
            rotation.wait_until_published();
        }
        let current = Arc::new(ArcSwap::from_pointee(current(&rotation)));
        let tls = MeshTls::new(Some(current.load().bundle.clone()));
        let mut authority = Self {
            config,
            custody,
            kept,
            refused: None,
            unreadable: false,
            unpublished: false,
            expired: false,
            rotation,
            current,
            published: None,
            tls,
            renew_at: now,
            readiness,
            metrics,
        };
        authority.publish(now)?;
        authority.report(now);
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

    /// Looks at the kept issuer and at the clock; call about once a second.
    pub(crate) fn tick(&mut self, now: SystemTime) {
        self.read_changes(now);
        let before = self.rotation.issuer().clone();
        self.rotation.advance(now);
        let published = self.publish(now);
        let failing = published.is_err();
        if let Err(error) = published
            && !self.unpublished
        {
            tracing::error!(%error, "the trust bundle is not published, nothing new is signed with; trying again");
        }
        self.unpublished = failing;
        self.report(now);
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
        let kept = match self.custody.issuer() {
            Ok(kept) => kept,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    tracing::error!(%error, "going on with the issuer of before");
                }
                return;
            }
        };
        self.unreadable = false;
        if kept == self.kept || self.refused.as_ref() == Some(&kept) {
            return;
        }
        match Issuer::from_pem(&kept.files, now) {
            Ok(issuer) if issuer.not_after() <= now => {
                tracing::error!("the new issuer's certificate has expired, going on with the issuer of before");
                self.refused = Some(kept);
            }
            Ok(issuer) => {
                let fingerprint = issuer.bundle().fingerprint();
                if let Err(error) = self.rotation.change(Arc::new(issuer), kept.anchors, now) {
                    tracing::error!(%error, "the new issuer is refused: too many roots are still trusted beside it");
                    self.refused = Some(kept);
                    return;
                }
                tracing::info!(bundle = %fingerprint, "the issuer has changed");
                self.kept = kept;
                self.refused = None;
                self.renew_at = now;
            }
            // Also seen while files are replaced one after another: the next look finds them whole.
            Err(error) => {
                tracing::error!(%error, "the new issuer is refused, going on with the issuer of before");
                self.refused = Some(kept);
            }
        }
    }

    /// Puts what is to be trusted in force, and looks at how far it has come.
    fn publish(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        let next = current(&self.rotation);
        let issuer = &next.issuer;
        self.metrics.issuer(issuer.not_before(), issuer.not_after(), next.bundle.certificates().len());
        let in_force = self.current.load();
        let published = self.rotation.to_publish();
        let unchanged = self.published.as_ref() == Some(&published)
            && Arc::ptr_eq(&in_force.issuer, &next.issuer)
            && in_force.may_sign == next.may_sign;
        if !unchanged {
            let bundle = next.bundle.clone();
            self.custody
                .publish(&published, &next.bundle_pem)
                .map_err(|(path, source)| AuthorityError::Publish { path, source })?;
            if self.published.as_ref().is_none_or(|before| before.bundle != *bundle) {
                let fingerprint = bundle.fingerprint();
                tracing::info!(anchors = bundle.certificates().len(), %fingerprint, "trust bundle in force");
            }
            self.tls.set_bundle(bundle);
            self.current.store(Arc::new(next));
            self.published = Some(published);
        }
        if let Some(published) = self.published.as_ref().and_then(|ours| self.custody.confirmed(ours)) {
            self.rotation.published(&published, now);
        }
        Ok(())
    }

    /// Says why nothing is signed, where anybody who asks finds it.
    fn report(&mut self, now: SystemTime) {
        let issuer = self.rotation.issuer();
        if now >= issuer.not_after() {
            if !std::mem::replace(&mut self.expired, true) {
                tracing::error!("the issuer's certificate has expired, nothing is signed until it is replaced");
            }
            self.readiness.wait_for(CONDITION, "the issuer's certificate has expired: replace it");
        } else if !self.rotation.may_sign() {
            let reason = "the issuer's root is new, and signs nothing until it has been published for a while";
            self.readiness.wait_for(CONDITION, reason);
        } else {
            self.expired = false;
            self.readiness.met(CONDITION);
        }
    }

    fn renew(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        let key = KeyAndRequest::new(&self.config.id)?;
        let AuthorityConfig { id, dns_names, leaf_lifetime, .. } = &self.config;
        let issued = self.rotation.issuer().issue_named(key.csr(), id, dns_names, *leaf_lifetime, now)?;
        let leaf: LeafCertificate = key.complete(issued.chain)?;
        // Signed here: there is nobody to spare a crowd.
        self.renew_at = leaf.renew_at(now, 0.0);
        self.tls.set_leaf(leaf);
        Ok(())
    }
}

fn current(rotation: &Rotation) -> Current {
    let bundle = rotation.bundle();
    Current {
        issuer: rotation.issuer().clone(),
        bundle_pem: bundle.to_pem(),
        bundle: Arc::new(bundle),
        may_sign: rotation.may_sign(),
    }
}

const CONDITION: &str = "issuer";
const RETRY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
