//! Pods with a proxy beside them, and whether their proxies get on with a version of the control plane.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use serde::Serialize;

use crate::kubernetes::explain;
use crate::transport::port_forward;

/// A pod with a proxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct MeshedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Version of its proxy, where it says so.
    pub version: Option<String>,
}

/// Every running pod with a proxy, sorted.
pub async fn meshed(client: &Client) -> anyhow::Result<Vec<MeshedPod>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut page = ListParams::default().limit(500);
    let mut meshed = Vec::new();
    loop {
        let list = pods.list(&page).await;
        let list = list.map_err(|error| anyhow::anyhow!("the pods cannot be listed: {}", explain(&error)))?;
        meshed.extend(list.items.iter().filter_map(meshed_pod));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    meshed.sort();
    Ok(meshed)
}

fn meshed_pod(pod: &Pod) -> Option<MeshedPod> {
    if !port_forward::is_meshed(pod) || !port_forward::lives(pod) {
        return None;
    }
    Some(MeshedPod {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        version: pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(VERSION).cloned()),
    })
}

/// How many proxies there are of each version.
pub fn by_version(pods: &[MeshedPod]) -> BTreeMap<String, usize> {
    let mut versions = BTreeMap::new();
    for pod in pods {
        *versions.entry(pod.version.clone().unwrap_or_else(|| "unknown".to_owned())).or_default() += 1;
    }
    versions
}

/// Whether proxies of a version work with a control plane of another: the same major version, and a minor version that
/// is the same or the one before. `None` where one of them is no version.
pub fn compatible(proxy: &str, control_plane: &str) -> Option<bool> {
    let ((proxy_major, proxy_minor), (major, minor)) = (numbers(proxy)?, numbers(control_plane)?);
    Some(proxy_major == major && (proxy_minor == minor || proxy_minor.checked_add(1) == Some(minor)))
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Annotation with the version of a pod's proxy.
const VERSION: &str = "meshctl.io/proxy-version";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_minor_version_behind_is_fine() {
        for (proxy, control_plane, expected) in [
            ("0.1.0", "0.1.7", Some(true)),
            ("0.1.0", "0.2.0", Some(true)),
            ("0.1.0", "0.3.0", Some(false)),
            ("0.2.0", "0.1.0", Some(false)),
            ("1.0.0", "2.0.0", Some(false)),
            ("v1.2.3-rc.1", "1.2.0", Some(true)),
            ("latest", "1.2.0", None),
            ("4294967295.4294967295", "4294967295.0", Some(false)),
        ] {
            assert_eq!(compatible(proxy, control_plane), expected, "{proxy} {control_plane}");
        }
    }

    #[test]
    fn a_meshed_pod_has_init_container_and_sidecar() {
        let pod = |containers: serde_json::Value, phase: &str| -> Pod {
            let annotations = json!({"meshctl.io/proxy-version": "0.1.0"});
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b", "annotations": annotations},
                "spec": {"initContainers": containers, "containers": []}, "status": {"phase": phase}}))
            .unwrap()
        };
        let ours =
            || json!([{"name": "mesh-init", "args": ["init"]}, {"name": "mesh-proxy", "restartPolicy": "Always"}]);
        let found = meshed_pod(&pod(ours(), "Running")).unwrap();
        assert_eq!(by_version(&[found]), [("0.1.0".to_owned(), 1)].into());
        assert_eq!(meshed_pod(&pod(ours(), "Succeeded")), None);
        for own in [json!([{"name": "app"}]), json!([{"name": "mesh-proxy"}]), json!([{"name": "mesh-init"}])] {
            assert_eq!(meshed_pod(&pod(own.clone(), "Running")), None, "{own}");
        }
    }
}
