//! Putting the parts together, and taking them down again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use controller_runtime::bundle_source::{self, BundleConfigMap, BundleSource};
use controller_runtime::certificate::{self, CertificateConfig, CertificateMetrics, Certified};
use controller_runtime::health::{self, Readiness};
use controller_runtime::incoming::HandshakeMetrics;
use controller_runtime::kubernetes;
use controller_runtime::listen::listen;
use controller_runtime::preferred::Preferred;
use controller_runtime::shutdown::Shutdown;
use identity::{MeshTls, SpiffeId};
use kube::Client;
use kube::runtime::reflector;
use prometheus_client::registry::Registry;
use proto::identity::CertifyRequest;
use proto::identity::identity_client::IdentityClient;
use proto::names;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::args::Args;
use crate::ca_bundle::{self, Trusted};
use crate::config::Config;
use crate::events::{self, Events};
use crate::metrics::Metrics;
use crate::namespaces::{self, Namespaces, Repairs};
use crate::webhook::Webhook;
use crate::{api_servers, serve};

/// Serves until `shutdown`.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let (config, text) = read_config(&args.config)?;
    let listener = listen("--listen", args.listen).await?;
    let health = listen("--health-listen", args.health_listen).await?;
    let client = kubernetes::connect("mesh-injector", env!("CARGO_PKG_VERSION")).await?;

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let handshakes = HandshakeMetrics::register(&mut registry);
    let certificates = CertificateMetrics::register(&mut registry);
    let trusted = Trusted::register(&mut registry);
    let readiness = Readiness::new();
    let tls = MeshTls::new(None);
    let (bundle_sender, bundle) = watch::channel(None);
    let certificate = certificate_config(&args, &config, client.clone())?;
    let (config_sender, config) = watch::channel(Arc::new(config));
    let (known, known_writer) = reflector::store();
    let (events, queue) = Events::queue();
    events.register(&mut registry);

    let repairs = Repairs::default();
    let preferred = Preferred::new(&args.api_server_networks);
    let namespaces = Namespaces::new(known.clone(), Some(client.clone()), preferred.clone());
    let webhook = Webhook::new(namespaces, config, bundle, events, metrics, preferred.clone());
    let background = [
        tokio::spawn(certificate::keep(certificate, tls.clone(), readiness.clone(), certificates, certify)),
        tokio::spawn(follow_config(args.config.clone(), text, config_sender)),
        tokio::spawn(bundle_source::tell(tls.clone(), POLL, move |bundle| drop(bundle_sender.send_replace(bundle)))),
        tokio::spawn(namespaces::follow(client.clone(), known_writer, repairs.clone(), readiness.clone())),
        tokio::spawn(repairs.run(client.clone(), known)),
        tokio::spawn(ca_bundle::follow(client.clone(), tls.clone(), readiness.clone(), trusted)),
        tokio::spawn(api_servers::follow(client.clone(), preferred.clone())),
        tokio::spawn(events::publish(client, queue)),
        tokio::spawn(health::keep(health, registry, readiness.clone())),
    ];
    tracing::info!(address = %args.listen, health = %args.health_listen, version = env!("CARGO_PKG_VERSION"), "serving webhooks");
    let stopping = spread(shutdown, readiness);
    serve::serve(listener, tls, handshakes, Arc::new(webhook).router(), stopping, preferred).await;
    for task in background {
        task.abort();
    }
    Ok(())
}

/// Stops a while after it should, and says until then that it will: the API server must first hear of another replica.
fn spread(shutdown: Shutdown, readiness: Readiness) -> Shutdown {
    let (trigger, stopping) = Shutdown::pair();
    tokio::spawn(async move {
        shutdown.requested().await;
        readiness.wait_for("stopping", "the program was told to stop");
        tokio::time::sleep(SPREAD).await;
        trigger.stop();
    });
    stopping
}

fn certificate_config(args: &Args, config: &Config, client: Client) -> anyhow::Result<CertificateConfig> {
    let trust_domain = config.trust_domain.parse().context("trustDomain")?;
    let id = |account| SpiffeId::new(&trust_domain, names::SYSTEM_NAMESPACE, account);
    Ok(CertificateConfig {
        id: id(names::INJECTOR_ACCOUNT)?,
        identity_addresses: config.control_plane.identity_addresses.clone(),
        identity_id: id(names::IDENTITY_ACCOUNT)?,
        token_file: args.token_file.clone(),
        bundle: match &args.bundle_file {
            Some(file) => BundleSource::File(file.clone()),
            None => {
                let [namespace, name, key] =
                    [names::SYSTEM_NAMESPACE, names::BUNDLE_CONFIG_MAP, names::BUNDLE_KEY].map(str::to_owned);
                BundleSource::Cluster(bundle_source::follow(client, BundleConfigMap { namespace, name, key }))
            }
        },
        // Nothing of ours outlives the pod, and a new certificate is a second's work.
        state_directory: None,
    })
}

async fn certify(channel: Channel, csr: Vec<u8>, token: String) -> Result<Certified, tonic::Status> {
    let request = CertifyRequest { csr: csr.into(), token };
    let response = IdentityClient::new(channel).certify(request).await?.into_inner();
    Ok(Certified { chain: response.chain.into_iter().map(Into::into).collect(), bundle: response.bundle })
}

fn read_config(path: &Path) -> anyhow::Result<(Config, String)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
    let config = Config::parse(&text).with_context(|| format!("--config {}", path.display()))?;
    Ok((config, text))
}

/// Puts a changed file into force. One that can't be used is said once, and the last good one stays.
async fn follow_config(path: PathBuf, mut last: String, config: watch::Sender<Arc<Config>>) {
    let mut ticks = tokio::time::interval(POLL);
    loop {
        ticks.tick().await;
        // A file that is being replaced is there at the next tick.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if text == last {
            continue;
        }
        match Config::parse(&text) {
            Ok(new) => {
                tracing::info!("another configuration is in force; it counts for pods that are created from now on");
                config.send_replace(Arc::new(new));
            }
            Err(error) => tracing::error!(%error, "keeping the configuration of before"),
        }
        last = text;
    }
}

const POLL: Duration = Duration::from_secs(1);
const SPREAD: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_counts_and_a_broken_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, "{}").unwrap();
        let (config, text) = read_config(&path).unwrap();
        let (sender, mut receiver) = watch::channel(Arc::new(config));
        tokio::spawn(follow_config(path.clone(), text, sender));
        std::fs::write(&path, "proxy: {workers: 0}").unwrap();
        tokio::time::sleep(3 * POLL).await;
        assert!(!receiver.has_changed().unwrap());
        std::fs::write(&path, "proxy: {workers: 2}").unwrap();
        receiver.changed().await.unwrap();
        assert_eq!(receiver.borrow().proxy.workers, 2);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = format!("{:#}", read_config(Path::new("/nowhere/config.yaml")).unwrap_err());
        assert!(error.starts_with("--config /nowhere/config.yaml: "), "{error}");
    }
}
