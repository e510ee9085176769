//! Pods that have containers of our names: those we injected before, which the API server asks about again when a webhook
//! after ours has changed them, and those where somebody else chose such a name.
//!
//! Ours come first again then: an init container before them would run outside the mesh. The API server asks again once at
//! most, so that a webhook which wants the same for its own is not fought with.

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
    let Found { init, proxy, variable, bootstrap } = ours(pod, spec)?;
    let rewritten = probes::rewrite(spec);
    let others = containers(spec).filter(|container| !is_ours(&container.name));
    // There is no way back: the pod has its proxy.
    let mut notes: Vec<String> = others
        .filter_map(|container| beside_a_proxy(spec, container).err())
        .map(|conflict| format!("{conflict}: it was put in after the proxy, and will not work beside it"))
        .collect();
    let moves = to_the_front(init, proxy);
    let before = spec.init_containers.iter().flatten().take(proxy).filter(|container| !is_ours(&container.name));
    notes.extend(before.map(|container| {
        format!(
            "init container {} was put before the proxy; it comes after it, as it would not be in the mesh",
            container.name
        )
    }));
    if rewritten.operations.is_empty() && notes.is_empty() && moves.is_empty() {
        return Err(Skipped::AlreadyInjected);
    }
    let mut operations = rewritten.operations;
    if !operations.is_empty() {
        let added = json!(rewritten.probes).to_string().replace('$', "$$");
        let bootstrap = with_probes(bootstrap, &added).ok_or_else(|| conflict(names::PROXY_CONTAINER))?;
        if bootstrap.len() > super::LARGEST_BOOTSTRAP {
            return Err(Skipped::TooLarge { bytes: bootstrap.len() });
        }
        let place = format!("/spec/initContainers/{proxy}/env/{variable}/value");
        operations.push(json!({"op": "replace", "path": place, "value": bootstrap}));
    }
    // Last: all others count the init containers as they were.
    operations.extend(moves);
    let patch = serde_json::from_value(Value::Array(operations)).expect("operations are written as RFC 6902 has them");
    Ok(Injection { patch, notes, is_again: true })
}

/// What makes the init container the first and the sidecar the second. A webhook after ours, or a person, may put others before
/// them: those would run outside the mesh, or find the way redirected to a proxy that does not run yet.
fn to_the_front(init: usize, proxy: usize) -> Vec<Value> {
    // What is put before it moves it.
    let proxy = if proxy < init { proxy + 1 } else { proxy };
    [(init, 0), (proxy, 1)]
        .into_iter()
        .filter(|(from, to)| from != to)
        .map(|(from, to)| {
            json!({
                "op": "move",
                "from": format!("/spec/initContainers/{from}"),
                "path": format!("/spec/initContainers/{to}"),
            })
        })
        .collect()
}

/// Where what is ours stands.
struct Found<'p> {
    /// Among the init containers.
    init: usize,
    proxy: usize,
    /// Among the sidecar's.
    variable: usize,
    bootstrap: &'p str,
}

/// Our containers; an error names the one that is not ours.
fn ours<'p>(pod: &Pod, spec: &'p PodSpec) -> Result<Found<'p>, Skipped> {
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
    let (Some((init, _)), Some((index, proxy)), true) = (init, proxy, is_marked) else { return Err(stray()) };
    let is_bootstrap = |variable: &EnvVar| variable.name == names::BOOTSTRAP_VARIABLE;
    let variable = proxy.env.iter().flatten().position(is_bootstrap).ok_or_else(stray)?;
    let bootstrap = proxy.env.as_ref().and_then(|all| all.get(variable)?.value.as_deref()).ok_or_else(stray)?;
    Ok(Found { init, proxy: index, variable, bootstrap })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wherever_they_stand_they_come_first_and_the_others_keep_their_order() {
        for (before, expected) in [
            ("ips", "ips"),
            ("xip", "ipx"),
            ("ixp", "ipx"),
            ("xyipz", "ipxyz"),
            ("pi", "ip"),
            ("pxi", "ipx"),
            ("xpyi", "ipxy"),
        ] {
            let at = |letter| before.find(letter).unwrap();
            let containers: Vec<String> = before.chars().map(String::from).collect();
            let mut object = json!({"spec": {"initContainers": containers}});
            let operations = to_the_front(at('i'), at('p'));
            json_patch::patch(&mut object, &serde_json::from_value::<json_patch::Patch>(operations.into()).unwrap())
                .unwrap();
            let after: Vec<&str> =
                object["spec"]["initContainers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert_eq!(after.concat(), expected, "{before}");
        }
    }
}
