//! The program's own certificate: from the state directory if it is still good, else from mesh-identity, and renewed for
//! as long as the program runs.
//!
//! The call itself is the caller's (a closure around the generated client), so that no message type is needed here. What
//! can go wrong is logged once per attempt, shown by `/ready`, and tried again; a certificate in use goes on meanwhile.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use http::Uri;
use hyper_util::rt::TokioIo;
use identity::{BundleError, EndpointTls, KeyAndRequest, LeafCertificate, MeshTls, SpiffeId, TrustBundle};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rand::seq::SliceRandom as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::bundle_source::{BundleSource, OpenBundle};
use crate::health::Readiness;
use crate::kubernetes::describe_chain;

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub struct CertificateConfig {
    /// Who this program is.
    pub id: SpiffeId,
    /// `host:port` of mesh-identity, tried in turn.
    pub identity_addresses: Vec<String>,
    /// Who mesh-identity must be.
    pub identity_id: SpiffeId,
    /// File with the token, read anew for every request.
    pub token_file: PathBuf,
    /// Where the trust bundle comes from.
    pub bundle: BundleSource,
    /// Where key and certificate are kept, so that a restart needs nobody.
    pub state_directory: Option<PathBuf>,
}

/// What mesh-identity answered.
#[derive(Debug, Clone)]
pub struct Certified {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The trust bundle as it is now, PEM.
    pub bundle: String,
}

/// When the certificate ends, and how renewing goes.
#[derive(Debug, Clone, Default)]
pub struct CertificateMetrics {
    expiry: Gauge<u64, AtomicU64>,
    renewals: Family<ResultLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No token.
    #[error("cannot read the token {path}: {source}")]
    Token {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error("mesh-identity does not answer at {addresses}: {source}")]
    Connect {
        /// Where it was looked for.
        addresses: String,
        /// Why the last attempt failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered with an error.
    #[error("mesh-identity refuses ({code:?}): {message}")]
    Refused {
        /// Status code of the call.
        code: tonic::Code,
        /// Its words.
        message: String,
    },
    /// What it answered can't be used.
    #[error("mesh-identity's answer cannot be used: {0}")]
    Unusable(#[from] identity::CertificateError),
    /// It signed for somebody else.
    #[error("mesh-identity signed a certificate for {actual}, asked was for {expected}")]
    OtherId {
        /// Who we are.
        expected: SpiffeId,
        /// Who it says we are.
        actual: SpiffeId,
    },
    /// The answer took too long.
    #[error("mesh-identity took longer than {} s to answer", CALL_TIMEOUT.as_secs())]
    TimedOut,
}

impl CertificateMetrics {
    /// Puts `mesh_certificate_expiry_timestamp_seconds` and `mesh_certificate_renewals_total{result}` into the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for result in ["success", "failure"] {
            drop(metrics.renewals.get_or_create(&ResultLabels { result }));
        }
        registry.register(
            "mesh_certificate_expiry_timestamp_seconds",
            "End of this program's certificate, seconds since 1970",
            metrics.expiry.clone(),
        );
        registry.register("mesh_certificate_renewals", "Certificates obtained, by result", metrics.renewals.clone());
        metrics
    }

    fn attempt(&self, result: &'static str) {
        self.renewals.get_or_create(&ResultLabels { result }).inc();
    }

    fn in_use(&self, leaf: &LeafCertificate) {
        self.expiry.set(leaf.not_after().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    }
}

/// Keeps `tls` supplied with certificate and bundle; never returns. `certify` sends one request over the channel.
pub async fn keep<F, Fut>(
    config: CertificateConfig,
    tls: MeshTls,
    readiness: Readiness,
    metrics: CertificateMetrics,
    certify: F,
) where
    F: Fn(Channel, Vec<u8>, String) -> Fut,
    Fut: Future<Output = Result<Certified, tonic::Status>>,
{
    let mut bundle = OpenBundle::new(&config.bundle);
    bundle.first().await;
    follow_bundle(&mut bundle, &tls);
    if tls.leaf().is_none() {
        readiness.wait_for(CONDITION, "waiting for the first certificate");
        reuse_saved(&config, &tls);
    }
    let mut renew_at = match tls.leaf() {
        Some(leaf) => {
            metrics.in_use(&leaf);
            readiness.met(CONDITION);
            leaf.renew_at(SystemTime::now(), random_share())
        }
        None => SystemTime::UNIX_EPOCH,
    };
    let (mut failures, mut not_before) = (0, Instant::now());
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        follow_bundle(&mut bundle, &tls);
        if SystemTime::now() < renew_at || Instant::now() < not_before {
            continue;
        }
        // Nobody can be asked yet; as soon as it arrives, and not after a pause, somebody is.
        if tls.bundle().is_none() {
            readiness.wait_for(CONDITION, NO_BUNDLE);
            continue;
        }
        match renew(&config, &tls, &certify).await {
            Ok(leaf) => {
                failures = 0;
                renew_at = leaf.renew_at(SystemTime::now(), random_share());
                metrics.attempt("success");
                metrics.in_use(&leaf);
                readiness.met(CONDITION);
                tracing::info!(id = %leaf.id(), serial = leaf.serial(), "certificate obtained");
            }
            Err(error) => {
                failures += 1;
                not_before = Instant::now() + pause(failures, random_share());
                metrics.attempt("failure");
                if tls.leaf().is_none_or(|leaf| !leaf.valid_at(SystemTime::now())) {
                    readiness.wait_for(CONDITION, error.to_string());
                }
                tracing::warn!(%error, failures, "no new certificate, trying again");
            }
        }
    }
}

/// One certificate from mesh-identity, put into use and saved.
async fn renew<F, Fut>(config: &CertificateConfig, tls: &MeshTls, certify: &F) -> Result<LeafCertificate, RenewError>
where
    F: Fn(Channel, Vec<u8>, String) -> Fut,
    Fut: Future<Output = Result<Certified, tonic::Status>>,
{
    let token = std::fs::read_to_string(&config.token_file)
        .map_err(|source| RenewError::Token { path: config.token_file.clone(), source })?;
    let key = KeyAndRequest::new(&config.id)?;
    let answered = tokio::time::timeout(CALL_TIMEOUT, async {
        let channel = connect(&config.identity_addresses, tls, &config.identity_id).await?;
        certify(channel, key.csr().to_vec(), token.trim().to_owned())
            .await
            .map_err(|status| RenewError::Refused { code: status.code(), message: status.message().to_owned() })
    });
    let certified = answered.await.map_err(|_| RenewError::TimedOut)??;
    let leaf = key.complete(certified.chain.into_iter().map(CertificateDer::from).collect())?;
    if leaf.id() != &config.id {
        return Err(RenewError::OtherId { expected: config.id.clone(), actual: leaf.id().clone() });
    }
    if matches!(config.bundle, BundleSource::Answers)
        && let Ok(bundle) = TrustBundle::from_pem(certified.bundle.as_bytes())
    {
        tls.set_bundle(Arc::new(bundle));
    }
    tls.set_leaf(leaf.clone());
    if let Some(directory) = &config.state_directory
        && let Err(error) = leaf.save(directory)
    {
        tracing::warn!(%error, "cannot save the certificate; a restart will ask for a new one");
    }
    Ok(leaf)
}

/// A channel to the first of `addresses` that answers and shows `id`.
async fn connect(addresses: &[String], tls: &MeshTls, id: &SpiffeId) -> Result<Channel, RenewError> {
    let endpoint = tls.endpoint(vec![id.clone()], &[b"h2"]);
    let mut last: Box<dyn std::error::Error + Send + Sync> = "no address is configured".into();
    for address in addresses {
        let (address, endpoint) = (address.clone(), endpoint.clone());
        let connector = tower::service_fn(move |_: Uri| {
            let (address, endpoint) = (address.clone(), endpoint.clone());
            async move { dial(&address, &endpoint).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://mesh-identity").connect_with_connector(connector).await;
        match channel {
            Ok(channel) => return Ok(channel),
            Err(error) => last = error.into(),
        }
    }
    Err(RenewError::Connect { addresses: addresses.join(", "), source: describe_chain(last.as_ref()).into() })
}

/// Behind one name may be several replicas: tried in any order, so that one that is broken is not always the first.
async fn dial(address: &str, endpoint: &EndpointTls) -> std::io::Result<TlsStream<TcpStream>> {
    let mut replicas: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
    replicas.shuffle(&mut rand::rng());
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, format!("{address} does not resolve"));
    for replica in replicas {
        match tokio::time::timeout(REPLICA_TIMEOUT, dial_replica(replica, endpoint)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{replica} does not answer")),
        }
    }
    Err(last)
}

async fn dial_replica(replica: SocketAddr, endpoint: &EndpointTls) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(replica).await?;
    let name = ServerName::try_from("mesh-identity").expect("a valid DNS name");
    let stream = TlsConnector::from(endpoint.config()).connect(name, stream).await?;
    endpoint.verify(stream.get_ref().1.peer_certificates()).map_err(std::io::Error::other)?;
    Ok(stream)
}

fn reuse_saved(config: &CertificateConfig, tls: &MeshTls) {
    let Some(directory) = &config.state_directory else { return };
    match LeafCertificate::load(directory) {
        Ok(Some(leaf)) if leaf.id() == &config.id && leaf.valid_at(SystemTime::now()) => {
            tracing::info!(id = %leaf.id(), serial = leaf.serial(), "using the saved certificate");
            tls.set_leaf(leaf);
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot use the saved certificate, asking for a new one"),
    }
}

fn follow_bundle(source: &mut OpenBundle, tls: &MeshTls) {
    match source.poll() {
        Ok(Some(bundle)) => {
            if tls.set_bundle(bundle.clone()) {
                tracing::info!(fingerprint = %bundle.fingerprint(), "trust bundle in force");
            }
        }
        Ok(None) => {}
        Err(error @ BundleError::Read { .. }) => tracing::warn!(%error, "waiting for the trust bundle"),
        Err(error) => tracing::error!(%error, "keeping the trust bundle of before"),
    }
}

/// Between a quarter and all of 1, 2, 4 … 30 s.
fn pause(failures: u32, random: f64) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(5)).min(LAST_PAUSE);
    longest.mul_f64(0.25 + 0.75 * random.clamp(0.0, 1.0))
}

fn random_share() -> f64 {
    rand::random()
}

const CONDITION: &str = "certificate";
const NO_BUNDLE: &str =
    "there is no trust bundle yet: mesh-identity writes it, into the file of --bundle-file or a ConfigMap";
const POLL: Duration = Duration::from_secs(1);
/// Leaves time for the next replica within [`CALL_TIMEOUT`].
const REPLICA_TIMEOUT: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        assert_eq!(pause(1, 1.0), Duration::from_secs(1));
        assert_eq!(pause(3, 1.0), Duration::from_secs(4));
        assert_eq!(pause(1000, 1.0), Duration::from_secs(30));
        assert_eq!(pause(1, 0.0), Duration::from_millis(250));
    }

    #[test]
    fn an_error_is_told_with_its_cause() {
        let cause = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let error = RenewError::Connect { addresses: "a:1".to_owned(), source: Box::new(cause) };
        assert_eq!(describe_chain(&error), "mesh-identity does not answer at a:1: connection refused");
    }
}
