//! Putting the parts together, and taking them down again.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use controller_runtime::bundle_source::{self, BundleConfigMap, BundleSource};
use controller_runtime::certificate::{self, CertificateConfig, CertificateMetrics, Certified};
use controller_runtime::health::{self, Readiness};
use controller_runtime::incoming::{HandshakeMetrics, IncomingConfig, incoming};
use controller_runtime::kubernetes::{self, KubernetesError};
use controller_runtime::lease::Election;
use controller_runtime::listen::listen;
use controller_runtime::shutdown::Shutdown;
use identity::{ClientCertificates, MeshTls, SpiffeId};
use kube::Client;
use prometheus_client::registry::Registry;
use proto::identity::CertifyRequest;
use proto::identity::identity_client::IdentityClient;
use proto::names;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Server};

use crate::args::ServeArgs;
use crate::directory::{self, DirectoryReader};
use crate::hub::Hub;
use crate::kubernetes::status;
use crate::metrics::Metrics;
use crate::serve::admission::AdmissionLimits;
use crate::serve::{DiscoveryService, ServeConfig};

/// Serves until `shutdown`.
pub async fn run(args: ServeArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let discovery = listen("--listen", args.listen).await?;
    let health = listen("--health-listen", args.health_listen).await?;
    let source = Source::open(&args).await?;
    let address = discovery.local_addr()?;
    tracing::info!(%address, health = %health.local_addr()?, %source, "serving discovery");

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let handshakes = HandshakeMetrics::register(&mut registry);
    let certificates = CertificateMetrics::register(&mut registry);
    let readiness = Readiness::new();
    let mesh = resolve::Mesh {
        trust_domain: args.trust_domain.to_string(),
        cluster: args.cluster.clone(),
        cluster_networks: args.cluster_networks.clone(),
    };
    let hub = Hub::new(mesh, Instant::now());
    let tls = MeshTls::new(None);

    let in_cluster = args.directory.is_none();
    let pods_per_address = usize::from(args.pods_per_address);
    let config = certificate_config(&args, &source).await?;
    let keeping = certificate::keep(config, tls.clone(), readiness.clone(), certificates, certify);
    let replica = args.replica.clone().unwrap_or_else(|| format!("{}:{}", host_name(), address.port()));
    let electing = source.lead(&replica, &hub, &metrics, &shutdown);
    let background = [
        tokio::spawn(keeping),
        source.follow(hub.clone(), readiness.clone(), metrics.clone()),
        // What we trust is what proxies are told to trust.
        tokio::spawn(bundle_source::tell(tls.clone(), BUNDLE_POLL, {
            let hub = hub.clone();
            move |bundle| hub.set_bundle(bundle)
        })),
        tokio::spawn(health::keep(health, registry, readiness)),
    ];

    let config = ServeConfig {
        replica,
        trust_domain: args.trust_domain.to_string(),
        admission: AdmissionLimits {
            streams: args.max_streams,
            per_second: args.streams_per_second.into(),
            burst: f64::from(args.streams_per_second) * 2.0,
            // Only in a cluster does each client have an address of its own.
            pods_per_address: in_cluster.then_some(pods_per_address),
        },
        stream_life: args.stream_life,
    };
    let service = DiscoveryService::new(config, hub, metrics, shutdown.clone()).into_server();
    let clients = ClientCertificates::Required;
    let config =
        if in_cluster { IncomingConfig::for_pods(clients, pods_per_address) } else { IncomingConfig::new(clients) };
    let connections = incoming(discovery, tls, config, handshakes, shutdown.clone());
    let serving = server().serve_with_incoming_shutdown(service, connections, shutdown.clone().requested());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => served.context("serving discovery")?,
        () = shutdown.requested() => {
            // Streams have been told goodbye; who does not hang up is hung up on.
            if let Ok(served) = timeout(GRACE, &mut serving).await {
                served.context("serving discovery")?;
            }
        }
    }
    if let Some(electing) = electing {
        // Given back, the lease is another replica's at once.
        let _ = timeout(GRACE, electing).await;
    }
    for task in background {
        task.abort();
    }
    Ok(())
}

/// HTTP/2 as discovery wants it: dead peers are noticed, and a connection has one stream, as a proxy opens it.
pub(crate) fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(1)
        .http2_max_header_list_size(16 * 1024)
}

/// Where facts come from.
enum Source {
    Directory(PathBuf),
    Kubernetes(Client),
}

impl Source {
    /// A directory that is not there is a mistake in the command line; an API server that is not there may come.
    async fn open(args: &ServeArgs) -> anyhow::Result<Self> {
        let Some(directory) = args.directory.clone() else {
            let advice = "without --directory the mesh is read from Kubernetes";
            return Ok(Self::Kubernetes(connect().await.context(advice)?));
        };
        DirectoryReader::new(&directory).look_at_once().context("--directory")?;
        Ok(Self::Directory(directory))
    }

    /// In a cluster, writes status while this replica leads. The task ends when the lease is given back.
    fn lead(&self, replica: &str, hub: &Hub, metrics: &Metrics, shutdown: &Shutdown) -> Option<JoinHandle<()>> {
        let Self::Kubernetes(client) = self else { return None };
        let (election, leading) = Election::new(client.clone(), crate::kubernetes::lease(replica.to_owned()));
        let keeping = status::keep(client.clone(), hub.clone(), leading, metrics.clone());
        let electing = election.run(shutdown.clone());
        Some(tokio::spawn(async move {
            tokio::select! {
                () = electing => {}
                () = keeping => {}
            }
        }))
    }

    fn follow(self, hub: Hub, readiness: Readiness, metrics: Metrics) -> JoinHandle<()> {
        match self {
            Self::Directory(it) => tokio::spawn(directory::follow(DirectoryReader::new(it), hub, readiness, metrics)),
            Self::Kubernetes(client) => tokio::spawn(crate::kubernetes::follow(client, hub, readiness, metrics)),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.display()),
            Self::Kubernetes(_) => f.write_str("Kubernetes"),
        }
    }
}

async fn connect() -> Result<Client, KubernetesError> {
    kubernetes::connect("mesh-controller", env!("CARGO_PKG_VERSION")).await
}

async fn certificate_config(args: &ServeArgs, source: &Source) -> anyhow::Result<CertificateConfig> {
    let id = |account| SpiffeId::new(&args.trust_domain, names::SYSTEM_NAMESPACE, account);
    Ok(CertificateConfig {
        id: id(names::CONTROLLER_ACCOUNT)?,
        identity_addresses: args.identity.clone(),
        identity_id: id(names::IDENTITY_ACCOUNT)?,
        token_file: args.token_file.clone().context("--token-file is missing")?,
        bundle: bundle_source(args, source).await?,
        state_directory: args.state_dir.clone(),
    })
}

/// The file we were given, else the ConfigMap of our namespace.
async fn bundle_source(args: &ServeArgs, source: &Source) -> anyhow::Result<BundleSource> {
    if let Some(file) = &args.bundle_file {
        return Ok(BundleSource::File(file.clone()));
    }
    let client = match source {
        Source::Kubernetes(client) => client.clone(),
        Source::Directory(_) => connect().await.context("without --bundle-file the bundle is read from Kubernetes")?,
    };
    let [namespace, name, key] =
        [names::SYSTEM_NAMESPACE, names::BUNDLE_CONFIG_MAP, names::BUNDLE_KEY].map(str::to_owned);
    Ok(BundleSource::Cluster(bundle_source::follow(client, BundleConfigMap { namespace, name, key })))
}

async fn certify(channel: Channel, csr: Vec<u8>, token: String) -> Result<Certified, tonic::Status> {
    let request = CertifyRequest { csr: csr.into(), token };
    let response = IdentityClient::new(channel).certify(request).await?.into_inner();
    Ok(Certified { chain: response.chain.into_iter().map(Into::into).collect(), bundle: response.bundle })
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "controller".to_owned(), |name| name.trim().to_owned())
}

const GRACE: Duration = Duration::from_secs(3);
const KEEPALIVE: Duration = Duration::from_secs(10);
const BUNDLE_POLL: Duration = Duration::from_millis(250);
