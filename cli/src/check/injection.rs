//! Who should have a proxy, and who has one.

use std::collections::{BTreeMap, BTreeSet};

use injector::decision::Skipped;
use injector::{Config, Decision, Outcome, decide, inject};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, ContainerStatus, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt as _;
use proto::names;

use crate::target::Kind;
use crate::transport::owner;
use crate::transport::port_forward::{is_meshed, lives};

use super::fetch::{Fetched, named};
use super::installed::Installed;
use super::restart::Restart;
use super::{Lines, before, many, some};

/// Namespaces whose pods are to be injected, sorted. One that is being deleted takes no pods any more.
pub fn opted_in(namespaces: &[Namespace]) -> Vec<String> {
    let mut names: Vec<String> = namespaces
        .iter()
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_none())
        .filter(|namespace| matches!(decide(&Pod::default(), &namespace.metadata), Decision::Inject(_)))
        .map(kube::ResourceExt::name_any)
        .filter(|name| name != names::SYSTEM_NAMESPACE)
        .collect();
    names.sort_unstable();
    names
}

/// Every pod that should have a proxy has one, and its proxy runs.
pub(super) fn check(facts: &Installed, lines: &mut Lines) {
    let (namespaces, pods) = match (&facts.namespaces, &facts.pods) {
        (Ok(namespaces), Ok(pods)) => (namespaces, pods),
        (Err(why), _) => {
            let text = format!("namespaces may not be listed: {why}");
            return lines.warning("injected", text, "kubectl auth can-i list namespaces");
        }
        (_, Err(why)) => {
            let text = format!("pods may not be listed: {why}");
            return lines.warning("injected", text, "kubectl auth can-i list pods -A");
        }
    };
    let config = config(&facts.config, lines);
    words(namespaces, lines);
    let webhook_since = facts.webhook.as_ref().ok().and_then(Option::as_ref).and_then(created);
    injected(&All { namespaces, pods, config: &config, webhook_since }, lines);
    proxies(pods, lines);
}

/// Words that mean nothing, annotations that did not become labels, and namespaces that would refuse injected pods.
fn words(namespaces: &[Namespace], lines: &mut Lines) {
    for namespace in namespaces {
        let name = namespace.name_any();
        match decide(&Pod::default(), &namespace.metadata) {
            Decision::Skip(skipped @ Skipped::Invalid(_)) => {
                let hint = format!("kubectl annotate --overwrite namespace {name} {}=enabled", names::INJECT);
                lines.failed("word", format!("namespace {name} is not injected: {skipped}"), &hint);
            }
            Decision::Inject(_) if before::refuses(namespace) => {
                let text = format!("PodSecurity of namespace {name} refuses pods with the init container (NET_ADMIN)");
                lines.failed("pod-security", text, &before::allow(&name));
            }
            Decision::Inject(word) if word.key == names::INJECT && !labelled(namespace) => {
                let text =
                    format!("namespace {name} has the annotation {}, and its label is not there yet", names::INJECT);
                lines.passing("word", text, "kubectl -n mesh-system logs deploy/mesh-injector");
            }
            _ => {}
        }
    }
    match opted_in(namespaces).len() {
        0 => {
            let hint = format!("kubectl annotate namespace NAMESPACE {}=enabled", names::INJECT);
            lines.warning("opted-in", "no namespace asks for proxies yet", &hint);
        }
        count => lines.passed(
            "opted-in",
            format!(
                "{} for proxies",
                if count == 1 { "1 namespace asks".to_owned() } else { format!("{count} namespaces ask") }
            ),
        ),
    }
}

fn labelled(namespace: &Namespace) -> bool {
    namespace.labels().get(names::INJECT).is_some_and(|value| value == "enabled")
}

/// What the injector makes pods with: with anything else we would say why about another mesh.
fn config(config_map: &Fetched<Option<ConfigMap>>, lines: &mut Lines) -> Config {
    let name = names::CONFIG_CONFIG_MAP;
    let yaml = match config_map {
        Err(_) => return Config::default(),
        Ok(config_map) => {
            config_map.as_ref().and_then(|map| map.data.as_ref()).and_then(|data| data.get(names::CONFIG_KEY))
        }
    };
    let Some(yaml) = yaml else {
        lines.failed(
            "config",
            format!("ConfigMap {name} with key {} is missing", names::CONFIG_KEY),
            "meshctl install",
        );
        return Config::default();
    };
    Config::parse(yaml).unwrap_or_else(|error| {
        let hint = format!("kubectl -n {} edit configmap {name}", names::SYSTEM_NAMESPACE);
        lines.failed("config", format!("ConfigMap {name} is unusable: {error}"), &hint);
        Config::default()
    })
}

/// What is decided about pods with.
struct All<'a> {
    namespaces: &'a [Namespace],
    pods: &'a [Pod],
    config: &'a Config,
    webhook_since: Option<i64>,
}

fn injected(all: &All<'_>, lines: &mut Lines) {
    let mut early: BTreeMap<String, Affected> = BTreeMap::new();
    let mut missed: BTreeMap<String, Affected> = BTreeMap::new();
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut well = 0;
    // What is about to end needs nothing any more: a rollout leaves such pods behind for a while.
    let stays = |pod: &&Pod| lives(pod) && pod.metadata.deletion_timestamp.is_none();
    for pod in all.pods.iter().filter(stays) {
        let namespace_name = pod.namespace().unwrap_or_default();
        let Some(namespace) = named(all.namespaces, &namespace_name) else { continue };
        // The very function that the injector decides with.
        match inject(pod, &namespace.metadata, all.config, None) {
            _ if is_meshed(pod) => well += 1,
            Outcome::Skipped(skipped) if is_wrong(&skipped, pod) => {
                wrong.entry(skipped.to_string()).or_default().push(format!("{namespace_name}/{}", pod.name_any()));
            }
            Outcome::Skipped(_) => {}
            Outcome::Injected(_) => {
                // Seconds: what happened within one counts as later, so that nobody is accused of what came first.
                let since = all.webhook_since.into_iter().chain(asked_since(namespace)).max();
                let before = created(pod).zip(since).is_none_or(|(created, since)| created <= since);
                if before { &mut early } else { &mut missed }
                    .entry(namespace_name)
                    .or_default()
                    .add(pod, pod.name_any());
            }
        }
    }
    let changing = changing(all.pods);
    for (namespace, missing) in &early {
        let text = format!(
            "{} in namespace {namespace} began before injection: {}{}",
            many(missing.pods.len(), "pod"),
            some(&missing.pods),
            missing.restart.rest()
        );
        let restart = missing.restart.hint();
        if missing.is_among(&changing) {
            lines.passing("injected", format!("{text}; being replaced"), &restart);
        } else {
            lines.warning("injected", text, &restart);
        }
    }
    for (namespace, missing) in &missed {
        let text = format!(
            "{} in namespace {namespace} should have a proxy and has none: {}; events and the injector's log say why{}",
            many(missing.pods.len(), "pod"),
            some(&missing.pods),
            missing.restart.rest()
        );
        let look = format!("kubectl -n {namespace} get events; kubectl -n mesh-system logs deploy/mesh-injector");
        let hint: Vec<String> = [look].into_iter().chain(missing.restart.command()).collect();
        lines.failed("injected", text, &hint.join("; "));
    }
    for (why, pods) in &wrong {
        let text = format!("{} not injected because {why}: {}", many(pods.len(), "pod"), some(pods));
        let hint = format!("correct it and start the pod anew, or say that it wants none: {}: disabled", names::INJECT);
        lines.failed("injected", text, &hint);
    }
    if early.is_empty() && missed.is_empty() && wrong.is_empty() {
        lines.passed("injected", format!("every pod that should have a proxy has one ({well})"));
    }
}

/// Somebody asked for a proxy and gets none. Pods on the node's network are in every namespace of agents: only where the pod
/// itself asks does it matter.
fn is_wrong(skipped: &Skipped, pod: &Pod) -> bool {
    match skipped {
        Skipped::HostNetwork => pod.annotations().get(names::INJECT).is_some_and(|value| value == "enabled"),
        skipped => skipped.is_surprising(),
    }
}

/// A namespace, and kind and name of a workload in it.
type Workload = (String, Option<Kind>, String);

#[derive(Debug, Default)]
struct Affected {
    pods: Vec<String>,
    workloads: BTreeSet<Workload>,
    restart: Restart,
}

impl Affected {
    fn add(&mut self, pod: &Pod, shown: String) {
        let (namespace, kind, name) = workload(pod);
        self.pods.push(shown);
        self.restart.add(&namespace, kind, &name, &pod.name_any());
        self.workloads.insert((namespace, kind, name));
    }

    /// Whether one of its workloads is among these.
    fn is_among(&self, workloads: &BTreeSet<Workload>) -> bool {
        !self.workloads.is_disjoint(workloads)
    }
}

fn workload(pod: &Pod) -> Workload {
    let (kind, name) = owner::of(pod);
    (pod.namespace().unwrap_or_default(), kind, name)
}

/// Workloads whose pods are being replaced: one of them is about to end, or they are of several revisions.
fn changing(pods: &[Pod]) -> BTreeSet<Workload> {
    let mut revisions: BTreeMap<Workload, BTreeSet<Option<&String>>> = BTreeMap::new();
    let mut changing = BTreeSet::new();
    for pod in pods.iter().filter(|pod| lives(pod)) {
        let of = workload(pod);
        if pod.metadata.deletion_timestamp.is_some() {
            changing.insert(of.clone());
        }
        let revision = REVISIONS.iter().find_map(|label| pod.labels().get(*label));
        revisions.entry(of).or_default().insert(revision);
    }
    changing.extend(revisions.into_iter().filter(|(_, revisions)| revisions.len() > 1).map(|(workload, _)| workload));
    changing
}

/// When an object was created, seconds since 1970.
fn created<K: kube::Resource>(object: &K) -> Option<i64> {
    object.meta().creation_timestamp.as_ref().map(|time| time.0.as_second())
}

/// When a namespace was told to be injected, as far as the API server remembers who wrote it.
fn asked_since(namespace: &Namespace) -> Option<i64> {
    let mentions = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| fields.0.to_string()).unwrap_or_default();
        fields.contains(&format!("f:{}\"", names::INJECT)) || fields.contains("f:istio-injection\"")
    };
    let entries = namespace.metadata.managed_fields.as_deref().unwrap_or_default();
    entries.iter().filter(mentions).filter_map(|entry| Some(entry.time.as_ref()?.0.as_second())).min()
}

/// The proxies as their kubelets see them.
fn proxies(pods: &[Pod], lines: &mut Lines) {
    let mut well = 0;
    let mut waiting: BTreeMap<(String, &str), Vec<String>> = BTreeMap::new();
    let mut versions: BTreeMap<String, Affected> = BTreeMap::new();
    let stays = |pod: &&Pod| lives(pod) && pod.metadata.deletion_timestamp.is_none() && !has_ended(pod);
    for pod in pods.iter().filter(|pod| is_meshed(pod)).filter(stays) {
        let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        if let Some(version) = pod.annotations().get(names::PROXY_VERSION).filter(|version| *version != OWN) {
            versions.entry(version.clone()).or_default().add(pod, name.clone());
        }
        match status(pod, names::PROXY_CONTAINER) {
            Some(status) if status.ready || status.started == Some(true) => well += 1,
            _ => waiting.entry(why(pod)).or_default().push(name),
        }
    }
    for ((why, look), pods) in &waiting {
        let (namespace, pod) = pods[0].split_once('/').unwrap_or_default();
        let hint = format!("kubectl -n {namespace} {}", look.replace("POD", pod));
        lines.failed("running", format!("{} ({why}): {}", not_running(pods.len()), some(pods)), &hint);
    }
    let changing = changing(pods);
    for (version, old) in &versions {
        let (count, pods, rest) = (many_have(old.pods.len()), some(&old.pods), old.restart.rest());
        let text = format!("{count} version {version}, this meshctl {OWN}: {pods}{rest}");
        if old.is_among(&changing) {
            lines.passing("version", format!("{text}; being replaced"), &old.restart.hint());
        } else {
            lines.warning("version", text, &old.restart.hint());
        }
    }
    if waiting.is_empty() && well > 0 {
        lines
            .passed("running", if well == 1 { "the proxy runs".to_owned() } else { format!("all {well} proxies run") });
    }
}

fn not_running(count: usize) -> String {
    if count == 1 { "1 proxy does not run".to_owned() } else { format!("{count} proxies do not run") }
}

fn many_have(count: usize) -> String {
    if count == 1 { "1 proxy has".to_owned() } else { format!("{count} proxies have") }
}

/// Every container of the application has ended, for good: the proxy follows, and the pod's phase a moment later.
fn has_ended(pod: &Pod) -> bool {
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let own = status.iter().filter(|status| status.name != names::PROXY_CONTAINER);
    let mut ended = own.map(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some())).peekable();
    let again = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always") == "Always";
    !again && ended.peek().is_some() && ended.all(|ended| ended)
}

fn status<'p>(pod: &'p Pod, container: &str) -> Option<&'p ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.into_iter().find(|status| status.name == container)
}

/// Why a proxy does not run, and what to look at. It starts when the redirect rules are written, so what those met comes first:
/// a kernel without nftables shows there.
fn why(pod: &Pod) -> (String, &'static str) {
    let (rules, proxy) = (status(pod, names::INIT_CONTAINER), status(pod, names::PROXY_CONTAINER));
    if let Some(end) = rules.and_then(failure) {
        return (format!("mesh-init, which writes the redirect rules, {end}"), "logs POD -c mesh-init");
    }
    let Some(proxy) = proxy else { return ("not started".to_owned(), "describe pod POD") };
    if let Some(end) = failure(proxy) {
        return (end, "logs POD -c mesh-proxy");
    }
    let held = || "not ready: no certificate or no configuration yet, and its application waits for it".to_owned();
    let Some(waiting) = proxy.state.as_ref().and_then(|state| state.waiting.as_ref()) else {
        return (held(), "logs POD -c mesh-proxy");
    };
    let reason = waiting.reason.as_deref().unwrap_or("waiting");
    // What some kubelets say while the proxy's hook holds the application.
    let is_held = reason == "PodInitializing" && rules.is_none_or(has_done);
    let text = match waiting.message.as_deref().map(last_line) {
        _ if is_held => held(),
        Some(message) if !message.is_empty() => format!("{reason}: {message}"),
        _ => reason.to_owned(),
    };
    (text, if reason == "CrashLoopBackOff" { "logs POD -c mesh-proxy" } else { "describe pod POD" })
}

fn has_done(status: &ContainerStatus) -> bool {
    let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    ended.is_some_and(|ended| ended.exit_code == 0)
}

/// How a container ended that should not have, and its last words.
fn failure(status: &ContainerStatus) -> Option<String> {
    let ended =
        |state: &Option<ContainerState>| state.as_ref()?.terminated.clone().filter(|ended| ended.exit_code != 0);
    let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let ended = ended(&status.state).or_else(|| ended(&status.last_state).filter(|_| !runs && !has_done(status)))?;
    let words = ended.message.as_deref().map(last_line).filter(|words| !words.is_empty());
    Some(format!("ended with code {}{}", ended.exit_code, words.map(|words| format!(": {words}")).unwrap_or_default()))
}

/// Of a container's last words, which may be its whole log.
fn last_line(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    line.chars().take(WORDS).collect()
}

/// Characters of a container's last words that are shown.
const WORDS: usize = 200;
/// Labels of a pod that say which revision of its workload it is of.
const REVISIONS: [&str; 2] = ["pod-template-hash", "controller-revision-hash"];
const OWN: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests;
