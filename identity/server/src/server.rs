//! Putting it together: ports, the authority's clock, the service, and a clean end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use controller_runtime::health::{self, Readiness};
use controller_runtime::incoming::{HandshakeMetrics, IncomingConfig, incoming};
use controller_runtime::lease::{Election, LeaseConfig};
use controller_runtime::listen::listen;
use controller_runtime::shutdown::Shutdown;
use identity::{ClientCertificates, SpiffeId, TrustDomain};
use kube::Client;
use prometheus_client::registry::Registry;
use proto::identity::identity_server::IdentityServer;
use proto::names::IDENTITY_LEASE;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::authenticate::Authenticator;
use crate::authority::{Authority, AuthorityConfig};
use crate::ca_bundle::CaBundle;
use crate::custody::{Cluster, Custody, Directory};
use crate::dns_names::dns_names;
use crate::issuer_secret::IssuerSecret;
use crate::limit::Limits;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::service::Service;

/// How the authority is run.
#[derive(Debug)]
pub struct Config {
    /// Its own identity.
    pub id: SpiffeId,
    /// Who vouches for workloads.
    pub authenticator: Authenticator,
    /// Where the issuer is kept, and the bundle published.
    pub place: Place,
    /// The one trust domain it signs for.
    pub trust_domain: TrustDomain,
    /// The service.
    pub listen: SocketAddr,
    /// Health and metrics.
    pub health_listen: SocketAddr,
    /// Life of the certificates.
    pub leaf_lifetime: Duration,
    /// In a cluster, pods that may share an address, 1 or more.
    pub pods_per_address: usize,
    /// How long a new root is published before it signs.
    pub rotation_delay: Duration,
}

/// Where the issuer is kept, or will be made, and the bundle is published.
#[derive(Clone)]
pub enum Place {
    /// On this machine.
    Directory {
        /// The issuer's files.
        issuer: PathBuf,
        /// The bundle.
        bundle_file: Option<PathBuf>,
    },
    /// In the system namespace of a cluster, which is that of [`Config::id`].
    Kubernetes {
        /// The cluster.
        client: Client,
        /// Name of this replica, different from all others.
        replica: String,
    },
}

/// The authority with its ports open.
pub struct Server {
    authority: Authority,
    service: Service,
    listener: TcpListener,
    health_address: SocketAddr,
    handshakes: HandshakeMetrics,
    /// Where replicas share the work: who publishes.
    election: Option<Election>,
    pods_per_address: Option<usize>,
    /// Health, and in a cluster the tasks that read and write its objects; they end with the server.
    tasks: JoinSet<()>,
}

impl Server {
    /// Opens the ports, reads the issuer or makes it, and publishes the bundle: from here on proxies can connect. In a
    /// cluster it waits for the API server, for as long as it takes.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let listener = listen("--listen", config.listen).await?;
        let health_listener = listen("--health-listen", config.health_listen).await?;
        let health_address = health_listener.local_addr()?;
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let handshakes = HandshakeMetrics::register(&mut registry);
        if matches!(config.place, Place::Kubernetes { .. }) {
            metrics.register_cluster(&mut registry);
        }
        let (readiness, mut tasks) = (Readiness::new(), JoinSet::new());
        // Before all else: what we wait for below is told there.
        tasks.spawn(health::keep(health_listener, registry, readiness.clone()));
        let (custody, election) = open_place(&config, &readiness, &metrics, &mut tasks).await?;
        let names = dns_names(&config.id, &config.trust_domain, config.id.namespace());
        let authority = Authority::open(
            AuthorityConfig {
                leaf_lifetime: config.leaf_lifetime,
                rotation_delay: config.rotation_delay,
                id: config.id.clone(),
                dns_names: names,
            },
            custody,
            readiness,
            metrics.clone(),
            SystemTime::now(),
        )?;
        // Only in a cluster does each client have an address of its own.
        let pods_per_address = election.as_ref().map(|_| config.pods_per_address);
        let service = Service {
            authenticator: config.authenticator,
            authority: authority.current(),
            trust_domain: config.trust_domain,
            system_namespace: config.id.namespace().to_owned(),
            leaf_lifetime: config.leaf_lifetime,
            limits: Limits::new(pods_per_address, Instant::now()),
            metrics,
        };
        Ok(Self { authority, service, listener, health_address, handshakes, election, pods_per_address, tasks })
    }

    /// Where the service listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where health and metrics are.
    pub fn health_address(&self) -> SocketAddr {
        self.health_address
    }

    /// Serves until `shutdown`; calls under way are finished, for a few seconds at most.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (address, health_address) = (self.address()?, self.health_address);
        tracing::info!(%address, %health_address, version = env!("CARGO_PKG_VERSION"), "mesh-identity is ready");
        let service = IdentityServer::new(self.service)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_RESPONSE_BYTES);
        let clients = ClientCertificates::Optional;
        let config = match self.pods_per_address {
            Some(pods) => IncomingConfig::for_pods(clients, pods),
            None => IncomingConfig::new(clients),
        };
        let connections = incoming(self.listener, self.authority.tls(), config, self.handshakes, shutdown.clone());
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
        let election = self.election.map(|election| tokio::spawn(election.run(shutdown.clone())));
        let _tasks = self.tasks;
        tokio::select! {
            served = grpc => served.context("the identity service has failed")?,
            () = graceful => tracing::info!("connections still open after {GRACE:?} are closed"),
            () = follow(self.authority) => {}
        }
        // It ends with the shutdown, when another replica can have the lease.
        if let Some(election) = election.filter(|_| shutdown.is_requested()) {
            election.await.context("looking after the lease has failed")?;
        }
        Ok(())
    }
}

/// Finds the issuer, and starts what follows it.
async fn open_place(
    config: &Config,
    readiness: &Readiness,
    metrics: &Metrics,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<(Custody, Option<Election>)> {
    let (client, replica) = match &config.place {
        Place::Directory { issuer, bundle_file } => {
            let (issuer, bundle_file) = (issuer.clone(), bundle_file.clone());
            let directory = Directory::open(issuer, bundle_file, &config.trust_domain, SystemTime::now())?;
            return Ok((Custody::Directory(directory), None));
        }
        Place::Kubernetes { client, replica } => (client, replica),
    };
    let system_namespace = config.id.namespace().to_owned();
    let secret = IssuerSecret::new(client.clone(), system_namespace.clone(), config.trust_domain.clone());
    let beginning = secret.obtain(readiness).await;
    let (issuer_sender, issuer) = watch::channel(beginning.issuer);
    tasks.spawn(secret.follow(issuer_sender));
    let lease =
        LeaseConfig { namespace: system_namespace.clone(), name: IDENTITY_LEASE.to_owned(), holder: replica.clone() };
    let (election, leading) = Election::new(client.clone(), lease);
    let before = beginning.published;
    let (wanted, wanted_receiver) = watch::channel(None);
    let (published_sender, published) = watch::channel(before.clone().map(Arc::new));
    let ca_bundle = CaBundle {
        client: client.clone(),
        wanted: wanted_receiver.clone(),
        leading: leading.clone(),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn(ca_bundle.run());
    let publisher = Publisher {
        client: client.clone(),
        system_namespace,
        wanted: wanted_receiver,
        published: published_sender,
        leading,
        metrics: metrics.clone(),
    };
    tasks.spawn(publisher.run());
    Ok((Custody::Cluster(Cluster { issuer, before, wanted, published }), Some(election)))
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory { issuer, .. } => f.debug_tuple("Directory").field(issuer).finish(),
            Self::Kubernetes { replica, .. } => f.debug_tuple("Kubernetes").field(replica).finish(),
        }
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
