//! Which trust anchors are in force.
//!
//! Anchors come from four places. The mounted file and discovery are both kept current by the mesh, by different ways.
//! Discovery comes from a controller that has shown who it is, while whoever may edit ConfigMaps in the workload's namespace
//! can write into the file: what **discovery** says counts alone for as long as it is kept current. When no controller has
//! been heard for minutes, the anchors of both together are in force, so that a rotation is followed by whichever way still
//! works. Before discovery has spoken the file counts; before that, what the certificate authority sent with the
//! certificate, and without that the first-contact copy in the bootstrap.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{BundleFile, Fingerprint, LeafCertificate, MeshTls, PeerRefused, PeerRole, TrustBundle};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::state::ControlState;
use super::{Discovery, Known, Watch};

/// The anchors from each place; puts in force what follows from them. Cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    sources: Arc<Mutex<Sources>>,
    tls: MeshTls,
    state: ControlState,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default, Clone)]
struct Sources {
    file: Option<Arc<TrustBundle>>,
    discovery: Option<Arc<TrustBundle>>,
    authority: Option<Arc<TrustBundle>>,
    bootstrap: Option<Arc<TrustBundle>>,
}

impl Trust {
    /// With the first-contact copy, if there is one. `changed` is told when other anchors are in force: open
    /// connections are then verified again.
    pub(crate) fn new(
        bootstrap: Option<TrustBundle>,
        tls: MeshTls,
        state: ControlState,
        changed: watch::Sender<()>,
    ) -> Self {
        let trust = Self { sources: Arc::default(), tls, state, changed };
        trust.put(|sources| sources.bootstrap = bootstrap.map(Arc::new));
        trust
    }

    /// What the certificate authority sent with a certificate.
    pub(crate) fn put_authority(&self, bundle: TrustBundle) {
        self.put(|sources| sources.authority = Some(Arc::new(bundle)));
    }

    /// The fingerprint of the mesh's anchors if none of them vouches for this certificate: its root is gone, not merely
    /// about to go (anchors stay until the last certificate under them has ended), so peers refuse it.
    pub(crate) fn has_dropped(&self, leaf: &LeafCertificate) -> Option<Fingerprint> {
        let current = self.sources.lock().current(self.is_live())?;
        let fingerprint = current.fingerprint();
        let alone = MeshTls::new(Some(current));
        let verified = alone.verify_peer(leaf.chain(), PeerRole::Client, SystemTime::now());
        (verified == Err(PeerRefused::UnknownAuthority)).then_some(fingerprint)
    }

    /// Follows the file and discovery. Never returns.
    pub(crate) async fn run(self, file: Option<PathBuf>, discovery: Discovery) {
        let mut file = file.map(BundleFile::new);
        let mut told = discovery.bundle();
        self.put_discovery(&told);
        let mut ticks = tokio::time::interval(POLL);
        let mut was_live = true;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if let Some(file) = &mut file {
                        self.put_file(file);
                    }
                    if std::mem::replace(&mut was_live, self.is_live()) != was_live {
                        self.put(|_| ());
                    }
                }
                () = told.changed() => self.put_discovery(&told),
            }
        }
    }

    /// Looks at the file and at what discovery knows from an earlier process, so that the first connection has them.
    pub(crate) fn begin(&self, file: Option<PathBuf>, discovery: &Discovery) {
        self.put_discovery(&discovery.bundle());
        if let Some(file) = file {
            self.put_file(&mut BundleFile::new(file));
        }
    }

    pub(super) fn put_file(&self, file: &mut BundleFile) {
        match file.poll() {
            Ok(Some(bundle)) => self.put(|sources| sources.file = Some(bundle)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the anchors in force stay"),
        }
    }

    fn put_discovery(&self, told: &Watch<String>) {
        let bundle = match told.current() {
            // Decoding has checked it.
            Known::Value(pem) => TrustBundle::from_pem(pem.as_bytes()).ok().map(Arc::new),
            Known::Absent => None,
            Known::Waiting => return,
        };
        self.put(|sources| sources.discovery = bundle);
    }

    /// Whether the picture is young enough for a rotation not to have passed it by.
    fn is_live(&self) -> bool {
        self.state.age() < FORSAKEN
    }

    fn put(&self, change: impl FnOnce(&mut Sources)) {
        let bundle = {
            let mut sources = self.sources.lock();
            change(&mut sources);
            sources.in_force(self.is_live())
        };
        let Some(bundle) = bundle else { return };
        self.state.bundle(&bundle);
        if self.tls.set_bundle(bundle.clone()) {
            tracing::info!(anchors = ?bundle.subjects(), "trust anchors in force");
            self.changed.send_replace(());
        }
    }
}

impl Sources {
    /// `is_live`: what discovery says is kept current.
    fn in_force(&self, is_live: bool) -> Option<Arc<TrustBundle>> {
        match (&self.file, &self.discovery) {
            (_, Some(discovery)) if is_live => Some(discovery.clone()),
            (Some(file), Some(discovery)) => {
                let all = [file.certificates(), discovery.certificates()].concat();
                // Each alone is within the limit on anchors; where both together are not, the livelier way counts.
                Some(TrustBundle::from_certificates(all).map_or_else(|_| discovery.clone(), Arc::new))
            }
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (None, None) => self.authority.clone().or_else(|| self.bootstrap.clone()),
        }
    }

    /// What the mesh trusts by the way that is most likely to be current.
    fn current(&self, is_live: bool) -> Option<Arc<TrustBundle>> {
        let discovery = self.discovery.clone();
        if is_live { discovery.or_else(|| self.file.clone()) } else { self.file.clone() }
    }
}

/// A new root is published for as long before it signs, unless somebody has set less.
const FORSAKEN: Duration = Duration::from_secs(60);
/// How often the file is read.
const POLL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use identity::Issuer;

    fn bundle() -> Arc<TrustBundle> {
        let (issuer, _) = Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
        Arc::new(issuer.bundle().clone())
    }

    #[test]
    fn discovery_before_the_file_unless_it_is_old_and_both_before_all_else() {
        let [file, discovery, authority, bootstrap] = [(); 4].map(|()| bundle());
        let mut sources = Sources { bootstrap: Some(bootstrap.clone()), ..Sources::default() };
        assert_eq!(sources.in_force(true), Some(bootstrap));
        sources.authority = Some(authority.clone());
        assert_eq!(sources.in_force(true), Some(authority));
        sources.file = Some(file.clone());
        assert_eq!(sources.in_force(true), Some(file.clone()));
        sources.discovery = Some(discovery.clone());
        // Who writes into the file adds nothing to it.
        assert_eq!(sources.in_force(true), Some(discovery.clone()));
        assert_eq!((sources.current(true), sources.current(false)), (Some(discovery.clone()), Some(file.clone())));
        let both = sources.in_force(false).unwrap();
        assert!(both.contains_all(&file) && both.contains_all(&discovery));
        assert_eq!(both.certificates().len(), 2);
    }
}
