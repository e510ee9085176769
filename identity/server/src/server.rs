//! Putting it together: ports, the authority's clock, the service, and a clean end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use controller_runtime::health::{self, Readiness};
use controller_runtime::incoming::{HandshakeMetrics, IncomingConfig, incoming};
use controller_runtime::listen::listen;
use controller_runtime::shutdown::Shutdown;
use identity::{ClientCertificates, SpiffeId, TrustDomain};
use prometheus_client::registry::Registry;
use proto::identity::identity_server::IdentityServer;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use crate::authenticate::Authenticator;
use crate::authority::{Authority, AuthorityConfig};
use crate::limit::{Limit, Offenders};
use crate::metrics::Metrics;
use crate::service::Service;

/// How the authority is run.
#[derive(Debug)]
pub struct Config {
    /// Its own identity.
    pub id: SpiffeId,
    /// Who vouches for workloads.
    pub authenticator: Authenticator,
    /// Where the issuer is, or will be made.
    pub issuer_directory: PathBuf,
    /// The one trust domain it signs for.
    pub trust_domain: TrustDomain,
    /// The service.
    pub listen: SocketAddr,
    /// Health and metrics.
    pub health_listen: SocketAddr,
    /// Life of the certificates.
    pub leaf_lifetime: Duration,
    /// Where the bundle is published.
    pub bundle_file: Option<PathBuf>,
    /// How long a new root is published before it signs.
    pub rotation_delay: Duration,
}

/// The authority with its ports open.
pub struct Server {
    authority: Authority,
    service: Service,
    listener: TcpListener,
    health_listener: TcpListener,
    handshakes: HandshakeMetrics,
    registry: Registry,
}

impl Server {
    /// Opens the ports, reads the issuer or makes it, and publishes the bundle: from here on proxies can connect.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let listener = listen("--listen", config.listen).await?;
        let health_listener = listen("--health-listen", config.health_listen).await?;
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let handshakes = HandshakeMetrics::register(&mut registry);
        let authority = Authority::open(
            AuthorityConfig {
                directory: config.issuer_directory,
                trust_domain: config.trust_domain.clone(),
                bundle_file: config.bundle_file,
                leaf_lifetime: config.leaf_lifetime,
                rotation_delay: config.rotation_delay,
                id: config.id,
            },
            metrics.clone(),
            SystemTime::now(),
        )?;
        let service = Service {
            authenticator: config.authenticator,
            authority: authority.current(),
            trust_domain: config.trust_domain,
            leaf_lifetime: config.leaf_lifetime,
            limit: Limit::new(REQUESTS_PER_SECOND, REQUESTS_BURST, Instant::now()),
            offenders: Offenders::default(),
            metrics,
        };
        Ok(Self { authority, service, listener, health_listener, handshakes, registry })
    }

    /// Where the service listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where health and metrics are.
    pub fn health_address(&self) -> std::io::Result<SocketAddr> {
        self.health_listener.local_addr()
    }

    /// Serves until `shutdown`; calls under way are finished, for a few seconds at most.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (address, health_address) = (self.address()?, self.health_address()?);
        tracing::info!(%address, %health_address, version = env!("CARGO_PKG_VERSION"), "mesh-identity is ready");
        let service = IdentityServer::new(self.service)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_RESPONSE_BYTES);
        let connections = incoming(
            self.listener,
            self.authority.tls(),
            IncomingConfig::new(ClientCertificates::Optional),
            self.handshakes,
            shutdown.clone(),
        );
        let grpc = tonic::transport::Server::builder()
            .timeout(CALL_TIMEOUT)
            .concurrency_limit_per_connection(MAX_STREAMS as usize)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .max_connection_age(MAX_CONNECTION_AGE)
            .serve_with_incoming_shutdown(service, connections, shutdown.clone().requested());
        let stopped = shutdown.clone();
        let graceful = async move {
            stopped.requested().await;
            tokio::time::sleep(GRACE).await;
        };
        let registry = Arc::new(self.registry);
        let health = health::serve(self.health_listener, registry, Readiness::new(), shutdown.requested());
        tokio::select! {
            served = grpc => served.context("the identity service has failed")?,
            () = graceful => tracing::info!("connections still open after {GRACE:?} are closed"),
            () = follow(self.authority) => {}
            result = async { health.await?; std::future::pending::<std::io::Result<()>>().await } => {
                result.context("the health port has failed")?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address().ok()).finish_non_exhaustive()
    }
}

async fn follow(mut authority: Authority) {
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        authority.tick(SystemTime::now());
    }
}

/// About half of what one core signs.
const REQUESTS_PER_SECOND: f64 = 1000.0;
const REQUESTS_BURST: f64 = 5000.0;
/// A request of ours has 2 KB with its token.
const MAX_REQUEST_BYTES: usize = 64 << 10;
const MAX_RESPONSE_BYTES: usize = 2 << 20;
const MAX_HEADER_BYTES: u32 = 16 << 10;
const MAX_STREAMS: u32 = 32;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Nobody needs the connection for longer than a call; this also ends those that only sit there.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
