//! How many requests are looked at: token buckets in front of the API server and the signatures, which are what costs.
//!
//! All share one. Before it each address has its own, so that nobody can use up what all share, and where a request was
//! wrong a smaller one; and behind the proof of who it is, each workload has one.

use std::net::IpAddr;
use std::time::Instant;

use controller_runtime::rate::{Rate, Rates};

use crate::authenticate::Workload;

/// The buckets in front of the service.
#[derive(Debug)]
pub(crate) struct Limits {
    all: Rate,
    /// Nobody's, where everybody dials from one machine.
    address: Option<Rates<IpAddr>>,
    workload: Option<Rates<Workload>>,
    offender: Rates<IpAddr>,
}

impl Limits {
    /// `are_pods`: each pod has an address of its own.
    pub(crate) fn new(are_pods: bool, now: Instant) -> Self {
        Self {
            // About half of what one core signs.
            all: Rate::new(1000.0, 5000.0, now),
            // A pod needs one certificate, and one more for each restart of its proxy; replicas behind one address few more.
            address: are_pods.then(|| Rates::new(5.0, 200.0)),
            workload: are_pods.then(|| Rates::new(1.0, 10.0)),
            offender: Rates::new(1.0, 20.0),
        }
    }

    /// Whether an address has shown nothing valid so often that it is not looked at for now.
    pub(crate) fn is_shut_out(&self, ip: IpAddr, now: Instant) -> bool {
        !self.offender.has_room(&ip.to_canonical(), now)
    }

    /// Takes note of a request that was wrong.
    pub(crate) fn failed(&self, ip: IpAddr, now: Instant) {
        self.offender.take(ip.to_canonical(), now);
    }

    /// Whether a request may be looked at.
    pub(crate) fn take(&self, ip: Option<IpAddr>, now: Instant) -> bool {
        let own = self.address.as_ref().zip(ip).is_none_or(|(rates, ip)| rates.take(ip.to_canonical(), now));
        own && self.all.take(now)
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
        let (now, limits) = (Instant::now(), Limits::new(true, Instant::now()));
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| Some(text.parse::<IpAddr>().unwrap()));
        assert_eq!((0..10_000).filter(|_| limits.take(one, now)).count(), 200);
        assert!(limits.take(other, now), "what all share is not used up");
        let pod = |uid: &str| Workload::Pod(uid.to_owned());
        assert_eq!((0..100).filter(|_| limits.take_for(pod("1f0e"), now)).count(), 10);
        assert!(limits.take_for(pod("2f0e"), now));
        assert!(limits.take_for(pod("1f0e"), now + Duration::from_secs(1)));
        let everybody = Limits::new(false, now);
        assert_eq!((0..10_000).filter(|_| everybody.take(one, now)).count(), 5000);
    }
}
