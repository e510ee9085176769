//! The conditions of a route, pure.
//!
//! Gateway API wants one verdict for each parent, in its own words and of what is written; [`resolve::findings`] tells people
//! all there is of a route that was read. Each says what it is asked for; a test holds that they find fault with the same.

use crd::model::{BackendReference, HttpRoute, Service};
use kube::ResourceExt;
use kube::api::DynamicObject;
use resolve::Facts;
use serde_json::{Map, Value, json};

/// A condition as far as it does not depend on time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// `status.parents` of a route, or of one that says what we can't read, as it should be, in the order it was where nothing moved; `None` if it is so already. `now` is the
/// time of conditions that change (RFC 3339).
pub fn parents(
    object: &DynamicObject,
    route: Result<&HttpRoute, &String>,
    facts: &Facts,
    now: &str,
) -> Option<Vec<Value>> {
    let before: Vec<Value> = object.data["status"]["parents"].as_array().cloned().unwrap_or_default();
    let is_ours = |entry: &Value| entry["controllerName"] == CONTROLLER_NAME;
    let namespace = object.namespace().unwrap_or_default();
    let written = object.data["spec"]["parentRefs"].as_array().into_iter().flatten();
    let mut ours: Vec<Value> = Vec::new();
    for parent in written.filter(|parent| is_service(parent)) {
        let found = conditions(route, facts, parent, &namespace);
        let reference = without_nulls(parent);
        // The same parent twice is one parent.
        if ours.iter().any(|entry| entry["parentRef"] == reference) {
            continue;
        }
        let old = before.iter().find(|entry| is_ours(entry) && entry["parentRef"] == reference);
        ours.push(json!({
            "parentRef": reference,
            "controllerName": CONTROLLER_NAME,
            "conditions": dated(&found, old, object.metadata.generation.unwrap_or(0), now),
        }));
    }
    let mut after: Vec<Value> = before.iter().filter(|entry| !is_ours(entry)).cloned().collect();
    let first = before.iter().position(is_ours).unwrap_or(after.len()).min(after.len());
    after.splice(first..first, ours);
    (after != before).then_some(after)
}

fn conditions(route: Result<&HttpRoute, &String>, facts: &Facts, parent: &Value, namespace: &str) -> Vec<Condition> {
    let route = match route {
        Ok(route) => route,
        Err(problem) => {
            return vec![
                condition("Accepted", Err(("UnsupportedValue", problem.clone()))),
                condition("ResolvedRefs", Ok("ResolvedRefs")),
            ];
        }
    };
    let mut conditions = vec![
        condition("Accepted", accepted(route, facts, parent, namespace).map(|()| "Accepted")),
        condition("ResolvedRefs", resolved(route, facts).map(|()| "ResolvedRefs")),
    ];
    let unsupported: Vec<&str> = route.rules.iter().filter_map(|rule| rule.unsupported.as_deref()).collect();
    if !unsupported.is_empty() && unsupported.len() < route.rules.len() {
        let message =
            format!("requests that match rules with the filter {} are answered with 500", unsupported.join(", "));
        let condition = Condition { kind: "PartiallyInvalid", holds: true, reason: "UnsupportedValue", message };
        conditions.push(condition);
    }
    conditions
}

type Verdict<T> = Result<T, (&'static str, String)>;

fn accepted(route: &HttpRoute, facts: &Facts, parent: &Value, namespace: &str) -> Verdict<()> {
    let text = |field: &str| parent[field].as_str().unwrap_or_default();
    let of = parent["namespace"].as_str().unwrap_or(namespace);
    let Some(service) = facts.service(of, text("name")) else {
        return Err(("NoMatchingParent", format!("there is no Service {of}/{}", text("name"))));
    };
    if let Some(port) = parent["port"].as_u64()
        && !has_port(service, port)
    {
        return Err(("NoMatchingParent", format!("the Service {of}/{} has no TCP port {port}", text("name"))));
    }
    if !text("sectionName").is_empty() {
        return Err(("NoMatchingParent", "Services have no sections; name a port instead".to_owned()));
    }
    if of != namespace {
        let message = "only routes of the Service's own namespace are in force".to_owned();
        return Err(("NotAllowedByListeners", message));
    }
    if service.cluster_ips.is_empty() {
        let message = "the Service has no cluster address, so clients dial its pods and no route applies".to_owned();
        return Err(("UnsupportedValue", message));
    }
    let unsupported = route.rules.iter().map(|rule| rule.unsupported.as_deref()).collect::<Option<Vec<_>>>();
    match unsupported.filter(|kinds| !kinds.is_empty()) {
        Some(kinds) => Err(("UnsupportedValue", format!("the filter {} is not supported", kinds.join(", ")))),
        None => Ok(()),
    }
}

fn resolved(route: &HttpRoute, facts: &Facts) -> Verdict<()> {
    for backend in route.rules.iter().flat_map(|rule| rule.backends.iter().flatten()) {
        let BackendReference { service: Some(id), .. } = backend else {
            return Err(("InvalidKind", "a backendRef is no Service, or has no port".to_owned()));
        };
        let Some(service) = facts.service(&id.namespace, &id.name) else {
            return Err(("BackendNotFound", format!("there is no Service {}/{}", id.namespace, id.name)));
        };
        if !has_port(service, id.port.into()) {
            return Err(("BackendNotFound", format!("there is no Service port {id}")));
        }
    }
    Ok(())
}

fn has_port(service: &Service, port: u64) -> bool {
    service.ports.iter().any(|written| u64::from(written.port) == port)
}

fn condition(kind: &'static str, verdict: Verdict<&'static str>) -> Condition {
    match verdict {
        Ok(reason) => Condition { kind, holds: true, reason, message: String::new() },
        Err((reason, message)) => Condition { kind, holds: false, reason, message },
    }
}

/// Conditions as they are written; what holds as it did keeps its time.
fn dated(found: &[Condition], before: Option<&Value>, generation: i64, now: &str) -> Vec<Value> {
    let before: &[Value] = before.and_then(|entry| entry["conditions"].as_array()).map_or(&[], Vec::as_slice);
    let written = |condition: &Condition| {
        let status = if condition.holds { "True" } else { "False" };
        let old = before.iter().find(|old| old["type"] == condition.kind && old["status"] == status);
        let since = old.and_then(|old| old["lastTransitionTime"].as_str()).unwrap_or(now);
        json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": generation,
            "lastTransitionTime": since,
        })
    };
    found.iter().map(written).collect()
}

fn is_service(parent: &Value) -> bool {
    parent["kind"] == "Service" && matches!(parent["group"].as_str(), Some("" | "core"))
}

fn without_nulls(parent: &Value) -> Value {
    let fields = parent.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
}

/// As Gateway API wants it: a path below a domain of ours.
pub const CONTROLLER_NAME: &str = "meshctl.io/controller";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const THEN: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-01-02T00:00:00Z";

    fn route(parents: &Value, rules: &Value, status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": "r", "namespace": "shop", "generation": 7 },
            "spec": { "parentRefs": parents, "rules": rules },
            "status": { "parents": status },
        }))
        .unwrap()
    }

    fn parents(object: &DynamicObject, facts: &Facts, now: &str) -> Option<Vec<Value>> {
        super::parents(object, crate::kubernetes::http_route_of(object).as_ref(), facts, now)
    }

    fn facts() -> Facts {
        let service = |namespace: &str, name: &str, address: &str| {
            let text = json!({
                "metadata": { "name": name, "namespace": namespace },
                "spec": { "clusterIP": address, "ports": [{ "port": 80 }] },
            });
            crd::Object::Service(crd::service::service(&serde_json::from_value(text).unwrap()).unwrap())
        };
        let services = [
            service("shop", "web", "10.96.0.1"),
            service("shop", "headless", "None"),
            service("other", "web", "10.96.0.2"),
        ];
        Facts::new(services.map(Arc::new))
    }

    fn parent(rest: &Value) -> Value {
        let mut parent = json!({ "group": "", "kind": "Service", "name": "web" });
        parent.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        parent
    }

    /// Type, status and reason of each condition of the first entry.
    fn reasons(route: &DynamicObject) -> Vec<String> {
        let parents = parents(route, &facts(), NOW).unwrap();
        let conditions = parents[0]["conditions"].as_array().unwrap().clone();
        let one = |it: &Value| {
            [&it["type"], &it["status"], &it["reason"]].map(|it| it.as_str().unwrap().to_owned()).join(" ")
        };
        conditions.iter().map(one).collect()
    }

    #[test]
    fn each_verdict_has_gateway_apis_reason() {
        let good = json!([{ "backendRefs": [{ "name": "web", "port": 80 }] }]);
        let cases = [
            (json!({}), good.clone(), "Accepted True Accepted", "ResolvedRefs True ResolvedRefs"),
            (json!({ "port": 80 }), good.clone(), "Accepted True Accepted", "ResolvedRefs True ResolvedRefs"),
            (json!({ "port": 81 }), good.clone(), "Accepted False NoMatchingParent", "ResolvedRefs True ResolvedRefs"),
            (json!({ "name": "x" }), good.clone(), "Accepted False NoMatchingParent", "ResolvedRefs True ResolvedRefs"),
            (
                json!({ "namespace": "other" }),
                good.clone(),
                "Accepted False NotAllowedByListeners",
                "ResolvedRefs True ResolvedRefs",
            ),
            (json!({ "name": "headless" }), good, "Accepted False UnsupportedValue", "ResolvedRefs True ResolvedRefs"),
            (
                json!({}),
                json!([{ "backendRefs": [{ "name": "x", "port": 80 }] }]),
                "Accepted True Accepted",
                "ResolvedRefs False BackendNotFound",
            ),
            (
                json!({}),
                json!([{ "backendRefs": [{ "name": "x", "kind": "Secret", "group": "" }] }]),
                "Accepted True Accepted",
                "ResolvedRefs False InvalidKind",
            ),
            (
                json!({}),
                json!([{ "filters": [{ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "x" } } }] }]),
                "Accepted False UnsupportedValue",
                "ResolvedRefs True ResolvedRefs",
            ),
            (
                json!({}),
                json!([{ "matches": [{ "path": { "type": "RegularExpression", "value": "(" } }] }]),
                "Accepted False UnsupportedValue",
                "ResolvedRefs True ResolvedRefs",
            ),
        ];
        for (reference, rules, accepted, resolved) in cases {
            let found = reasons(&route(&json!([parent(&reference)]), &rules, &json!([])));
            assert_eq!(found, [accepted, resolved], "{reference} {rules}");
            let object = route(&json!([parent(&reference)]), &rules, &json!([]));
            if let Ok(read) = crate::kubernetes::http_route_of(&object) {
                let findings = resolve::findings::of_object(&facts(), &crd::Object::HttpRoute(read));
                let are_bad = findings.iter().any(|finding| finding.weight != resolve::Weight::Warning);
                assert_eq!(are_bad, found.iter().any(|it| it.contains(" False ")), "{reference} {rules}: {findings:?}");
            }
        }
        let partial = json!([{}, { "filters": [{ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "x" } } }] }]);
        let found = reasons(&route(&json!([parent(&json!({}))]), &partial, &json!([])));
        assert_eq!(found[2], "PartiallyInvalid True UnsupportedValue");
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let references = json!([parent(&json!({})), { "name": "gw" }]);
        let first = parents(&route(&references, &json!([{}]), &json!([])), &facts(), THEN).unwrap();
        assert_eq!(first.len(), 1, "the gateway is somebody else's");
        assert_eq!(first[0]["conditions"][0]["observedGeneration"], 7);
        assert_eq!(parents(&route(&references, &json!([{}]), &json!(first)), &facts(), NOW), None);
        // The Service is gone: only what changed has a new time.
        let second = parents(&route(&references, &json!([{}]), &json!(first)), &Facts::default(), NOW).unwrap();
        assert_eq!(second[0]["conditions"][0]["lastTransitionTime"], NOW);
        assert_eq!(second[0]["conditions"][1]["lastTransitionTime"], THEN);
    }

    #[test]
    fn others_entries_stay() {
        let other = json!({ "parentRef": { "name": "gw" }, "controllerName": "example.com/gateway", "conditions": [], "new": 1 });
        let stale = json!({ "parentRef": parent(&json!({ "name": "old" })), "controllerName": CONTROLLER_NAME, "conditions": [] });
        let status = json!([other, stale]);
        let found = parents(&route(&json!([parent(&json!({}))]), &json!([{}]), &status), &facts(), NOW).unwrap();
        assert_eq!((found.len(), &found[0]), (2, &other));
        assert_eq!(found[1]["parentRef"]["name"], "web");
        let found = parents(&route(&json!([{ "name": "gw" }]), &json!([{}]), &status), &facts(), NOW).unwrap();
        assert_eq!(found, std::slice::from_ref(&other));
        assert_eq!(parents(&route(&json!([{ "name": "gw" }]), &json!([{}]), &json!([other])), &facts(), NOW), None);
    }
}
