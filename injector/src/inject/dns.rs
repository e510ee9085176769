//! Whether a pod's settings for DNS let its proxy find the control plane.
//!
//! A proxy asks as its pod does. Without the cluster's nameserver the names of our Services are nobody's, and the proxy
//! would hold the app's start back for ever.

use k8s_openapi::api::core::v1::PodSpec;

use crate::config::ControlPlane;
use crate::decision::Skipped;

/// The policies that keep the cluster's DNS are the default one and its twin for pods on the node's network.
pub(super) fn finds(spec: &PodSpec, control_plane: &ControlPlane) -> Result<(), Skipped> {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    if !["Default", "None"].contains(&policy) {
        return Ok(());
    }
    let config = spec.dns_config.as_ref();
    let nameservers = config.and_then(|config| config.nameservers.as_ref()).is_some_and(|list| !list.is_empty());
    let searches = config.and_then(|config| config.searches.as_ref()).is_some_and(|list| !list.is_empty());
    // Which nameserver it is can't be told from here: whoever gives one with a search for names knows both.
    if nameservers && searches {
        return Ok(());
    }
    let all = control_plane.controller_addresses.iter().chain(&control_plane.identity_addresses);
    let is_known = |address: &String| {
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() || is_alias(spec, host)
    };
    if all.into_iter().all(is_known) { Ok(()) } else { Err(Skipped::NoClusterDns { policy: policy.to_owned() }) }
}

/// Whether the pod's own list of hosts has the name.
fn is_alias(spec: &PodSpec, host: &str) -> bool {
    let mut names = spec.host_aliases.iter().flatten().flat_map(|alias| alias.hostnames.iter().flatten());
    names.any(|name| name == host)
}
