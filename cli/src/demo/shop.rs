//! The shop: who is in it, who calls whom, and which addresses they have.
//!
//! ```text
//! traffic ─► storefront ─┬► catalog ─► reviews ─┬ 90 % ─► reviews-v1
//!                        └► cart ────► payments └ 10 % ─► reviews-v2
//! ```
//!
//! One edge ([`MEMBERS`] says which) is called over IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
}

impl Member {
    /// Addresses of the pod: IPv4, IPv6.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let number = MEMBERS.iter().position(|member| member == self).unwrap_or(0);
        pod_addresses(1, FIRST + u8::try_from(number).unwrap_or(0))
    }

    /// Whether others call it.
    pub(super) fn serves(&self) -> bool {
        SERVICES.iter().any(|service| service.app == self.app)
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

/// Pairs of workloads, caller and called, that traffic makes.
pub(super) fn edges() -> Vec<(&'static Member, &'static Member)> {
    let called = |call: &'static Call| service(call.service).into_iter().flat_map(Service::members);
    MEMBERS.iter().flat_map(|caller| caller.calls.iter().flat_map(called).map(move |called| (caller, called))).collect()
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
    Member { workload: "storefront", app: "storefront", version: "v1", calls: &[call("catalog"), call("cart")] },
    Member { workload: "traffic", app: "traffic", version: "v1", calls: &[call("storefront")] },
];

/// The Services: five for callers, and one per version of `reviews` for the route to choose from.
pub(super) const SERVICES: [Service; 7] = [
    Service { name: "storefront", app: "storefront", version: None },
    Service { name: "catalog", app: "catalog", version: None },
    Service { name: "cart", app: "cart", version: None },
    Service { name: "payments", app: "payments", version: None },
    Service { name: "reviews", app: "reviews", version: None },
    Service { name: "reviews-v1", app: "reviews", version: Some("v1") },
    Service { name: "reviews-v2", app: "reviews", version: Some("v2") },
];

/// Namespace of the shop.
pub(super) const NAMESPACE: &str = "shop";
/// Port of every Service.
pub(super) const SERVICE_PORT: u16 = 80;
/// Port every application listens on.
pub(super) const APP_PORT: u16 = 8080;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_goes_to_a_service_with_members() {
        assert_eq!(edges().len(), 6);
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
