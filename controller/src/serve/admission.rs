//! Which new streams are let in, pure: so many at once, so many per second, and everybody else is told when to come back,
//! each at another time.
//!
//! Whoever has a certificate may ask as often as it likes, and must not thereby keep others from asking: each address and
//! each identity has a share of the rate, which is asked before what all have together. What all have is taken only by
//! those who have said who they are. Whoever meets a limit is counted, by [what was used up](UsedUp):
//! `mesh_controller_streams_limited_total`, label `share`.

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

/// What is used up, of whose share or of what all have, and what an operator can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UsedUp {
    /// New streams of an address.
    #[error("{ADDRESS} open more streams in a second than one pod may; {SHARED}")]
    StreamsPerSecondOfAddress,
    /// Open streams of an address.
    #[error("{ADDRESS} have as many streams open as one pod may; {SHARED}")]
    StreamsOfAddress,
    /// Keys of an address.
    #[error("{ADDRESS} ask for more destinations than one pod may, and new ones wait; {SHARED}")]
    KeysOfAddress,
    /// New streams of an identity.
    #[error(
        "the pods of this identity open more than half of the streams that this replica takes in a second; they come back \
         within seconds, sooner with more controller.replicas"
    )]
    StreamsPerSecondOfIdentity,
    /// New streams of all.
    #[error("this replica takes no more new streams in a second, and says when to come back")]
    StreamsPerSecond,
    /// Open streams of all.
    #[error(
        "this replica has as many streams open as it may, and who has most of them gives way; set more controller.replicas"
    )]
    Streams,
}

impl UsedUp {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::StreamsPerSecondOfAddress,
        Self::StreamsOfAddress,
        Self::KeysOfAddress,
        Self::StreamsPerSecondOfIdentity,
        Self::StreamsPerSecond,
        Self::Streams,
    ];

    /// Its word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StreamsPerSecondOfAddress => "streams_per_second_of_address",
            Self::StreamsOfAddress => "streams_of_address",
            Self::KeysOfAddress => "keys_of_address",
            Self::StreamsPerSecondOfIdentity => "streams_per_second_of_identity",
            Self::StreamsPerSecond => "streams_per_second",
            Self::Streams => "streams",
        }
    }
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

    /// Takes one of an address's and one of an identity's share of new streams, or says whose is used up.
    pub fn knock(&self, now: Instant, address: IpAddr, id: &SpiffeId) -> Result<(), UsedUp> {
        let Some((addresses, identities)) = &self.shares else { return Ok(()) };
        let now = now.into_std();
        if !addresses.take(address.to_canonical(), now) {
            return Err(UsedUp::StreamsPerSecondOfAddress);
        }
        if identities.take(id.clone(), now) { Ok(()) } else { Err(UsedUp::StreamsPerSecondOfIdentity) }
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

const ADDRESS: &str = "the pods behind this address";
const SHARED: &str = "where pods share addresses, set controlPlane.podsPerAddress";
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
        assert_eq!((0..10_000).filter(|_| admission.knock(start, address(1), &id("web")).is_ok()).count(), 500);
        assert!(admission.knock(start, address(2), &id("web")).is_ok());
        let used_up = admission.knock(start, "::ffff:10.1.0.1".parse().unwrap(), &id("web")).unwrap_err();
        assert!(used_up == UsedUp::StreamsPerSecondOfAddress && used_up.to_string().contains("podsPerAddress"));
        // A thousand pods of one identity that start at once.
        assert_eq!((0..1000).filter(|n| admission.knock(start, address(*n), &id("batch")).is_ok()).count(), 999);
        let mut burst = (0..5000).filter(|n| admission.knock(start, address(300 + *n), &id("batch")).is_ok()).count();
        assert_eq!(burst, 1);
        burst = (0..5000)
            .filter(|n| admission.knock(start + Duration::from_secs(1), address(*n), &id("batch")).is_ok())
            .count();
        assert_eq!(burst, 250, "half of what there is");
        let used_up = admission.knock(start + Duration::from_secs(1), address(9000), &id("batch")).unwrap_err();
        assert!(used_up == UsedUp::StreamsPerSecondOfIdentity && !used_up.to_string().contains("podsPerAddress"));
        assert!(admission.knock(start, address(7), &id("web")).is_ok());
        assert_eq!(usual.streams_of_address(), 512);
        let crowded = AdmissionLimits { pods_per_address: Some(250), ..usual };
        assert_eq!(crowded.streams_of_address(), 128_000);
    }

    #[test]
    fn where_everybody_dials_from_one_machine_there_are_no_shares() {
        let (start, all) = (Instant::now(), limits(None));
        let admission = Admission::new(all, start);
        assert!((0..10_000).all(|_| admission.knock(start, [127, 0, 0, 1].into(), &id("web")).is_ok()));
        assert_eq!(all.streams_of_address(), usize::MAX);
    }
}
