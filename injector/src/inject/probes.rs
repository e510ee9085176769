//! Probes that the proxy makes for the kubelet.
//!
//! A tcpSocket probe that meets the redirect always succeeds: the proxy accepts, whether the app listens or not. HTTPS
//! and gRPC probes carry no mesh identity, and the proxy can't tell them from anybody's traffic. These three are turned
//! into HTTP probes on the proxy's health port, which really dials the app. Plain HTTP probes and exec stay; the proxy is
//! told of the former, and of lifecycle hooks like them, so that it knows the kubelet's requests from others'.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::bootstrap::{self, HttpProbe, ProbeCheck};
use proto::names;
use serde_json::{Value, json};

/// What is changed in the pod, and what the proxy must know for it.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    pub(super) operations: Vec<Value>,
    pub(super) probes: Probes,
}

/// What the proxy must know.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// Made by the proxy, by their path on its health port.
    pub(super) made: BTreeMap<String, bootstrap::Probe>,
    /// Made by the kubelet.
    pub(super) let_through: Vec<HttpProbe>,
}

/// Rewrites the probes of app containers and of sidecars that are not ours.
pub(super) fn rewrite(spec: &PodSpec) -> Rewritten {
    let mut rewritten = Rewritten::default();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("containers", spec.containers.as_slice()), ("initContainers", init)] {
        for (index, container) in containers.iter().enumerate() {
            for (kind, probe) in [
                ("liveness", &container.liveness_probe),
                ("readiness", &container.readiness_probe),
                ("startup", &container.startup_probe),
            ] {
                let Some(probe) = probe else { continue };
                let place = format!("/spec/{list}/{index}/{kind}Probe");
                rewritten.add(container, kind, probe, &place);
            }
            let hooks = container.lifecycle.iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
            for hook in hooks.flatten() {
                rewritten.let_through(container, hook.http_get.as_ref());
            }
        }
    }
    rewritten
}

impl Rewritten {
    fn add(&mut self, container: &Container, kind: &str, probe: &Probe, place: &str) {
        let Some((handler, port, check)) = handled(probe) else {
            return self.let_through(container, probe.http_get.as_ref());
        };
        // A port that nobody can find fails in the kubelet, with its words.
        let Some(port) = number(container, port) else { return };
        let path = format!("{}{}/{kind}", names::APP_PROBE_PREFIX, container.name);
        let http = json!({"path": path, "port": names::HEALTH_PORT, "scheme": "HTTP"});
        self.operations.push(json!({"op": "remove", "path": format!("{place}/{handler}")}));
        self.operations.push(json!({"op": "add", "path": format!("{place}/httpGet"), "value": http}));
        let seconds = u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1);
        // A little before the kubelet gives up, so that the failure is an answer.
        let timeout_ms = seconds.saturating_mul(900);
        self.probes.made.insert(path, bootstrap::Probe { port, timeout_ms, check });
    }

    fn let_through(&mut self, container: &Container, http: Option<&HTTPGetAction>) {
        let Some(http) = http.filter(|http| is_pod(http.host.as_deref()) && !is_https(http)) else { return };
        let Some(port) = number(container, http.port.clone()) else { return };
        let probe = HttpProbe { port, target: target(http) };
        if !self.probes.let_through.contains(&probe) {
            self.probes.let_through.push(probe);
        }
    }
}

/// The field that says what a probe does, its port, and what the proxy does instead; nothing for probes that stay. One
/// that names a host is not about this pod.
fn handled(probe: &Probe) -> Option<(&'static str, IntOrString, ProbeCheck)> {
    if let Some(tcp) = &probe.tcp_socket {
        return is_pod(tcp.host.as_deref()).then(|| ("tcpSocket", tcp.port.clone(), ProbeCheck::Tcp));
    }
    if let Some(grpc) = &probe.grpc {
        let service = grpc.service.clone().unwrap_or_default();
        return Some(("grpc", IntOrString::Int(grpc.port), ProbeCheck::Grpc { service }));
    }
    let http = probe.http_get.as_ref()?;
    (is_https(http) && is_pod(http.host.as_deref())).then(|| ("httpGet", http.port.clone(), https(http)))
}

fn https(http: &HTTPGetAction) -> ProbeCheck {
    let headers = http.http_headers.iter().flatten();
    let headers = headers.map(|header| (header.name.clone(), header.value.clone())).collect();
    ProbeCheck::Https { path: target(http), headers }
}

fn is_https(http: &HTTPGetAction) -> bool {
    http.scheme.as_deref() == Some("HTTPS")
}

fn is_pod(host: Option<&str>) -> bool {
    host.is_none_or(str::is_empty)
}

/// Path and query, as the kubelet sends them.
fn target(http: &HTTPGetAction) -> String {
    let path = http.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// As the kubelet resolves it: a number, the name of one of the container's ports, or a number in words.
fn number(container: &Container, port: IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name.as_str()));
            named.map_or_else(|| name.parse().ok(), |port| Some(port.container_port))?
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0)
}
