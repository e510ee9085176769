//! The status of the XMesh `meshctl` (Gateway API, experimental), where somebody has made one: that we are its controller,
//! and which of Gateway API's features the mesh has.

use controller_runtime::kubernetes::{describe, is_conflict};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use crate::kubernetes::status::conditions::CONTROLLER_NAME;
use crate::kubernetes::status::now;
use crate::kubernetes::watch::exists;

/// Writes the status if there is such an object and it says anything else.
pub async fn write(client: &Client) {
    let version = GroupVersionKind::gvk("gateway.networking.x-k8s.io", "v1alpha1", "XMesh");
    let kind = ApiResource::from_gvk_with_plural(&version, "xmeshes");
    if !exists(client, &kind).await.unwrap_or(false) {
        return;
    }
    let api = Api::<DynamicObject>::all_with(client.clone(), &kind);
    let written = match api.get_opt(NAME).await {
        Ok(Some(object)) => match status(&object, &now()) {
            Some(status) => {
                let patch =
                    json!({ "metadata": { "resourceVersion": object.metadata.resource_version }, "status": status });
                api.patch_status(NAME, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            None => Ok(()),
        },
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match written {
        Err(error) if !is_conflict(&error) => {
            tracing::warn!(name = NAME, error = describe(&error), "the XMesh's status cannot be written");
        }
        Ok(()) | Err(_) => {}
    }
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
