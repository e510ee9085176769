//! What would go with our namespace, and is neither ours nor Kubernetes' own: asked of every kind that the API server has,
//! because a kind that nobody thought of is deleted with the namespace as well.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use proto::names;
use tokio::time::sleep;

use crate::install::apply;
use crate::kubernetes::{explain, is_missing};

/// Kinds by group and name.
type Kinds = BTreeSet<(String, String)>;

/// Objects of others in our namespace, sorted; or in words for a report why they are not known. Objects of our own kinds, made
/// by people, are others' too, unless the kinds go with all of theirs.
pub async fn find(client: &Client, kinds_go: bool) -> Result<Vec<String>, String> {
    let resources = resources(client, kinds_go).await?;
    let kinds: Kinds = resources.iter().map(|kind| (kind.group.clone(), kind.kind.clone())).collect();
    let each = resources.iter().map(|kind| of_kind(client, kind, &kinds));
    let found: Vec<Vec<String>> = stream::iter(each).buffered(AT_ONCE).try_collect().await?;
    let mut found: Vec<String> = found.into_iter().flatten().collect();
    found.sort();
    // Some kinds are served by two groups.
    found.dedup();
    Ok(found)
}

/// Everything that can be in a namespace. Discovery may be a moment behind kinds that come and go.
async fn resources(client: &Client, kinds_go: bool) -> Result<Vec<ApiResource>, String> {
    let mut attempts = 0;
    let discovery = loop {
        let without: &[&str] = if kinds_go { &[OUR_GROUP] } else { &[] };
        match Discovery::new(client.clone()).exclude(without).run().await {
            Ok(discovery) => break discovery,
            Err(error) if attempts == ATTEMPTS => {
                return Err(format!("not every kind in it is known: {}", explain(&error)));
            }
            Err(_) => {
                attempts += 1;
                sleep(PAUSE).await;
            }
        }
    };
    let all = discovery.groups().flat_map(kube::discovery::ApiGroup::resources_by_stability);
    let listed = all.filter(|(_, can)| can.scope == Scope::Namespaced && can.supports_operation(verbs::LIST));
    Ok(listed.map(|(kind, _)| kind).collect())
}

async fn of_kind(client: &Client, kind: &ApiResource, kinds: &Kinds) -> Result<Vec<String>, String> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), names::SYSTEM_NAMESPACE, kind);
    let mut page = ListParams::default().limit(500);
    let mut found = Vec::new();
    loop {
        let list = match api.list_metadata(&page).await {
            Ok(list) => list,
            Err(error) if is_missing(&error) => return Ok(found),
            Err(error) => return Err(format!("its {} cannot be listed: {}", kind.plural, explain(&error))),
        };
        let strange = list.items.iter().filter(|object| is_strange(&kind.kind, &object.metadata, kinds));
        found.extend(
            strange.map(|object| format!("{} {}", kind.kind, object.metadata.name.as_deref().unwrap_or_default())),
        );
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Neither the mesh's, nor what Kubernetes puts into every namespace, nor what goes with its owner, nor about to be gone.
fn is_strange(kind: &str, object: &ObjectMeta, kinds: &Kinds) -> bool {
    let name = object.name.as_deref().unwrap_or_default();
    let by = object.labels.as_ref().and_then(|labels| labels.get(apply::MANAGED_BY)).map(String::as_str);
    let is_ours = [Some(apply::MANAGER), Some(names::IDENTITY_ACCOUNT)].contains(&by);
    let is_of_kubernetes = kind == "Event" || OF_KUBERNETES.contains(&(kind, name));
    // An owner in the same namespace is looked at itself.
    let is_owned = object.owner_references.iter().flatten().any(|owner| kinds.contains(&kind_of(owner)));
    // What is computed when it is asked for has no uid.
    let is_kept = object.uid.is_some();
    is_kept && !is_ours && !is_of_kubernetes && !is_owned && object.deletion_timestamp.is_none()
}

fn kind_of(owner: &OwnerReference) -> (String, String) {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (group.to_owned(), owner.kind.clone())
}

/// Kind and name of what every namespace has.
const OF_KUBERNETES: [(&str, &str); 2] = [("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")];
/// Group of our own kinds.
const OUR_GROUP: &str = "meshctl.io";
const AT_ONCE: usize = 8;
const ATTEMPTS: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_what_nobody_of_ours_made_keeps_the_namespace() {
        let kinds: Kinds = [("apps".to_owned(), "ReplicaSet".to_owned())].into();
        let strange = |kind: &str, name: &str, more: &Value| {
            let mut metadata = json!({"name": name, "uid": "1"});
            json_patch::merge(&mut metadata, more);
            is_strange(kind, &serde_json::from_value(metadata).unwrap(), &kinds)
        };
        let by = |who: &str| json!({"labels": {"app.kubernetes.io/managed-by": who}});
        let owner = |version: &str, kind: &str| json!({"ownerReferences": [{"apiVersion": version, "kind": kind, "name": "a", "uid": "2"}]});
        for (kind, name, more) in [
            ("ConfigMap", "kube-root-ca.crt", json!({})),
            ("ServiceAccount", "default", json!({})),
            ("Event", "a.1", json!({})),
            ("Deployment", "mesh-controller", by("meshctl")),
            ("ConfigMap", "mesh-trust-bundle", by("mesh-identity")),
            ("Pod", "web-1", owner("apps/v1", "ReplicaSet")),
            ("PodMetrics", "web-1", json!({"uid": null})),
            ("Pod", "web-1", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})),
        ] {
            assert!(!strange(kind, name, &more), "{kind} {name} {more}");
        }
        for (kind, name, more) in [
            ("Secret", "pull-secret", json!({})),
            ("Secret", "mesh-issuer", by("cert-manager")),
            ("Pod", "alone", json!({})),
            ("PrometheusRule", "default", json!({})),
            ("ExternalWorkload", "database", json!({})),
            // Its owner is in no namespace, and not looked at.
            ("ConfigMap", "quota", owner("example.com/v1", "Tenant")),
        ] {
            assert!(strange(kind, name, &more), "{kind} {name} {more}");
        }
    }
}
