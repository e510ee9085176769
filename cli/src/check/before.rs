//! `check --pre`: can a mesh be installed here, and will pods with a proxy run?

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, NodeSystemInfo};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use proto::names;

use crate::install::preflight::{self, Right};
use crate::table;

use super::fetch::Fetched;
use super::{Lines, Report, many, some};

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Before {
    /// Address of the API server.
    pub server: String,
    /// Its version, as it says it.
    pub version: String,
    /// Major and minor version.
    pub minor_version: Option<(u32, u32)>,
    /// Our clock, milliseconds since 1970.
    pub now_ms: u64,
    /// The API server's clock at that moment.
    pub date_ms: Fetched<u64>,
    /// What the account of the kubeconfig may not do, of all that an installation does.
    pub rights: Fetched<Vec<Right>>,
    /// The CRD of HTTPRoutes.
    pub gateway: Fetched<Option<CustomResourceDefinition>>,
    /// All namespaces.
    pub namespaces: Fetched<Vec<Namespace>>,
    /// All nodes.
    pub nodes: Fetched<Vec<Node>>,
    /// Every node's heartbeat.
    pub leases: Fetched<Vec<Lease>>,
    /// A controller that is there already.
    pub installed: Fetched<Option<Deployment>>,
}

/// What it means.
pub fn judge(facts: &Before) -> Report {
    let mut kubernetes = Lines::new("Kubernetes");
    version(facts, &mut kubernetes);
    rights(&facts.rights, &mut kubernetes);
    clock(facts, &mut kubernetes);
    gateway(&facts.gateway, &mut kubernetes);
    let mut nodes = Lines::new("nodes");
    match &facts.nodes {
        Err(why) => nodes.warning("nodes", format!("nodes may not be listed: {why}"), "kubectl auth can-i list nodes"),
        Ok(all) => check_nodes(all, &mut nodes),
    }
    node_clocks(facts, &mut nodes);
    let mut namespaces = Lines::new("namespaces");
    pod_security(&facts.namespaces, &mut namespaces);
    istios(&facts.namespaces, &mut namespaces);
    present(&facts.installed, &mut namespaces);
    Report::new([kubernetes, nodes, namespaces])
}

fn version(facts: &Before, lines: &mut Lines) {
    let Before { server, version, .. } = facts;
    let (major, minor) = LEAST;
    match facts.minor_version {
        Some(found) if found >= LEAST => {
            lines.passed("version", format!("the API server {server} answers, version {version}"));
        }
        Some(_) => {
            let text = format!("the API server has version {version}, the mesh needs {major}.{minor} or newer");
            lines.failed("version", text, "upgrade the cluster; native sidecars came with 1.29");
        }
        None => lines.warning(
            "version",
            format!("the API server's version {version:?} is not understood"),
            &format!("make sure that it is {major}.{minor} or newer"),
        ),
    }
}

fn rights(missing: &Fetched<Vec<Right>>, lines: &mut Lines) {
    match missing.as_deref() {
        Err(why) => lines.warning("rights", why.clone(), "kubectl auth can-i --list"),
        Ok([]) => lines.passed("rights", "you may create everything that an installation consists of"),
        Ok([first, ..]) => {
            let text = format!("you may not {}", preflight::listed(missing.as_deref().unwrap_or_default()));
            lines.failed("rights", text, &format!("ask for cluster-admin, then: {}", first.question()));
        }
    }
}

fn clock(facts: &Before, lines: &mut Lines) {
    match &facts.date_ms {
        Err(why) => lines.warning("clock", format!("the API server's clock is not known: {why}"), "kubectl version"),
        Ok(date) => {
            let apart = date.abs_diff(facts.now_ms);
            let side = if *date > facts.now_ms { "behind" } else { "ahead of" };
            let text = format!("this machine's clock is {} {side} the API server's", table::span(apart));
            if apart > SKEW_MS {
                lines.warning(
                    "clock",
                    text,
                    "synchronise both with NTP; certificates and ages are judged by the clock",
                );
            } else {
                lines.passed("clock", "this machine's clock and the API server's agree");
            }
        }
    }
}

/// Without the Gateway API's kinds nobody can write a route.
pub(super) fn gateway(crd: &Fetched<Option<CustomResourceDefinition>>, lines: &mut Lines) {
    let install = GATEWAY_COMMAND;
    match crd {
        Err(why) => lines.warning("gateway-api", format!("the Gateway API's kinds may not be read: {why}"), install),
        Ok(None) => {
            let text = "the Gateway API's kinds are not installed; without them the mesh works, but has no routes";
            lines.warning("gateway-api", text, install);
        }
        Ok(Some(crd)) => {
            let version = crd.annotations().get(BUNDLE_VERSION).map_or("of unknown version", String::as_str);
            let serves =
                |wanted: &str| crd.spec.versions.iter().any(|version| version.served && version.name == wanted);
            if serves("v1") {
                lines.passed("gateway-api", format!("the Gateway API's kinds are installed, {version}"));
            } else {
                let text = format!("the Gateway API's kinds ({version}) do not serve version v1");
                lines.warning("gateway-api", text, install);
            }
        }
    }
}

fn check_nodes(nodes: &[Node], lines: &mut Lines) {
    let before = lines.len();
    for node in nodes {
        let name = node.name_any();
        let Some(info) = node.status.as_ref().and_then(|status| status.node_info.as_ref()) else {
            lines.warning(
                "nodes",
                format!("node {name} says nothing about itself"),
                &format!("kubectl describe node {name}"),
            );
            continue;
        };
        if let Some(problem) = unfit(info) {
            let hint = format!("kubectl cordon {name}, or keep pods with a proxy off it with a nodeSelector");
            lines.warning("nodes", format!("node {name} {problem}"), &hint);
        }
    }
    if nodes.is_empty() {
        lines.failed("nodes", "there is no node", "kubectl get nodes");
    } else if lines.len() == before {
        let oldest = nodes.iter().filter_map(|node| Some(&node.status.as_ref()?.node_info.as_ref()?.kernel_version));
        let oldest = oldest.min_by_key(|kernel| numbers(kernel)).map_or("unknown", String::as_str);
        let text = format!(
            "{} of {} can run pods with a proxy: Linux (oldest kernel {oldest}), native sidecars, container runtime",
            nodes.len(),
            many(nodes.len(), "node")
        );
        lines.passed("nodes", text);
    }
}

/// Why pods with a proxy cannot run on a node. The kernel's version is a guess at what it can do: one that was built without
/// nf_tables shows when a pod starts, in what `check` says of `mesh-init`.
fn unfit(info: &NodeSystemInfo) -> Option<String> {
    if info.operating_system != "linux" {
        return Some(format!("runs {}: there is no proxy for it", info.operating_system));
    }
    if !matches!(info.architecture.as_str(), "amd64" | "arm64") {
        return Some(format!("has architecture {}: there is no proxy for it", info.architecture));
    }
    let kubelet = numbers(&info.kubelet_version);
    if kubelet.is_some_and(|kubelet| kubelet < LEAST) {
        return Some(format!("has kubelet {}: native sidecars came with 1.29", info.kubelet_version));
    }
    let kernel = numbers(&info.kernel_version);
    if kernel.is_some_and(|kernel| kernel < LEAST_KERNEL) {
        let (major, minor) = LEAST_KERNEL;
        let text = format!("has kernel {}: redirecting with nftables needs {major}.{minor}", info.kernel_version);
        return Some(text);
    }
    None
}

/// `v1.29.3-gke.1` and `6.1.0-13-amd64` as (1, 29) and (6, 1).
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A kubelet writes its own time into its heartbeat: one from the future gives a wrong clock away. One from the past may just
/// be a node that is away, which Kubernetes itself tells.
fn node_clocks(facts: &Before, lines: &mut Lines) {
    let (Ok(leases), Ok(date_ms)) = (&facts.leases, &facts.date_ms) else { return };
    let mut wrong = Vec::new();
    for lease in leases {
        let Some(renewed) = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()) else { continue };
        let renewed = u64::try_from(renewed.0.as_millisecond()).unwrap_or(0);
        if renewed > date_ms + SKEW_MS {
            wrong.push(format!("{} ({})", lease.name_any(), table::span(renewed - date_ms)));
        }
    }
    if !wrong.is_empty() {
        let text = format!("clocks of nodes are ahead of the API server's: {}", some(&wrong));
        lines.failed("node-clocks", text, "synchronise the nodes with NTP; a certificate is refused before it begins");
    } else if !leases.is_empty() {
        lines.passed("node-clocks", "no node's clock is ahead of the API server's");
    }
}

fn pod_security(namespaces: &Fetched<Vec<Namespace>>, lines: &mut Lines) {
    let namespaces = match namespaces {
        Err(why) => {
            let text = format!("namespaces may not be listed: {why}");
            return lines.warning("pod-security", text, "kubectl auth can-i list namespaces");
        }
        Ok(namespaces) => namespaces,
    };
    let refusing = namespaces.iter().filter(|namespace| !never_meshed(&namespace.name_any()) && refuses(namespace));
    let asks = |namespace: &&Namespace| {
        injector::decision::of_namespace(&namespace.metadata).and_then(|word| word.yes()) == Some(true)
    };
    let (asking, others): (Vec<&Namespace>, Vec<&Namespace>) = refusing.partition(asks);
    let names = |of: &[&Namespace]| of.iter().map(|namespace| namespace.name_any()).collect::<Vec<_>>();
    let (asking, others) = (names(&asking), names(&others));
    let refused = "PodSecurity refuses the init container (NET_ADMIN) in namespace";
    // One namespace in a command, if any: a level is somebody's decision, and most of them will never be meshed.
    match (asking.first(), others.len()) {
        (None, 0) => lines.passed("pod-security", "no namespace's PodSecurity level refuses the init container"),
        (None, _) => {
            let text = format!("{refused} {}: only matters where pods shall be meshed", some(&others));
            lines.warning("pod-security", text, &allow("NAMESPACE"));
        }
        (Some(first), count) => {
            let more = if count == 0 { String::new() } else { format!("; in {count} more, which ask for none") };
            let text = format!("{refused} {}, asking for proxies{more}", some(&asking));
            lines.warning("pod-security", text, &allow(first));
        }
    }
}

/// Istio's label is understood, so that a mesh takes over what Istio had: nobody should be surprised by that.
fn istios(namespaces: &Fetched<Vec<Namespace>>, lines: &mut Lines) {
    let Ok(namespaces) = namespaces else { return };
    let asks = |namespace: &&Namespace| {
        let word = injector::decision::of_namespace(&namespace.metadata);
        word.is_some_and(|word| word.key == ISTIO && word.yes() == Some(true))
    };
    let asking: Vec<String> = namespaces.iter().filter(asks).map(kube::ResourceExt::name_any).collect();
    if let Some(first) = asking.first() {
        let text = format!(
            "Istio's label {ISTIO} asks for a proxy in namespace {}: pods that Istio has are left alone, all others join this \
             mesh as they restart; where Istio is to stay, keep its label and annotate the namespace",
            some(&asking)
        );
        // Without its label Istio would inject no pod either.
        lines.warning("istio", text, &format!("kubectl annotate namespace {first} {}=disabled", names::INJECT));
    }
}

/// The init container needs NET_ADMIN, which only the level `privileged` admits.
pub(super) fn refuses(namespace: &Namespace) -> bool {
    namespace.labels().get(ENFORCE).is_some_and(|level| matches!(level.as_str(), "baseline" | "restricted"))
}

/// The command that lets it into a namespace.
pub(super) fn allow(namespace: &str) -> String {
    format!("kubectl label --overwrite namespace {namespace} {ENFORCE}=privileged")
}

/// Namespaces that are never injected.
pub(super) fn never_meshed(namespace: &str) -> bool {
    namespace == names::SYSTEM_NAMESPACE || namespace.starts_with("kube-")
}

fn present(installed: &Fetched<Option<Deployment>>, lines: &mut Lines) {
    match installed {
        Ok(Some(_)) => {
            lines.warning("present", "a mesh is installed here already; installing again upgrades it", "meshctl check");
        }
        Ok(None) => lines.passed("present", "no mesh is installed here yet"),
        // Who may not read it may not install it either, which the rights say.
        Err(_) => {}
    }
}

/// Name of the CRD whose presence stands for the Gateway API's.
pub const HTTP_ROUTES: &str = "httproutes.gateway.networking.k8s.io";
/// What brings them.
pub(super) const GATEWAY_COMMAND: &str = "kubectl apply --server-side -f \
    https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.3/standard-install.yaml";
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
const ISTIO: &str = "istio-injection";
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Native sidecars without a feature gate.
const LEAST: (u32, u32) = (1, 29);
/// Before it, address translation by nftables and by iptables (kube-proxy's) exclude each other.
const LEAST_KERNEL: (u32, u32) = (4, 18);
const SKEW_MS: u64 = 5000;

#[cfg(test)]
pub(super) mod tests;
