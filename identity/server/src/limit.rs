//! How many requests are looked at: token buckets in front of the API server and the signatures, which are what costs.
//!
//! All share one. Before it each address has its own, so that nobody can use up what all share, and where a request was
//! wrong a smaller one; and behind the proof of who it is, each workload has one.
//!
//! Where the network hides pods behind one address, one that goes on showing the same bad token must not shut out the
//! others: such a token has a bucket of its own, and counts once for the address. Where everybody dials from one machine an
//! address is nobody's, so that bad tokens, however many, shut out themselves alone.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::time::Instant;

use controller_runtime::rate::{Rate, Rates};

use crate::authenticate::Workload;

/// The buckets in front of the service.
#[derive(Debug)]
pub(crate) struct Limits {
    all: Rate,
    /// These three are nobody's where everybody dials from one machine.
    address: Option<Rates<IpAddr>>,
    workload: Option<Rates<Workload>>,
    offender: Option<Rates<IpAddr>>,
    bad_token: Rates<TokenMark>,
    marks: RandomState,
    lines: Rate,
}

/// Whose share is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UsedUp {
    /// That of the address the request came from.
    Address,
    /// What all have together.
    All,
}

/// What tells tokens apart, and says nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenMark(u64);

impl Limits {
    /// `pods_per_address`: nothing where everybody dials from one machine.
    pub(crate) fn new(pods_per_address: Option<usize>, now: Instant) -> Self {
        let pods = f64::from(u32::try_from(pods_per_address.unwrap_or(1)).unwrap_or(u32::MAX));
        Self {
            // About half of what one core signs.
            all: Rate::new(1000.0, 5000.0, now),
            // A pod needs one certificate, and one more for each restart of its proxy; a node's 250 pods may come at once.
            address: pods_per_address.map(|_| Rates::new(5.0 * pods, 300.0 * pods)),
            workload: pods_per_address.map(|_| Rates::new(1.0, 10.0)),
            offender: pods_per_address.map(|_| Rates::new(pods, 20.0 * pods)),
            bad_token: Rates::new(0.2, 5.0),
            marks: RandomState::new(),
            lines: Rate::new(10.0, 100.0, now),
        }
    }

    /// By which a token is known here.
    pub(crate) fn token(&self, token: &str) -> TokenMark {
        TokenMark(self.marks.hash_one(token))
    }

    /// Whether an address or a token has been wrong so often that it is not looked at for now.
    pub(crate) fn is_shut_out(&self, ip: Option<IpAddr>, token: TokenMark, now: Instant) -> bool {
        let mut offender = self.offender.iter().zip(ip);
        offender.any(|(rates, ip)| !rates.has_room(&ip.to_canonical(), now)) || !self.bad_token.has_room(&token, now)
    }

    /// Takes note of a request that was wrong.
    pub(crate) fn failed(&self, ip: Option<IpAddr>, token: TokenMark, now: Instant) {
        let is_new = self.bad_token.is_full(&token, now);
        self.bad_token.take(token, now);
        if let Some((rates, ip)) = self.offender.as_ref().zip(ip.filter(|_| is_new)) {
            rates.take(ip.to_canonical(), now);
        }
    }

    /// Whether a request may be looked at.
    pub(crate) fn take(&self, ip: Option<IpAddr>, now: Instant) -> Result<(), UsedUp> {
        if let Some((rates, ip)) = self.address.as_ref().zip(ip)
            && !rates.take(ip.to_canonical(), now)
        {
            return Err(UsedUp::Address);
        }
        if self.all.take(now) { Ok(()) } else { Err(UsedUp::All) }
    }

    /// Whether there may be another line in the log about somebody who is refused.
    pub(crate) fn take_line(&self, now: Instant) -> bool {
        self.lines.take(now)
    }

    /// Whether a workload may have a certificate.
    pub(crate) fn take_for(&self, workload: Workload, now: Instant) -> bool {
        self.workload.as_ref().is_none_or(|rates| rates.take(workload, now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_pod_leaves_the_others_their_share() {
        let (now, limits) = (Instant::now(), Limits::new(Some(1), Instant::now()));
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| Some(text.parse::<IpAddr>().unwrap()));
        assert_eq!((0..10_000).filter(|_| limits.take(one, now).is_ok()).count(), 300);
        assert!(limits.take(other, now).is_ok(), "what all share is not used up");
        let pod = |uid: &str| Workload::Pod(uid.to_owned());
        assert_eq!((0..100).filter(|_| limits.take_for(pod("1f0e"), now)).count(), 10);
        assert!(limits.take_for(pod("2f0e"), now));
        assert!(limits.take_for(pod("1f0e"), now + Duration::from_secs(1)));
        let everybody = Limits::new(None, now);
        assert_eq!((0..10_000).filter(|_| everybody.take(one, now).is_ok()).count(), 5000);
        let crowded = Limits::new(Some(250), now);
        assert_eq!((0..10_000).filter(|_| crowded.take(one, now).is_ok()).count(), 5000, "an address of many pods");
    }

    #[test]
    fn many_bad_tokens_shut_out_an_address_and_one_shuts_out_itself() {
        let (now, limits) = (Instant::now(), Limits::new(Some(1), Instant::now()));
        let address = Some("10.0.0.1".parse().unwrap());
        let (good, bad) = (limits.token("good"), limits.token("bad"));
        for _ in 0..1000 {
            limits.failed(address, bad, now);
        }
        assert!(limits.is_shut_out(address, bad, now) && !limits.is_shut_out(address, good, now));
        assert!(!limits.is_shut_out(address, bad, now + Duration::from_secs(5)), "it may have become good");
        for n in 0..20 {
            limits.failed(address, limits.token(&n.to_string()), now);
        }
        assert!(limits.is_shut_out(address, good, now));
        assert!(!limits.is_shut_out(Some("10.0.0.2".parse().unwrap()), good, now));
    }

    #[test]
    fn on_one_machine_bad_tokens_shut_out_themselves_alone() {
        let (now, limits) = (Instant::now(), Limits::new(None, Instant::now()));
        let address = Some("127.0.0.1".parse().unwrap());
        let bad: Vec<TokenMark> = (0..1000).map(|n| limits.token(&n.to_string())).collect();
        for _ in 0..5 {
            bad.iter().for_each(|bad| limits.failed(address, *bad, now));
        }
        assert!(limits.is_shut_out(address, bad[0], now));
        assert!(!limits.is_shut_out(address, limits.token("good"), now));
    }
}
