//! Objects into a cluster, and out of it: server-side apply with one field manager, deletion of what is ours.

use std::collections::BTreeMap;

use anyhow::bail;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use kube::api::{
    DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use serde_json::{Value, json};

use crate::kubernetes::{explain, is_missing};

use super::difference;
use super::object::{Key, Object};

/// Objects as they are in the cluster, without those that are not there.
pub type Live = BTreeMap<Key, DynamicObject>;

/// What applying an object did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was not there.
    Created,
    /// It was different.
    Changed,
    /// It was as it should be.
    Unchanged,
}

/// Looks at all of `keys`, a few at a time.
pub async fn live(client: &Client, keys: impl Iterator<Item = &Key>) -> anyhow::Result<Live> {
    let keys: Vec<Key> = keys.cloned().collect();
    let looks = keys.into_iter().map(|key| async move {
        let found = match key.api(client).get_opt(&key.name).await {
            Err(error) if is_missing(&error) => None,
            other => other.map_err(|error| anyhow::anyhow!("{key} cannot be read: {}", explain(&error)))?,
        };
        anyhow::Ok(found.map(|object| (key, object)))
    });
    let found: Vec<Option<(Key, DynamicObject)>> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Applies one object; `before` is what was there.
pub async fn apply(
    client: &Client,
    object: &Object,
    before: Option<&DynamicObject>,
    force: bool,
) -> anyhow::Result<Applied> {
    let mut parameters = PatchParams::apply(MANAGER);
    parameters.force = force;
    if let Some(before) = before.filter(|before| is_made_anew(before, object)) {
        delete(client, &object.key, before.metadata.uid.clone()).await?;
    }
    let after = patch(client, object, &parameters).await?;
    Ok(match before {
        None => Applied::Created,
        Some(before) if before.metadata.resource_version == after.metadata.resource_version => Applied::Unchanged,
        // What runs writes its status meanwhile.
        Some(before) if is_same(before, &after) => Applied::Unchanged,
        Some(_) => Applied::Changed,
    })
}

/// Whether it is deleted and made again: a Service of ours that has an address and shall have none (those of earlier charts), or the
/// other way round, keeps what it has for life. Whoever is connected stays so meanwhile.
pub fn is_made_anew(before: &DynamicObject, object: &Object) -> bool {
    let is_headless = |spec: &Value| spec["clusterIP"] == "None";
    object.key.kind == "Service"
        && is_ours(before)
        && is_headless(&before.data["spec"]) != is_headless(&object.value["spec"])
}

fn is_same(before: &DynamicObject, after: &DynamicObject) -> bool {
    let [before, after] = [before, after].map(|object| serde_json::to_value(object).unwrap_or_default());
    difference::between(&before, &after).is_empty()
}

/// What applying it would give.
pub async fn dry_run(client: &Client, object: &Object) -> anyhow::Result<DynamicObject> {
    patch(client, object, &PatchParams::apply(MANAGER).force().dry_run()).await
}

async fn patch(client: &Client, object: &Object, parameters: &PatchParams) -> anyhow::Result<DynamicObject> {
    let key = &object.key;
    let value = ours(&object.value);
    key.api(client).patch(&key.name, parameters, &Patch::Apply(&value)).await.map_err(|error| match &error {
        kube::Error::Api(status) if status.code == 409 => {
            let message = status.message.split_whitespace().collect::<Vec<_>>().join(" ");
            anyhow::anyhow!(
                "{key} has fields that somebody else manages; --force-conflicts takes them over ({message})"
            )
        }
        kube::Error::Api(status) if status.code == 422 && is_fixed(&status.message) => anyhow::anyhow!(
            "{key} cannot be changed in place ({}); delete it and run the same command again: kubectl delete {}{} {}",
            explain(&error),
            key.resource().plural,
            key.namespace.as_ref().map(|namespace| format!(" --namespace {namespace}")).unwrap_or_default(),
            key.name
        ),
        kube::Error::Api(status) if status.code == 404 && is_of_no_kind(&status.message) => anyhow::anyhow!(
            "{key} cannot be applied: this cluster has no kind {} in {}; install what brings it, or leave out the value that \
             asks for it, and run the same command again",
            key.kind,
            key.api_version
        ),
        error => anyhow::anyhow!("{key} cannot be applied: {}", explain(error)),
    })
}

/// Whether the API server knows no such kind, rather than no such namespace.
fn is_of_no_kind(message: &str) -> bool {
    message.contains("404 page not found") || message.contains("could not find the requested resource")
}

/// Whether the API server's complaint is about a field that an object keeps for life: a Service's address, a Deployment's
/// selector, a binding's role.
fn is_fixed(message: &str) -> bool {
    ["immutable", "may not change once set", "cannot change roleRef"].iter().any(|words| message.contains(words))
}

/// Kinds come out of their own chart without our labels; they are ours all the same.
fn ours(value: &Value) -> Value {
    let mut value = value.clone();
    if value["kind"] == "CustomResourceDefinition" {
        value["metadata"]["labels"][MANAGED_BY] = json!(MANAGER);
        value["metadata"]["labels"]["app.kubernetes.io/part-of"] = json!("mesh");
    }
    value
}

/// Deletes an object if it carries our label, and says whether it did.
pub async fn delete_ours(client: &Client, key: &Key) -> anyhow::Result<bool> {
    delete_made_by(client, key, MANAGER).await
}

/// Deletes an object if `maker` made it, and says whether it did.
pub async fn delete_made_by(client: &Client, key: &Key, maker: &str) -> anyhow::Result<bool> {
    let api = key.api(client);
    let found = match api.get_opt(&key.name).await {
        // A kind that is gone has no objects.
        Err(error) if is_missing(&error) => None,
        other => other.map_err(|error| anyhow::anyhow!("{key} cannot be read: {}", explain(&error)))?,
    };
    let Some(found) = found.filter(|found| is_made_by(found, maker)) else { return Ok(false) };
    delete(client, key, found.metadata.uid).await
}

/// Deletes an object whoever made it, and says whether it was there. With a uid it is that one, not one that somebody made
/// anew under this name in the meantime.
pub async fn delete(client: &Client, key: &Key, uid: Option<String>) -> anyhow::Result<bool> {
    let parameters = DeleteParams {
        preconditions: uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    match key.api(client).delete(&key.name, &parameters).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(kube::Error::Api(status)) if status.code == 409 && parameters.preconditions.is_some() => Ok(false),
        Err(error) => bail!("{key} cannot be deleted: {}", explain(&error)),
    }
}

/// Deletes an object as it was seen: not if anything of it has changed since. Says whether it did.
pub async fn delete_seen(client: &Client, key: &Key, seen: &ObjectMeta) -> anyhow::Result<bool> {
    let preconditions = Preconditions { uid: seen.uid.clone(), resource_version: seen.resource_version.clone() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match key.api(client).delete(&key.name, &parameters).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
        Err(error) => bail!("{key} cannot be deleted: {}", explain(&error)),
    }
}

/// Makes an object that is not there, with a mark that tells it from one that was: [`was_created`]. The mark belongs to another
/// writer than what is applied later, so that it stays, and no object that was there before can get it.
pub async fn create_marked(client: &Client, key: &Key) -> anyhow::Result<()> {
    let Key { api_version, kind, namespace, name } = key;
    let metadata = json!({"name": name, "namespace": namespace, "annotations": {CREATED_BY: MANAGER}});
    let object = serde_json::from_value(json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}));
    let object: DynamicObject = object.expect("an object of a key is whole");
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match key.api(client).create(&parameters, &object).await {
        Ok(_) => Ok(()),
        // Somebody else was faster: it is theirs.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => bail!("{key} cannot be made: {}", explain(&error)),
    }
}

/// Whether [`create_marked`] made an object.
pub fn was_created(metadata: &ObjectMeta) -> bool {
    metadata.annotations.as_ref().is_some_and(|all| all.get(CREATED_BY).is_some_and(|by| by == MANAGER))
}

/// Takes back what was applied to an object that stays.
pub async fn give_back(client: &Client, key: &Key, seen: &ObjectMeta) -> anyhow::Result<()> {
    let metadata = json!({"name": key.name, "namespace": key.namespace, "uid": seen.uid});
    let nothing = json!({"apiVersion": key.api_version, "kind": key.kind, "metadata": metadata});
    let applied = key.api(client).patch(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&nothing)).await;
    match applied {
        Ok(_) => Ok(()),
        // It is gone, or another one by now.
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
        Err(error) => bail!("what was applied to {key} cannot be taken back: {}", explain(&error)),
    }
}

/// Whether we made an object.
pub fn is_ours(object: &DynamicObject) -> bool {
    is_made_by(object, MANAGER)
}

fn is_made_by(object: &DynamicObject, maker: &str) -> bool {
    object.metadata.labels.as_ref().is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == maker))
}

/// Our name as field manager, and in [`MANAGED_BY`].
pub const MANAGER: &str = "meshctl";
/// The usual label for who manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Annotation of what an installation found missing and made.
pub const CREATED_BY: &str = "meshctl.io/created-by";
const AT_ONCE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_changed_is_told_from_what_is_wrong() {
        for (message, expected) in [
            (r#"Service "a" is invalid: spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set"#, true),
            (r#"Deployment.apps "a" is invalid: spec.selector: Invalid value: {}: field is immutable"#, true),
            (r#"RoleBinding "a" is invalid: roleRef: Invalid value: {}: cannot change roleRef"#, true),
            (r#"Deployment.apps "a" is invalid: spec.replicas: Invalid value: -1: must be greater than 0"#, false),
        ] {
            assert_eq!(is_fixed(message), expected, "{message}");
        }
    }

    #[test]
    fn a_service_of_ours_is_made_anew_where_its_address_stands_in_the_way() {
        let made_anew = |kind: &str, maker: &str, before: Value, wanted: Value| {
            let key =
                Key { api_version: "v1".into(), kind: kind.into(), namespace: Some("n".into()), name: "a".into() };
            let metadata = json!({"name": "a", "labels": {MANAGED_BY: maker}});
            let before = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": before});
            let before = serde_json::from_value(before).unwrap();
            is_made_anew(&before, &Object { key, value: json!({"spec": wanted}) })
        };
        let (address, headless, unsaid) = (json!({"clusterIP": "10.0.0.1"}), json!({"clusterIP": "None"}), json!({}));
        assert!(made_anew("Service", MANAGER, address.clone(), headless.clone()));
        assert!(made_anew("Service", MANAGER, headless.clone(), unsaid.clone()));
        assert!(!made_anew("Service", MANAGER, address.clone(), unsaid), "it keeps its address");
        assert!(!made_anew("Service", MANAGER, headless.clone(), headless.clone()));
        assert!(!made_anew("Service", "somebody", address.clone(), headless.clone()), "not ours to delete");
        assert!(!made_anew("Deployment", MANAGER, address, headless));
    }

    /// At an API server that refuses to change a Service's address, as all do.
    #[tokio::test]
    async fn an_address_that_cannot_be_changed_stops_no_installation() {
        let service = |spec: Value| {
            let metadata = json!({"name": "a", "namespace": "n", "uid": "u", "labels": {MANAGED_BY: MANAGER}});
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
        };
        let (old, new) = (service(json!({"clusterIP": "10.0.0.1"})), service(json!({"clusterIP": "None"})));
        let there = parking_lot::Mutex::new(true);
        let answer = move |method: &str, path: &str, body: Value| match (method, &mut *there.lock()) {
            ("DELETE", there) => {
                assert_eq!((path, &body["preconditions"]["uid"]), ("/api/v1/namespaces/n/services/a?", &json!("u")));
                *there = false;
                (200, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 200}))
            }
            (_, true) => {
                let message =
                    r#"Service "a" is invalid: spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set"#;
                (
                    422,
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": "Invalid", "code": 422}),
                )
            }
            (_, false) => {
                let mut made = body;
                made["metadata"]["resourceVersion"] = json!("2");
                (201, made)
            }
        };
        let cluster = crate::kubernetes::fake::serve(answer).await;
        let key =
            Key { api_version: "v1".into(), kind: "Service".into(), namespace: Some("n".into()), name: "a".into() };
        let before = serde_json::from_value(old).unwrap();
        let object = Object { key, value: new };
        assert_eq!(apply(&cluster.client, &object, Some(&before), false).await.unwrap(), Applied::Changed);
    }

    #[test]
    fn a_kind_that_is_not_there_is_told_from_a_namespace_that_is_not() {
        for (message, expected) in [
            ("404 page not found", true),
            ("the server could not find the requested resource", true),
            (r#"namespaces "a" not found"#, false),
        ] {
            assert_eq!(is_of_no_kind(message), expected, "{message}");
        }
    }
}
