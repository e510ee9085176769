//! The shop: who is in it, who calls whom, and which addresses they have.
//!
//! ```text
//! traffic ─► storefront ─┬► catalog ─► reviews ─┬ 90 % ─► reviews-v1
//!                        │                      └ 10 % ─► reviews-v2
//!                        ├► cart ─gRPC, IPv6─► payments
//!                        └► cart, its session store, over bytes that nothing parses
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// One workload: one pod of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    /// Name of pod, workload and, with `app`, of what it stands for.
    pub(super) workload: &'static str,
    /// `app` label, service account, and the Service in front; `traffic` has none.
    pub(super) app: &'static str,
    /// `version` label.
    pub(super) version: &'static str,
    /// Services it calls for every request it gets.
    pub(super) calls: &'static [Call],
}

/// What is spoken with a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    /// HTTP/1.1.
    Http,
    /// gRPC, over HTTP/2 in clear text as far as the programs know.
    Grpc,
    /// Lines of text.
    Tcp,
}

/// A workload calls a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// Name of the Service.
    pub(super) service: &'static str,
    /// Over IPv6 rather than IPv4.
    pub over_ipv6: bool,
}

/// A Service: its name, and the labels it selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Service {
    /// Its name.
    pub(super) name: &'static str,
    /// Value of the `app` label.
    pub(super) app: &'static str,
    /// Value of the `version` label, where it selects one.
    pub(super) version: Option<&'static str>,
    /// What is spoken with it.
    pub(super) protocol: Protocol,
}

impl Protocol {
    /// Port of a Service.
    pub(super) const fn service_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Grpc => 50_051,
            Self::Tcp => 6379,
        }
    }

    /// Port its programs listen on.
    pub(super) const fn app_port(self) -> u16 {
        match self {
            Self::Http => 8080,
            Self::Grpc => 50_051,
            Self::Tcp => 6379,
        }
    }

    /// Name of a Service's port, which declares the protocol, and the value of the metrics' label `request_protocol`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

impl Member {
    /// Addresses of the pod: IPv4, IPv6.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let number = MEMBERS.iter().position(|member| member == self).unwrap_or(0);
        pod_addresses(1, FIRST + u8::try_from(number).unwrap_or(0))
    }

    /// What it listens for.
    pub(super) fn serves(&self) -> BTreeSet<(u16, Protocol)> {
        let own = SERVICES.iter().filter(|service| service.app == self.app);
        own.map(|service| (service.protocol.app_port(), service.protocol)).collect()
    }
}

impl Service {
    /// Cluster addresses: IPv4, IPv6.
    pub(super) fn addresses(&self) -> [IpAddr; 2] {
        let number = SERVICES.iter().position(|service| service == self).unwrap_or(0);
        let number = FIRST + u8::try_from(number).unwrap_or(0);
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from(number));
        [Ipv4Addr::new(10, 96, 0, number).into(), v6.into()]
    }

    /// Workloads it selects.
    pub(super) fn members(&self) -> impl Iterator<Item = &'static Member> {
        let Self { app, version, .. } = *self;
        MEMBERS
            .iter()
            .filter(move |member| member.app == app && version.is_none_or(|version| member.version == version))
    }
}

/// A Service by name.
pub(super) fn service(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.name == name)
}

/// Who calls whom, and how, when there is traffic.
pub(super) fn edges() -> Vec<(&'static Member, &'static Member, Protocol)> {
    let called = |call: &'static Call| {
        service(call.service).into_iter().flat_map(|service| service.members().map(|member| (member, service.protocol)))
    };
    let edges = |caller: &'static Member| {
        caller.calls.iter().flat_map(called).map(move |(called, protocol)| (caller, called, protocol))
    };
    MEMBERS.iter().flat_map(edges).collect()
}

/// Addresses of a pod, IPv4 and IPv6, by two numbers.
pub(super) fn pod_addresses(group: u8, number: u8) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, u16::from(group), u16::from(number));
    vec![Ipv4Addr::new(10, 244, group, number).into(), v6.into()]
}

/// Everybody, those who are called before those who call.
pub(super) const MEMBERS: [Member; 7] = [
    Member { workload: "reviews-v1", app: "reviews", version: "v1", calls: &[] },
    Member { workload: "reviews-v2", app: "reviews", version: "v2", calls: &[] },
    Member { workload: "payments", app: "payments", version: "v1", calls: &[] },
    Member { workload: "catalog", app: "catalog", version: "v1", calls: &[call("reviews")] },
    Member { workload: "cart", app: "cart", version: "v1", calls: &[Call { service: "payments", over_ipv6: true }] },
    Member {
        workload: "storefront",
        app: "storefront",
        version: "v1",
        calls: &[call("catalog"), call("cart"), call("sessions")],
    },
    Member { workload: "traffic", app: "traffic", version: "v1", calls: &[call("storefront")] },
];

/// The Services: five for callers, the store beside `cart`, and one per version of `reviews` for the route to choose from.
pub(super) const SERVICES: [Service; 8] = [
    serves("storefront", Protocol::Http),
    serves("catalog", Protocol::Http),
    serves("cart", Protocol::Http),
    serves("payments", Protocol::Grpc),
    serves("reviews", Protocol::Http),
    Service { name: "reviews-v1", app: "reviews", version: Some("v1"), protocol: Protocol::Http },
    Service { name: "reviews-v2", app: "reviews", version: Some("v2"), protocol: Protocol::Http },
    Service { name: "sessions", app: "cart", version: None, protocol: Protocol::Tcp },
];

/// Namespace of the shop.
pub(super) const NAMESPACE: &str = "shop";
/// The workload that makes requests.
pub(super) const TRAFFIC: &str = "traffic";
/// The new version of `reviews`, and the share of requests its route gives it.
pub(super) const CANARY: (&str, f64) = ("reviews-v2", 0.1);
/// The version it stands beside.
pub(super) const STABLE: &str = "reviews-v1";

const FIRST: u8 = 10;

const fn call(service: &'static str) -> Call {
    Call { service, over_ipv6: false }
}

const fn serves(app: &'static str, protocol: Protocol) -> Service {
    Service { name: app, app, version: None, protocol }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_goes_to_a_service_with_members() {
        assert_eq!(edges().len(), 7);
        for call in MEMBERS.iter().flat_map(|member| member.calls) {
            assert!(service(call.service).is_some_and(|service| service.members().count() > 0), "{}", call.service);
        }
    }

    #[test]
    fn addresses_are_unique() {
        let pods = MEMBERS.iter().flat_map(Member::addresses);
        let mut all: Vec<IpAddr> = pods.chain(SERVICES.iter().flat_map(Service::addresses)).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(MEMBERS[0].addresses()[1].to_string(), "fd00:10:244::1:a");
    }
}
