//! Which endpoint is next: the less loaded of two drawn at random, by peak EWMA.
//!
//! Load is the expected wait: latency, as an exponentially weighted moving average that jumps up at once and comes down
//! slowly, times what is in flight. Each worker counts for itself. All of it is pure: time and randomness are
//! arguments.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use policy::{Endpoint, Endpoints};
use tokio::time::Instant;

pub mod affinity;
pub mod backend;

pub use affinity::Affinities;
pub use backend::Backend;

/// The endpoints of one backend, as one worker sees them.
#[derive(Debug, Default)]
pub struct Members {
    source: Option<Arc<Endpoints>>,
    by_family: [Vec<Member>; 2],
}

/// An endpoint with how it did lately.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub endpoint: Rc<Endpoint>,
    /// How it did.
    pub load: Rc<Load>,
}

/// How one address did lately, for one worker.
#[derive(Debug)]
pub struct Load {
    latency: Cell<f64>,
    stamp: Cell<Instant>,
    in_flight: Cell<u32>,
    failures: Cell<u32>,
    held_off_until: Cell<Instant>,
}

/// One try in flight; dropped when it is over.
#[derive(Debug)]
pub struct InFlight {
    load: Rc<Load>,
}

/// The loads of every address a worker ever balanced over: shared by Services that share pods, kept over updates.
#[derive(Debug, Default)]
pub struct Loads {
    by_address: RefCell<HashMap<SocketAddr, Rc<Load>>>,
}

impl Members {
    /// Takes over a new list; what is known of addresses that stay is kept. Cheap when nothing changed.
    pub fn update(&mut self, source: &Arc<Endpoints>, loads: &Loads, now: Instant) {
        if self.source.as_ref().is_some_and(|current| Arc::ptr_eq(current, source)) {
            return;
        }
        let member =
            |endpoint: &Endpoint| Member { endpoint: Rc::new(endpoint.clone()), load: loads.of(endpoint.address, now) };
        self.by_family = [false, true].map(|ipv6| source.usable(ipv6).map(member).collect());
        self.source = Some(Arc::clone(source));
    }

    /// How many can be chosen for a client of this address family.
    pub fn count(&self, ipv6: bool) -> usize {
        self.by_family[usize::from(ipv6)].len()
    }

    /// How long a client keeps its endpoint, if the Service wants it to.
    pub fn affinity(&self) -> Option<Duration> {
        self.source.as_ref()?.affinity
    }

    /// Whether only endpoints on our node are members.
    pub fn is_node_local(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.node_local)
    }

    /// The member at an address, if it could be chosen.
    pub fn at(&self, address: SocketAddr, ipv6: bool, tried: &[SocketAddr], now: Instant) -> Option<&Member> {
        let member = self.by_family[usize::from(ipv6)].iter().find(|member| member.endpoint.address == address)?;
        (!tried.contains(&address) && !member.load.is_held_off(now)).then_some(member)
    }

    /// Chooses for a client of this address family, among those not in `tried`. `draw(n)` is a random number below `n`.
    ///
    /// One that lately failed to connect is chosen only where nobody else is left.
    pub fn choose(
        &self,
        ipv6: bool,
        tried: &[SocketAddr],
        now: Instant,
        mut draw: impl FnMut(usize) -> usize,
    ) -> Option<&Member> {
        let members = &self.by_family[usize::from(ipv6)];
        let fit = |member: &&Member| !tried.contains(&member.endpoint.address) && !member.load.is_held_off(now);
        let lighter = |a: &&Member, b: &&Member| a.load.cost(now).total_cmp(&b.load.cost(now));
        match members.len() {
            0 => return None,
            1 => {}
            count => {
                let first = draw(count);
                let second = (first + 1 + draw(count - 1)) % count;
                let drawn = [&members[first], &members[second]];
                if let Some(member) = drawn.into_iter().filter(fit).min_by(lighter) {
                    return Some(member);
                }
            }
        }
        let untried = || members.iter().filter(|member| !tried.contains(&member.endpoint.address));
        let soonest = |member: &&Member| member.load.held_off_until.get();
        untried().filter(fit).min_by(lighter).or_else(|| untried().min_by_key(soonest))
    }
}

impl Loads {
    /// The load of an address.
    pub fn of(&self, address: SocketAddr, now: Instant) -> Rc<Load> {
        let mut by_address = self.by_address.borrow_mut();
        if by_address.len() >= MOST_ADDRESSES && !by_address.contains_key(&address) {
            by_address.retain(|_, load| Rc::strong_count(load) > 1);
        }
        Rc::clone(by_address.entry(address).or_insert_with(|| Rc::new(Load::new(now))))
    }
}

impl Load {
    fn new(now: Instant) -> Self {
        Self {
            latency: Cell::new(0.0),
            stamp: Cell::new(now),
            in_flight: Cell::new(0),
            failures: Cell::new(0),
            held_off_until: Cell::new(now),
        }
    }

    /// Counts a try until the guard is dropped.
    pub fn start(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight { load: Rc::clone(self) }
    }

    /// An answer took this long, to its first byte.
    pub fn answered(&self, after: Duration, now: Instant) {
        let sample = after.as_secs_f64();
        let average = self.latency.get();
        // Peak-sensitive: slow answers count in full at once, quick ones must go on for a while.
        let next = if sample >= average {
            sample
        } else {
            let weight = self.fading(now);
            average * weight + sample * (1.0 - weight)
        };
        self.latency.set(next);
        self.stamp.set(now);
        self.failures.set(0);
    }

    /// A connection came about.
    pub fn connected(&self) {
        self.failures.set(0);
    }

    /// It could not be connected to: others go first for 1 s, and longer if it goes on (at most 30 s). True if they did not
    /// already.
    pub fn failed(&self, now: Instant) -> bool {
        let trips = !self.is_held_off(now);
        let failures = self.failures.get().min(8);
        self.failures.set(failures + 1);
        self.held_off_until.set(now + LONGEST_HOLD_OFF.min(HOLD_OFF * 2_u32.pow(failures)));
        trips
    }

    /// Whether others go first.
    pub fn is_held_off(&self, now: Instant) -> bool {
        self.held_off_until.get() > now && self.failures.get() > 0
    }

    /// Tries in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Expected wait in seconds, up to a factor. An address that was never measured is free to try once, and dear
    /// while that first answer is out.
    pub fn cost(&self, now: Instant) -> f64 {
        let in_flight = f64::from(self.in_flight.get());
        let latency = self.latency.get() * self.fading(now);
        if latency == 0.0 { in_flight * UNMEASURED } else { latency * (in_flight + 1.0) }
    }

    fn fading(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.stamp.get()).as_secs_f64();
        (-age / FADING.as_secs_f64()).exp()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.set(self.load.in_flight.get().saturating_sub(1));
    }
}

impl InFlight {
    /// Whose try it is.
    pub fn load(&self) -> &Load {
        &self.load
    }
}

/// How long a measured latency lasts: after this time it counts for a third.
const FADING: Duration = Duration::from_secs(10);
/// Seconds assumed for an address without an answer yet.
const UNMEASURED: f64 = 1.0;
const HOLD_OFF: Duration = Duration::from_secs(1);
const LONGEST_HOLD_OFF: Duration = Duration::from_secs(30);
/// Addresses remembered before those of no backend are forgotten.
const MOST_ADDRESSES: usize = 4096;

#[cfg(test)]
mod tests;
