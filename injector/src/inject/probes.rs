//! Probes that the proxy makes for the kubelet.
//!
//! A tcpSocket probe that meets the redirect always succeeds: the proxy accepts, whether the app listens or not. HTTP,
//! HTTPS and gRPC probes carry no mesh identity: nobody can tell them from anybody's traffic, so that they would be
//! refused where plaintext is, or be a way in for everybody. All four are turned into HTTP probes on the proxy's health
//! port, which really asks the app. Exec stays, and so do lifecycle hooks: a hook is to happen once for each start or end
//! of its container, and what can be asked for on a port can be asked for by anybody.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::bootstrap::{self, HttpGet, ProbeCheck};
use proto::names;
use serde_json::{Value, json};

use super::again::is_ours;

/// What is changed in the pod, and what the proxy must know for it.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    pub(super) operations: Vec<Value>,
    /// By their path on the proxy's health port.
    pub(super) probes: BTreeMap<String, bootstrap::Probe>,
}

/// Rewrites the probes of app containers and of sidecars that are not ours, but for those that were rewritten before.
pub(super) fn rewrite(spec: &PodSpec) -> Rewritten {
    let mut rewritten = Rewritten::default();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("containers", spec.containers.as_slice()), ("initContainers", init)] {
        for (index, container) in containers.iter().enumerate() {
            if is_ours(&container.name) {
                continue;
            }
            for (kind, probe) in [
                ("liveness", &container.liveness_probe),
                ("readiness", &container.readiness_probe),
                ("startup", &container.startup_probe),
            ] {
                let Some(probe) = probe else { continue };
                let place = format!("/spec/{list}/{index}/{kind}Probe");
                rewritten.add(container, kind, probe, &place);
            }
        }
    }
    rewritten
}

impl Rewritten {
    fn add(&mut self, container: &Container, kind: &str, probe: &Probe, place: &str) {
        let Some((handler, port, check)) = handled(probe) else { return };
        // A port that nobody can find fails in the kubelet, with its words.
        let Some(port) = number(container, port) else { return };
        let path = format!("{}{}/{kind}", names::APP_PROBE_PREFIX, container.name);
        let http = json!({"path": path, "port": names::HEALTH_PORT, "scheme": "HTTP"});
        self.operations.push(json!({"op": "remove", "path": format!("{place}/{handler}")}));
        self.operations.push(json!({"op": "add", "path": format!("{place}/httpGet"), "value": http}));
        let seconds = u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1);
        // A little before the kubelet gives up, so that the failure is an answer.
        let timeout_ms = seconds.saturating_mul(1000) - ANSWERING;
        self.probes.insert(path, bootstrap::Probe { port, timeout_ms, check });
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
    let http = probe.http_get.as_ref().filter(|http| is_pod(http.host.as_deref()) && !is_rewritten(http))?;
    let check = if http.scheme.as_deref() == Some("HTTPS") { ProbeCheck::Https } else { ProbeCheck::Http };
    Some(("httpGet", http.port.clone(), check(get(http))))
}

fn is_rewritten(http: &HTTPGetAction) -> bool {
    http.port == IntOrString::Int(names::HEALTH_PORT.into())
        && http.path.as_deref().is_some_and(|path| path.starts_with(names::APP_PROBE_PREFIX))
}

fn get(http: &HTTPGetAction) -> HttpGet {
    let headers = http.http_headers.iter().flatten();
    let headers = headers.map(|header| (header.name.clone(), header.value.clone())).collect();
    HttpGet { path: target(http), headers }
}

fn is_pod(host: Option<&str>) -> bool {
    host.is_none_or(str::is_empty)
}

/// Path and query; the proxy asks for them as the kubelet would.
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

/// Milliseconds from the proxy's verdict to the kubelet.
const ANSWERING: u64 = 50;
