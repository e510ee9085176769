//! What is looked at before anything is changed: is the cluster new enough, is it ours to change, may we.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};

use crate::kubernetes::{Cluster, explain};

use super::apply::{Live, MANAGED_BY};
use super::object::Object;

/// Refuses a cluster that has no native sidecars.
pub fn version(cluster: &Cluster) -> anyhow::Result<()> {
    match cluster.minor_version() {
        Some(version) if version < OLDEST => {
            let (major, minor) = OLDEST;
            bail!(
                "this cluster has Kubernetes {}; the mesh needs {major}.{minor} or newer (native sidecars)",
                cluster.version.git_version
            )
        }
        // A version nobody understands is no reason to refuse.
        Some(_) | None => Ok(()),
    }
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

/// Says in one sentence which rights are missing to create and change `objects`.
pub async fn rights(client: &Client, objects: &[Object]) -> anyhow::Result<()> {
    let mut wanted = BTreeSet::new();
    for key in objects.iter().map(|object| &object.key) {
        let resource = key.resource();
        for verb in ["get", "create", "patch"] {
            wanted.insert((resource.group.clone(), resource.plural.clone(), verb, key.namespace.clone()));
        }
    }
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let asked = wanted.into_iter().map(|(group, resource, verb, namespace)| {
        let api = &api;
        async move {
            let attributes = ResourceAttributes {
                group: Some(group),
                resource: Some(resource.clone()),
                verb: Some(verb.to_owned()),
                namespace,
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            let review = api.create(&PostParams::default(), &review).await;
            let review =
                review.map_err(|error| anyhow::anyhow!("your rights cannot be asked for: {}", explain(&error)))?;
            let allowed = review.status.is_some_and(|status| status.allowed);
            anyhow::Ok((!allowed).then_some((verb, resource)))
        }
    });
    let missing: Vec<Option<(&str, String)>> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
    match refused(missing.into_iter().flatten()) {
        Some(sentence) => bail!("{sentence}"),
        None => Ok(()),
    }
}

/// One sentence about all rights that are missing.
fn refused(missing: impl Iterator<Item = (&'static str, String)>) -> Option<String> {
    let mut verbs: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (verb, resource) in missing {
        verbs.entry(resource).or_default().push(verb);
    }
    let each: Vec<String> = verbs.iter().map(|(resource, verbs)| format!("{} {resource}", verbs.join("/"))).collect();
    (!each.is_empty()).then(|| {
        format!("you may not {} in this cluster; ask for cluster-admin, or somebody who has it", each.join(", "))
    })
}

/// Native sidecars are on by default since 1.29.
const OLDEST: (u32, u32) = (1, 29);
const AT_ONCE: usize = 8;

#[cfg(test)]
mod tests {
    use serde_json::json;

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
    fn missing_rights_are_one_sentence() {
        let missing = [("create", "roles"), ("create", "configmaps"), ("patch", "roles")];
        let text = refused(missing.map(|(verb, resource)| (verb, resource.to_owned())).into_iter()).unwrap();
        assert!(text.starts_with("you may not create configmaps, create/patch roles in this cluster"), "{text}");
        assert_eq!(refused(std::iter::empty()), None);
    }
}
