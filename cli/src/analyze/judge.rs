//! [`judge`]: objects to findings, pure. What is wrong with each alone, with its annotations, and beside all the others.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crd::model::{Object, ObjectId, Service, TargetPort};
use injector::Config;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use resolve::{Facts, Weight};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::annotations::{self, Context};
use super::others;
use super::source::{Place, Source};
use super::{Finding, Severity};
use crate::inject::template_path;

/// How much is known beside the objects.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// What the mesh injects with.
    pub config: Config,
    /// Why something that is named may be there though it was not read; none where everything was.
    pub incomplete: Option<&'static str>,
    /// Whether it is known who serves what: EndpointSlices were read.
    pub endpoints: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// Objects that were looked at.
    pub objects: usize,
    /// In no order.
    pub findings: Vec<Finding>,
}

impl Known {
    /// Files, of which nobody knows what else there is.
    pub fn files() -> Self {
        let incomplete = Some("unless it is in the cluster: only the files were read");
        Self { config: Config::default(), incomplete, endpoints: false }
    }
}

/// Everything that is wrong.
pub fn judge(sources: &[Source], known: &Known) -> Judged {
    let mut findings = Vec::new();
    let mut read: Vec<(&Source, Arc<Object>)> = Vec::new();
    for source in sources {
        if let Some(finding) = of_header(source) {
            findings.push(finding);
            continue;
        }
        match fact(source) {
            Ok(Some(object)) => read.push((source, Arc::new(object))),
            Ok(None) => {}
            Err(mistakes) => findings.extend(mistakes),
        }
        findings.extend(unread_fields(source));
        if source.kind() == "HTTPRoute"
            && let Ok(route) = serde_json::from_value::<crd::GatewayRoute>(source.object.clone())
        {
            let found = crd::route::without_effect(&route);
            findings.extend(found.iter().map(|it| source.finding(Severity::Warning, it.field(), it.problem())));
        }
    }
    findings.extend(twice(&read));
    findings.extend(together(&read, sources, known));
    let namespaces = namespaces(sources);
    let context = Context { config: &known.config, namespaces: &namespaces };
    findings.extend(sources.iter().flat_map(|source| annotations::judge(source, &context)));
    Judged { objects: sources.len(), findings }
}

/// Fields without effect. What is in a cluster was typed well, or it would not be there.
fn unread_fields(source: &Source) -> Vec<Finding> {
    let in_cluster = source.place == Place::Cluster;
    if in_cluster && source.kind() != "HTTPRoute" {
        return Vec::new();
    }
    let is_known = |field: &str| {
        let name = field.rsplit_once('.').map_or(field, |(_, name)| name);
        source.kind() == "HTTPRoute" && NOT_FOLLOWED.contains(&name)
    };
    let say = |field: String| match (is_known(&field), in_cluster) {
        (true, _) => Some(source.finding(Severity::Warning, &field, "no effect: the mesh does not follow it yet")),
        (false, true) => None,
        (false, false) => {
            let problem = "no effect: nobody reads this field; is it mistyped?";
            Some(source.finding(Severity::Warning, &field, problem))
        }
    };
    source.unknown_fields().into_iter().filter_map(say).collect()
}

/// Objects of kinds that sound like ours, and are read by nobody.
fn of_header(source: &Source) -> Option<Finding> {
    let (api_version, kind) = (source.api_version(), source.kind());
    if api_version.is_empty() || kind.is_empty() {
        return Some(source.finding(Severity::Error, "", "an object needs both apiVersion and kind"));
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let names_a_service = || {
        let parents = source.object["spec"]["parentRefs"].as_array().into_iter().flatten();
        parents.into_iter().any(|parent| parent["kind"] == "Service")
    };
    let say = |severity, problem: String| Some(source.finding(severity, "", problem));
    match group {
        "meshctl.io" if (version, kind) != ("v1alpha1", "ExternalWorkload") => say(
            Severity::Error,
            format!("the mesh has no kind {kind} in {api_version}; it has ExternalWorkload in v1alpha1"),
        ),
        "gateway.networking.k8s.io" if kind == "HTTPRoute" && !["v1", "v1beta1"].contains(&version) => {
            say(Severity::Error, format!("HTTPRoutes of the version {version} are not read; write v1"))
        }
        "gateway.networking.k8s.io" if kind != "HTTPRoute" && kind.ends_with("Route") && names_a_service() => {
            say(Severity::Warning, format!("the mesh does not follow a {kind} yet: it has no effect on the Service"))
        }
        group => others::of_kind(source, group, kind),
    }
}

/// What the mesh knows the object as.
fn fact(source: &Source) -> Result<Option<Object>, Vec<Finding>> {
    let unusable = |problem: String| vec![source.finding(Severity::Error, "", problem)];
    match (source.api_version(), source.kind()) {
        ("v1", "Pod") => {
            let pod = crd::pod::pod(&typed::<Pod>(&source.object).map_err(unusable)?);
            pod.map(|pod| Some(Object::Workload(pod))).map_err(|invalid| unusable(invalid.to_string()))
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            let slice = crd::endpoint_slice::endpoint_slice(&typed::<EndpointSlice>(&source.object).map_err(unusable)?);
            slice.map(|slice| slice.map(Object::EndpointSlice)).map_err(|invalid| unusable(invalid.to_string()))
        }
        _ => Ok(source.parsed()?.map(|object| with_address(object, source))),
    }
}

/// A Service as the API server will have it: one that says nothing of its address is given one, headless is only who says so.
fn with_address(object: Object, source: &Source) -> Object {
    let spec = &source.object["spec"];
    let is_given_one = spec["clusterIP"].as_str().is_none_or(str::is_empty) && spec["clusterIPs"].is_null();
    match object {
        Object::Service(service) if is_given_one && spec["type"] != "ExternalName" => {
            Object::Service(Service { cluster_ips: vec![Ipv4Addr::UNSPECIFIED.into()], ..service })
        }
        object => object,
    }
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object.clone()).map_err(|error| format!("cannot be read: {error}"))
}

fn twice(read: &[(&Source, Arc<Object>)]) -> Vec<Finding> {
    let mut first: HashMap<ObjectId, &Source> = HashMap::new();
    let mut found = Vec::new();
    for (source, object) in read.iter().filter(|(source, _)| source.place != Place::Cluster) {
        match first.get(&object.id()) {
            None => drop(first.insert(object.id(), source)),
            Some(other) => {
                let place = match &other.place {
                    Place::Document { file, .. } | Place::Item { file, .. } => {
                        format!("{file}:{}", other.line("").unwrap_or(1))
                    }
                    Place::Cluster => continue,
                };
                found.push(source.finding(Severity::Error, "", format!("it is in {place} already; keep one of them")));
            }
        }
    }
    found
}

/// What each names of the others.
fn together(read: &[(&Source, Arc<Object>)], sources: &[Source], known: &Known) -> Vec<Finding> {
    let facts = Facts::new(read.iter().map(|(_, object)| object.clone()));
    let endpoints = known.endpoints || sources.iter().any(|source| source.kind() == "EndpointSlice");
    let templates = templates(sources);
    let mut found = Vec::new();
    for (source, object) in read {
        match &**object {
            Object::Service(service) if !endpoints => found.extend(of_service(source, service, &facts, &templates)),
            object => found.extend(resolve::findings::of_object(&facts, object).into_iter().map(|finding| {
                let (severity, problem) = match (finding.weight, known.incomplete) {
                    (Weight::Error, _) | (Weight::Missing, None) => (Severity::Error, finding.problem),
                    (Weight::Missing, Some(why)) => (Severity::Warning, format!("{}, {why}", finding.problem)),
                    (Weight::Warning, _) => (Severity::Warning, finding.problem),
                };
                source.finding(severity, &finding.field, problem)
            })),
        }
    }
    found
}

/// What pods are made from.
struct Template {
    namespace: String,
    pod: Pod,
}

fn templates(sources: &[Source]) -> Vec<Template> {
    let of = |source: &Source| {
        let path = template_path(source.kind()).filter(|_| source.kind() != "Namespace")?;
        let template = source.object.pointer(path)?;
        let pod = serde_json::json!({ "metadata": template["metadata"], "spec": template["spec"] });
        Some(Template { namespace: source.namespace().to_owned(), pod: serde_json::from_value(pod).ok()? })
    };
    sources.iter().filter_map(of).collect()
}

/// Whom a Service would pick of what is in the files; nothing is said of one whose namespace makes no pods there.
fn of_service(source: &Source, service: &Service, facts: &Facts, templates: &[Template]) -> Vec<Finding> {
    let namespace = &service.metadata.namespace;
    let picks =
        |labels: &BTreeMap<String, String>| service.selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let near: Vec<&Template> = templates.iter().filter(|template| &template.namespace == namespace).collect();
    let externals: Vec<_> = facts.externals_of(namespace).collect();
    if service.selector.is_empty() || (near.is_empty() && externals.is_empty()) {
        return Vec::new();
    }
    let labelled = |template: &&&Template| template.pod.metadata.labels.as_ref().is_some_and(picks);
    let picked: Vec<&Pod> = near.iter().filter(labelled).map(|template| &template.pod).collect();
    let outside: Vec<_> = externals.iter().filter(|external| picks(&external.metadata.labels)).collect();
    if picked.is_empty() && outside.is_empty() {
        let problem = "picks no pod template and no ExternalWorkload of these files; compare it with their labels";
        return vec![source.finding(Severity::Warning, "spec.selector", problem)];
    }
    let has = |name: &str| {
        let containers = picked
            .iter()
            .filter_map(|pod| pod.spec.as_ref())
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
        ports.any(|port| port.name.as_deref() == Some(name))
            || outside.iter().any(|external| external.ports.iter().any(|port| port.name == name))
    };
    let named = service.ports.iter().enumerate().filter_map(|(index, port)| match &port.target {
        TargetPort::Name(name) if !has(name) => Some((index, name)),
        _ => None,
    });
    named
        .map(|(index, name)| {
            let problem = format!("{name:?} is the name of no port of the pods it picks, so the port has no endpoint");
            source.finding(Severity::Error, &format!("spec.ports[{index}].targetPort"), problem)
        })
        .collect()
}

fn namespaces(sources: &[Source]) -> BTreeMap<String, ObjectMeta> {
    let read = |source: &Source| {
        let metadata = serde_json::from_value(source.object["metadata"].clone()).ok()?;
        Some((source.name().to_owned(), metadata))
    };
    sources.iter().filter(|source| source.kind() == "Namespace").filter_map(read).collect()
}

/// Fields of Gateway API's HTTPRoute that are not mistyped (GEP-1731, GEP-1619, GEP-3793, GEP-1767, GEP-1494).
const NOT_FOLLOWED: [&str; 5] = ["retry", "sessionPersistence", "useDefaultGateways", "cors", "externalAuth"];
