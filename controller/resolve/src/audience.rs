//! [`Audience`]: for whom a value is made.
//!
//! Nearly every value is the same for everybody, and made once. Those that are not are made once for each of as few as
//! the difference allows: a namespace, a node, one workload. What a proxy is told is final that way: it neither learns
//! what others may know, nor has rules of its own for leaving out what is not meant for it.

use std::net::SocketAddr;

use crate::facts::Facts;
use crate::inbound::Caller;

/// Whom a value is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Audience {
    /// Whoever asks.
    Everybody,
    /// Clients in a namespace: only they believe what it says of addresses that are nobody's in Kubernetes.
    Namespace(String),
    /// One workload.
    Workload(Caller),
}

impl Audience {
    /// Whom the answer about a dialled address is for, where `caller` asks.
    pub fn of_outbound(facts: &Facts, address: SocketAddr, caller: &Caller) -> Self {
        let ip = address.ip();
        let is_settled = facts.service_at(ip).is_some() || facts.pod_at(ip).is_some();
        if !is_settled && facts.is_claimed(ip) {
            return Self::Namespace(caller.namespace.clone());
        }
        Self::Everybody
    }

    /// The namespace whose word about addresses counts.
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Namespace(namespace) => Some(namespace),
            Self::Workload(caller) => Some(&caller.namespace),
            Self::Everybody => None,
        }
    }
}
