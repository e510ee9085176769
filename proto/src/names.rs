//! Names and numbers that more than one program must spell alike.

/// Where the redirect sends what the application dials.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where the redirect sends what others dial.
pub const INBOUND_PORT: u16 = 15006;
/// Admin, loopback only.
pub const ADMIN_PORT: u16 = 15000;
/// Health and metrics of a proxy, also the target of rewritten probes.
pub const HEALTH_PORT: u16 = 15020;
/// The proxy's user and group.
pub const PROXY_UID: u32 = 2102;
/// Mark on the proxy's own sockets where one user id serves everybody (user namespaces).
pub const PROXY_MARK: u32 = 0x2102;

/// Discovery.
pub const CONTROLLER_PORT: u16 = 8443;
/// Certificate authority.
pub const IDENTITY_PORT: u16 = 8444;
/// Health and metrics of control-plane programs.
pub const CONTROL_HEALTH_PORT: u16 = 9090;

/// Namespace of the control plane.
pub const SYSTEM_NAMESPACE: &str = "mesh-system";
/// Trust domain unless told otherwise.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// Service account of the controller.
pub const CONTROLLER_ACCOUNT: &str = "mesh-controller";
/// Service account of the certificate authority.
pub const IDENTITY_ACCOUNT: &str = "mesh-identity";
/// Audience of the tokens identity accepts.
pub const TOKEN_AUDIENCE: &str = "identity.meshctl.io";

/// Injection switch, as annotation (documented) or label.
pub const INJECT: &str = "meshctl.io/inject";
/// Environment variable that holds [`crate::Bootstrap`] as JSON.
pub const BOOTSTRAP_VARIABLE: &str = "MESH_BOOTSTRAP";

/// Mesh TLS that carries HTTP/1.
pub const ALPN_HTTP1: &[u8] = b"mesh/h1";
/// Mesh TLS that carries HTTP/2.
pub const ALPN_HTTP2: &[u8] = b"mesh/h2";
/// Mesh TLS that carries bytes.
pub const ALPN_TCP: &[u8] = b"mesh/tcp";
/// Longest [`crate::preface::Preface`], in bytes.
pub const MAX_PREFACE: usize = 1024;

/// How the mesh signs the responses it makes itself (RFC 9209).
pub const PROXY_STATUS_NAME: &str = "mesh-proxy";

/// Seconds between heartbeats on a discovery stream.
pub const HEARTBEAT_SECONDS: u64 = 5;

/// Metric names, exactly as scraped.
pub mod metric {
    /// Requests, both reporters (Istio).
    pub const REQUESTS: &str = "istio_requests_total";
    /// Request duration in milliseconds (Istio).
    pub const REQUEST_DURATION: &str = "istio_request_duration_milliseconds";
    /// Request body bytes (Istio).
    pub const REQUEST_BYTES: &str = "istio_request_bytes";
    /// Response body bytes (Istio).
    pub const RESPONSE_BYTES: &str = "istio_response_bytes";
    /// Opaque connections opened (Istio).
    pub const TCP_OPENED: &str = "istio_tcp_connections_opened_total";
    /// Opaque connections closed (Istio).
    pub const TCP_CLOSED: &str = "istio_tcp_connections_closed_total";
    /// Bytes sent towards the client on opaque connections (Istio).
    pub const TCP_SENT: &str = "istio_tcp_sent_bytes_total";
    /// Bytes received from the client on opaque connections (Istio).
    pub const TCP_RECEIVED: &str = "istio_tcp_received_bytes_total";
    /// Refused or failed mesh TLS handshakes by reason.
    pub const TLS_FAILURES: &str = "mesh_tls_handshake_failures_total";
    /// Responses and closed connections the mesh itself caused, by reason.
    pub const FAILURES: &str = "mesh_failures_total";
    /// Requests tried again, by outcome.
    pub const RETRIES: &str = "mesh_retries_total";
    /// Endpoints that were set aside because they could not be reached; others go first for a while.
    pub const BREAKER_TRIPS: &str = "mesh_breaker_trips_total";
    /// Age of the proxy's picture of the world in seconds.
    pub const DISCOVERY_AGE: &str = "mesh_discovery_age_seconds";
    /// 1 while a discovery stream is up.
    pub const DISCOVERY_CONNECTED: &str = "mesh_discovery_connected";
    /// Values refused by this proxy.
    pub const DISCOVERY_REJECTED: &str = "mesh_discovery_rejected_total";
    /// End of the workload certificate, seconds since 1970.
    pub const CERTIFICATE_EXPIRY: &str = "mesh_certificate_expiry_timestamp_seconds";
    /// Certificates obtained, by result.
    pub const CERTIFICATE_RENEWALS: &str = "mesh_certificate_renewals_total";
    /// Time a request spent in this proxy rather than behind it, seconds.
    pub const OVERHEAD: &str = "mesh_proxy_overhead_seconds";
    /// Requests in flight.
    pub const INFLIGHT: &str = "mesh_requests_in_flight";
    /// Open connections by direction.
    pub const CONNECTIONS: &str = "mesh_connections_open";
}
