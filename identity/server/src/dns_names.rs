//! DNS names in certificates: only the control plane's own, whatever a request asks for.
//!
//! Proxies know each other by SPIFFE id. The API server does not: it checks the name of the Service a webhook is called
//! at (`<service>.<namespace>.svc`) against the certificate. Each control-plane program's Service has the name of its
//! account, so its account in the system namespace is what entitles it to the name.

use identity::{SpiffeId, TrustDomain};
use proto::names::{CONTROLLER_ACCOUNT, IDENTITY_ACCOUNT, INJECTOR_ACCOUNT};

/// The DNS names in the certificate of `id`.
pub(crate) fn dns_names(id: &SpiffeId, trust_domain: &TrustDomain, system_namespace: &str) -> Vec<String> {
    let (namespace, account) = (id.namespace(), id.service_account());
    let ours = id.trust_domain() == trust_domain.as_str()
        && namespace == system_namespace
        && [CONTROLLER_ACCOUNT, IDENTITY_ACCOUNT, INJECTOR_ACCOUNT].contains(&account);
    if !ours {
        return Vec::new();
    }
    vec![format!("{account}.{namespace}.svc"), format!("{account}.{namespace}.svc.{CLUSTER_DOMAIN}")]
}

/// The cluster's DNS domain, which is not the trust domain though it is often called the same.
const CLUSTER_DOMAIN: &str = "cluster.local";

#[cfg(test)]
mod tests {
    use super::*;

    fn names(id: &str) -> Vec<String> {
        dns_names(&id.parse().unwrap(), &"mesh.example".parse().unwrap(), "mesh-system")
    }

    #[test]
    fn the_control_plane_has_names_and_nobody_else() {
        assert_eq!(
            names("spiffe://mesh.example/ns/mesh-system/sa/mesh-injector"),
            ["mesh-injector.mesh-system.svc", "mesh-injector.mesh-system.svc.cluster.local"]
        );
        assert_eq!(names("spiffe://mesh.example/ns/mesh-system/sa/mesh-controller").len(), 2);
        assert_eq!(names("spiffe://mesh.example/ns/mesh-system/sa/mesh-identity").len(), 2);
        for other in [
            "spiffe://mesh.example/ns/shop/sa/mesh-injector",
            "spiffe://mesh.example/ns/mesh-system/sa/default",
            "spiffe://other.example/ns/mesh-system/sa/mesh-injector",
        ] {
            assert!(names(other).is_empty(), "{other}");
        }
    }
}
