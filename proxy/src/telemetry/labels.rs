//! Labels: Istio's names, and which of our facts fill them.
//!
//! Every value comes from Kubernetes objects or closed sets: never an authority, a path or an address, so the number
//! of series follows the number of workloads and routes.

use std::fmt::Write as _;
use std::sync::Arc;

/// Which way traffic passes this proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Others call our application.
    Inbound,
    /// Our application calls others.
    Outbound,
}

/// Istio's `reporter`: who saw the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's proxy.
    Source,
    /// The server's proxy.
    Destination,
}

/// Istio's `connection_security_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecurityPolicy {
    /// Mesh TLS, both identities verified.
    MutualTls,
    /// Plaintext, or the application's own TLS.
    None,
    /// No connection came about.
    Unknown,
}

/// Istio's `request_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    /// HTTP/1 and HTTP/2.
    Http,
    /// HTTP/2 with `content-type: application/grpc`.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

/// What came of a request that was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryOutcome {
    /// A later try succeeded.
    Succeeded,
    /// The last try failed as well.
    Failed,
    /// A retry was wanted and a budget or limit refused it.
    Refused,
}

/// One side of an edge. Empty strings are shown as `unknown`, as Istio does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PeerLabels {
    /// Deployment or the like.
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// SPIFFE id, from the certificate alone.
    pub principal: Arc<str>,
    /// `app` label.
    pub app: Arc<str>,
    /// `version` label.
    pub version: Arc<str>,
    /// Cluster name.
    pub cluster: Arc<str>,
}

/// The Service that was called, if one was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ServiceLabels {
    /// Full name: `web.shop.svc.cluster.local`.
    pub host: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

/// Who calls whom, seen from where, how protected.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EdgeLabels {
    /// Which end this proxy is.
    pub reporter: Reporter,
    /// The caller.
    pub source: Arc<PeerLabels>,
    /// The called.
    pub destination: Arc<PeerLabels>,
    /// The Service that was called.
    pub service: Arc<ServiceLabels>,
    /// How the connection between the proxies is protected.
    pub security: SecurityPolicy,
}

/// Labels of a request series: all but those of the response.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestLabels {
    /// Who calls whom.
    pub edge: EdgeLabels,
    /// HTTP or gRPC.
    pub protocol: RequestProtocol,
    /// `namespace/name` of the route that matched (label `mesh_route`); none where no route did.
    pub route: Option<Arc<str>>,
}

impl Direction {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    pub(crate) const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];
}

impl RetryOutcome {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    pub(crate) const ALL: [Self; 3] = [Self::Succeeded, Self::Failed, Self::Refused];
}

impl PeerLabels {
    fn overflow() -> Self {
        let word: Arc<str> = OVERFLOW.into();
        Self {
            workload: word.clone(),
            namespace: word.clone(),
            principal: word.clone(),
            app: word.clone(),
            version: word.clone(),
            cluster: word,
        }
    }

    fn write(&self, side: &str, out: &mut String) {
        let canonical = if self.app.is_empty() { &self.workload } else { &self.app };
        let revision = if self.version.is_empty() { "latest" } else { &self.version };
        for (name, value) in [
            ("workload", &*self.workload),
            ("workload_namespace", &*self.namespace),
            ("principal", &*self.principal),
            ("app", &*self.app),
            ("version", &*self.version),
            ("cluster", &*self.cluster),
            ("canonical_service", canonical),
            ("canonical_revision", revision),
        ] {
            let _ = write!(out, "{side}_");
            label(out, name, value);
        }
    }
}

impl EdgeLabels {
    /// The bucket that takes what no longer fits the series budget.
    pub(crate) fn overflow(reporter: Reporter) -> Self {
        let word: Arc<str> = OVERFLOW.into();
        let peer = Arc::new(PeerLabels::overflow());
        Self {
            reporter,
            source: peer.clone(),
            destination: peer,
            service: Arc::new(ServiceLabels { host: word.clone(), name: word.clone(), namespace: word }),
            security: SecurityPolicy::Unknown,
        }
    }

    /// Writes `name="value",` for each label.
    pub(crate) fn write(&self, protocol: RequestProtocol, out: &mut String) {
        let reporter = match self.reporter {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        };
        let security = match self.security {
            SecurityPolicy::MutualTls => "mutual_tls",
            SecurityPolicy::None => "none",
            SecurityPolicy::Unknown => "unknown",
        };
        let protocol = match protocol {
            RequestProtocol::Http => "http",
            RequestProtocol::Grpc => "grpc",
            RequestProtocol::Tcp => "tcp",
        };
        label(out, "reporter", reporter);
        self.source.write("source", out);
        self.destination.write("destination", out);
        label(out, "destination_service", &self.service.host);
        label(out, "destination_service_name", &self.service.name);
        label(out, "destination_service_namespace", &self.service.namespace);
        label(out, "request_protocol", protocol);
        label(out, "connection_security_policy", security);
    }
}

impl RequestLabels {
    pub(crate) fn overflow(reporter: Reporter, protocol: RequestProtocol) -> Self {
        Self { edge: EdgeLabels::overflow(reporter), protocol, route: None }
    }

    pub(crate) fn write(&self, out: &mut String) {
        self.edge.write(self.protocol, out);
        if let Some(route) = &self.route {
            label(out, "mesh_route", route);
        }
    }
}

/// Writes `name="value",`, escaped; an empty value is `unknown`.
pub(crate) fn label(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str("=\"");
    for character in if value.is_empty() { "unknown" } else { value }.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push_str("\",");
}

const OVERFLOW: &str = "overflow";
