//! An object of an installation: what it is called, where it goes, and when its turn is.

use std::fmt;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `group/version`, or `v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace, for what has one.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// An object as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Which.
    pub key: Key,
    /// All of it.
    pub value: Value,
}

impl Object {
    /// `None` for what has no kind or name.
    pub fn new(value: Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let key = Key {
            api_version: text(&value["apiVersion"])?,
            kind: text(&value["kind"])?,
            namespace: text(&value["metadata"]["namespace"]),
            name: text(&value["metadata"]["name"])?,
        };
        Some(Self { key, value })
    }

    /// Place in the order of an installation: each finds what it needs, and the webhooks come when somebody answers them.
    pub fn rank(&self) -> usize {
        ORDER.iter().position(|kind| *kind == self.key.kind).unwrap_or(ORDER.len() - 2)
    }
}

impl Key {
    /// How the API server calls its kind.
    pub fn resource(&self) -> ApiResource {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &self.kind))
    }

    /// The way to it.
    pub fn api(&self, client: &Client) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource()),
            None => Api::all_with(client.clone(), &self.resource()),
        }
    }

    /// One line of a [`super::record::Record`].
    pub fn to_line(&self) -> String {
        let Self { api_version, kind, namespace, name } = self;
        format!("{api_version} {kind} {} {name}", namespace.as_deref().unwrap_or("-"))
    }

    /// Reads what [`Self::to_line`] wrote.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (api_version, kind, namespace, name) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Self { api_version, kind, namespace: Some(namespace).filter(|namespace| namespace != "-"), name })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Kinds in the order they are applied; others come before the last.
const ORDER: [&str; 14] = [
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
    "Deployment",
    "",
    "MutatingWebhookConfiguration",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_read_back() {
        for value in [
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "a", "name": "b"}}),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}),
        ] {
            let key = Object::new(value).unwrap().key;
            assert_eq!(Key::from_line(&key.to_line()), Some(key));
        }
        assert_eq!(Key::from_line("v1 Namespace"), None);
        assert_eq!(Object::new(json!({"kind": "Namespace"})), None);
    }

    #[test]
    fn plurals_are_the_api_servers() {
        for (api_version, kind, plural) in [
            ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
            ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
            ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            ("v1", "ServiceAccount", "serviceaccounts"),
            ("gateway.networking.x-k8s.io/v1alpha1", "XMesh", "xmeshes"),
        ] {
            let key = Key { api_version: api_version.into(), kind: kind.into(), namespace: None, name: String::new() };
            assert_eq!(key.resource().plural, plural);
        }
    }
}
