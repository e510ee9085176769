//! The XMesh `meshctl` (Gateway API, experimental), where the cluster has the kind: made by the replica that leads if nobody
//! else has, as implementations make their GatewayClass; with the status that we are its controller, and which of Gateway
//! API's features the mesh has. One that names another controller is left alone.
//!
//! A chart cannot make it: it must not look whether the kind is there. `meshctl uninstall` takes it away by its label.

use std::time::Duration;

use controller_runtime::kubernetes::{describe, is_conflict};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use proto::names;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::kubernetes::status::conditions::CONTROLLER_NAME;
use crate::kubernetes::status::now;
use crate::kubernetes::watch::exists;

/// Keeps the object and its status; never returns.
pub async fn keep(client: &Client) {
    let mut told = false;
    loop {
        let written = timeout(PATIENCE, write(client)).await;
        match written {
            Ok(Err(error)) if !is_conflict(&error) => {
                // Once, not every time.
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(name = NAME, error = describe(&error), "the XMesh cannot be written");
                }
            }
            Ok(Ok(())) => told = false,
            Ok(Err(_)) | Err(_) => {}
        }
        // Read this often rather than watched: it hardly ever changes.
        sleep(TICK).await;
    }
}

async fn write(client: &Client) -> Result<(), kube::Error> {
    let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, "XMesh"), "xmeshes");
    if !exists(client, &kind).await? {
        return Ok(());
    }
    let api = Api::<DynamicObject>::all_with(client.clone(), &kind);
    let object = match api.get_opt(NAME).await? {
        Some(object) => object,
        None => api.create(&PostParams::default(), &ours(&kind)).await?,
    };
    let Some(status) = status(&object, &now()) else { return Ok(()) };
    let patch = json!({ "metadata": { "resourceVersion": object.metadata.resource_version }, "status": status });
    api.patch_status(NAME, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

fn ours(kind: &ApiResource) -> DynamicObject {
    let mut object = DynamicObject::new(NAME, kind);
    let label = ("app.kubernetes.io/managed-by".to_owned(), names::CONTROLLER_ACCOUNT.to_owned());
    object.metadata.labels = Some([label].into());
    object.data = json!({ "spec": { "controllerName": CONTROLLER_NAME } });
    object
}

/// The status it should have; `None` if it has it, or names another controller.
fn status(object: &DynamicObject, now: &str) -> Option<Value> {
    if object.data["spec"]["controllerName"] != CONTROLLER_NAME {
        return None;
    }
    let before = &object.data["status"];
    let conditions = before["conditions"].as_array();
    let is_accepted = |condition: &&Value| condition["type"] == "Accepted";
    let old = conditions.into_iter().flatten().find(is_accepted).filter(|old| old["status"] == "True");
    let accepted = json!({
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "observedGeneration": object.metadata.generation.unwrap_or(0),
        "lastTransitionTime": old.and_then(|old| old["lastTransitionTime"].as_str()).unwrap_or(now),
    });
    let others = conditions.into_iter().flatten().filter(|condition| !is_accepted(condition)).cloned();
    let features: Vec<Value> = FEATURES.iter().map(|name| json!({ "name": name })).collect();
    let after = json!({
        "conditions": std::iter::once(accepted).chain(others).collect::<Vec<_>>(),
        "supportedFeatures": features,
    });
    (after["conditions"] != before["conditions"] || after["supportedFeatures"] != before["supportedFeatures"])
        .then_some(after)
}

/// The object's name, the same in every cluster.
const NAME: &str = "meshctl";
const GROUP: &str = "gateway.networking.x-k8s.io";
const VERSION: &str = "v1alpha1";
const TICK: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(10);
/// What the mesh does of Gateway API's named features, in alphabetical order as the API demands.
const FEATURES: [&str; 8] = [
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteMethodMatching",
    "HTTPRouteParentRefPort",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "Mesh",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(controller: &str, status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": { "name": NAME, "generation": 3 },
            "spec": { "controllerName": controller },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn ours_is_accepted_once_and_anothers_left_alone() {
        let first = status(&mesh(CONTROLLER_NAME, &json!(null)), "then").unwrap();
        assert_eq!(first["conditions"][0]["observedGeneration"], 3);
        assert_eq!(status(&mesh(CONTROLLER_NAME, &first), "now"), None);
        let pending =
            json!({ "conditions": [{ "type": "Accepted", "status": "Unknown", "lastTransitionTime": "then" }] });
        let second = status(&mesh(CONTROLLER_NAME, &pending), "now").unwrap();
        assert_eq!(second["conditions"][0]["lastTransitionTime"], "now");
        assert_eq!(status(&mesh("example.com/other", &json!(null)), "now"), None);
        assert!(FEATURES.is_sorted());
    }
}
