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
/// Admission webhooks; open from the API server to nodes on managed clusters.
pub const INJECTOR_PORT: u16 = 10250;
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
/// Service account of the injector.
pub const INJECTOR_ACCOUNT: &str = "mesh-injector";
/// Audience of the tokens identity accepts.
pub const TOKEN_AUDIENCE: &str = "identity.meshctl.io";

/// Secret (`kubernetes.io/tls`, with ca.crt) of the issuer, in the system namespace.
pub const ISSUER_SECRET: &str = "mesh-issuer";
/// ConfigMap that holds the trust bundle in every namespace with workloads.
pub const BUNDLE_CONFIG_MAP: &str = "mesh-trust-bundle";
/// Its key, and the file's name where it is mounted.
pub const BUNDLE_KEY: &str = "bundle.pem";
/// Lease of the controller that writes status.
pub const CONTROLLER_LEASE: &str = "mesh-controller";
/// Lease of the identity that keeps issuer and bundles.
pub const IDENTITY_LEASE: &str = "mesh-identity";
/// ConfigMap with the mesh's configuration, in the system namespace.
pub const CONFIG_CONFIG_MAP: &str = "mesh-config";
/// Its key, and the file's name where it is mounted.
pub const CONFIG_KEY: &str = "config.yaml";
/// Where the control plane mounts [`CONFIG_CONFIG_MAP`].
pub const CONFIG_FILE: &str = "/etc/mesh/config.yaml";
/// MutatingWebhookConfiguration of the injector.
pub const WEBHOOK_CONFIGURATION: &str = "mesh-injector";
/// Webhook for pods of namespaces that carry the label [`INJECT`].
pub const PODS_WEBHOOK: &str = "pods.meshctl.io";
/// Webhook that copies a namespace's annotation into its label.
pub const NAMESPACES_WEBHOOK: &str = "namespaces.meshctl.io";
/// Path of pods' webhooks.
pub const PODS_PATH: &str = "/mutate/pods";
/// Path of the namespaces' webhook.
pub const NAMESPACES_PATH: &str = "/mutate/namespaces";

/// Registry of our images unless told otherwise.
pub const IMAGE_REGISTRY: &str = "meshctl.io";
/// Image of the sidecar and of the init container, and the sidecar's name.
pub const PROXY_IMAGE: &str = "mesh-proxy";
/// Image of the controller.
pub const CONTROLLER_IMAGE: &str = "mesh-controller";
/// Image of the certificate authority.
pub const IDENTITY_IMAGE: &str = "mesh-identity";
/// Image of the injector.
pub const INJECTOR_IMAGE: &str = "mesh-injector";
/// The sidecar's program, in its image.
pub const PROXY_PROGRAM: &str = "/mesh-proxy";

/// The sidecar: a native one, an init container that goes on.
pub const PROXY_CONTAINER: &str = "mesh-proxy";
/// The init container that writes the redirect rules.
pub const INIT_CONTAINER: &str = "mesh-init";
/// Volume in memory for the proxy's key, certificate and last picture.
pub const STATE_VOLUME: &str = "mesh-state";
/// Where the sidecar mounts [`STATE_VOLUME`].
pub const STATE_MOUNT: &str = "/var/run/mesh/state";
/// Volume with the projected ServiceAccount token.
pub const TOKEN_VOLUME: &str = "mesh-token";
/// Where the sidecar mounts [`TOKEN_VOLUME`]; the file is called `token`.
pub const TOKEN_MOUNT: &str = "/var/run/mesh/token";
/// Volume with [`BUNDLE_CONFIG_MAP`].
pub const BUNDLE_VOLUME: &str = "mesh-bundle";
/// Where the sidecar mounts [`BUNDLE_VOLUME`].
pub const BUNDLE_MOUNT: &str = "/var/run/mesh/bundle";

/// Environment variable that holds [`crate::Bootstrap`] as JSON.
pub const BOOTSTRAP_VARIABLE: &str = "MESH_BOOTSTRAP";
/// Environment variable with the pod's name, from the downward API.
pub const POD_NAME_VARIABLE: &str = "MESH_POD_NAME";
/// Environment variable with the pod's addresses, comma-separated, from the downward API.
pub const POD_IPS_VARIABLE: &str = "MESH_POD_IPS";
/// Where the proxy's health port answers probes it makes for the kubelet: `/app-probe/<container>/<kind>`.
pub const APP_PROBE_PREFIX: &str = "/app-probe/";

/// Injection switch, as annotation (documented) or label.
pub const INJECT: &str = "meshctl.io/inject";
/// Annotation on a namespace: the value of the label [`INJECT`] that the injector put there, as opposed to a person.
pub const INJECT_MIRRORED: &str = "meshctl.io/inject-mirrored";
/// Annotation on injected pods: the proxy's version.
pub const PROXY_VERSION: &str = "meshctl.io/proxy-version";
/// Ports, such as `22,9000-9010`, on which connections from outside go straight to the app.
pub const SKIP_INBOUND_PORTS: &str = "meshctl.io/skip-inbound-ports";
/// Ports to which the app's connections go straight.
pub const SKIP_OUTBOUND_PORTS: &str = "meshctl.io/skip-outbound-ports";
/// Networks, such as `10.0.0.0/8,fd00::/8`, to which the app's connections go straight.
pub const SKIP_OUTBOUND_SUBNETS: &str = "meshctl.io/skip-outbound-subnets";
/// The workload's ports that carry bytes: never read as HTTP.
pub const OPAQUE_PORTS: &str = "meshctl.io/opaque-ports";
/// The workload's ports that listen on loopback only.
pub const LOOPBACK_PORTS: &str = "meshctl.io/loopback-ports";
/// CPU the sidecar asks for, as a Kubernetes quantity.
pub const PROXY_CPU_REQUEST: &str = "meshctl.io/proxy-cpu-request";
/// CPU the sidecar is held to.
pub const PROXY_CPU_LIMIT: &str = "meshctl.io/proxy-cpu-limit";
/// Memory the sidecar asks for, as a Kubernetes quantity.
pub const PROXY_MEMORY_REQUEST: &str = "meshctl.io/proxy-memory-request";
/// Memory the sidecar is held to.
pub const PROXY_MEMORY_LIMIT: &str = "meshctl.io/proxy-memory-limit";
/// The sidecar's log filter, as in `info,proxy=debug`.
pub const PROXY_LOG_LEVEL: &str = "meshctl.io/proxy-log-level";
/// The sidecar's whole image reference.
pub const PROXY_IMAGE_OVERRIDE: &str = "meshctl.io/proxy-image";
/// The sidecar's worker threads, 1-64.
pub const PROXY_WORKERS: &str = "meshctl.io/proxy-workers";
/// Time between the start of draining and telling clients to go elsewhere, as in `2s` or `500ms`.
pub const DRAIN_DELAY: &str = "meshctl.io/drain-delay";

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
    /// When the proxy wrote its metrics, seconds since 1970: two scrapes are that far apart, however long either was under way.
    pub const TIME: &str = "mesh_time_seconds";
}
