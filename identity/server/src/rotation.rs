//! Changing the root while everything runs: what is trusted, and what signs, at each moment. Pure; time is an argument.
//!
//! A new root is first only published. When it is seen published, and every proxy has had time to learn it, it signs. The
//! old one stays published until the last certificate it signed has ended. So no pair of proxies ever meets without a
//! common anchor, whatever each of them has heard so far. Where the operator writes the bundle, it is taken as it is, at
//! once: somebody who removes an anchor there may have to.
//!
//! Replicas agree without talking to each other: each sees the same issuer and the same published bundle, and one that
//! begins with an issuer nobody has published yet waits like the others. When an anchor goes is written beside the bundle,
//! so that neither a restart nor another leader prolongs its life, or brings it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{BundleError, Issuer, TrustBundle};

/// The issuers and anchors of this moment.
#[derive(Debug)]
pub(crate) struct Rotation {
    current: Arc<Issuer>,
    /// When the current issuer may sign; nothing while it may.
    unproven: Option<SignsFrom>,
    next: Option<Next>,
    retired: Vec<Retired>,
    delay: Duration,
    keep: Duration,
}

#[derive(Debug)]
struct Next {
    issuer: Arc<Issuer>,
    signs_from: SignsFrom,
}

/// When an issuer may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignsFrom {
    /// Some time after its root is published.
    Published,
    Time(SystemTime),
}

#[derive(Debug)]
struct Retired {
    /// Of one anchor.
    bundle: TrustBundle,
    until: SystemTime,
}

/// A bundle as it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) bundle: TrustBundle,
    /// When retired anchors go, in seconds since 1970, by their fingerprint.
    pub(crate) until: BTreeMap<String, u64>,
}

impl From<TrustBundle> for Published {
    fn from(bundle: TrustBundle) -> Self {
        Self { bundle, until: BTreeMap::new() }
    }
}

/// Whether the operator says what the bundle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchors {
    /// They are the issuer's own root; this module adds to them what rotation needs.
    Derived,
    /// They are written down.
    Explicit,
}

impl Rotation {
    /// Starts with an issuer. `published` is the bundle of an earlier run: its anchors may have signed certificates that
    /// still live. `delay` is how long a root is published before it signs, `keep` how long leaves live.
    pub(crate) fn new(
        issuer: Arc<Issuer>,
        anchors: Anchors,
        published: Option<Published>,
        (delay, keep): (Duration, Duration),
        now: SystemTime,
    ) -> Self {
        let mut rotation = Self { current: issuer, unproven: None, next: None, retired: Vec::new(), delay, keep };
        if let Some(published) = published.filter(|_| anchors == Anchors::Derived) {
            rotation.retire(&published.bundle, now);
            rotation.agree(&published, now);
            rotation.advance(now);
        }
        rotation
    }

    /// Waits with signing until the bundle is published, for starts with an issuer whose root nobody has heard of.
    pub(crate) fn wait_until_published(&mut self) {
        self.unproven = Some(SignsFrom::Published);
    }

    /// What is published now, as seen by those who read it.
    pub(crate) fn published(&mut self, published: &Published, now: SystemTime) {
        self.agree(published, now);
        let (bundle, from) = (&published.bundle, now + self.delay);
        if let Some(signs_from) = &mut self.unproven {
            signs_from.seen(bundle.contains_all(self.current.bundle()), from);
        }
        if let Some(next) = &mut self.next {
            next.signs_from.seen(bundle.contains_all(next.issuer.bundle()), from);
        }
    }

    /// When anchors go that we retired, is what those who published them first have said.
    fn agree(&mut self, published: &Published, now: SystemTime) {
        let latest = now + self.keep;
        for retired in &mut self.retired {
            if let Some(seconds) = published.until.get(&retired.bundle.fingerprint().to_string()) {
                let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(*seconds));
                retired.until = until.map_or(latest, |until| until.min(latest));
            }
        }
    }

    /// The issuer has changed. One whose root has no room beside those that must still be trusted is refused.
    pub(crate) fn change(&mut self, issuer: Arc<Issuer>, anchors: Anchors, now: SystemTime) -> Result<(), BundleError> {
        if anchors == Anchors::Explicit {
            self.retired.clear();
            self.next = None;
            self.unproven = None;
            self.current = issuer;
            return Ok(());
        }
        if self.known().is_ok_and(|known| known.contains_all(issuer.bundle())) {
            if !self.current.bundle().contains_all(issuer.bundle()) {
                self.unproven = None;
            }
            self.next = None;
            self.sign_with(issuer, now);
            return Ok(());
        }
        let all = [self.known()?.certificates(), issuer.bundle().certificates()].concat();
        TrustBundle::from_certificates(all)?;
        let underway = self.next.take().filter(|next| next.issuer.bundle().contains_all(issuer.bundle()));
        let signs_from = underway.map_or(SignsFrom::Published, |next| next.signs_from);
        self.next = Some(Next { issuer, signs_from });
        Ok(())
    }

    /// Time has passed: a published issuer may sign now, a retired anchor may go.
    pub(crate) fn advance(&mut self, now: SystemTime) {
        self.unproven.take_if(|signs_from| signs_from.reached(now));
        if let Some(next) = self.next.take_if(|next| next.signs_from.reached(now)) {
            self.unproven = None;
            self.sign_with(next.issuer, now);
        }
        self.retired.retain(|retired| now < retired.until);
    }

    /// Whether the issuer may sign; it may not before its root is published.
    pub(crate) fn may_sign(&self) -> bool {
        self.unproven.is_none()
    }

    /// Who signs.
    pub(crate) fn issuer(&self) -> &Arc<Issuer> {
        &self.current
    }

    /// Everything that is to be trusted.
    pub(crate) fn bundle(&self) -> TrustBundle {
        let next = self.next.iter().map(|next| next.issuer.bundle());
        let retired = self.retired.iter().map(|retired| &retired.bundle);
        let bundles = std::iter::once(self.current.bundle()).chain(next).chain(retired);
        let anchors = bundles.flat_map(|bundle| bundle.certificates().iter().cloned()).collect();
        // Too many only where more was published than we would: the one that signs is what can't be missing.
        TrustBundle::from_certificates(anchors).unwrap_or_else(|_| self.current.bundle().clone())
    }

    /// The same, and when what has retired goes.
    pub(crate) fn to_publish(&self) -> Published {
        let until = self.retired.iter().map(|retired| {
            let since = retired.until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            (retired.bundle.fingerprint().to_string(), since.as_secs())
        });
        Published { bundle: self.bundle(), until: until.collect() }
    }

    /// What has been trusted for long enough.
    fn known(&self) -> Result<TrustBundle, BundleError> {
        let retired = self.retired.iter().map(|retired| &retired.bundle);
        let bundles = std::iter::once(self.current.bundle()).chain(retired);
        TrustBundle::from_certificates(bundles.flat_map(|bundle| bundle.certificates().iter().cloned()).collect())
    }

    fn sign_with(&mut self, issuer: Arc<Issuer>, now: SystemTime) {
        let before = std::mem::replace(&mut self.current, issuer);
        self.retire(before.bundle(), now);
        // Whoever signs again has not retired.
        let current = self.current.bundle();
        self.retired.retain(|retired| !current.contains_all(&retired.bundle));
    }

    fn retire(&mut self, bundle: &TrustBundle, now: SystemTime) {
        for anchor in bundle.certificates() {
            let Ok(bundle) = TrustBundle::from_certificates(vec![anchor.clone()]) else { continue };
            self.retired.retain(|retired| retired.bundle != bundle);
            if !self.current.bundle().contains_all(&bundle) {
                self.retired.push(Retired { bundle, until: now + self.keep });
            }
        }
    }
}

impl SignsFrom {
    /// The root was seen published, or was not.
    fn seen(&mut self, published: bool, from: SystemTime) {
        match self {
            _ if !published => *self = Self::Published,
            Self::Published => *self = Self::Time(from),
            Self::Time(_) => {}
        }
    }

    fn reached(self, now: SystemTime) -> bool {
        matches!(self, Self::Time(time) if time <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(10);
    const KEEP: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
    }

    fn issuer() -> Arc<Issuer> {
        Arc::new(Issuer::create(&"cluster.local".parse().unwrap(), now()).unwrap().0)
    }

    fn trusts(rotation: &Rotation, issuers: &[&Arc<Issuer>]) -> bool {
        let bundle = rotation.bundle();
        bundle.certificates().len() == issuers.len() && issuers.iter().all(|i| bundle.contains_all(i.bundle()))
    }

    #[test]
    fn published_then_signing_then_alone() {
        let (old, new) = (issuer(), issuer());
        let mut rotation = Rotation::new(old.clone(), Anchors::Derived, None, (DELAY, KEEP), now());
        assert!(trusts(&rotation, &[&old]));
        rotation.change(new.clone(), Anchors::Derived, now()).unwrap();
        rotation.advance(now() + DELAY * 100);
        assert!(trusts(&rotation, &[&old, &new]) && Arc::ptr_eq(rotation.issuer(), &old));
        rotation.published(&rotation.to_publish(), now());
        rotation.advance(now() + DELAY / 2);
        assert!(trusts(&rotation, &[&old, &new]) && Arc::ptr_eq(rotation.issuer(), &old));
        rotation.advance(now() + DELAY);
        assert!(trusts(&rotation, &[&old, &new]) && Arc::ptr_eq(rotation.issuer(), &new));
        rotation.advance(now() + DELAY + KEEP - Duration::from_secs(1));
        assert!(trusts(&rotation, &[&old, &new]));
        rotation.advance(now() + DELAY + KEEP);
        assert!(trusts(&rotation, &[&new]));
    }

    #[test]
    fn what_is_no_longer_published_does_not_sign() {
        let (old, new) = (issuer(), issuer());
        let mut rotation = Rotation::new(old.clone(), Anchors::Derived, None, (DELAY, KEEP), now());
        rotation.change(new.clone(), Anchors::Derived, now()).unwrap();
        rotation.published(&rotation.to_publish(), now());
        rotation.published(&old.bundle().clone().into(), now() + DELAY / 2);
        rotation.advance(now() + DELAY * 2);
        assert!(Arc::ptr_eq(rotation.issuer(), &old));
        rotation.published(&rotation.to_publish(), now() + DELAY * 2);
        rotation.advance(now() + DELAY * 3);
        assert!(Arc::ptr_eq(rotation.issuer(), &new));
    }

    #[test]
    fn a_start_with_an_unknown_root_waits_for_its_publication() {
        let (old, new) = (issuer(), issuer());
        let published = Some(old.bundle().clone().into());
        let mut rotation = Rotation::new(new.clone(), Anchors::Derived, published, (DELAY, KEEP), now());
        assert!(rotation.may_sign());
        rotation.wait_until_published();
        rotation.published(&old.bundle().clone().into(), now());
        rotation.advance(now() + DELAY * 2);
        assert!(!rotation.may_sign() && trusts(&rotation, &[&old, &new]));
        rotation.published(&rotation.to_publish(), now() + DELAY * 2);
        rotation.advance(now() + DELAY * 3);
        assert!(rotation.may_sign());
    }

    #[test]
    fn an_operators_bundle_is_law() {
        let (old, new) = (issuer(), issuer());
        let mut rotation = Rotation::new(old.clone(), Anchors::Derived, None, (DELAY, KEEP), now());
        rotation.change(new.clone(), Anchors::Explicit, now()).unwrap();
        assert!(trusts(&rotation, &[&new]) && Arc::ptr_eq(rotation.issuer(), &new));
        let published = Some(old.bundle().clone().into());
        assert!(trusts(&Rotation::new(new.clone(), Anchors::Explicit, published, (DELAY, KEEP), now()), &[&new]));
    }

    #[test]
    fn a_restart_keeps_what_was_published() {
        let (old, new) = (issuer(), issuer());
        let published = Some(old.bundle().clone().into());
        let mut rotation = Rotation::new(new.clone(), Anchors::Derived, published, (DELAY, KEEP), now());
        assert!(trusts(&rotation, &[&old, &new]));
        rotation.advance(now() + KEEP);
        assert!(trusts(&rotation, &[&new]));
    }

    #[test]
    fn neither_restarts_nor_another_leader_prolong_an_anchors_life() {
        let (old, new) = (issuer(), issuer());
        let mut leader =
            Rotation::new(new.clone(), Anchors::Derived, Some(old.bundle().clone().into()), (DELAY, KEEP), now());
        let mut published = leader.to_publish();
        assert!(published.until.len() == 1 && trusts(&leader, &[&old, &new]));
        // Restarted again and again, always half a life later.
        let half = now() + KEEP / 2;
        let restarted = Rotation::new(new.clone(), Anchors::Derived, Some(published.clone()), (DELAY, KEEP), half);
        assert_eq!(restarted.to_publish(), published);
        // A replica that retired it later by its own clock follows what is published.
        let mut follower =
            Rotation::new(new.clone(), Anchors::Derived, Some(old.bundle().clone().into()), (DELAY, KEEP), half);
        follower.published(&published, half);
        for replica in [&mut leader, &mut follower] {
            replica.advance(now() + KEEP - Duration::from_secs(1));
            assert!(trusts(replica, &[&old, &new]));
            replica.advance(now() + KEEP);
            assert!(trusts(replica, &[&new]) && replica.to_publish().until.is_empty());
        }
        let late = Rotation::new(new.clone(), Anchors::Derived, Some(published.clone()), (DELAY, KEEP), now() + KEEP);
        assert!(trusts(&late, &[&new]), "it does not come back");
        // Nobody can write it a longer life than it could have had.
        published.until.values_mut().for_each(|until| *until = u64::MAX);
        let mut written = Rotation::new(new.clone(), Anchors::Derived, Some(published), (DELAY, KEEP), now());
        written.advance(now() + KEEP);
        assert!(trusts(&written, &[&new]));
    }

    #[test]
    fn a_root_too_many_is_refused_and_those_in_use_stay() {
        let old = issuer();
        let mut rotation = Rotation::new(old.clone(), Anchors::Derived, None, (DELAY, KEEP), now());
        let mut refused = 0;
        for _ in 0..300 {
            refused += usize::from(rotation.change(issuer(), Anchors::Derived, now()).is_err());
            rotation.published(&rotation.to_publish(), now());
            rotation.advance(now() + DELAY);
        }
        assert!(refused > 40, "{refused}");
        assert!(rotation.bundle().contains_all(old.bundle()) && rotation.bundle().certificates().len() > 200);
    }

    #[test]
    fn changing_ones_mind() {
        let (old, new) = (issuer(), issuer());
        let mut rotation = Rotation::new(old.clone(), Anchors::Derived, None, (DELAY, KEEP), now());
        rotation.change(new, Anchors::Derived, now()).unwrap();
        rotation.change(old.clone(), Anchors::Derived, now()).unwrap();
        rotation.advance(now() + DELAY);
        assert!(trusts(&rotation, &[&old]) && Arc::ptr_eq(rotation.issuer(), &old));
    }
}
