//! [`Clients`]: everything that talks to the control plane, started together.

use std::path::Path;
use std::time::SystemTime;

use identity::{BundleError, InvalidSpiffeId, MeshTls, SpiffeId, TrustBundle};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Discovery;
use super::certify::Certifier;
use super::dial::Dialer;
use super::picture::Keeper;
use super::state::ControlState;
use super::store::SWEEP;
use super::stream::{Introduction, SILENCE, StreamClient};
use super::trust::Trust;
use crate::config::Config;

/// The clients of identity and discovery, with what they keep on disk.
#[derive(Debug)]
pub struct Clients {
    config: Config,
    discovery: Discovery,
    trust: Trust,
    certifier: Certifier,
    stream: StreamClient,
    keeper: Option<Keeper>,
    certified: watch::Receiver<bool>,
}

/// What the proxy started from cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// Not an identity.
    #[error("{field} of the bootstrap: {source}")]
    Id {
        /// Which one.
        field: &'static str,
        /// What is wrong with it.
        source: InvalidSpiffeId,
    },
    /// Not a bundle.
    #[error("bundle of the bootstrap: {0}")]
    Bundle(#[from] BundleError),
}

impl Clients {
    /// Takes over what an earlier process kept, so that the proxy can serve before anybody is reached. `trust_changed`
    /// is told when other trust anchors are in force.
    pub fn new(
        config: &Config,
        discovery: &Discovery,
        state: &ControlState,
        tls: &MeshTls,
        trust_changed: watch::Sender<()>,
    ) -> Result<Self, ClientsError> {
        let id = |field, text: &str| text.parse::<SpiffeId>().map_err(|source| ClientsError::Id { field, source });
        let bootstrap = &config.bootstrap;
        let dialer = |upstream, id| Dialer::new(upstream, id, tls, bootstrap.socket_mark);
        let directory = bootstrap.state_directory.as_deref();
        let keeper = directory.map(|directory| Keeper::new(directory, discovery.clone(), state.clone()));
        if let Some(keeper) = &keeper {
            restore(keeper);
        }
        let first_contact = bootstrap.bundle.as_ref().map(|pem| TrustBundle::from_pem(pem.as_bytes())).transpose()?;
        let trust = Trust::new(first_contact, tls.clone(), state.clone(), trust_changed);
        trust.begin(bootstrap.bundle_file.clone(), discovery);
        let (certified, is_certified) = watch::channel(false);
        let certifier = Certifier {
            id: id("workload", &config.id)?,
            token_file: bootstrap.token_file.clone(),
            directory: directory.map(Path::to_owned),
            tls: tls.clone(),
            trust: trust.clone(),
            state: state.clone(),
            dialer: dialer(&bootstrap.identity, id("identity.id", &bootstrap.identity.id)?),
            certified,
        };
        certifier.restore(SystemTime::now());
        let stream = StreamClient {
            discovery: discovery.clone(),
            state: state.clone(),
            dialer: dialer(&bootstrap.controller, id("controller.id", &bootstrap.controller.id)?),
            introduction: Introduction::new(config),
            silence: SILENCE,
        };
        let discovery = discovery.clone();
        Ok(Self { config: config.clone(), discovery, trust, certifier, stream, keeper, certified: is_certified })
    }

    /// Keeps certificate, anchors and the picture of the world current. Never returns; stopped by dropping it.
    pub async fn run(self) {
        let Self { config, discovery, trust, certifier, stream, keeper, mut certified } = self;
        let follow = trust.run(config.bootstrap.bundle_file, discovery.clone());
        let streaming = async {
            // Without a certificate no controller lets us in. The sender lives in the certifier beside this.
            let _ = certified.wait_for(|certified| *certified).await;
            stream.run().await;
        };
        let keeping = async {
            if let Some(keeper) = keeper {
                keeper.run().await;
            }
        };
        let sweeping = async {
            let mut ticks = tokio::time::interval(SWEEP);
            loop {
                ticks.tick().await;
                discovery.store().sweep(Instant::now());
            }
        };
        tokio::join!(follow, certifier.run(), streaming, keeping, sweeping);
    }
}

fn restore(keeper: &Keeper) {
    match keeper.restore(SystemTime::now()) {
        Ok(0) => {}
        Ok(values) => tracing::info!(values, "beginning with the picture an earlier process kept"),
        Err(error) => tracing::warn!(%error, "no picture to begin with"),
    }
}
