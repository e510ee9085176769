//! [`Config`]: what the injector writes into pods, from `config.yaml`, which the chart renders from its values.
//!
//! Read strictly: an unknown key or a value that cannot work is an error with the key's name. Whoever reads the file
//! again while running keeps the last good one.

use proto::names;
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;
use crate::settings::{self, Milliseconds};

/// The mesh's configuration, as far as pods carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Config {
    /// Trust domain of every identity.
    pub trust_domain: String,
    /// Name of the cluster, for labels of metrics; may be empty.
    pub cluster_name: String,
    /// Where the control plane is, as pods see it.
    pub control_plane: ControlPlane,
    /// Our images.
    pub image: Image,
    /// What every sidecar gets unless an annotation says otherwise.
    pub proxy: Proxy,
    /// Whether pods that asked for a proxy and can't have one are refused, rather than started without.
    pub refuse_uninjectable: bool,
}

/// Where the control plane is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ControlPlane {
    /// `host:port` of mesh-controller, one or many.
    pub controller_addresses: Vec<String>,
    /// `host:port` of mesh-identity, one or many.
    pub identity_addresses: Vec<String>,
}

/// Our images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Image {
    /// What stands before `/mesh-proxy`.
    pub registry: String,
    /// Tag of the images.
    pub tag: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: PullPolicy,
}

/// When the kubelet pulls an image, in Kubernetes' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "Kubernetes documents them")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// What every sidecar gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Proxy {
    /// Resources of the sidecar; the init container gets the same, which costs a pod nothing.
    pub resources: Resources,
    /// Log filter, such as `info` or `warn,proxy=debug`.
    pub log_level: String,
    /// Worker threads, 1-64.
    pub workers: usize,
    /// Time between the start of draining and telling clients to go elsewhere: a number with ms, s or m.
    pub drain_delay: String,
    /// Largest HTTP head accepted, in bytes (1 KiB to 16 MiB).
    pub max_head_bytes: usize,
    /// Ports, such as `22,9000-9010`, on which connections from outside go straight to the app.
    pub skip_inbound_ports: String,
    /// Ports to which apps' connections go straight.
    pub skip_outbound_ports: String,
    /// Networks, such as `10.0.0.0/8,fd00::/8`, to which apps' connections go straight.
    pub skip_outbound_subnets: String,
}

/// Requests and limits, as in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// What the scheduler sets aside.
    pub requests: Amounts,
    /// What the kernel holds it to; absent: nothing.
    pub limits: Amounts,
}

/// Amounts as Kubernetes quantities; absent or empty: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Amounts {
    /// CPU, such as `10m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory, such as `32Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML, or with unknown keys or types; the message names the key and the line.
    #[error("the mesh's configuration cannot be read: {0}; it comes from the chart's values")]
    Malformed(#[from] serde_yaml_ng::Error),
    /// A value that can't work.
    #[error("the mesh's configuration: {key} {problem}; it comes from the chart's values")]
    Invalid {
        /// Which key, with dots.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl Config {
    /// Reads and checks YAML.
    pub fn parse(yaml: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_yaml_ng::from_str(yaml)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let proxy = &self.proxy;
        let Resources { requests, limits } = &proxy.resources;
        let amounts = [
            ("proxy.resources.requests.cpu", &requests.cpu),
            ("proxy.resources.requests.memory", &requests.memory),
            ("proxy.resources.limits.cpu", &limits.cpu),
            ("proxy.resources.limits.memory", &limits.memory),
        ];
        for (key, amount) in amounts {
            let parsed = amount.as_deref().filter(|text| !text.is_empty()).map(str::parse::<Quantity>).transpose();
            parsed.map_err(|problem| invalid(key, problem))?;
        }
        for (key, addresses) in [
            ("controlPlane.controllerAddresses", &self.control_plane.controller_addresses),
            ("controlPlane.identityAddresses", &self.control_plane.identity_addresses),
        ] {
            if addresses.is_empty() || !addresses.iter().all(|address| is_host_port(address)) {
                return Err(invalid(key, "needs at least one host:port, and nothing else"));
            }
        }
        if self.trust_domain.is_empty() {
            return Err(invalid("trustDomain", "is empty"));
        }
        for (key, text) in [("image.registry", &self.image.registry), ("image.tag", &self.image.tag)] {
            settings::image(text).map_err(|problem| invalid(key, problem))?;
        }
        settings::log_filter(&proxy.log_level).map_err(|problem| invalid("proxy.logLevel", problem))?;
        settings::workers(&proxy.workers.to_string()).map_err(|problem| invalid("proxy.workers", problem))?;
        proxy.drain_delay.parse::<Milliseconds>().map_err(|problem| invalid("proxy.drainDelay", problem))?;
        if !(1024..=16 * 1024 * 1024).contains(&proxy.max_head_bytes) {
            return Err(invalid("proxy.maxHeadBytes", "must be 1024 to 16777216"));
        }
        for (key, text) in [
            ("proxy.skipInboundPorts", &proxy.skip_inbound_ports),
            ("proxy.skipOutboundPorts", &proxy.skip_outbound_ports),
        ] {
            settings::ports(text).map_err(|problem| invalid(key, problem))?;
        }
        settings::subnets(&proxy.skip_outbound_subnets)
            .map_err(|problem| invalid("proxy.skipOutboundSubnets", problem))?;
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trust_domain: names::TRUST_DOMAIN.to_owned(),
            cluster_name: String::new(),
            control_plane: ControlPlane::default(),
            image: Image::default(),
            proxy: Proxy::default(),
            refuse_uninjectable: false,
        }
    }
}

impl Default for ControlPlane {
    fn default() -> Self {
        let service = |account, port| vec![format!("{account}.{}.svc:{port}", names::SYSTEM_NAMESPACE)];
        Self {
            controller_addresses: service(names::CONTROLLER_ACCOUNT, names::CONTROLLER_PORT),
            identity_addresses: service(names::IDENTITY_ACCOUNT, names::IDENTITY_PORT),
        }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self {
            registry: names::IMAGE_REGISTRY.to_owned(),
            tag: env!("CARGO_PKG_VERSION").to_owned(),
            pull_policy: PullPolicy::IfNotPresent,
        }
    }
}

impl Default for Proxy {
    fn default() -> Self {
        let requests = Amounts { cpu: Some("10m".to_owned()), memory: Some("32Mi".to_owned()) };
        Self {
            resources: Resources { requests, limits: Amounts::default() },
            log_level: "info".to_owned(),
            workers: 1,
            drain_delay: "2s".to_owned(),
            max_head_bytes: 128 * 1024,
            skip_inbound_ports: String::new(),
            skip_outbound_ports: String::new(),
            skip_outbound_subnets: String::new(),
        }
    }
}

impl PullPolicy {
    /// As a container spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

fn invalid(key: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key, problem: problem.into() }
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains([' ', '/', ',']) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_means_the_defaults_and_they_are_good() {
        assert_eq!(Config::parse("{}").unwrap(), Config::default());
        let yaml = serde_yaml_ng::to_string(&Config::default()).unwrap();
        assert_eq!(Config::parse(&yaml).unwrap(), Config::default());
    }

    #[test]
    fn errors_name_the_key() {
        for (yaml, expected) in [
            ("trustdomain: a", "unknown field `trustdomain`"),
            ("proxy: {resources: {requests: {cpu: 10x}}}", "proxy.resources.requests.cpu \"10x\" is not"),
            ("proxy: {workers: 65}", "proxy.workers"),
            ("proxy: {drainDelay: soon}", "proxy.drainDelay"),
            ("proxy: {logLevel: loud}", "proxy.logLevel"),
            ("proxy: {skipInboundPorts: http}", "proxy.skipInboundPorts"),
            ("proxy: {skipOutboundSubnets: 10.0.0.0/33}", "proxy.skipOutboundSubnets"),
            ("image: {tag: 'a b'}", "image.tag"),
            ("image: {pullPolicy: Sometimes}", "Sometimes"),
            ("controlPlane: {identityAddresses: [identity]}", "controlPlane.identityAddresses"),
            ("- a", "cannot be read"),
        ] {
            let error = Config::parse(yaml).unwrap_err().to_string();
            assert!(error.contains(expected), "{yaml}: {error}");
        }
    }
}
