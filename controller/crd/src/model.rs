//! Facts: what was read, in our own words, nothing computed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use policy::ServicePort;
use policy::route::{Filter, Match};

use crate::port_set::PortSet;

/// One object of a kind the mesh reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A Namespace.
    Namespace(Namespace),
    /// A Service.
    Service(Service),
    /// A Gateway API HTTPRoute.
    HttpRoute(HttpRoute),
    /// Something with addresses: a Pod or an ExternalWorkload.
    Workload(Workload),
    /// Part of what Kubernetes says serves a Service.
    EndpointSlice(EndpointSlice),
    /// A Node.
    Node(Node),
}

/// What tells two objects apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Kind, as written in manifests.
    pub kind: &'static str,
    /// Namespace; empty for kinds that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// What every object has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Namespace; empty for kinds that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations of ours; those of others may be large and mean nothing here.
    pub annotations: BTreeMap<String, String>,
    /// Seconds since 1970; `None` where the manifest does not say (then it counts as the oldest).
    pub created: Option<i64>,
}

/// A Namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Name, labels, annotations.
    pub metadata: Metadata,
}

/// A Service; ports of other transports than TCP are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Name, labels.
    pub metadata: Metadata,
    /// Cluster addresses; none for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`: whoever may write the Service may write any address there.
    pub external_ips: Vec<IpAddr>,
    /// Addresses a load balancer has for it, as `status.loadBalancer` says, which the provider alone writes. None of a
    /// balancer that wants to see the traffic itself (`ipMode: Proxy`, `loadBalancerSourceRanges`).
    pub balancer_ips: Vec<IpAddr>,
    /// `internalTrafficPolicy: Local`: clients use endpoints on their own node only.
    pub node_local: bool,
    /// `sessionAffinity: ClientIP`: a client keeps its endpoint until it has not used it for this many seconds.
    pub affinity_seconds: Option<u32>,
    /// Labels a workload of the same namespace must have; empty selects nobody.
    pub selector: BTreeMap<String, String>,
    /// TCP ports.
    pub ports: Vec<PortOfService>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortOfService {
    /// Name, empty where there is none.
    pub name: String,
    /// Port of the Service.
    pub port: u16,
    /// Port of the workloads behind it.
    pub target: TargetPort,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

/// Which port of a workload a Service's port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// The same on every workload.
    Number(u16),
    /// The port of that name, which may differ between workloads.
    Name(String),
}

/// A machine, process or pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// Name, and the labels Services select by.
    pub metadata: Metadata,
    /// What it is.
    pub origin: Origin,
    /// Its addresses; a pod that is only just starting has none.
    pub addresses: Vec<IpAddr>,
    /// Its declared ports.
    pub ports: Vec<WorkloadPort>,
    /// Its service account; `None`: there is no proxy beside it.
    pub service_account: Option<String>,
    /// What runs it, for labels: a Deployment, a StatefulSet. Empty where that is the workload itself.
    pub owner: String,
    /// Zone, empty where unknown; that of a pod is its node's.
    pub zone: String,
    /// Node a pod is on; empty elsewhere.
    pub node: String,
    /// Shares its addresses with its node and everything else there, so that only a port tells what is dialled.
    pub host_network: bool,
    /// `false`: terminating but still serving.
    pub ready: bool,
    /// Ports its proxy takes for bytes whatever they are called.
    pub opaque_ports: PortSet,
    /// Ports that are not redirected to its proxy: dialled in plain.
    pub skipped_ports: PortSet,
}

/// What a workload is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A Pod; Services have it as endpoint where an EndpointSlice says so.
    Pod,
    /// An ExternalWorkload; Services have it as endpoint where their selector picks it.
    #[default]
    External,
}

/// A Node: where its pods are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name; labels are left out.
    pub metadata: Metadata,
    /// `topology.kubernetes.io/zone`, empty where unknown.
    pub zone: String,
}

/// Some of a Service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name; labels are left out.
    pub metadata: Metadata,
    /// The Service, in the same namespace.
    pub service: String,
    /// Ports that all of its endpoints have; other transports than TCP and ports without a number are left out.
    pub ports: Vec<WorkloadPort>,
    /// Who serves, or will serve, or still serves.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its first address: the others mean nothing (kube-proxy uses none of them either).
    pub address: IpAddr,
    /// The pod of the same namespace it is; `None` where it is none or nobody says.
    pub pod: Option<String>,
    /// Zone, empty where unknown.
    pub zone: String,
    /// Node it is on; empty where unknown, and where the pod says it.
    pub node: String,
    /// Whether it may be used.
    pub state: EndpointState,
    /// Whom it is meant for; `None` where nobody says, as a rule.
    pub hints: Option<Box<Hints>>,
}

/// Which clients an endpoint is meant for (`endpoints[].hints`), as Kubernetes decides for a Service with `trafficDistribution`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Names of nodes; empty where nobody says.
    pub nodes: Vec<String>,
    /// Zones; empty where nobody says.
    pub zones: Vec<String>,
}

/// Whether an endpoint may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointState {
    /// Yes.
    Ready,
    /// It ends but still serves: used where nobody is ready.
    Terminating,
    /// No.
    Unusable,
}

/// A declared port of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPort {
    /// Name, empty where there is none.
    pub name: String,
    /// Port.
    pub port: u16,
}

/// An HTTPRoute with at least one Service as parent.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRoute {
    /// Name, age.
    pub metadata: Metadata,
    /// Services it is attached to. Other parents (Gateways) are not ours.
    pub parents: Vec<ParentService>,
    /// Rules as written.
    pub rules: Vec<HttpRule>,
}

/// A Service a route is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentService {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// One port only; `None`: all of them.
    pub port: Option<u16>,
}

/// One rule of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRule {
    /// Alternatives; at least one.
    pub matches: Vec<Match>,
    /// Edits in order.
    pub filters: Vec<Filter>,
    /// Where to; `None`: not written, which means the parent itself (GEP-1294).
    pub backends: Option<Vec<BackendReference>>,
    /// `timeouts.request` in milliseconds.
    pub request_timeout_ms: Option<u64>,
    /// `timeouts.backendRequest` in milliseconds.
    pub backend_timeout_ms: Option<u64>,
    /// A filter we don't implement; requests that fall under the rule get an error, as Gateway API demands.
    pub unsupported: Option<String>,
}

/// One backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendReference {
    /// `None`: not a Service, or without a port.
    pub service: Option<ServicePort>,
    /// Share relative to the others, 1 where not written.
    pub weight: u32,
    /// Edits for this backend only.
    pub filters: Vec<Filter>,
}

impl Object {
    /// Kind, namespace and name.
    pub fn id(&self) -> ObjectId {
        let (kind, metadata) = match self {
            Self::Namespace(namespace) => ("Namespace", &namespace.metadata),
            Self::Service(service) => ("Service", &service.metadata),
            Self::HttpRoute(route) => ("HTTPRoute", &route.metadata),
            Self::Workload(workload) => (workload.origin.kind(), &workload.metadata),
            Self::EndpointSlice(slice) => ("EndpointSlice", &slice.metadata),
            Self::Node(node) => ("Node", &node.metadata),
        };
        ObjectId { kind, namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }
}

impl Origin {
    /// Kind, as written in manifests.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::External => "ExternalWorkload",
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.kind, self.name);
        }
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
