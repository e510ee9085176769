//! An authority whose Secret and ConfigMaps are channels, with time as an argument.

use tokio::sync::watch;

use super::*;
use crate::custody::Cluster;

const DELAY: Duration = Duration::from_secs(120);

/// What the cluster's other side sees of an authority.
struct Outside {
    authority: Authority,
    readiness: Readiness,
    issuer: watch::Sender<KeptIssuer>,
    wanted: watch::Receiver<Option<Arc<Published>>>,
    published: watch::Sender<Option<Arc<Published>>>,
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

fn kept_at(now: SystemTime) -> (KeptIssuer, TrustBundle) {
    let (issuer, files) = Issuer::create(&"cluster.local".parse().unwrap(), now).unwrap();
    (KeptIssuer { files, anchors: Anchors::Derived }, issuer.bundle().clone())
}

fn kept() -> (KeptIssuer, TrustBundle) {
    kept_at(now())
}

impl Outside {
    fn open(kept: KeptIssuer, before: Option<TrustBundle>) -> Self {
        let before = before.map(Published::from);
        let (issuer, issuer_receiver) = watch::channel(kept);
        let (wanted_sender, wanted) = watch::channel(None);
        let (published, published_receiver) = watch::channel(before.clone().map(Arc::new));
        let cluster = Cluster { issuer: issuer_receiver, before, wanted: wanted_sender, published: published_receiver };
        let config = AuthorityConfig {
            leaf_lifetime: Duration::from_secs(24 * 3600),
            rotation_delay: DELAY,
            id: "spiffe://cluster.local/ns/mesh-system/sa/mesh-identity".parse().unwrap(),
            dns_names: vec!["mesh-identity.mesh-system.svc".to_owned()],
        };
        let readiness = Readiness::new();
        let custody = Custody::Cluster(cluster);
        let authority = Authority::open(config, custody, readiness.clone(), Metrics::default(), now()).unwrap();
        Self { authority, readiness, issuer, wanted, published }
    }

    /// Publishes what is wanted, as the leader would.
    fn publish(&self) {
        self.published.send_replace(self.wanted.borrow().clone());
    }

    fn wanted(&self) -> TrustBundle {
        self.wanted.borrow().as_ref().unwrap().bundle.clone()
    }

    fn signs_with(&self, bundle: &TrustBundle) -> bool {
        self.authority.current().load().issuer.bundle() == bundle
    }
}

#[test]
fn a_first_start_signs_at_once() {
    let (issuer, bundle) = kept();
    let outside = Outside::open(issuer, None);
    assert!(outside.readiness.is_ready() && outside.authority.current().load().may_sign);
    assert_eq!(outside.wanted(), bundle);
    assert!(outside.authority.tls().leaf().is_some());
}

#[test]
fn a_new_root_signs_some_time_after_it_was_seen_published() {
    let ((first, old), (second, new)) = (kept(), kept());
    let mut outside = Outside::open(first, Some(old.clone()));
    outside.issuer.send_replace(second);
    outside.authority.tick(now());
    assert!(outside.wanted().contains_all(&new));
    // Nobody leads: it stays unpublished, and the old one goes on for as long as it takes.
    outside.authority.tick(now() + DELAY * 10);
    assert!(outside.signs_with(&old));
    outside.publish();
    outside.authority.tick(now() + DELAY * 10);
    outside.authority.tick(now() + DELAY * 11 - Duration::from_secs(1));
    assert!(outside.signs_with(&old));
    outside.authority.tick(now() + DELAY * 11);
    assert!(outside.signs_with(&new) && outside.wanted().contains_all(&old));
}

#[test]
fn a_replica_that_starts_with_a_root_nobody_knows_is_not_ready() {
    let ((_, old), (second, new)) = (kept(), kept());
    let mut outside = Outside::open(second, Some(old));
    assert!(!outside.readiness.is_ready() && !outside.authority.current().load().may_sign);
    outside.publish();
    outside.authority.tick(now());
    outside.authority.tick(now() + DELAY);
    assert!(outside.readiness.is_ready() && outside.authority.current().load().may_sign && outside.signs_with(&new));
}

#[test]
fn an_expired_or_broken_new_issuer_changes_nothing() {
    let ((first, old), (expired, _)) = (kept(), kept_at(now() - Duration::from_secs(3660 * 24 * 3600)));
    let broken = KeptIssuer { files: first.files.clone(), anchors: Anchors::Explicit };
    let mut outside = Outside::open(first, None);
    outside.issuer.send_replace(expired);
    outside.authority.tick(now());
    let mut files = broken.files.clone();
    files.key = "nothing".to_owned();
    outside.issuer.send_replace(KeptIssuer { files, ..broken });
    outside.authority.tick(now() + DELAY);
    assert_eq!(outside.wanted(), old);
    assert!(outside.signs_with(&old) && outside.readiness.is_ready());
}

#[test]
fn the_end_of_the_issuer_is_seen_from_outside() {
    let (issuer, _) = kept();
    let mut outside = Outside::open(issuer, None);
    let end = outside.authority.current().load().issuer.not_after();
    outside.authority.tick(end);
    assert!(!outside.readiness.is_ready());
    let (next, _) = kept_at(end);
    outside.issuer.send_replace(next);
    outside.authority.tick(end);
    outside.publish();
    outside.authority.tick(end);
    outside.authority.tick(end + DELAY);
    assert!(outside.readiness.is_ready());
}
