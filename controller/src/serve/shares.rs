//! What the open streams of one address and of one identity hold together: streams and keys.
//!
//! Each key that a stream subscribes to is looked at with every change, whoever asks for it. A proxy has one stream, or two
//! for a moment, with 4,096 keys at most.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use identity::SpiffeId;
use parking_lot::Mutex;

use crate::serve::admission::AdmissionLimits;

/// The shares of all.
#[derive(Debug)]
pub(super) struct Shares {
    streams_of_identity: usize,
    keys_of_address: usize,
    keys_of_identity: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    streams: HashMap<SpiffeId, usize>,
    keys_by_address: HashMap<IpAddr, usize>,
    keys_by_identity: HashMap<SpiffeId, usize>,
}

/// One stream's part in them, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    address: IpAddr,
    id: SpiffeId,
    /// Keys that count.
    keys: usize,
}

/// Whose share is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum UsedUp {
    /// Of streams.
    #[error("the streams of its identity")]
    Streams,
    /// Of keys.
    #[error("the subscriptions of its address")]
    KeysOfAddress,
    /// Of keys.
    #[error("the subscriptions of its identity")]
    KeysOfIdentity,
}

impl Shares {
    /// Nobody holds anything.
    pub(super) fn new(limits: &AdmissionLimits) -> Self {
        let pods = limits.pods_per_address;
        Self {
            streams_of_identity: limits.streams_of_identity(),
            keys_of_address: pods.map_or(usize::MAX, |pods| KEYS_OF_ADDRESS.saturating_mul(pods)),
            keys_of_identity: pods.map_or(usize::MAX, |_| KEYS_OF_IDENTITY),
            held: Mutex::default(),
        }
    }

    /// One more stream.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, id: SpiffeId) -> Result<Share, UsedUp> {
        if !add(&mut self.held.lock().streams, &id, 1, self.streams_of_identity) {
            return Err(UsedUp::Streams);
        }
        Ok(Share { shares: self.clone(), address: address.to_canonical(), id, keys: 0 })
    }
}

impl Share {
    /// The stream has so many keys now; where that is too much, it counts for as many as before.
    pub(super) fn hold(&mut self, keys: usize) -> Result<(), UsedUp> {
        let counted = keys.saturating_sub(FREE_KEYS);
        let mut held = self.shares.held.lock();
        if let Some(fewer) = self.keys.checked_sub(counted) {
            take(&mut held.keys_by_address, &self.address, fewer);
            take(&mut held.keys_by_identity, &self.id, fewer);
        } else {
            let more = counted - self.keys;
            if !add(&mut held.keys_by_address, &self.address, more, self.shares.keys_of_address) {
                return Err(UsedUp::KeysOfAddress);
            }
            if !add(&mut held.keys_by_identity, &self.id, more, self.shares.keys_of_identity) {
                take(&mut held.keys_by_address, &self.address, more);
                return Err(UsedUp::KeysOfIdentity);
            }
        }
        self.keys = counted;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock();
        take(&mut held.streams, &self.id, 1);
        take(&mut held.keys_by_address, &self.address, self.keys);
        take(&mut held.keys_by_identity, &self.id, self.keys);
    }
}

fn add<K: Eq + Hash + Clone>(counts: &mut HashMap<K, usize>, key: &K, more: usize, most: usize) -> bool {
    let count = counts.get(key).copied().unwrap_or(0) + more;
    if count > most {
        return false;
    }
    counts.insert(key.clone(), count);
    true
}

fn take<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K, fewer: usize) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(fewer);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Of each stream, which count for nothing: whatever a neighbour behind the same address does, a pod has these.
const FREE_KEYS: usize = 64;
/// Two streams with all that a stream may have.
const KEYS_OF_ADDRESS: usize = 16_384;
/// A thousand pods with a thousand Services each.
const KEYS_OF_IDENTITY: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(account: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
    }

    fn shares(streams: usize, pods_per_address: Option<usize>) -> Arc<Shares> {
        let limits = AdmissionLimits { streams, per_second: 1.0, burst: 1.0, pods_per_address };
        Arc::new(Shares::new(&limits))
    }

    #[test]
    fn an_address_has_so_many_keys_and_each_stream_a_few_for_nothing() {
        let shares = shares(20_000, Some(1));
        let enter = |last: u8| shares.enter([10, 0, 0, last].into(), id("web")).unwrap();
        let (mut first, mut second, mut third, mut other) = (enter(1), enter(1), enter(1), enter(2));
        first.hold(8192).unwrap();
        second.hold(8192).unwrap();
        third.hold(64 + 128).unwrap();
        assert_eq!(third.hold(64 + 129), Err(UsedUp::KeysOfAddress));
        assert_eq!(third.hold(64), Ok(()), "what is no more, counts no more");
        other.hold(8192).unwrap();
        drop(first);
        third.hold(8192).unwrap();
        drop((second, third, other));
        let held = shares.held.lock();
        assert!(held.streams.is_empty() && held.keys_by_address.is_empty() && held.keys_by_identity.is_empty());
    }

    #[test]
    fn an_identity_has_so_many_streams_and_keys_and_a_thousand_big_pods_have_room() {
        let shares = shares(1400, Some(1));
        let address = |n: u16| IpAddr::from([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        let mut pods = Vec::new();
        for n in 0..1000 {
            let mut pod = shares.enter(address(n), id("web")).unwrap();
            pod.hold(1000).unwrap();
            pods.push(pod);
        }
        let mut refused = 0;
        for n in 1000..1050 {
            let mut pod = shares.enter(address(n), id("web")).unwrap();
            refused += usize::from(pod.hold(8192) == Err(UsedUp::KeysOfIdentity));
            pods.push(pod);
        }
        assert!(refused > 30, "{refused}");
        assert_eq!(shares.enter(address(2000), id("web")).unwrap_err(), UsedUp::Streams);
        shares.enter(address(2000), id("cart")).unwrap().hold(8192).unwrap();
    }

    #[test]
    fn where_everybody_dials_from_one_machine_there_are_no_shares() {
        let shares = shares(1, None);
        let mut streams: Vec<Share> =
            (0..100).map(|_| shares.enter([127, 0, 0, 1].into(), id("web")).unwrap()).collect();
        assert!(streams.iter_mut().all(|stream| stream.hold(1 << 20).is_ok()));
    }
}
