//! May we? Asked before anything is written, so that an installation does not stop halfway.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use kube::api::{Api, PostParams};
use proto::names;

use crate::install::object::{Key, Object};
use crate::kubernetes::{explain, is_missing};

/// One right, as RBAC says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group; empty for the first.
    pub group: String,
    /// Plural, with a subresource behind a slash.
    pub resource: String,
    /// What is done.
    pub verb: String,
    /// Everywhere where there is none.
    pub namespace: Option<String>,
    /// Of one object only.
    pub name: Option<String>,
}

impl Right {
    /// The command that asks for it.
    pub fn question(&self) -> String {
        let Self { group, resource, verb, namespace, name } = self;
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, format!(" --subresource={subresource}")),
            None => (resource.as_str(), String::new()),
        };
        let dot = if group.is_empty() { "" } else { "." };
        let name = name.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
        let namespace = namespace.as_ref().map(|namespace| format!(" --namespace {namespace}")).unwrap_or_default();
        format!("kubectl auth can-i {verb} {resource}{dot}{group}{name}{subresource}{namespace}")
    }
}

/// Says in one sentence which rights are missing to install `objects`, and to delete them when a later version has them no
/// more.
pub async fn rights(client: &Client, objects: &[Object]) -> anyhow::Result<()> {
    match sentence(&missing(client, objects).await?) {
        Some(sentence) => bail!("{sentence}"),
        None => Ok(()),
    }
}

/// The same for taking `keys` out of a cluster, and what programs of ours made elsewhere.
pub async fn rights_to_remove(client: &Client, keys: &[Key]) -> anyhow::Result<()> {
    let mut unwanted = unwanted(keys);
    // Who installed where there is no such kind was never given rights to it. Where nobody knows, it may be there.
    if let Err(error) = client.list_api_group_resources(XMESHES).await
        && is_missing(&error)
    {
        unwanted.retain(|right| right.resource != "xmeshes");
    }
    match sentence(&refused(client, unwanted).await?) {
        Some(sentence) => bail!("{sentence}"),
        None => Ok(()),
    }
}

/// The rights to install `objects` that the account does not have.
pub async fn missing(client: &Client, objects: &[Object]) -> anyhow::Result<Vec<Right>> {
    let mut missing = refused(client, wanted(objects)).await?;
    // Who may not give away rights at will may still give away those they have.
    if missing.iter().any(is_of_grants) && refused(client, granted(objects)).await?.is_empty() {
        missing.retain(|right| !is_of_grants(right));
    }
    Ok(missing)
}

fn unwanted(keys: &[Key]) -> BTreeSet<Right> {
    let right = |group: &str, resource: &str, verb: &str, namespace: Option<String>| Right {
        group: group.to_owned(),
        resource: resource.to_owned(),
        verb: verb.to_owned(),
        namespace,
        name: None,
    };
    let mut unwanted: BTreeSet<Right> = BTreeSet::new();
    for key in keys {
        let resource = key.resource();
        for verb in ["get", "delete"] {
            unwanted.insert(right(&resource.group, &resource.plural, verb, key.namespace.clone()));
        }
    }
    let system = || Some(names::SYSTEM_NAMESPACE.to_owned());
    for (group, resource, verbs, namespace) in [
        ("", "pods", &["list"][..], None),
        ("", "namespaces", &["list", "patch"], None),
        ("", "configmaps", &["list", "delete"], None),
        ("", "secrets", &["get", "delete"], system()),
        ("coordination.k8s.io", "leases", &["get", "create", "update", "delete"], system()),
        ("gateway.networking.x-k8s.io", "xmeshes", &["get", "delete"], None),
    ] {
        unwanted.extend(verbs.iter().map(|verb| right(group, resource, verb, namespace.clone())));
    }
    unwanted
}

async fn refused(client: &Client, rights: BTreeSet<Right>) -> anyhow::Result<Vec<Right>> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let asked = rights.into_iter().map(|right| {
        let api = &api;
        async move {
            let (resource, subresource) = match right.resource.split_once('/') {
                Some((resource, subresource)) => (resource.to_owned(), Some(subresource.to_owned())),
                None => (right.resource.clone(), None),
            };
            let attributes = ResourceAttributes {
                group: Some(right.group.clone()),
                resource: Some(resource),
                subresource,
                verb: Some(right.verb.clone()),
                namespace: right.namespace.clone(),
                name: right.name.clone(),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            let review = api.create(&PostParams::default(), &review).await;
            let review =
                review.map_err(|error| anyhow::anyhow!("your rights cannot be asked for: {}", explain(&error)))?;
            let allowed = review.status.is_some_and(|status| status.allowed);
            anyhow::Ok((!allowed).then_some(right))
        }
    });
    let refused: Vec<Option<Right>> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
    Ok(refused.into_iter().flatten().collect())
}

/// What is done with the objects, and beside them.
fn wanted(objects: &[Object]) -> BTreeSet<Right> {
    let mut wanted = BTreeSet::new();
    let mut want = |group: &str, resource: &str, verbs: &[&str], namespace: Option<&str>| {
        wanted.extend(verbs.iter().map(|verb| Right {
            group: group.to_owned(),
            resource: resource.to_owned(),
            verb: (*verb).to_owned(),
            namespace: namespace.map(str::to_owned),
            name: None,
        }));
    };
    for key in objects.iter().map(|object| &object.key) {
        let resource = key.resource();
        let (group, plural, namespace) = (&resource.group, &resource.plural, key.namespace.as_deref());
        want(group, plural, &["get", "create", "patch"], namespace);
        match key.kind.as_str() {
            // These stay when a version no longer has them.
            "Namespace" | "CustomResourceDefinition" => {}
            "ClusterRole" | "Role" => want(group, plural, &["delete", "escalate"], namespace),
            "ClusterRoleBinding" => {
                want(group, plural, &["delete"], namespace);
                want(group, "clusterroles", &["bind"], None);
            }
            "RoleBinding" => {
                want(group, plural, &["delete"], namespace);
                want(group, "roles", &["bind"], namespace);
            }
            _ => want(group, plural, &["delete"], namespace),
        }
    }
    let system = Some(names::SYSTEM_NAMESPACE);
    want("coordination.k8s.io", "leases", &["get", "create", "update", "delete"], system);
    want("", "pods", &["list"], system);
    wanted
}

fn is_of_grants(right: &Right) -> bool {
    ["escalate", "bind"].contains(&right.verb.as_str())
}

/// Everything that the roles among `objects` give to others.
fn granted(objects: &[Object]) -> BTreeSet<Right> {
    let mut granted = BTreeSet::new();
    for object in objects.iter().filter(|object| ["ClusterRole", "Role"].contains(&object.key.kind.as_str())) {
        let rules: Vec<PolicyRule> = serde_json::from_value(object.value["rules"].clone()).unwrap_or_default();
        for rule in rules {
            let names: Vec<Option<String>> = match rule.resource_names.unwrap_or_default() {
                names if names.is_empty() => vec![None],
                names => names.into_iter().map(Some).collect(),
            };
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        granted.extend(names.iter().map(|name| Right {
                            group: group.clone(),
                            resource: resource.clone(),
                            verb: verb.clone(),
                            namespace: object.key.namespace.clone(),
                            name: name.clone(),
                        }));
                    }
                }
            }
        }
    }
    granted
}

/// One sentence about all rights that are missing.
fn sentence(missing: &[Right]) -> Option<String> {
    (!missing.is_empty()).then(|| {
        format!(
            "you may not {} in this cluster; nothing was changed: ask for cluster-admin, or somebody who has it",
            listed(missing)
        )
    })
}

/// `create/patch roles, delete services`: each resource once.
pub fn listed(rights: &[Right]) -> String {
    let mut verbs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for right in rights {
        verbs.entry(&right.resource).or_default().insert(&right.verb);
    }
    let each = verbs.iter().map(|(resource, verbs)| {
        let verbs: Vec<&str> = verbs.iter().copied().collect();
        format!("{} {resource}", verbs.join("/"))
    });
    each.collect::<Vec<_>>().join(", ")
}

const AT_ONCE: usize = 8;
/// Group and version of the kind that the controller makes an object of, where a cluster has it.
const XMESHES: &str = "gateway.networking.x-k8s.io/v1alpha1";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects() -> Vec<Object> {
        crate::install::desired(&json!({}), "v1.34.0").unwrap()
    }

    fn has(rights: &BTreeSet<Right>, verb: &str, resource: &str, namespace: Option<&str>) -> bool {
        rights
            .iter()
            .any(|right| right.verb == verb && right.resource == resource && right.namespace.as_deref() == namespace)
    }

    #[test]
    fn everything_that_is_done_is_asked_for() {
        let wanted = wanted(&objects());
        let system = Some("mesh-system");
        for (verb, resource, namespace) in [
            ("create", "namespaces", None),
            ("patch", "customresourcedefinitions", None),
            ("delete", "deployments", system),
            ("delete", "mutatingwebhookconfigurations", None),
            ("escalate", "clusterroles", None),
            ("escalate", "roles", system),
            ("bind", "clusterroles", None),
            ("bind", "roles", system),
            ("delete", "rolebindings", system),
            ("update", "leases", system),
        ] {
            assert!(has(&wanted, verb, resource, namespace), "{verb} {resource}");
        }
        assert!(
            !has(&wanted, "delete", "namespaces", None) && !has(&wanted, "delete", "customresourcedefinitions", None)
        );
    }

    #[test]
    fn what_roles_give_away_is_what_they_say() {
        let granted = granted(&objects());
        assert!(
            has(&granted, "create", "tokenreviews", None) && has(&granted, "create", "secrets", Some("mesh-system"))
        );
        assert!(has(&granted, "patch", "httproutes/status", None));
        let webhook = granted.iter().find(|right| right.resource == "mutatingwebhookconfigurations").unwrap();
        assert_eq!(webhook.name.as_deref(), Some("mesh-injector"));
    }

    /// What `analyze` reads beside what Kubernetes lets every viewer of a namespace read.
    #[test]
    fn viewers_of_a_namespace_see_all_that_is_analyzed() {
        let of_view = objects().into_iter().filter(|object| object.key.name == "mesh-view").collect::<Vec<_>>();
        let granted = granted(&of_view);
        assert!(has(&granted, "list", "httproutes", None) && has(&granted, "list", "*", None), "{granted:?}");
        assert!(granted.iter().all(|right| ["get", "list", "watch"].contains(&right.verb.as_str())), "{granted:?}");
    }

    #[test]
    fn what_is_taken_back_is_asked_for() {
        let keys: Vec<Key> = objects().into_iter().map(|object| object.key).collect();
        let unwanted = unwanted(&keys);
        let system = Some("mesh-system");
        for (verb, resource, namespace) in [
            ("delete", "mutatingwebhookconfigurations", None),
            ("delete", "deployments", system),
            ("delete", "namespaces", None),
            ("patch", "namespaces", None),
            ("delete", "configmaps", None),
            ("delete", "secrets", system),
            ("delete", "xmeshes", None),
        ] {
            assert!(has(&unwanted, verb, resource, namespace), "{verb} {resource}");
        }
        assert!(!has(&unwanted, "create", "deployments", system));
    }

    #[test]
    fn missing_rights_are_one_sentence() {
        let right = |verb: &str, resource: &str| Right {
            group: String::new(),
            resource: resource.to_owned(),
            verb: verb.to_owned(),
            namespace: None,
            name: None,
        };
        let text =
            sentence(&[right("create", "roles"), right("create", "configmaps"), right("patch", "roles")]).unwrap();
        assert!(text.starts_with("you may not create configmaps, create/patch roles in this cluster"), "{text}");
        assert_eq!(sentence(&[]), None);
    }
}
