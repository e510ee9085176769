//! What a proxy must know of its own workload.

use std::net::IpAddr;

use crd::model::Workload;
use policy::{Inbound, MutualTls};

use crate::endpoints::{label, label_of, zone};
use crate::facts::{Facts, Mesh};
use crate::ports;

/// Who asks, as far as its certificate and its first message say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    /// Namespace in the certificate.
    pub namespace: String,
    /// Service account in the certificate.
    pub service_account: String,
    /// Name it says it has.
    pub name: String,
    /// Addresses it says it has, sorted.
    pub addresses: Vec<IpAddr>,
}

/// The caller's own workload: one with its identity and one of its addresses; `None` if there is none.
pub fn inbound(facts: &Facts, mesh: &Mesh, caller: &Caller) -> Option<Inbound> {
    let workload = own_workload(facts, caller)?;
    Some(Inbound {
        workload: label_of(workload),
        namespace: caller.namespace.clone(),
        app: label(workload, ["app", "app.kubernetes.io/name"]),
        version: label(workload, ["version", "app.kubernetes.io/version"]),
        cluster: mesh.cluster.clone(),
        zone: zone(facts, workload),
        service_account: caller.service_account.clone(),
        ports: ports::of_workload(facts, workload),
        mutual_tls: MutualTls::Permissive,
    })
}

/// A pod is found by its name while Kubernetes does not know its addresses yet: its sidecar starts before they are told.
pub(crate) fn own_workload<'f>(facts: &'f Facts, caller: &'f Caller) -> Option<&'f Workload> {
    let is_its = |workload: &&Workload| {
        workload.metadata.namespace == caller.namespace
            && workload.service_account.as_ref() == Some(&caller.service_account)
    };
    let has_its_address =
        |workload: &&Workload| workload.addresses.iter().any(|address| caller.addresses.contains(address));
    let named = facts.pod(&caller.namespace, &caller.name).filter(is_its);
    named
        .filter(|pod| pod.addresses.is_empty() || has_its_address(pod))
        .or_else(|| caller.addresses.iter().filter_map(|address| facts.pod_at(*address)).find(is_its))
        .or_else(|| facts.externals_of(&caller.namespace).filter(is_its).find(has_its_address))
}
