//! [`Affinities`]: which endpoint the pod keeps of each Service with `sessionAffinity: ClientIP`.
//!
//! Beside a pod every client has the pod's own address: of each port of such a Service the pod has one endpoint, whichever
//! worker, connection or protocol asks. It is kept until it is no endpoint any more, or until the Service's timeout has
//! passed since its last use. One that cannot be reached is kept no longer either: the endpoint that is tried in its place
//! is, so that a client moves once and stays there. kube-proxy would let the client fail instead.
//!
//! A route's backends are drawn by weight for each request, before any of this: every backend keeps an endpoint of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use policy::ServicePort;
use tokio::time::Instant;

use super::Member;

/// Kept endpoints, shared by all workers.
#[derive(Debug, Default)]
pub struct Affinities {
    of: Mutex<HashMap<ServicePort, Arc<Affinity>>>,
}

/// The endpoints kept of one port of a Service, by address family.
#[derive(Debug, Default)]
pub struct Affinity {
    kept: Mutex<[Option<Kept>; 2]>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    address: SocketAddr,
    used: Instant,
}

impl Affinities {
    /// What is kept of one port of a Service.
    pub fn of(&self, id: &ServicePort) -> Arc<Affinity> {
        let mut of = self.of.lock();
        if let Some(affinity) = of.get(id) {
            return Arc::clone(affinity);
        }
        if of.len() >= MOST_SERVICES {
            of.retain(|_, affinity| Arc::strong_count(affinity) > 1);
        }
        let affinity = Arc::<Affinity>::default();
        of.insert(id.clone(), Arc::clone(&affinity));
        affinity
    }
}

impl Affinity {
    /// Chooses by `choose`, which is told the address kept for this family, and keeps what it chose.
    pub fn choose(
        &self,
        ipv6: bool,
        lasts: Duration,
        now: Instant,
        choose: impl FnOnce(Option<SocketAddr>) -> Option<Member>,
    ) -> Option<Member> {
        let mut kept = self.kept.lock();
        let kept = &mut kept[usize::from(ipv6)];
        let current = kept.filter(|kept| now.saturating_duration_since(kept.used) < lasts);
        let member = choose(current.map(|kept| kept.address))?;
        *kept = Some(Kept { address: member.endpoint.address, used: now });
        Some(member)
    }
}

/// Services remembered before those that no worker balances over are forgotten.
const MOST_SERVICES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::rc::Rc;

    use policy::{Endpoint, Endpoints};

    use super::*;
    use crate::balance::{Backend, Loads};
    use crate::control::{Discovery, Known};
    use crate::testbed;

    const LASTS: Duration = Duration::from_secs(60);

    /// Two workers of one proxy.
    struct Pod {
        discovery: Discovery,
        loads: Rc<Loads>,
        workers: [Backend; 2],
        now: Instant,
    }

    impl Pod {
        fn new(list: Vec<Endpoint>) -> Self {
            let (id, discovery) = (ServicePort::new("shop", "web", 80), Discovery::default());
            let (loads, affinities) = (Rc::<Loads>::default(), Arc::<Affinities>::default());
            let worker = || Backend::new(id.clone(), &discovery, Rc::clone(&loads), Arc::clone(&affinities));
            let workers = [worker(), worker()];
            let pod = Self { discovery, loads, workers, now: Instant::now() };
            pod.put(list);
            pod
        }

        fn put(&self, list: Vec<Endpoint>) {
            let endpoints = Endpoints { list, affinity: Some(LASTS), ..Endpoints::default() };
            self.discovery.put_endpoints(&self.workers[0].id, Known::Value(Arc::new(endpoints)));
        }

        /// What both workers choose, many times.
        fn chosen(&self, ipv6: bool, tried: &[SocketAddr]) -> SocketAddr {
            let chosen =
                |_| self.workers.iter().map(|worker| worker.choose(ipv6, tried, self.now).unwrap().endpoint.address);
            let addresses: BTreeSet<_> = (0..20).flat_map(chosen).collect();
            assert_eq!(addresses.len(), 1, "{addresses:?}");
            addresses.into_iter().next().unwrap()
        }
    }

    fn list(numbers: impl IntoIterator<Item = u8>) -> Vec<Endpoint> {
        let both = |number| [format!("10.0.0.{number}:80"), format!("[fd00::{number}]:80")];
        let addresses = numbers.into_iter().flat_map(both);
        addresses.map(|address| testbed::endpoint(address.parse().unwrap(), Some("web"))).collect()
    }

    #[test]
    fn a_pod_keeps_its_endpoint_until_it_has_not_used_it_for_long() {
        let mut pod = Pod::new(list(1..=9));
        let first = pod.chosen(false, &[]);
        for _ in 0..5 {
            pod.now += LASTS - Duration::from_millis(1);
            assert_eq!(pod.chosen(false, &[]), first);
        }
        let mut later = BTreeSet::new();
        for _ in 0..50 {
            pod.now += LASTS;
            later.insert(pod.chosen(false, &[]));
        }
        assert!(later.len() > 1, "it is chosen anew");
        assert!(pod.chosen(true, &[]).is_ipv6(), "each family has its own");
        assert!(pod.chosen(false, &[]).is_ipv4());
    }

    #[test]
    fn it_moves_once_where_the_endpoint_leaves_or_fails() {
        let mut pod = Pod::new(list(1..=9));
        let first = pod.chosen(false, &[]);
        pod.put(list(1..=9).into_iter().filter(|endpoint| endpoint.address != first).collect());
        let second = pod.chosen(false, &[]);
        assert_ne!(second, first);
        pod.put(list(1..=9));
        assert_eq!(pod.chosen(false, &[]), second, "who comes back is one of many");

        assert!(pod.loads.of(second, pod.now).failed(pod.now));
        let third = pod.chosen(false, &[]);
        assert_ne!(third, second);
        pod.now += Duration::from_secs(5);
        assert_eq!(pod.chosen(false, &[]), third, "though the other may be well again");

        let retried = pod.chosen(false, &[third]);
        assert_ne!(retried, third);
        assert_eq!(pod.chosen(false, &[]), retried);
    }

    #[test]
    fn whoever_has_nobody_near_is_told_so() {
        let pod = Pod::new(Vec::new());
        let reason = || pod.workers[0].choose(false, &[], pod.now).unwrap_err().reason().as_str();
        assert_eq!(reason(), "no_endpoints");
        let nobody = Endpoints { node_local: true, ..Endpoints::default() };
        pod.discovery.put_endpoints(&pod.workers[0].id, Known::Value(Arc::new(nobody)));
        assert_eq!(reason(), "no_local_endpoints");
    }
}
