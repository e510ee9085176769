//! Our two containers and their volumes, as a Pod has them.

use proto::names;
use serde_json::{Map, Value, json};

use crate::config::{Amounts, Config};
use crate::settings::Settings;

/// The init container that writes the redirect rules, and ends.
pub(super) fn init_container(config: &Config, settings: &Settings) -> Value {
    let mut arguments = vec!["init".to_owned()];
    for (flag, value) in [
        ("--skip-inbound-ports", &settings.skip_inbound_ports),
        ("--skip-outbound-ports", &settings.skip_outbound_ports),
        ("--skip-outbound-subnets", &settings.skip_outbound_subnets),
    ] {
        let value: String = value.split_whitespace().collect();
        if !value.is_empty() {
            arguments.push(format!("{flag}={value}"));
        }
    }
    json!({
        "name": names::INIT_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": config.image.pull_policy.as_str(),
        "args": arguments,
        "resources": resources(settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        // Root, because container runtimes give an added capability to other users' programs only in name. Nothing else
        // of root's is left.
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// The sidecar: an init container that goes on, so that it starts before the app and ends after it.
///
/// Its readiness is part of the pod's, on purpose: while the proxy is away, nothing that is sent to the pod would arrive,
/// and other pods of the Service should be chosen.
pub(super) fn proxy_container(config: &Config, settings: &Settings, bootstrap: &str) -> Value {
    json!({
        "name": names::PROXY_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": config.image.pull_policy.as_str(),
        "args": ["run"],
        "restartPolicy": "Always",
        "env": [
            {"name": names::POD_NAME_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": names::POD_IPS_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
            // After those it refers to.
            {"name": names::BOOTSTRAP_VARIABLE, "value": bootstrap},
        ],
        "ports": [{"name": "mesh-metrics", "containerPort": names::HEALTH_PORT, "protocol": "TCP"}],
        "resources": resources(settings),
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": names::HEALTH_PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        // The first holds the app's start until there are certificate and configuration; the second runs when the app
        // gets its SIGTERM, and returns at once.
        "lifecycle": {
            "postStart": {"exec": {"command": [names::PROXY_PROGRAM, "wait"]}},
            "preStop": {"exec": {"command": [names::PROXY_PROGRAM, "drain"]}},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        // What Pod Security Standards call restricted.
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": names::PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": names::PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": names::STATE_VOLUME, "mountPath": names::STATE_MOUNT},
            {"name": names::TOKEN_VOLUME, "mountPath": names::TOKEN_MOUNT, "readOnly": true},
            {"name": names::BUNDLE_VOLUME, "mountPath": names::BUNDLE_MOUNT, "readOnly": true},
        ],
    })
}

/// What the sidecar mounts. The token is our own, so it does not matter whether the pod asked for one.
pub(super) fn volumes() -> [Value; 3] {
    [
        json!({"name": names::STATE_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
        json!({"name": names::TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": {
            "audience": names::TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": TOKEN_FILE,
        }}]}}),
        json!({"name": names::BUNDLE_VOLUME, "configMap": {"name": names::BUNDLE_CONFIG_MAP, "optional": true}}),
    ]
}

fn resources(settings: &Settings) -> Value {
    let mut resources = Map::new();
    for (name, Amounts { cpu, memory }) in [("requests", &settings.requests), ("limits", &settings.limits)] {
        let amounts: Map<String, Value> = [("cpu", cpu), ("memory", memory)]
            .into_iter()
            .filter_map(|(name, amount)| Some((name.to_owned(), amount.as_deref()?.into())))
            .collect();
        if !amounts.is_empty() {
            resources.insert(name.to_owned(), amounts.into());
        }
    }
    resources.into()
}

/// In [`names::TOKEN_MOUNT`].
pub(super) const TOKEN_FILE: &str = "token";
