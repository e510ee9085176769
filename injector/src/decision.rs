//! Whether a pod gets a proxy.
//!
//! The pod decides, else its namespace, else nobody: what did not opt in is left alone. On each, our own word
//! (`meshctl.io/inject: enabled|disabled`, as annotation or label) counts before Istio's spellings
//! (`sidecar.istio.io/inject: "true"|"false"` on pods, `istio-injection: enabled|disabled` on namespaces). The most
//! specific word decides alone: if it can't be understood the pod is not injected, rather than by a word further away.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::names;

use crate::quoted::{quoted, shortened};
use crate::settings::InvalidSetting;

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It gets a proxy, because of this word.
    Inject(Word),
    /// It does not.
    Skip(Skipped),
}

/// A word of somebody's about injection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Whose.
    pub on: On,
    /// Annotation or label.
    pub key: &'static str,
    /// As written.
    pub value: String,
}

/// Where a word stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// On the pod.
    Pod,
    /// On its namespace.
    Namespace,
}

/// A mesh that is not ours, in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherMesh {
    /// What it is called.
    pub mesh: &'static str,
    /// How that is known.
    pub sign: String,
    /// Whether somebody meant us: by Istio's own words they may well have meant Istio, which has the pod.
    pub is_surprising: bool,
}

/// Why a pod gets no proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skipped {
    /// Neither pod nor namespace says anything.
    NotAskedFor,
    /// Somebody says no.
    Disabled(Word),
    /// A word that means nothing.
    Invalid(Word),
    /// It shares the node's network: redirect rules would take the node's traffic.
    HostNetwork,
    /// Namespaces the cluster itself, or the mesh's control plane, lives in.
    SystemNamespace,
    /// It has our containers.
    AlreadyInjected,
    /// It has a container with a name of ours that is not what we would have put there.
    ContainerConflict {
        /// Which name.
        container: String,
    },
    /// Its settings for DNS can't find the control plane.
    NoClusterDns {
        /// Its dnsPolicy.
        policy: String,
    },
    /// A static pod's image in the API: nobody may change it.
    MirrorPod,
    /// Redirect rules are Linux's.
    NotLinux,
    /// One of its containers declares a port that the proxy needs.
    PortConflict {
        /// Which container.
        container: String,
        /// Which port.
        port: u16,
    },
    /// One of its containers runs as the proxy's user: its connections would be taken for the proxy's.
    UserConflict {
        /// Which container.
        container: String,
    },
    /// It has a volume with a name of ours.
    VolumeConflict {
        /// Which name.
        volume: String,
    },
    /// Another mesh's proxy is in it.
    OtherMesh(OtherMesh),
    /// An annotation whose value can't be used.
    Setting(InvalidSetting),
    /// Probes and settings take more room than one environment variable has.
    TooLarge {
        /// Bytes of the proxy's settings.
        bytes: usize,
    },
}

impl Skipped {
    /// All words of [`Skipped::reason`].
    pub const REASONS: [&str; 16] = [
        "not_asked_for",
        "disabled",
        "invalid_value",
        "host_network",
        "system_namespace",
        "already_injected",
        "container_conflict",
        "no_cluster_dns",
        "mirror_pod",
        "not_linux",
        "port_conflict",
        "user_conflict",
        "volume_conflict",
        "other_mesh",
        "invalid_setting",
        "too_large",
    ];

    /// The word for metrics and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAskedFor => "not_asked_for",
            Self::Disabled(_) => "disabled",
            Self::Invalid(_) => "invalid_value",
            Self::HostNetwork => "host_network",
            Self::SystemNamespace => "system_namespace",
            Self::AlreadyInjected => "already_injected",
            Self::ContainerConflict { .. } => "container_conflict",
            Self::NoClusterDns { .. } => "no_cluster_dns",
            Self::MirrorPod => "mirror_pod",
            Self::NotLinux => "not_linux",
            Self::PortConflict { .. } => "port_conflict",
            Self::UserConflict { .. } => "user_conflict",
            Self::VolumeConflict { .. } => "volume_conflict",
            Self::OtherMesh(_) => "other_mesh",
            Self::Setting(_) => "invalid_setting",
            Self::TooLarge { .. } => "too_large",
        }
    }

    /// Whether somebody who asked for a proxy should be told that there is none.
    pub fn is_surprising(&self) -> bool {
        match self {
            Self::NotAskedFor | Self::Disabled(_) | Self::SystemNamespace | Self::AlreadyInjected | Self::MirrorPod => {
                false
            }
            Self::OtherMesh(other) => other.is_surprising,
            _ => true,
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAskedFor => {
                write!(f, "neither the pod nor its namespace says {}: {ENABLED}", names::INJECT)
            }
            Self::Disabled(word) => write!(f, "{word} says no"),
            Self::Invalid(word) => {
                let (yes, no) = if word.key == ISTIO_POD { ("true", "false") } else { (ENABLED, DISABLED) };
                write!(f, "{word} is neither {yes} nor {no}")
            }
            Self::HostNetwork => f.write_str("pods with hostNetwork are never injected"),
            Self::SystemNamespace => {
                write!(f, "pods in {KUBE_SYSTEM} and {} are never injected", names::SYSTEM_NAMESPACE)
            }
            Self::AlreadyInjected => {
                write!(f, "the pod has its {} and {} already", names::PROXY_CONTAINER, names::INIT_CONTAINER)
            }
            Self::ContainerConflict { container } => {
                write!(f, "the pod has a container {container} that the mesh did not put there; rename or remove it")
            }
            Self::NoClusterDns { policy } => write!(
                f,
                "with dnsPolicy {policy} the proxy cannot find the control plane by its name; use ClusterFirst, or give \
                 dnsConfig the cluster's nameserver and its domain as a search"
            ),
            Self::MirrorPod => f.write_str("static pods cannot be changed through the API"),
            Self::NotLinux => f.write_str("only Linux pods can be injected"),
            Self::PortConflict { container, port } => {
                write!(
                    f,
                    "container {} uses port {port}, which the proxy needs; move it to another port",
                    shortened(container)
                )
            }
            Self::UserConflict { container } => write!(
                f,
                "container {} runs as user {}, which is the proxy's; give it another runAsUser",
                shortened(container),
                names::PROXY_UID
            ),
            Self::VolumeConflict { volume } => {
                write!(f, "the pod has a volume {volume} of its own; rename it")
            }
            Self::OtherMesh(OtherMesh { mesh, sign, .. }) => write!(
                f,
                "{mesh} has the pod ({sign}), and two proxies in one pod take each other's traffic: take it out of one mesh"
            ),
            Self::Setting(invalid) => invalid.fmt(f),
            Self::TooLarge { bytes } => {
                write!(
                    f,
                    "the proxy's settings would take {bytes} bytes, mostly paths and headers of HTTP probes: shorten them"
                )
            }
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} on the {}", self.key, quoted(&self.value), self.on)
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Namespace => "namespace",
        })
    }
}

/// Decides for one pod; `namespace` is the metadata of its Namespace.
pub fn decide(pod: &Pod, namespace: &ObjectMeta) -> Decision {
    if namespace.name.as_deref().is_some_and(is_system) {
        return Decision::Skip(Skipped::SystemNamespace);
    }
    if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
        return Decision::Skip(Skipped::HostNetwork);
    }
    let word = word(On::Pod, &pod.metadata).or_else(|| word(On::Namespace, namespace));
    let Some(word) = word else { return Decision::Skip(Skipped::NotAskedFor) };
    match word.yes() {
        Some(true) => Decision::Inject(word),
        Some(false) => Decision::Skip(Skipped::Disabled(word)),
        None => Decision::Skip(Skipped::Invalid(word)),
    }
}

/// What a namespace says by itself, whatever its pods say: the value its label should have.
pub fn of_namespace(namespace: &ObjectMeta) -> Option<Word> {
    word(On::Namespace, namespace)
}

/// Words that say the opposite of the one that was followed, one sentence each.
pub fn overruled(followed: &Word, pod: &Pod, namespace: &ObjectMeta) -> Vec<String> {
    let mirrored = namespace.annotations.as_ref().is_some_and(|map| map.contains_key(names::INJECT_MIRRORED));
    words(On::Pod, &pod.metadata)
        // A namespace's mirrored label is no word of anybody's.
        .chain(words(On::Namespace, namespace).filter(|word| !mirrored || word.key != names::INJECT))
        .filter(|word| word.yes().is_some() && word.yes() != followed.yes())
        .map(|word| format!("{followed} counts, {word} does not"))
        .collect()
}

/// Whether pods of a namespace are left alone whatever anybody says.
pub fn is_system(namespace: &str) -> bool {
    [KUBE_SYSTEM, names::SYSTEM_NAMESPACE].contains(&namespace)
}

impl Word {
    /// Yes or no, or neither.
    pub fn yes(&self) -> Option<bool> {
        if self.key == ISTIO_POD { boolean(&self.value) } else { switch(&self.value) }
    }
}

/// The word that counts of those on one object.
fn word(on: On, metadata: &ObjectMeta) -> Option<Word> {
    words(on, metadata).next()
}

/// All of them, the one that counts first.
fn words(on: On, metadata: &ObjectMeta) -> impl Iterator<Item = Word> {
    let (annotations, labels) = (metadata.annotations.as_ref(), metadata.labels.as_ref());
    // Istio reads labels before annotations, and on namespaces labels only.
    let places: [(Option<&BTreeMap<String, String>>, &'static str); 4] = match on {
        On::Pod => {
            [(annotations, names::INJECT), (labels, names::INJECT), (labels, ISTIO_POD), (annotations, ISTIO_POD)]
        }
        On::Namespace => {
            [(annotations, names::INJECT), (labels, names::INJECT), (labels, ISTIO_NAMESPACE), (None, ISTIO_NAMESPACE)]
        }
    };
    places.into_iter().filter_map(move |(map, key)| {
        let value = map?.get(key)?;
        Some(Word { on, key, value: value.clone() })
    })
}

fn switch(value: &str) -> Option<bool> {
    match value {
        ENABLED => Some(true),
        DISABLED => Some(false),
        _ => None,
    }
}

/// As Istio reads it.
fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "y" | "yes" | "on" => Some(true),
        "false" | "0" | "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

const ENABLED: &str = "enabled";
const DISABLED: &str = "disabled";
const KUBE_SYSTEM: &str = "kube-system";
const ISTIO_POD: &str = "sidecar.istio.io/inject";
/// Istio's word on a namespace, a label.
pub(crate) const ISTIO_NAMESPACE: &str = "istio-injection";

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(name: &str, annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> ObjectMeta {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(map(annotations)),
            labels: Some(map(labels)),
            ..ObjectMeta::default()
        }
    }

    type Pairs<'p> = &'p [(&'p str, &'p str)];

    fn outcome(pod: (Pairs<'_>, Pairs<'_>), namespace: (Pairs<'_>, Pairs<'_>)) -> &'static str {
        let pod = Pod { metadata: metadata("p", pod.0, pod.1), ..Pod::default() };
        match decide(&pod, &metadata("shop", namespace.0, namespace.1)) {
            Decision::Inject(word) if word.on == On::Pod => "by pod",
            Decision::Inject(_) => "by namespace",
            Decision::Skip(skipped) => skipped.reason(),
        }
    }

    #[test]
    fn the_pod_wins_over_its_namespace_and_ours_over_istios() {
        let none: Pairs<'_> = &[];
        let ours_on: Pairs<'_> = &[("meshctl.io/inject", "enabled")];
        let ours_off: Pairs<'_> = &[("meshctl.io/inject", "disabled")];
        let istio_on: Pairs<'_> = &[("sidecar.istio.io/inject", "true")];
        let istio_off: Pairs<'_> = &[("sidecar.istio.io/inject", "false")];
        let namespace_on: Pairs<'_> = &[("istio-injection", "enabled")];
        let namespace_off: Pairs<'_> = &[("istio-injection", "disabled")];
        let wrong: Pairs<'_> = &[("meshctl.io/inject", "yes")];
        let cases = [
            ((none, none), (none, none), "not_asked_for"),
            ((ours_on, none), (none, none), "by pod"),
            ((none, ours_on), (none, none), "by pod"),
            ((none, none), (ours_on, none), "by namespace"),
            ((none, none), (none, ours_on), "by namespace"),
            ((ours_off, none), (ours_on, none), "disabled"),
            ((ours_on, none), (ours_off, none), "by pod"),
            ((ours_on, ours_off), (none, none), "by pod"),
            ((none, istio_on), (none, none), "by pod"),
            ((istio_on, none), (none, none), "by pod"),
            ((istio_off, istio_on), (none, none), "by pod"),
            ((istio_on, ours_off), (none, none), "disabled"),
            ((none, istio_off), (ours_on, none), "disabled"),
            ((none, none), (none, namespace_on), "by namespace"),
            ((none, none), (namespace_on, none), "not_asked_for"),
            ((none, none), (none, namespace_off), "disabled"),
            ((none, none), (ours_off, namespace_on), "disabled"),
            ((wrong, none), (ours_on, none), "invalid_value"),
            ((none, none), (wrong, none), "invalid_value"),
            ((ours_on, none), (wrong, none), "by pod"),
        ];
        for (pod, namespace, expected) in cases {
            assert_eq!(outcome(pod, namespace), expected, "{pod:?} {namespace:?}");
        }
    }

    #[test]
    fn never_in_kube_system_nor_on_the_nodes_network() {
        let on = [("meshctl.io/inject", "enabled")];
        let mut pod = Pod { metadata: metadata("p", &on, &[]), ..Pod::default() };
        let skipped = decide(&pod, &metadata("kube-system", &on, &[]));
        assert_eq!(skipped, Decision::Skip(Skipped::SystemNamespace));
        pod.spec = Some(k8s_openapi::api::core::v1::PodSpec { host_network: Some(true), ..Default::default() });
        assert_eq!(decide(&pod, &metadata("shop", &on, &[])), Decision::Skip(Skipped::HostNetwork));
    }

    #[test]
    fn reasons_are_sentences_with_the_word_in_them() {
        let pod = Pod { metadata: metadata("p", &[("meshctl.io/inject", "ture")], &[]), ..Pod::default() };
        let Decision::Skip(skipped) = decide(&pod, &metadata("shop", &[], &[])) else { panic!() };
        assert_eq!(skipped.to_string(), "meshctl.io/inject: \"ture\" on the pod is neither enabled nor disabled");
    }
}
