//! What belongs to other meshes: their kinds, annotations and labels, and what to write here instead.
//!
//! What refused something is an error, because it is accepted here; everything else has no effect and is a warning. The table
//! for people is docs/from-linkerd-or-istio.md.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::names;
use serde_json::Value;

use super::source::Source;
use super::{Finding, Severity};

/// What is to be said of an object of another mesh; nothing of other objects.
pub fn of_kind(source: &Source, group: &str, kind: &str) -> Option<Finding> {
    if !MESHES.iter().any(|mesh| group == *mesh || group.ends_with(&format!(".{mesh}"))) {
        return None;
    }
    let spec = &source.object["spec"];
    let (severity, problem) = match refuses(group, kind, spec) {
        Some(true) => (
            Severity::Error,
            format!("the mesh has no policy of this kind yet ({kind} of {group}): what it refused is accepted"),
        ),
        Some(false) => (
            Severity::Warning,
            format!("the mesh does not read {kind} of {group}; this one refuses nothing, nor does the mesh"),
        ),
        None => (
            Severity::Warning,
            format!("the mesh does not read {kind} of {group}: it has no effect; {}", instead(group, kind)),
        ),
    };
    Some(source.finding(severity, "", problem))
}

/// Whether a policy refuses anything; nothing of kinds that never do.
fn refuses(group: &str, kind: &str, spec: &Value) -> Option<bool> {
    Some(match (group, kind) {
        ("security.istio.io", "PeerAuthentication") => {
            let ports = spec["portLevelMtls"].as_object().into_iter().flat_map(|ports| ports.values());
            spec["mtls"]["mode"] == "STRICT" || ports.into_iter().any(|port| port["mode"] == "STRICT")
        }
        ("security.istio.io", "AuthorizationPolicy") => spec["action"] != "AUDIT",
        ("policy.linkerd.io", "Server") => {
            !["all-unauthenticated", "audit"].iter().any(|open| spec["accessPolicy"] == *open)
        }
        ("policy.linkerd.io", "EgressNetwork") => spec["trafficPolicy"] == "Deny",
        ("networking.istio.io", "Sidecar") => spec["outboundTrafficPolicy"]["mode"] == "REGISTRY_ONLY",
        ("security.istio.io", "RequestAuthentication")
        | (
            "policy.linkerd.io",
            "ServerAuthorization" | "AuthorizationPolicy" | "MeshTLSAuthentication" | "NetworkAuthentication",
        )
        | ("access.smi-spec.io", "TrafficTarget") => true,
        _ => return None,
    })
}

fn instead(group: &str, kind: &str) -> &'static str {
    match (group, kind) {
        (_, "VirtualService" | "ServiceProfile" | "TrafficSplit" | "HTTPRoute" | "HTTPRouteGroup") => {
            "write an HTTPRoute of gateway.networking.k8s.io/v1 with a Service as parent"
        }
        (_, "WorkloadEntry" | "WorkloadGroup" | "ExternalWorkload") => {
            "write an ExternalWorkload of meshctl.io/v1alpha1"
        }
        (_, "ServiceEntry") => {
            "destinations outside are reached as without a mesh; for a host of your own write an ExternalWorkload of \
             meshctl.io/v1alpha1 and a Service that selects it"
        }
        (_, "DestinationRule") => {
            "a subset is a Service of its own here, with weights in an HTTPRoute; circuit breaking and load balancing cannot \
             be set yet"
        }
        (_, "Telemetry") => "metrics are always on (port 15020); there are no access logs and no tracing yet",
        ("networking.istio.io", "Gateway") => "what enters the cluster is the work of an ingress or gateway controller",
        (_, "GRPCRoute" | "TLSRoute" | "TCPRoute") => "the mesh follows HTTPRoutes only, so far",
        (_, "HTTPLocalRateLimitPolicy") => {
            "there is no rate limit here yet: the application has to bear what it let through"
        }
        _ => "there is nothing for it here yet",
    }
}

/// Annotations and labels of other meshes beside which ours does not stand.
pub fn of_keys(source: &Source, metadata_path: &str, metadata: &ObjectMeta) -> Vec<Finding> {
    let ours = |key: &str| metadata.annotations.as_ref().is_some_and(|map| map.contains_key(key));
    let mut found = Vec::new();
    for (place, map) in [("annotations", &metadata.annotations), ("labels", &metadata.labels)] {
        for (key, value) in map.iter().flatten() {
            let place = format!("{metadata_path}.{place}");
            if key == "config.linkerd.io/default-inbound-policy"
                && !value.ends_with("unauthenticated")
                && value != "audit"
            {
                let problem = format!("the mesh has no policy yet: what {value} refused is accepted");
                found.push(source.of_key(Severity::Error, &place, key, problem));
            } else if let Some(instead) = counterpart(source.kind(), &place, key).filter(|instead| !ours(instead)) {
                let instead =
                    if instead == names::INJECT { "meshctl.io/inject: enabled, or disabled" } else { instead };
                let problem = format!("the mesh does not read it; write the annotation {instead}");
                found.push(source.of_key(Severity::Warning, &place, key, problem));
            }
        }
    }
    found
}

fn counterpart(kind: &str, place: &str, key: &str) -> Option<&'static str> {
    let is_namespace = kind == "Namespace";
    match key {
        "linkerd.io/inject" | "istio.io/rev" => Some(names::INJECT),
        // Of these two the mesh reads what Istio reads.
        "istio-injection" if is_namespace && place.ends_with("annotations") => Some(names::INJECT),
        "sidecar.istio.io/inject" if is_namespace => Some(names::INJECT),
        _ => COUNTERPARTS.iter().find(|(theirs, _)| *theirs == key).map(|(_, ours)| *ours),
    }
}

/// Domains of other meshes' kinds.
const MESHES: [&str; 3] = ["istio.io", "linkerd.io", "smi-spec.io"];
const COUNTERPARTS: [(&str, &str); 19] = [
    ("config.linkerd.io/skip-outbound-ports", names::SKIP_OUTBOUND_PORTS),
    ("config.linkerd.io/skip-inbound-ports", names::SKIP_INBOUND_PORTS),
    ("config.linkerd.io/opaque-ports", names::OPAQUE_PORTS),
    ("config.linkerd.io/proxy-cpu-request", names::PROXY_CPU_REQUEST),
    ("config.linkerd.io/proxy-cpu-limit", names::PROXY_CPU_LIMIT),
    ("config.linkerd.io/proxy-memory-request", names::PROXY_MEMORY_REQUEST),
    ("config.linkerd.io/proxy-memory-limit", names::PROXY_MEMORY_LIMIT),
    ("config.linkerd.io/proxy-log-level", names::PROXY_LOG_LEVEL),
    ("config.linkerd.io/proxy-image", names::PROXY_IMAGE_OVERRIDE),
    ("config.alpha.linkerd.io/proxy-wait-before-exit-seconds", names::DRAIN_DELAY),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", names::SKIP_OUTBOUND_PORTS),
    ("traffic.sidecar.istio.io/excludeInboundPorts", names::SKIP_INBOUND_PORTS),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", names::SKIP_OUTBOUND_SUBNETS),
    ("sidecar.istio.io/proxyCPU", names::PROXY_CPU_REQUEST),
    ("sidecar.istio.io/proxyCPULimit", names::PROXY_CPU_LIMIT),
    ("sidecar.istio.io/proxyMemory", names::PROXY_MEMORY_REQUEST),
    ("sidecar.istio.io/proxyMemoryLimit", names::PROXY_MEMORY_LIMIT),
    ("sidecar.istio.io/logLevel", names::PROXY_LOG_LEVEL),
    ("sidecar.istio.io/proxyImage", names::PROXY_IMAGE_OVERRIDE),
];
