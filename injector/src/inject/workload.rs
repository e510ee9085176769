//! Whose pod it is, and the bootstrap of its proxy.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::bootstrap::{Ports, Probe, Upstream, Workload, spiffe_id};
use proto::{Bootstrap, names};

use super::sidecar::TOKEN_FILE;
use crate::config::Config;
use crate::settings::Settings;

/// The workload a pod belongs to: the Deployment behind its ReplicaSet, the CronJob behind its Job, or else its owner;
/// a pod that nobody owns stands for itself.
///
/// The names of ReplicaSets and Jobs tell their owners', as Kubernetes makes them; asking the API server for every pod
/// would make it wait for us and us for it.
pub fn workload_name(pod: &ObjectMeta) -> String {
    let owner = pod.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else {
        let prefix = || pod.generate_name.as_deref().unwrap_or_default().trim_end_matches('-').to_owned();
        return pod.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(prefix);
    };
    let parent = match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = pod.labels.as_ref().and_then(|labels| labels.get(POD_TEMPLATE_HASH));
            hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
        }
        "Job" => owner.name.rsplit_once('-').and_then(|(name, minute)| {
            // Minutes since 1970.
            (minute.len() >= 8 && minute.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
        }),
        _ => None,
    };
    parent.filter(|name| !name.is_empty()).unwrap_or(&owner.name).to_owned()
}

pub(super) fn bootstrap(
    pod: &Pod,
    namespace: &ObjectMeta,
    config: &Config,
    settings: &Settings,
    probes: BTreeMap<String, Probe>,
    bundle: Option<&str>,
) -> Bootstrap {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let label = |names: [&str; 2]| {
        let labels = pod.metadata.labels.as_ref();
        names.iter().find_map(|name| labels?.get(*name)).cloned().unwrap_or_default()
    };
    let upstream = |addresses: &[String], account: &str| Upstream {
        addresses: addresses.to_vec(),
        id: spiffe_id(&config.trust_domain, names::SYSTEM_NAMESPACE, account),
    };
    Bootstrap {
        trust_domain: config.trust_domain.clone(),
        workload: Workload {
            name: String::new(),
            namespace: namespace.name.clone().unwrap_or_default(),
            service_account: account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
            addresses: Vec::new(),
            owner: workload_name(&pod.metadata),
            app: label(["app", "app.kubernetes.io/name"]),
            version: label(["version", "app.kubernetes.io/version"]),
            cluster: config.cluster_name.clone(),
        },
        identity: upstream(&config.control_plane.identity_addresses, names::IDENTITY_ACCOUNT),
        controller: upstream(&config.control_plane.controller_addresses, names::CONTROLLER_ACCOUNT),
        token_file: Path::new(names::TOKEN_MOUNT).join(TOKEN_FILE),
        bundle_file: Some(Path::new(names::BUNDLE_MOUNT).join(names::BUNDLE_KEY)),
        // One that is too large for the environment comes by the file.
        bundle: bundle.filter(|bundle| bundle.len() <= LARGEST_BUNDLE).map(str::to_owned),
        state_directory: Some(names::STATE_MOUNT.into()),
        admin_socket: None,
        ports: Ports::default(),
        socket_mark: None,
        loopback_ports: settings.loopback_ports.clone(),
        workers: settings.workers,
        max_head_bytes: config.proxy.max_head_bytes,
        log: settings.log_level.clone(),
        drain_delay_ms: settings.drain_delay.0,
        probes,
    }
}

const POD_TEMPLATE_HASH: &str = "pod-template-hash";
const LARGEST_BUNDLE: usize = 32 * 1024;
