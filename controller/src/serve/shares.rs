//! How many keys the open streams of one address subscribe to together.
//!
//! Each key that a stream subscribes to is looked at with every change, whoever asks for it. A proxy has one stream, or two
//! for a moment, with 4,096 keys at most. Keys for which an address has no room wait in their streams' lines, which have
//! a bound as well: they take memory.
//!
//! Identities have no share: one of them may be most of a cluster.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::serve::admission::AdmissionLimits;
use crate::serve::session::Room;

/// The shares of all addresses.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    held: Mutex<HashMap<IpAddr, Counts>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    /// Keys that are served, and count.
    keys: usize,
    /// Keys in line.
    line: usize,
}

/// One stream's part in its address's share, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    address: IpAddr,
    own: Counts,
}

impl Shares {
    /// Nobody holds anything.
    pub(super) fn new(limits: &AdmissionLimits) -> Self {
        let most = limits.pods_per_address.map_or(usize::MAX, |pods| KEYS_OF_ADDRESS.saturating_mul(pods));
        Self { most, held: Mutex::default() }
    }

    /// One more stream, which has no keys yet.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Share {
        Share { shares: self.clone(), address: address.to_canonical(), own: Counts::default() }
    }
}

impl Share {
    /// The stream is served so many keys, and so many wait in its line: how many of these it may be served from now on, and
    /// how many may go on waiting. Both count from now on.
    pub(super) fn hold(&mut self, served: usize, in_line: usize) -> Room {
        let mut held = self.shares.held.lock();
        let all = held.entry(self.address).or_default();
        let others = Counts { keys: all.keys - self.own.keys, line: all.line - self.own.line };
        let most_served = self.shares.most.saturating_sub(others.keys).saturating_add(FREE_KEYS);
        let keys = in_line.min(most_served.saturating_sub(served));
        let line = (in_line - keys).min(self.shares.most.saturating_sub(others.line));
        self.own = Counts { keys: (served + keys).saturating_sub(FREE_KEYS), line };
        *all = Counts { keys: others.keys + self.own.keys, line: others.line + self.own.line };
        let is_spare = all.keys < self.shares.most;
        if *all == Counts::default() {
            held.remove(&self.address);
        }
        Room { keys, line, is_spare }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0, 0);
    }
}

/// Of each stream, which do not count: whatever a neighbour behind the same address does, a pod has these. The 512 streams
/// that an address may have have as many of them together as the address has otherwise.
const FREE_KEYS: usize = 32;
/// Two streams with all that a stream may have.
const KEYS_OF_ADDRESS: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(pods_per_address: Option<usize>) -> Arc<Shares> {
        let limits = AdmissionLimits { streams: 20_000, per_second: 1.0, burst: 1.0, pods_per_address };
        Arc::new(Shares::new(&limits))
    }

    fn room(keys: usize, line: usize, is_spare: bool) -> Room {
        Room { keys, line, is_spare }
    }

    #[test]
    fn an_address_has_so_many_keys_and_each_stream_a_few_whatever_the_others_have() {
        let shares = shares(Some(1));
        let enter = |last: u8| shares.enter([10, 0, 0, last].into());
        let (mut first, mut second, mut third, mut other) = (enter(1), enter(1), enter(1), enter(2));
        assert_eq!(first.hold(0, 8192), room(8192, 0, true));
        assert_eq!(second.hold(1, 8191), room(8191, 0, true));
        assert_eq!(third.hold(0, 32 + 64 + 10), room(32 + 64, 10, false), "the rest waits");
        assert_eq!(third.hold(32 + 64, 10), room(0, 10, false));
        assert_eq!(enter(1).hold(3, 40), room(29, 11, false));
        assert_eq!(other.hold(0, 8192), room(8192, 0, true));
        drop(first);
        assert_eq!(third.hold(32 + 64, 10), room(10, 0, true), "as soon as there is room");
        drop((second, third, other));
        assert!(shares.held.lock().is_empty());
    }

    #[test]
    fn what_one_address_costs_has_a_bound_however_many_streams_it_has() {
        let shares = shares(Some(1));
        let mut streams: Vec<Share> = (0..512).map(|_| shares.enter([10, 0, 0, 1].into())).collect();
        let rooms: Vec<Room> = streams.iter_mut().map(|stream| stream.hold(0, 8192)).collect();
        assert_eq!(rooms.iter().map(|room| room.keys).sum::<usize>(), 2 * KEYS_OF_ADDRESS);
        assert_eq!(rooms.iter().map(|room| room.line).sum::<usize>(), KEYS_OF_ADDRESS);
    }

    #[test]
    fn where_everybody_dials_from_one_machine_there_are_no_shares() {
        let shares = shares(None);
        let mut streams: Vec<Share> = (0..100).map(|_| shares.enter([127, 0, 0, 1].into())).collect();
        assert!(streams.iter_mut().all(|stream| stream.hold(0, 1 << 20) == room(1 << 20, 0, true)));
    }
}
