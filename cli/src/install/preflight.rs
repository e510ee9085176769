//! What is looked at before anything is changed: is the cluster new enough, is it ours to change, may we.

mod rights;

use anyhow::bail;
use kube::api::DynamicObject;

use crate::kubernetes::Cluster;

use super::apply::{Live, MANAGED_BY};

pub use rights::{Right, listed, missing, rights, rights_to_remove};

/// Refuses a cluster that has no native sidecars.
pub fn version(cluster: &Cluster) -> anyhow::Result<()> {
    match too_old(cluster.minor_version(), &cluster.version.git_version) {
        Some(sentence) => bail!("{sentence}"),
        None => Ok(()),
    }
}

/// A version that nobody understands is no reason to refuse.
fn too_old(version: Option<(u32, u32)>, name: &str) -> Option<String> {
    let needed = needs_newer(version?)?;
    Some(format!("this cluster has Kubernetes {}; {needed}", crate::table::one_line(name)))
}

/// What to say of a version that is too old.
pub fn needs_newer(version: (u32, u32)) -> Option<String> {
    let (major, minor) = OLDEST;
    (version < OLDEST).then(|| format!("the mesh needs {major}.{minor} or newer (native sidecars)"))
}

/// Refuses what Helm, or somebody who does as Helm does, installed.
pub fn owner(live: &Live) -> anyhow::Result<()> {
    let owned = live.iter().find_map(|(key, object)| Some((key, helm_release(object)?)));
    let Some((key, (namespace, release))) = owned else { return Ok(()) };
    bail!(
        "{key} belongs to the Helm release {release} in namespace {namespace}; go on with helm upgrade, or remove it first \
         with: helm uninstall {release} --namespace {namespace}"
    )
}

/// Namespace and name of the Helm release an object belongs to.
fn helm_release(object: &DynamicObject) -> Option<(String, String)> {
    let annotation = |name: &str| object.metadata.annotations.as_ref()?.get(name).cloned();
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    let release = annotation("meta.helm.sh/release-name");
    if release.is_none() && label.is_none_or(|by| by != "Helm") {
        return None;
    }
    let unknown = || "(unknown)".to_owned();
    Some((annotation("meta.helm.sh/release-namespace").unwrap_or_else(unknown), release.unwrap_or_else(unknown)))
}

/// Native sidecars are on by default since 1.29.
const OLDEST: (u32, u32) = (1, 29);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::object::Object;
    use super::*;

    fn live(metadata: &serde_json::Value) -> Live {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
        let object: DynamicObject = serde_json::from_value(value.clone()).unwrap();
        [(Object::new(value).unwrap().key, object)].into()
    }

    #[test]
    fn what_helm_owns_is_left_alone() {
        let annotations = json!({"meta.helm.sh/release-name": "mesh", "meta.helm.sh/release-namespace": "mesh-system"});
        let error = owner(&live(&json!({"name": "a", "annotations": annotations}))).unwrap_err().to_string();
        assert!(error.contains("Helm release mesh in namespace mesh-system"), "{error}");
        assert!(owner(&live(&json!({"name": "a", "labels": {MANAGED_BY: "Helm"}}))).is_err());
        assert!(owner(&live(&json!({"name": "a", "labels": {MANAGED_BY: "meshctl"}}))).is_ok());
        assert!(owner(&live(&json!({"name": "a"}))).is_ok());
    }

    #[test]
    fn a_cluster_that_is_too_old_is_refused_in_one_sentence() {
        for (version, expected) in [
            (Some((1, 28)), true),
            (Some((0, 99)), true),
            (Some((1, 29)), false),
            (Some((2, 0)), false),
            // Nobody understands it, which is no reason to refuse.
            (None, false),
        ] {
            let refused = too_old(version, "v1.28.15-gke.1");
            assert_eq!(refused.is_some(), expected, "{version:?}");
            assert!(refused.iter().all(|text| text.contains("v1.28.15-gke.1; the mesh needs 1.29")), "{refused:?}");
        }
    }
}
