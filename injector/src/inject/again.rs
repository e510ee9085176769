//! Pods that have containers of our names: those we injected before, which the API server asks about again when a webhook
//! after ours has changed them, and those where somebody else chose such a name.

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec};
use proto::names;
use serde_json::{Value, json};

use super::{Injection, beside_a_proxy, probes};
use crate::decision::Skipped;

/// Whether a container's name is one of ours.
pub(super) fn is_ours(name: &str) -> bool {
    [names::PROXY_CONTAINER, names::INIT_CONTAINER].contains(&name)
}

/// Whether any container has such a name.
pub(super) fn has_our_names(spec: &PodSpec) -> bool {
    containers(spec).any(|container| is_ours(&container.name))
}

/// What has to change in a pod with containers of our names, because of others that came after them.
pub(super) fn look(pod: &Pod, spec: &PodSpec) -> Result<Injection, Skipped> {
    let (place, bootstrap) = proxy(pod, spec)?;
    let rewritten = probes::rewrite(spec);
    let others = containers(spec).filter(|container| !is_ours(&container.name));
    // There is no way back: the pod has its proxy.
    let notes: Vec<String> = others
        .filter_map(|container| beside_a_proxy(spec, container).err())
        .map(|conflict| format!("{conflict}: it was put in after the proxy, and will not work beside it"))
        .collect();
    if rewritten.operations.is_empty() && notes.is_empty() {
        return Err(Skipped::AlreadyInjected);
    }
    let mut operations = rewritten.operations;
    if !operations.is_empty() {
        let added = json!(rewritten.probes).to_string().replace('$', "$$");
        let bootstrap = with_probes(bootstrap, &added).ok_or_else(|| conflict(names::PROXY_CONTAINER))?;
        if bootstrap.len() > super::LARGEST_BOOTSTRAP {
            return Err(Skipped::TooLarge { bytes: bootstrap.len() });
        }
        operations.push(json!({"op": "replace", "path": place, "value": bootstrap}));
    }
    let patch = serde_json::from_value(Value::Array(operations)).expect("operations are written as RFC 6902 has them");
    Ok(Injection { patch, notes, is_again: true })
}

/// Where the bootstrap of our sidecar stands, and the bootstrap; an error names the container that is not ours.
fn proxy<'p>(pod: &Pod, spec: &'p PodSpec) -> Result<(String, &'p str), Skipped> {
    if let Some(stray) = spec.containers.iter().find(|container| is_ours(&container.name)) {
        return Err(conflict(&stray.name));
    }
    let find = |name: &str, is_it: fn(&Container) -> bool| {
        let mut all = spec.init_containers.iter().flatten().enumerate();
        all.find(|(_, container)| container.name == name && is_it(container))
    };
    let first_argument = |container: &Container| container.args.iter().flatten().next().cloned().unwrap_or_default();
    let init = find(names::INIT_CONTAINER, |_| true).filter(|(_, init)| first_argument(init) == "init");
    let proxy = find(names::PROXY_CONTAINER, |proxy| proxy.restart_policy.as_deref() == Some("Always"));
    let is_marked = pod.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(names::PROXY_VERSION));
    let stray = || {
        let named = spec.init_containers.iter().flatten().find(|container| is_ours(&container.name));
        conflict(named.map_or(names::PROXY_CONTAINER, |container| &container.name))
    };
    let (Some((_, _)), Some((index, proxy)), true) = (init, proxy, is_marked) else { return Err(stray()) };
    let is_bootstrap = |variable: &EnvVar| variable.name == names::BOOTSTRAP_VARIABLE;
    let at = proxy.env.iter().flatten().position(is_bootstrap).ok_or_else(stray)?;
    let text = proxy.env.as_ref().and_then(|all| all.get(at)?.value.as_deref()).ok_or_else(stray)?;
    Ok((format!("/spec/initContainers/{index}/env/{at}/value"), text))
}

/// Both texts are JSON as the kubelet reads it, with two dollars for one.
fn with_probes(bootstrap: &str, probes: &str) -> Option<String> {
    let mut bootstrap: Value = serde_json::from_str(bootstrap).ok()?;
    let added: Value = serde_json::from_str(probes).ok()?;
    let all = bootstrap.as_object_mut()?.entry("probes").or_insert_with(|| json!({})).as_object_mut()?;
    for (path, probe) in added.as_object()? {
        all.insert(path.clone(), probe.clone());
    }
    Some(bootstrap.to_string())
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn conflict(container: &str) -> Skipped {
    Skipped::ContainerConflict { container: container.to_owned() }
}
