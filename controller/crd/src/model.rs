//! Facts: what was read, in our own words, nothing computed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use policy::ServicePort;
use policy::route::{Filter, Match};

/// One object of a kind the mesh reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A Namespace.
    Namespace(Namespace),
    /// A Service.
    Service(Service),
    /// A Gateway API HTTPRoute.
    HttpRoute(HttpRoute),
    /// Something with addresses: an ExternalWorkload.
    Workload(Workload),
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
    /// Annotations.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name, labels.
    pub metadata: Metadata,
    /// Cluster addresses; none for headless Services.
    pub cluster_ips: Vec<IpAddr>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Name, and the labels Services select by.
    pub metadata: Metadata,
    /// Its addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// Its declared ports.
    pub ports: Vec<WorkloadPort>,
    /// Its service account; `None`: there is no proxy beside it.
    pub service_account: Option<String>,
    /// Zone, empty where unknown.
    pub zone: String,
    /// `false`: terminating but still serving.
    pub ready: bool,
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
            Self::Workload(workload) => ("ExternalWorkload", &workload.metadata),
        };
        ObjectId { kind, namespace: metadata.namespace.clone(), name: metadata.name.clone() }
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
