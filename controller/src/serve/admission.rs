//! Which new streams are let in, pure: so many at once, so many per second, and everybody else is told when to come back,
//! each at another time.
//!
//! Whoever has a certificate may ask as often as it likes, and must not thereby keep others from asking: each address and
//! each identity has a share of the rate, which is asked before what all have together. What all have is taken only by
//! those who have said who they are.

use std::net::IpAddr;
use std::time::Duration;

use controller_runtime::rate::Rates;
use identity::SpiffeId;
use tokio::time::Instant;

/// Limits on new streams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdmissionLimits {
    /// Streams at once.
    pub streams: usize,
    /// New streams per second, in the long run.
    pub per_second: f64,
    /// New streams at once after a quiet time.
    pub burst: f64,
    /// Pods that one address may stand for, 1 or more; nothing where everybody dials from one machine, and neither
    /// addresses nor identities have a share.
    pub pods_per_address: Option<usize>,
}

/// A token bucket for all, one for each address and identity, and a timetable for those who are turned away.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    tokens: f64,
    filled: Instant,
    /// When the next refused stream is told to come back.
    next_slot: Instant,
    shares: Option<(Rates<IpAddr>, Rates<SpiffeId>)>,
}

impl AdmissionLimits {
    /// Streams at once of one address: a node's worth of pods, twice over, even where one pod is all that is expected.
    pub fn streams_of_address(&self) -> usize {
        self.pods_per_address.map_or(usize::MAX, |pods| STREAMS_EACH.saturating_mul(pods))
    }

    /// Streams at once of one identity: most of them, as one namespace may be most of a cluster.
    pub fn streams_of_identity(&self) -> usize {
        self.pods_per_address.map_or(usize::MAX, |_| self.streams - self.streams / 4)
    }
}

impl Admission {
    /// Full buckets.
    pub fn new(limits: AdmissionLimits, now: Instant) -> Self {
        let shares = limits.pods_per_address.map(|pods| {
            let pods = f64::from(u32::try_from(pods).unwrap_or(u32::MAX));
            (Rates::new(RATE_EACH * pods, BURST_EACH * pods), Rates::new(limits.per_second / 2.0, limits.burst))
        });
        Self { limits, tokens: limits.burst, filled: now, next_slot: now, shares }
    }

    /// Whether an address and an identity have any of their share of new streams left, and takes it.
    pub fn knock(&self, now: Instant, address: IpAddr, id: &SpiffeId) -> bool {
        let Some((addresses, identities)) = &self.shares else { return true };
        let now = now.into_std();
        addresses.take(address.to_canonical(), now) && identities.take(id.clone(), now)
    }

    /// Lets one more stream in; or says when to come back.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.limits.per_second).min(self.limits.burst);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(self.turn_away(now))
    }

    /// When somebody should come back for whom there is no room.
    pub fn turn_away(&mut self, now: Instant) -> Duration {
        let step = Duration::from_secs_f64(1.0 / self.limits.per_second);
        self.next_slot = self.next_slot.max(now + SHORTEST).min(now + LONGEST) + step;
        self.next_slot - now
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
const STREAMS_EACH: usize = 512;
/// A proxy opens one in half an hour, and a node of 250 pods that comes back has them all at once.
const RATE_EACH: f64 = 10.0;
const BURST_EACH: f64 = 500.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(pods_per_address: Option<usize>) -> AdmissionLimits {
        AdmissionLimits { streams: 20_000, per_second: 10.0, burst: 3.0, pods_per_address }
    }

    fn id(account: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
    }

    #[test]
    fn a_burst_then_a_rate_and_everybody_else_at_another_time() {
        let start = Instant::now();
        let mut admission = Admission::new(limits(None), start);
        assert!((0..3).all(|_| admission.admit(start).is_ok()));
        let first = admission.admit(start).unwrap_err();
        let second = admission.admit(start).unwrap_err();
        assert!(first >= SHORTEST && second == first + Duration::from_millis(100), "{first:?} {second:?}");
        assert!(admission.admit(start + Duration::from_millis(150)).is_ok());
        assert!(admission.admit(start + Duration::from_millis(151)).is_err());
        for _ in 0..1000 {
            assert!(admission.admit(start + Duration::from_millis(151)).unwrap_err() <= LONGEST * 2);
        }
    }

    #[test]
    fn no_address_and_no_identity_has_it_all() {
        let start = Instant::now();
        let usual = AdmissionLimits { per_second: 500.0, burst: 1000.0, ..limits(Some(1)) };
        let admission = Admission::new(usual, start);
        let address = |n: u16| IpAddr::from([10, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        // A node's 250 pods may all come from its address.
        assert_eq!((0..10_000).filter(|_| admission.knock(start, address(1), &id("web"))).count(), 500);
        assert!(admission.knock(start, address(2), &id("web")));
        assert!(!admission.knock(start, "::ffff:10.1.0.1".parse().unwrap(), &id("web")));
        // A thousand pods of one identity that start at once.
        assert_eq!((0..1000).filter(|n| admission.knock(start, address(*n), &id("batch"))).count(), 999);
        let mut burst = (0..5000).filter(|n| admission.knock(start, address(300 + *n), &id("batch"))).count();
        assert_eq!(burst, 1);
        burst =
            (0..5000).filter(|n| admission.knock(start + Duration::from_secs(1), address(*n), &id("batch"))).count();
        assert_eq!(burst, 250, "half of what there is");
        assert!(admission.knock(start, address(7), &id("web")));
        assert_eq!((usual.streams_of_address(), usual.streams_of_identity()), (512, 15_000));
        let crowded = AdmissionLimits { pods_per_address: Some(250), ..usual };
        assert_eq!(crowded.streams_of_address(), 128_000);
    }

    #[test]
    fn where_everybody_dials_from_one_machine_there_are_no_shares() {
        let (start, all) = (Instant::now(), limits(None));
        let admission = Admission::new(all, start);
        assert!((0..10_000).all(|_| admission.knock(start, [127, 0, 0, 1].into(), &id("web"))));
        assert_eq!((all.streams_of_address(), all.streams_of_identity()), (usize::MAX, usize::MAX));
    }
}
