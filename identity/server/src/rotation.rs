//! Changing the root while everything runs: what is trusted, and what signs, at each moment. Pure; time is an argument.
//!
//! A new root is first only published. When it is seen published, and every proxy has had time to learn it, it signs. The
//! old one stays published until the last certificate it signed has ended. So no pair of proxies ever meets without a
//! common anchor, whatever each of them has heard so far. Where the operator writes the bundle, it is taken as it is, at
//! once: somebody who removes an anchor there may have to.
//!
//! Replicas agree without talking to each other: each sees the same issuer and the same published bundle, and one that
//! begins with an issuer nobody has published yet waits like the others.

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
    bundle: TrustBundle,
    until: SystemTime,
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
        published: Option<TrustBundle>,
        (delay, keep): (Duration, Duration),
        now: SystemTime,
    ) -> Self {
        let mut rotation = Self { current: issuer, unproven: None, next: None, retired: Vec::new(), delay, keep };
        if let Some(published) = published.filter(|_| anchors == Anchors::Derived) {
            rotation.retire(published, now);
        }
        rotation
    }

    /// Waits with signing until the bundle is published, for starts with an issuer whose root nobody has heard of.
    pub(crate) fn wait_until_published(&mut self) {
        self.unproven = Some(SignsFrom::Published);
    }

    /// What is published now, as seen by those who read it.
    pub(crate) fn published(&mut self, bundle: &TrustBundle, now: SystemTime) {
        let from = now + self.delay;
        if let Some(signs_from) = &mut self.unproven {
            signs_from.seen(bundle.contains_all(self.current.bundle()), from);
        }
        if let Some(next) = &mut self.next {
            next.signs_from.seen(bundle.contains_all(next.issuer.bundle()), from);
        }
    }

    /// The issuer has changed.
    pub(crate) fn change(&mut self, issuer: Arc<Issuer>, anchors: Anchors, now: SystemTime) {
        if anchors == Anchors::Explicit {
            self.retired.clear();
            self.next = None;
            self.unproven = None;
            self.current = issuer;
            return;
        }
        if self.known().is_ok_and(|known| known.contains_all(issuer.bundle())) {
            if !self.current.bundle().contains_all(issuer.bundle()) {
                self.unproven = None;
            }
            self.next = None;
            self.sign_with(issuer, now);
            return;
        }
        let underway = self.next.take().filter(|next| next.issuer.bundle().contains_all(issuer.bundle()));
        let signs_from = underway.map_or(SignsFrom::Published, |next| next.signs_from);
        self.next = Some(Next { issuer, signs_from });
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
        // Too many anchors at once: rotation is being run in a loop. The one that signs is what can't be missing.
        TrustBundle::from_certificates(anchors).unwrap_or_else(|_| self.current.bundle().clone())
    }

    /// What has been trusted for long enough.
    fn known(&self) -> Result<TrustBundle, BundleError> {
        let retired = self.retired.iter().map(|retired| &retired.bundle);
        let bundles = std::iter::once(self.current.bundle()).chain(retired);
        TrustBundle::from_certificates(bundles.flat_map(|bundle| bundle.certificates().iter().cloned()).collect())
    }

    fn sign_with(&mut self, issuer: Arc<Issuer>, now: SystemTime) {
        let before = std::mem::replace(&mut self.current, issuer);
        self.retire(before.bundle().clone(), now);
    }

    fn retire(&mut self, bundle: TrustBundle, now: SystemTime) {
        if !self.current.bundle().contains_all(&bundle) {
            self.retired.push(Retired { bundle, until: now + self.keep });
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
        rotation.change(new.clone(), Anchors::Derived, now());
        rotation.advance(now() + DELAY * 100);
        assert!(trusts(&rotation, &[&old, &new]) && Arc::ptr_eq(rotation.issuer(), &old));
        rotation.published(&rotation.bundle(), now());
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
        rotation.change(new.clone(), Anchors::Derived, now());
        rotation.published(&rotation.bundle(), now());
        rotation.published(old.bundle(), now() + DELAY / 2);
        rotation.advance(now() + DELAY * 2);
        assert!(Arc::ptr_eq(rotation.issuer(), &old));
        rotation.published(&rotation.bundle(), now() + DELAY * 2);
        rotation.advance(now() + DELAY * 3);
        assert!(Arc::ptr_eq(rotation.issuer(), &new));
    }

    #[test]
    fn a_start_with_an_unknown_root_waits_for_its_publication() {
        let (old, new) = (issuer(), issuer());
        let published = Some(old.bundle().clone());
        let mut rotation = Rotation::new(new.clone(), Anchors::Derived, published, (DELAY, KEEP), now());
        assert!(rotation.may_sign());
        rotation.wait_until_published();
        rotation.published(old.bundle(), now());
        rotation.advance(now() + DELAY * 2);
        assert!(!rotation.may_sign() && trusts(&rotation, &[&old, &new]));
        rotation.published(&rotation.bundle(), now() + DELAY * 2);
        rotation.advance(now() + DELAY * 3);
        assert!(rotation.may_sign());
    }

    #[test]
    fn an_operators_bundle_is_law() {
        let (old, new) = (issuer(), issuer());
        let mut rotation = Rotation::new(old.clone(), Anchors::Derived, None, (DELAY, KEEP), now());
        rotation.change(new.clone(), Anchors::Explicit, now());
        assert!(trusts(&rotation, &[&new]) && Arc::ptr_eq(rotation.issuer(), &new));
        let published = Some(old.bundle().clone());
        assert!(trusts(&Rotation::new(new.clone(), Anchors::Explicit, published, (DELAY, KEEP), now()), &[&new]));
    }

    #[test]
    fn a_restart_keeps_what_was_published() {
        let (old, new) = (issuer(), issuer());
        let published = Some(old.bundle().clone());
        let mut rotation = Rotation::new(new.clone(), Anchors::Derived, published, (DELAY, KEEP), now());
        assert!(trusts(&rotation, &[&old, &new]));
        rotation.advance(now() + KEEP);
        assert!(trusts(&rotation, &[&new]));
    }

    #[test]
    fn changing_ones_mind() {
        let (old, new) = (issuer(), issuer());
        let mut rotation = Rotation::new(old.clone(), Anchors::Derived, None, (DELAY, KEEP), now());
        rotation.change(new, Anchors::Derived, now());
        rotation.change(old.clone(), Anchors::Derived, now());
        rotation.advance(now() + DELAY);
        assert!(trusts(&rotation, &[&old]) && Arc::ptr_eq(rotation.issuer(), &old));
    }
}
