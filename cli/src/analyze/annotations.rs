//! What annotations of ours say, on pods, on what pods are made from, and on namespaces.
//!
//! The injector's own functions read them. A word or a setting of a namespace is told once, at the namespace, and not again
//! for each of its pods.

use std::collections::BTreeMap;

use injector::decision::{On, Skipped};
use injector::quantity::Quantity;
use injector::settings::InvalidSetting;
use injector::{Config, Decision, Outcome, Settings, decide, inject, pod_security};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::names;
use serde_json::Value;

use super::others;
use super::source::Source;
use super::{Finding, Severity};
use crate::inject::template_path;
use crate::install::apply::CREATED_BY;

/// What annotations are judged with.
#[derive(Debug)]
pub struct Context<'a> {
    /// What the mesh injects with.
    pub config: &'a Config,
    /// Namespaces that are known, by name.
    pub namespaces: &'a BTreeMap<String, ObjectMeta>,
}

/// What is wrong with the annotations of one object.
pub fn judge(source: &Source, context: &Context<'_>) -> Vec<Finding> {
    if source.kind() == "Namespace" {
        return of_namespace(source, context);
    }
    // A pod that something made is judged where it was made from.
    let made = source.object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty());
    match template_path(source.kind()).filter(|_| !made) {
        Some(path) => {
            let mut found = if path.is_empty() { Vec::new() } else { misplaced(source, Some(path)) };
            found.extend(of_template(source, path, context));
            found
        }
        None if made => Vec::new(),
        None if READ_KINDS.contains(&source.kind()) => {
            let mut found = misplaced(source, None);
            found.extend(opaque_ports_of_service(source, context));
            let metadata = serde_json::from_value(source.object["metadata"].clone()).unwrap_or_default();
            found.extend(others::of_keys(source, "metadata", &metadata));
            found
        }
        None => Vec::new(),
    }
}

fn of_namespace(source: &Source, context: &Context<'_>) -> Vec<Finding> {
    let Ok(metadata) = serde_json::from_value::<ObjectMeta>(source.object["metadata"].clone()) else {
        return vec![source.finding(Severity::Error, "metadata", "cannot be read as the metadata of an object")];
    };
    let mut found = keys(source, "metadata", &metadata);
    match decide(&Pod::default(), &metadata) {
        Decision::Skip(skipped @ Skipped::Invalid(_)) => {
            let problem = format!("{skipped}, so its pods start without a proxy");
            found.push(source.finding(Severity::Error, "metadata.annotations", problem));
        }
        Decision::Skip(skipped @ Skipped::SystemNamespace) if settings(&metadata).next().is_some() => {
            found.push(source.finding(Severity::Warning, "metadata.annotations", format!("no effect: {skipped}")));
        }
        _ => {}
    }
    for invalid in invalid_settings(&ObjectMeta::default(), &metadata, context.config) {
        let problem = format!("{}; pods without a setting of their own start without a proxy", invalid.problem);
        found.push(source.of_key(Severity::Error, "metadata.annotations", invalid.key, problem));
    }
    found
}

/// Annotations where nobody looks for them.
fn misplaced(source: &Source, template: Option<&str>) -> Vec<Finding> {
    let annotations = source.object["metadata"]["annotations"].as_object().into_iter().flatten();
    let kind = source.kind();
    let ours = annotations.map(|(key, _)| key.as_str()).filter(|key| key.starts_with(PREFIX) && !WRITTEN.contains(key));
    let ours = ours.filter(|key| (kind, *key) != ("Service", names::OPAQUE_PORTS));
    ours.map(|key| {
        let problem = match template {
            Some(path) => {
                let place = format!("{}.metadata.annotations", path.trim_start_matches('/').replace('/', "."));
                format!("has no effect on the {kind} itself; write it at {place}, or on the Namespace for all of its pods")
            }
            None => format!(
                "has no effect on a {kind}; write it on what its pods are made from (spec.template.metadata.annotations), \
                 or on their Namespace"
            ),
        };
        source.of_key(Severity::Warning, "metadata.annotations", key, problem)
    })
    .collect()
}

/// The one annotation that is followed on a Service as well: which of its own ports carry bytes.
fn opaque_ports_of_service(source: &Source, context: &Context<'_>) -> Option<Finding> {
    let text = source.object["metadata"]["annotations"][names::OPAQUE_PORTS].as_str()?;
    if source.kind() != "Service" {
        return None;
    }
    let say = |severity, problem| Some(source.of_key(severity, "metadata.annotations", names::OPAQUE_PORTS, problem));
    // Read as it would be on a pod.
    let annotations = [(names::OPAQUE_PORTS.to_owned(), text.to_owned())];
    let metadata = ObjectMeta { annotations: Some(annotations.into()), ..ObjectMeta::default() };
    if let Some(invalid) = invalid_settings(&metadata, &ObjectMeta::default(), context.config).pop() {
        return say(Severity::Error, format!("{}; it is left out", invalid.problem));
    }
    let ports = source.object["spec"]["ports"].as_array().into_iter().flatten();
    let mut numbers = ports.filter_map(|port| u16::try_from(port["port"].as_u64()?).ok());
    let listed = crd::PortSet::parse(text);
    if text.trim().is_empty() || numbers.any(|port| listed.contains(port)) {
        return None;
    }
    let problem = "no effect: the Service has none of these ports; on a Service its own ports count, not the pods'";
    say(Severity::Warning, problem.to_owned())
}

fn of_template(source: &Source, path: &str, context: &Context<'_>) -> Vec<Finding> {
    let Some(template) = source.object.pointer(path).filter(|template| template.is_object()) else {
        return Vec::new();
    };
    let root = path.trim_start_matches('/').replace('/', ".");
    let root = if root.is_empty() { root } else { format!("{root}.") };
    let mut pod: Pod = match serde_json::from_value(without_kind(template)) {
        Ok(pod) => pod,
        Err(error) => {
            return vec![source.finding(Severity::Error, root.trim_end_matches('.'), format!("no pod: {error}"))];
        }
    };
    let map = format!("{root}metadata.annotations");
    let mut found = keys(source, &format!("{root}metadata"), &pod.metadata);
    let namespace = context.namespaces.get(source.namespace());
    let unknown = ObjectMeta { name: Some(source.namespace().to_owned()), ..ObjectMeta::default() };
    // Nothing is lost by a setting of a pod that wants no proxy.
    let no_proxy = match decide(&pod, namespace.unwrap_or(&unknown)) {
        Decision::Skip(skipped @ (Skipped::Disabled(_) | Skipped::SystemNamespace)) => Some(skipped),
        Decision::Skip(skipped @ Skipped::NotAskedFor) if namespace.is_some() => Some(skipped),
        _ => None,
    };
    for invalid in invalid_settings(&pod.metadata, namespace.unwrap_or(&unknown), context.config) {
        if invalid.on == On::Pod {
            // Values that can be used are needed below, where the rest is judged.
            pod.metadata.annotations.as_mut().map(|map| map.remove(invalid.key));
            found.push(match &no_proxy {
                None => {
                    let problem = format!("{}; the pod starts without a proxy", invalid.problem);
                    source.of_key(Severity::Error, &map, invalid.key, problem)
                }
                Some(skipped) => {
                    let problem = format!("{}; no effect, because there is no proxy: {skipped}", invalid.problem);
                    source.of_key(Severity::Warning, &map, invalid.key, problem)
                }
            });
        }
    }
    for (key, problem) in surely_wrong(&pod, namespace.unwrap_or(&unknown), context.config) {
        found.push(source.of_key(Severity::Warning, &map, key, problem));
    }
    let mut say = |severity, problem: String| found.push(source.finding(severity, &map, problem));
    match inject(&pod, namespace.unwrap_or(&unknown), context.config, None) {
        Outcome::Injected(injection) => {
            let refused = namespace.and_then(pod_security);
            for note in injection.notes {
                if refused.as_ref() == Some(&note) {
                    say(Severity::Error, format!("no pod can be made: {note}"));
                } else {
                    say(Severity::Warning, note);
                }
            }
        }
        Outcome::Skipped(Skipped::Setting(_)) => {}
        Outcome::Skipped(Skipped::Invalid(word)) if word.on == On::Namespace => {}
        // Agents on the node's network are in every namespace: only where the pod itself asks does it matter.
        Outcome::Skipped(Skipped::HostNetwork) if asks(&pod.metadata) => {
            say(Severity::Error, format!("no proxy, though it asks for one: {}", Skipped::HostNetwork));
        }
        Outcome::Skipped(Skipped::HostNetwork) => {}
        Outcome::Skipped(skipped) if skipped.is_surprising() => say(Severity::Error, format!("no proxy: {skipped}")),
        Outcome::Skipped(Skipped::NotAskedFor) if namespace.is_none() => {}
        Outcome::Skipped(skipped @ (Skipped::NotAskedFor | Skipped::Disabled(_) | Skipped::SystemNamespace)) => {
            let settings: Vec<&str> = settings(&pod.metadata).collect();
            if !settings.is_empty() {
                let problem = format!("{} no effect, because there is no proxy: {skipped}", have(&settings));
                say(Severity::Warning, problem);
            }
        }
        Outcome::Skipped(_) => {}
    }
    found
}

/// Keys that look like ours and are read by nobody.
fn keys(source: &Source, metadata_path: &str, metadata: &ObjectMeta) -> Vec<Finding> {
    let mut found = others::of_keys(source, metadata_path, metadata);
    for (place, map) in [("annotations", &metadata.annotations), ("labels", &metadata.labels)] {
        let ours = map.iter().flatten().map(|(key, _)| key.as_str()).filter(|key| key.starts_with(PREFIX));
        for key in ours.filter(|key| !WRITTEN.contains(key)) {
            let problem = match (KEYS.contains(&key), place) {
                (true, "labels") if key != names::INJECT => {
                    "no effect as a label: write it as an annotation".to_owned()
                }
                (true, _) => continue,
                (false, _) => match nearest(key) {
                    Some(meant) => format!("no effect: the mesh does not know it; is {meant} meant?"),
                    None => "no effect: the mesh does not know it; see the table of annotations in README".to_owned(),
                },
            };
            found.push(source.of_key(Severity::Warning, &format!("{metadata_path}.{place}"), key, problem));
        }
    }
    found
}

/// What is wrong with the settings of pods that are to have a proxy: those that cannot be used, and those that hardly can be
/// meant. One sentence each.
pub fn doubts(pod: &Pod) -> Vec<String> {
    let (config, namespace) = (Config::default(), ObjectMeta::default());
    let mut pod = pod.clone();
    let mut found = Vec::new();
    for invalid in invalid_settings(&pod.metadata, &namespace, &config) {
        pod.metadata.annotations.as_mut().map(|map| map.remove(invalid.key));
        found.push(format!("{}: {}, so the pod starts without a proxy", invalid.key, invalid.problem));
    }
    found.extend(surely_wrong(&pod, &namespace, &config).into_iter().map(|(key, problem)| format!("{key}: {problem}")));
    found
}

/// Settings that can be used, and do what nobody can mean.
fn surely_wrong(pod: &Pod, namespace: &ObjectMeta, config: &Config) -> Vec<(&'static str, String)> {
    let Ok(settings) = Settings::read(&pod.metadata, namespace, config) else { return Vec::new() };
    let is_written = |key: &str| {
        [&pod.metadata, namespace].iter().any(|of| of.annotations.as_ref().is_some_and(|map| map.contains_key(key)))
    };
    let mut found = Vec::new();
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(USUAL_GRACE_SECONDS);
    let grace_ms = u64::try_from(grace).unwrap_or(0).saturating_mul(1000);
    if is_written(names::DRAIN_DELAY) && settings.drain_delay.0 >= grace_ms {
        let problem = format!(
            "the pod is killed after its terminationGracePeriodSeconds of {grace}, before the delay is over: clients are never told \
             to go elsewhere, and requests under way fail; write less, or raise that"
        );
        found.push((names::DRAIN_DELAY, problem));
    }
    let limit = settings.limits.memory.as_deref().and_then(|limit| limit.parse::<Quantity>().ok());
    if is_written(names::PROXY_MEMORY_LIMIT) && limit.is_some_and(|limit| limit.amount() < LEAST_MEMORY) {
        let problem = "the proxy is killed at its start, or soon after: it takes about 9 MB before its first connection and 13 KB for \
                       each; write 32Mi or more";
        found.push((names::PROXY_MEMORY_LIMIT, problem.to_owned()));
    }
    found
}

/// All settings that cannot be used: the injector stops at the first.
fn invalid_settings(pod: &ObjectMeta, namespace: &ObjectMeta, config: &Config) -> Vec<InvalidSetting> {
    let (mut pod, mut namespace) = (pod.clone(), namespace.clone());
    let mut found = Vec::new();
    while found.len() < KEYS.len() * 2
        && let Err(invalid) = Settings::read(&pod, &namespace, config)
    {
        let metadata = if invalid.on == On::Pod { &mut pod } else { &mut namespace };
        metadata.annotations.as_mut().map(|map| map.remove(invalid.key));
        found.push(invalid);
    }
    found
}

fn settings(metadata: &ObjectMeta) -> impl Iterator<Item = &str> {
    let written = metadata.annotations.iter().flatten().map(|(key, _)| key.as_str());
    written.filter(|key| KEYS.contains(key) && *key != names::INJECT)
}

fn asks(metadata: &ObjectMeta) -> bool {
    let pod = Pod { metadata: metadata.clone(), ..Pod::default() };
    matches!(decide(&pod, &ObjectMeta::default()), Decision::Inject(_))
}

fn have(keys: &[&str]) -> String {
    let verb = if keys.len() == 1 { "has" } else { "have" };
    format!("{} {verb}", keys.join(", "))
}

/// A Pod has the same two fields as a template, and two more.
fn without_kind(template: &Value) -> Value {
    serde_json::json!({ "metadata": template["metadata"], "spec": template["spec"] })
}

/// The key that one is mistyped from, if it is.
fn nearest(key: &str) -> Option<&'static str> {
    let distances = KEYS.iter().map(|known| (distance(key, known), *known));
    distances.min().filter(|(distance, _)| *distance <= MISTYPED).map(|(_, known)| known)
}

/// How many letters have to be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let change = corner + usize::from(left != right);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

/// Annotations that people may write.
pub const KEYS: [&str; 14] = [
    names::INJECT,
    names::SKIP_INBOUND_PORTS,
    names::SKIP_OUTBOUND_PORTS,
    names::SKIP_OUTBOUND_SUBNETS,
    names::OPAQUE_PORTS,
    names::LOOPBACK_PORTS,
    names::PROXY_CPU_REQUEST,
    names::PROXY_CPU_LIMIT,
    names::PROXY_MEMORY_REQUEST,
    names::PROXY_MEMORY_LIMIT,
    names::PROXY_LOG_LEVEL,
    names::PROXY_IMAGE_OVERRIDE,
    names::PROXY_WORKERS,
    names::DRAIN_DELAY,
];
/// Those the mesh writes.
const WRITTEN: [&str; 3] = [names::INJECT_MIRRORED, names::PROXY_VERSION, CREATED_BY];
const PREFIX: &str = "meshctl.io/";
/// Kinds without pods on which people look for annotations of a mesh.
const READ_KINDS: [&str; 4] = ["Service", "HTTPRoute", "ExternalWorkload", "ServiceAccount"];
const MISTYPED: usize = 4;
/// What Kubernetes takes where none is written.
const USUAL_GRACE_SECONDS: i64 = 30;
/// A proxy that carries nothing takes 8 to 9 MB, and its state lies in memory as well.
const LEAST_MEMORY: f64 = 12.0 * 1024.0 * 1024.0;

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    #[test]
    fn every_annotation_is_known() {
        let source = include_str!("../../../proto/src/names.rs");
        let quoted = source.split('"').skip(1).step_by(2).filter(|text| text.starts_with(PREFIX));
        let mut known: Vec<&str> = quoted.filter(|name| !WRITTEN.contains(name)).collect();
        let mut listed = KEYS;
        known.sort_unstable();
        listed.sort_unstable();
        assert_eq!(known, listed);
    }

    #[test]
    fn what_nobody_can_mean_is_told() {
        let pod = |annotations: &[(&str, &str)], grace: Option<i64>| {
            let written = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let metadata = ObjectMeta { annotations: Some(written), ..ObjectMeta::default() };
            let spec = PodSpec { termination_grace_period_seconds: grace, ..PodSpec::default() };
            Pod { metadata, spec: Some(spec), status: None }
        };
        for (annotation, value, grace, expected) in [
            (names::DRAIN_DELAY, "29s", None, None),
            (names::DRAIN_DELAY, "30s", None, Some("terminationGracePeriodSeconds of 30")),
            (names::DRAIN_DELAY, "1m", Some(90), None),
            (names::DRAIN_DELAY, "5s", Some(5), Some("terminationGracePeriodSeconds of 5")),
            (names::PROXY_LOG_LEVEL, "warn", Some(1), None),
            (names::PROXY_MEMORY_LIMIT, "8Mi", None, Some("about 9 MB")),
            (names::PROXY_MEMORY_LIMIT, "64Mi", None, None),
            (names::PROXY_MEMORY_LIMIT, "64", None, Some("about 9 MB")),
            (names::PROXY_WORKERS, "many", None, Some("starts without a proxy")),
        ] {
            let found = doubts(&pod(&[(annotation, value)], grace));
            assert_eq!(!found.is_empty(), expected.is_some(), "{annotation}={value}: {found:?}");
            assert!(
                expected.is_none_or(|said| found[0].starts_with(annotation) && found[0].contains(said)),
                "{found:?}"
            );
        }
        let both = doubts(&pod(&[(names::DRAIN_DELAY, "1h"), (names::PROXY_MEMORY_LIMIT, "1Mi")], None));
        assert_eq!(both.len(), 2, "{both:?}");
    }

    #[test]
    fn mistyped_keys_find_what_was_meant() {
        assert_eq!(nearest("meshctl.io/skip-outbound-port"), Some(names::SKIP_OUTBOUND_PORTS));
        assert_eq!(nearest("meshctl.io/injct"), Some(names::INJECT));
        assert_eq!(nearest("meshctl.io/something-else-entirely"), None);
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("kitten", "sitting")), (3, 0, 3));
    }
}
