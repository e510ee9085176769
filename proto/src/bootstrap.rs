//! [`Bootstrap`]: the typed JSON the injector (or the demo, or a test) writes into one environment variable, and
//! the proxy reads strictly: an unknown field is an error, so a typing mistake never becomes a silent default.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::names;

/// Where a proxy starts from. Everything that can change while it runs comes by discovery instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Trust domain of the workload's own identity.
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
    /// Who this proxy stands beside.
    pub workload: Workload,
    /// Certificate authority.
    pub identity: Upstream,
    /// Controllers; one is chosen at random, the others follow when it fails.
    pub controller: Upstream,
    /// File with the join or ServiceAccount token; read anew for every certificate.
    pub token_file: PathBuf,
    /// File with the trust bundle, watched; may be missing.
    #[serde(default)]
    pub bundle_file: Option<PathBuf>,
    /// First-contact copy of the trust bundle, PEM; in force until the file or discovery says otherwise.
    #[serde(default)]
    pub bundle: Option<String>,
    /// Directory for key, certificate and last picture, so that a restart needs nobody.
    #[serde(default)]
    pub state_directory: Option<PathBuf>,
    /// Unix socket that serves the admin endpoints besides the loopback port.
    #[serde(default)]
    pub admin_socket: Option<PathBuf>,
    /// Listening ports.
    #[serde(default)]
    pub ports: Ports,
    /// Mark for the proxy's own sockets (`SO_MARK`), where the user id cannot tell them apart.
    #[serde(default)]
    pub socket_mark: Option<u32>,
    /// Application ports that listen on loopback only.
    #[serde(default)]
    pub loopback_ports: Vec<u16>,
    /// Worker threads, 1-64.
    #[serde(default = "default_workers")]
    pub workers: usize,
    /// Largest HTTP head accepted, in bytes (1 KiB to 16 MiB).
    #[serde(default = "default_max_head_bytes")]
    pub max_head_bytes: usize,
    /// Log filter, as in `info,proxy=debug`.
    #[serde(default = "default_log")]
    pub log: String,
    /// Milliseconds between the start of draining and `Connection: close`/GOAWAY, for endpoint removal to spread.
    #[serde(default = "default_drain_delay_ms")]
    pub drain_delay_ms: u64,
    /// Probes the proxy makes for the kubelet, by the path on the health port that asks for them.
    #[serde(default)]
    pub probes: BTreeMap<String, Probe>,
}

/// A probe of the application that would say nothing, or be refused, if the kubelet's own connection met the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The application's port.
    pub port: u16,
    /// Milliseconds after which it has failed.
    pub timeout_ms: u64,
    /// What is done on the port.
    pub check: ProbeCheck,
}

/// What a probe does, as the Pod's own fields of these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ProbeCheck {
    /// Connects.
    Tcp,
    /// Asks `grpc.health.v1.Health` about a service, over plaintext HTTP/2.
    Grpc {
        /// Name of the service; empty asks about the whole server.
        service: String,
    },
    /// GET.
    Http(HttpGet),
    /// GET over TLS; the server's certificate is anybody's, as for the kubelet.
    Https(HttpGet),
}

/// What an HTTP probe asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGet {
    /// Path and query.
    pub path: String,
    /// Headers to send, in order.
    pub headers: Vec<(String, String)>,
}

/// The workload a proxy stands beside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Pod or machine name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service account: half of the identity.
    pub service_account: String,
    /// Every address of the pod; the first is the one the application is dialled on. Read from a list or from one
    /// comma-separated text, which is what the kubelet puts in for `$(MESH_POD_IPS)`.
    #[serde(deserialize_with = "list_or_text")]
    pub addresses: Vec<IpAddr>,
    /// Deployment or the like, for labels.
    #[serde(default)]
    pub owner: String,
    /// `app` label.
    #[serde(default)]
    pub app: String,
    /// `version` label.
    #[serde(default)]
    pub version: String,
    /// Cluster name, for labels.
    #[serde(default)]
    pub cluster: String,
}

/// A control-plane service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// `host:port`, one or many; host is a name or an address.
    pub addresses: Vec<String>,
    /// SPIFFE id the server must show.
    pub id: String,
}

/// Listening ports of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    /// Redirected connections of the application.
    pub outbound: u16,
    /// Redirected connections of others.
    pub inbound: u16,
    /// Admin, on loopback.
    pub admin: u16,
    /// Health and metrics, on every address.
    pub health: u16,
}

/// Why a bootstrap was refused.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Not the JSON we expect.
    #[error("{variable} is not valid: {0}; it is written by the injector or by meshctl demo", variable = names::BOOTSTRAP_VARIABLE)]
    Malformed(#[from] serde_json::Error),
    /// JSON, but with a value that cannot work.
    #[error("{variable}: {field} {problem}", variable = names::BOOTSTRAP_VARIABLE)]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Bootstrap {
    /// Reads and checks the JSON.
    pub fn parse(json: &str) -> Result<Self, BootstrapError> {
        let bootstrap: Self = serde_json::from_str(json)?;
        bootstrap.check()?;
        Ok(bootstrap)
    }

    /// The JSON that [`Bootstrap::parse`] reads.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and paths made of them always encode")
    }

    /// The JSON for the environment of a Pod's container, in which the kubelet puts name and addresses when the pod
    /// starts: whoever writes it knows neither. Any other `$` is written so that the kubelet leaves it as it is.
    pub fn to_pod_json(&self) -> String {
        let mut json = serde_json::to_value(self).expect("strings, numbers and paths made of them always encode");
        let (name, addresses) = (reference(names::POD_NAME_VARIABLE), reference(names::POD_IPS_VARIABLE));
        json["workload"]["name"] = name.as_str().into();
        json["workload"]["addresses"] = addresses.as_str().into();
        let mut text = json.to_string().replace('$', "$$");
        for reference in [name, addresses] {
            text = text.replace(&format!("${reference}"), &reference);
        }
        text
    }

    /// SPIFFE id of the workload.
    pub fn workload_id(&self) -> String {
        spiffe_id(&self.trust_domain, &self.workload.namespace, &self.workload.service_account)
    }

    fn check(&self) -> Result<(), BootstrapError> {
        let invalid = |field, problem: &str| Err(BootstrapError::Invalid { field, problem: problem.to_owned() });
        if self.workload.addresses.is_empty() {
            return invalid("workload.addresses", "is empty; name at least one address of the pod");
        }
        if self.workload.namespace.is_empty() || self.workload.service_account.is_empty() {
            return invalid("workload", "needs both namespace and service_account");
        }
        if !(1..=64).contains(&self.workers) {
            return invalid("workers", "must be 1 to 64");
        }
        if !(1024..=16 * 1024 * 1024).contains(&self.max_head_bytes) {
            return invalid("max_head_bytes", "must be 1024 to 16777216");
        }
        for (field, upstream) in [("identity", &self.identity), ("controller", &self.controller)] {
            if upstream.addresses.is_empty() {
                return invalid(field, "has no address; give host:port");
            }
            if let Some(bad) = upstream.addresses.iter().find(|a| !is_host_port(a)) {
                return Err(BootstrapError::Invalid { field, problem: format!("{bad:?} is not host:port") });
            }
        }
        if let Some((path, _)) = self.probes.iter().find(|(path, _)| !path.starts_with(names::APP_PROBE_PREFIX)) {
            let problem = format!("{path:?} does not begin with {}", names::APP_PROBE_PREFIX);
            return Err(BootstrapError::Invalid { field: "probes", problem });
        }
        let Ports { outbound, inbound, admin, health } = self.ports;
        let mut ports = [outbound, inbound, admin, health].map(u32::from).to_vec();
        ports.retain(|port| *port != 0);
        ports.sort_unstable();
        if ports.windows(2).any(|pair| pair[0] == pair[1]) {
            return invalid("ports", "must differ from each other");
        }
        Ok(())
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            outbound: names::OUTBOUND_PORT,
            inbound: names::INBOUND_PORT,
            admin: names::ADMIN_PORT,
            health: names::HEALTH_PORT,
        }
    }
}

/// `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
pub fn spiffe_id(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}

/// How the value of one variable is written into another, for the kubelet.
fn reference(variable: &str) -> String {
    format!("$({variable})")
}

fn list_or_text<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ListOrText {
        List(Vec<IpAddr>),
        Text(String),
    }
    match ListOrText::deserialize(from)? {
        ListOrText::List(addresses) => Ok(addresses),
        ListOrText::Text(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            let address =
                |part: &str| part.parse().map_err(|_| D::Error::custom(format!("{part:?} is not an address")));
            parts.map(address).collect()
        }
    }
}

fn is_host_port(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains([':', '/', ' ']) && port.parse::<u16>().is_ok_and(|p| p != 0)
}

fn default_trust_domain() -> String {
    names::TRUST_DOMAIN.to_owned()
}

fn default_workers() -> usize {
    1
}

fn default_max_head_bytes() -> usize {
    128 * 1024
}

fn default_log() -> String {
    "info".to_owned()
}

fn default_drain_delay_ms() -> u64 {
    2000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> serde_json::Value {
        serde_json::json!({
            "workload": {"name": "web-1", "namespace": "shop", "service_account": "web", "addresses": ["10.0.0.1"]},
            "identity": {"addresses": ["identity:8444"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-identity"},
            "controller": {"addresses": ["[fd00::1]:8443"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller"},
            "token_file": "/token",
        })
    }

    #[test]
    fn defaults_fill_in_and_round_trip() {
        let bootstrap = Bootstrap::parse(&minimal().to_string()).unwrap();
        assert_eq!(bootstrap.ports.outbound, 15001);
        assert_eq!(bootstrap.max_head_bytes, 131_072);
        assert_eq!(bootstrap.workload_id(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(Bootstrap::parse(&bootstrap.to_json()).unwrap(), bootstrap);
    }

    #[test]
    fn a_pods_own_values_come_from_the_kubelet() {
        let mut bootstrap = Bootstrap::parse(&minimal().to_string()).unwrap();
        bootstrap.log = "$(HOME)=debug".to_owned();
        let check = ProbeCheck::Grpc { service: "a$b".to_owned() };
        bootstrap.probes.insert("/app-probe/web/liveness".to_owned(), Probe { port: 80, timeout_ms: 1000, check });
        let json = bootstrap.to_pod_json();
        // As the kubelet does: a variable's value for its reference, and one dollar for two.
        let substituted = json
            .replace("$(MESH_POD_NAME)", "web-2")
            .replace("$(MESH_POD_IPS)", "10.0.0.2, fd00::2")
            .replace("$$", "$");
        let there = Bootstrap::parse(&substituted).unwrap();
        assert_eq!(there.workload.name, "web-2");
        assert_eq!(there.workload.addresses, ["10.0.0.2", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!((&there.log, &there.probes), (&bootstrap.log, &bootstrap.probes));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_field() {
        let cases: [(&str, serde_json::Value, &str); 9] = [
            ("/workers", 0.into(), "workers"),
            ("/max_head_bytes", 10.into(), "max_head_bytes"),
            ("/identity/addresses", serde_json::json!(["identity"]), "identity"),
            ("/controller/addresses", serde_json::json!([]), "controller"),
            ("/workload/addresses", serde_json::json!([]), "workload.addresses"),
            ("/workload/addresses", "10.0.0.1,web".into(), "web"),
            ("/probes", serde_json::json!({"/ready": {"port": 1, "timeout_ms": 1, "check": "tcp"}}), "/ready"),
            ("/ports", serde_json::json!({"inbound": 15001}), "ports"),
            ("/typo", 1.into(), "typo"),
        ];
        for (pointer, value, expected) in cases {
            let mut json = minimal();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap()[field] = value;
            let error = Bootstrap::parse(&json.to_string()).unwrap_err().to_string();
            assert!(error.contains(expected), "{pointer}: {error}");
        }
    }
}
