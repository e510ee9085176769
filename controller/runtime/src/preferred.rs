//! Addresses that have a right to be heard whoever else calls, such as the API server's own.
//!
//! A hint and no proof: an address says from where somebody calls, not who it is. It decides who makes room where all is full,
//! and nothing else.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::RwLock;

/// Networks that are given, and addresses that become known. Cheap to clone; clones share what becomes known.
#[derive(Debug, Clone, Default)]
pub struct Preferred {
    networks: Arc<[IpNet]>,
    addresses: Arc<RwLock<HashSet<IpAddr>>>,
}

impl Preferred {
    /// These networks, and no address yet.
    pub fn new(networks: &[IpNet]) -> Self {
        Self { networks: networks.into(), addresses: Arc::default() }
    }

    /// The addresses known from now on, in place of those of before.
    pub fn set_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        *self.addresses.write() = addresses.into_iter().map(|address| address.to_canonical()).collect();
    }

    /// Whether an address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address)) || self.addresses.read().contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses_in_either_notation() {
        let preferred = Preferred::new(&["10.0.0.0/28".parse().unwrap()]);
        preferred.set_addresses(["172.18.0.2".parse().unwrap()]);
        for (address, expected) in
            [("10.0.0.3", true), ("::ffff:10.0.0.3", true), ("10.0.0.16", false), ("172.18.0.2", true), ("::1", false)]
        {
            assert_eq!(preferred.contains(address.parse().unwrap()), expected, "{address}");
        }
        preferred.set_addresses(["::1".parse().unwrap()]);
        assert!(preferred.contains("::1".parse().unwrap()) && !preferred.contains("172.18.0.2".parse().unwrap()));
    }
}
