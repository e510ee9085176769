//! Services as kube-proxy reads them, and what must not be read out of them.

use policy::Outbound;

use super::{facts, target_from, workload};

/// What a client in `namespace` finds at an address: a Service, a meshed workload, or nobody.
fn found(facts: &crate::Facts, address: &str, namespace: &str) -> String {
    match target_from(facts, address, namespace) {
        Some(Outbound::Service(service)) => service.id.to_string(),
        Some(Outbound::Workload(workload)) => workload.identity.unwrap_or_else(|| "plain".to_owned()),
        Some(Outbound::Foreign) => "foreign".to_owned(),
        None => "no such port".to_owned(),
    }
}

#[test]
fn an_external_workload_has_its_address_for_its_own_namespace_only() {
    let claim = |namespace: &str, created: &str| {
        workload("machine", "app: machine", "{addresses: [10.9.9.9], serviceAccount: machine}")
            .replace("namespace: shop", &format!("namespace: {namespace}, creationTimestamp: '{created}T00:00:00Z'"))
    };
    let hostile = facts(&[claim("evil", "2025-01-01"), claim("shop", "2026-01-01")].concat());
    assert_eq!(found(&hostile, "10.9.9.9:443", "shop"), "spiffe://cluster.local/ns/shop/sa/machine", "though younger");
    assert_eq!(found(&hostile, "10.9.9.9:443", "evil"), "spiffe://cluster.local/ns/evil/sa/machine");
    assert_eq!(found(&hostile, "10.9.9.9:443", "other"), "foreign");
    assert_eq!(found(&hostile, "10.9.9.8:443", "shop"), "foreign");
}
