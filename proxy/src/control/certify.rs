//! The workload's certificate: asked for with a token, kept for a restart, renewed long before it ends.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use identity::{
    CertificateError, Fingerprint, KeyAndRequest, LeafCertificate, MeshTls, PeerRefused, PeerRole, SpiffeId,
    TrustBundle,
};
use proto::identity::identity_client::IdentityClient;
use proto::identity::{CertifyRequest, CertifyResponse};
use tokio::sync::watch;

use super::backoff::Backoff;
use super::dial::{DialError, Dialer};
use super::state::ControlState;
use super::trust::Trust;

/// Keeps the workload's certificate valid.
#[derive(Debug)]
pub(crate) struct Certifier {
    pub(crate) id: SpiffeId,
    pub(crate) token_file: PathBuf,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) tls: MeshTls,
    pub(crate) trust: Trust,
    pub(crate) state: ControlState,
    pub(crate) dialer: Dialer,
    /// True once there is a certificate.
    pub(crate) certified: watch::Sender<bool>,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("cannot read the token {path}: {source}; it is mounted by the injector or written by meshctl demo")]
    Token { path: PathBuf, source: std::io::Error },
    #[error("the certificate authority refused: {}", .0.message())]
    Refused(Box<tonic::Status>),
    #[error("the certificate authority sent something unusable: {0}")]
    Unusable(#[from] CertificateError),
    #[error("the certificate authority certified {0}, which this workload is not")]
    Other(SpiffeId),
    #[error("the new certificate would not be trusted: {0}")]
    Untrusted(#[from] PeerRefused),
}

impl Certifier {
    /// Takes over the certificate of an earlier process, if it is still of use.
    pub(crate) fn restore(&self, now: SystemTime) {
        let Some(directory) = &self.directory else { return };
        match LeafCertificate::load(directory) {
            Ok(Some(leaf)) if *leaf.id() != self.id => {
                tracing::warn!(
                    id = leaf.id().as_str(),
                    "the kept certificate is another workload's; asking for a new one"
                );
            }
            Ok(Some(leaf)) => match self.tls.verify_peer(leaf.chain(), PeerRole::Client, now) {
                Ok(_) => self.use_from_now(leaf, now, false),
                Err(error) => tracing::info!(%error, "the kept certificate is of no more use; asking for a new one"),
            },
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the kept certificate cannot be used; asking for a new one"),
        }
    }

    /// Obtains and renews. Never returns.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        // Mounted anchors that have dropped the root of the newest certificate too: asking again would not help.
        let mut dropped = None;
        loop {
            self.sleep_until_due(dropped).await;
            match self.certify().await {
                Ok(leaf) => {
                    backoff.reset();
                    dropped = self.trust.has_dropped(&leaf);
                    self.use_from_now(leaf, SystemTime::now(), true);
                }
                Err(error) => {
                    // Once, not at every try.
                    if self.state.certificate_failed(&error.to_string()) {
                        tracing::warn!(%error, "no new certificate; trying again");
                    }
                    tokio::time::sleep(backoff.next(rand::random())).await;
                }
            }
        }
    }

    /// In short steps: a suspended machine's clock jumps, and the certificate's root may be dropped by the mesh.
    async fn sleep_until_due(&self, dropped: Option<Fingerprint>) {
        let Some(leaf) = self.tls.leaf() else { return };
        let due = Duration::from_millis(self.state.identity().renew_at_ms);
        while let Ok(left) = (SystemTime::UNIX_EPOCH + due).duration_since(SystemTime::now()) {
            let drops = self.trust.has_dropped(&leaf);
            if drops.is_some() && drops != dropped {
                tracing::warn!("the mesh has dropped the root of this certificate; asking for a new one");
                return;
            }
            tokio::time::sleep(left.clamp(SHORTEST_STEP, LONGEST_STEP)).await;
        }
    }

    async fn certify(&mut self) -> Result<LeafCertificate, Failed> {
        let living = self.tls.leaf().is_some_and(|leaf| leaf.valid_at(SystemTime::now()));
        // Where join tokens are used, a certificate that still lives is as good: the authority decides.
        let token = match self.token() {
            Err(_) if living => String::new(),
            token => token?,
        };
        let key = KeyAndRequest::new(&self.id)?;
        let address = self.dialer.choose().await?;
        let channel = match self.dialer.dial(address).await {
            Ok(channel) => channel,
            Err(error) => {
                self.dialer.others_first(address, FAILED_FOR);
                return Err(error.into());
            }
        };
        let request = CertifyRequest { csr: key.csr().to_vec().into(), token };
        let answer = IdentityClient::new(channel).max_decoding_message_size(MAX_MESSAGE).certify(request).await;
        let CertifyResponse { chain, bundle, .. } = match answer {
            Ok(response) => response.into_inner(),
            Err(status) => {
                self.dialer.others_first(address, FAILED_FOR);
                return Err(Failed::Refused(Box::new(status)));
            }
        };
        let leaf = key.complete(chain.into_iter().map(|der| der.to_vec().into()).collect())?;
        if *leaf.id() != self.id {
            return Err(Failed::Other(leaf.id().clone()));
        }
        match TrustBundle::from_pem(bundle.as_bytes()) {
            Ok(bundle) => self.trust.put_authority(bundle),
            Err(error) => tracing::warn!(%error, "the certificate authority sent no usable trust bundle"),
        }
        // Not ours to refuse: anchors may be on their way to us. But somebody should know.
        if let Err(error) = self.tls.verify_peer(leaf.chain(), PeerRole::Client, SystemTime::now()) {
            match error {
                PeerRefused::UnknownAuthority | PeerRefused::NotYetValid => {
                    tracing::warn!(%error, "the new certificate is not one this proxy would trust itself");
                }
                other => return Err(other.into()),
            }
        }
        Ok(leaf)
    }

    /// Read anew each time: it is rotated.
    fn token(&self) -> Result<String, Failed> {
        let failed = |source| Failed::Token { path: self.token_file.clone(), source };
        let mut token = String::new();
        File::open(&self.token_file)
            .and_then(|file| file.take(LONGEST_TOKEN).read_to_string(&mut token))
            .map_err(failed)?;
        Ok(token.trim().to_owned())
    }

    fn use_from_now(&self, leaf: LeafCertificate, now: SystemTime, new: bool) {
        let renew_at = leaf.renew_at(now, rand::random()).max(now + SHORTEST_LIFE);
        let left = leaf.not_after().duration_since(now).unwrap_or_default();
        tracing::info!(
            id = self.id.as_str(),
            serial = leaf.serial(),
            ends_in_seconds = left.as_secs(),
            new,
            "certificate in force"
        );
        self.state.certificate(leaf.not_before(), leaf.not_after(), renew_at, new);
        if let (Some(directory), true) = (&self.directory, new)
            && let Err(error) = leaf.save(directory)
        {
            tracing::warn!(%error, "cannot keep the certificate; a restart will need the certificate authority");
        }
        self.tls.set_leaf(leaf);
        self.certified.send_replace(true);
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
const FAILED_FOR: Duration = Duration::from_secs(5);
const SHORTEST_STEP: Duration = Duration::from_millis(10);
const LONGEST_STEP: Duration = Duration::from_secs(10);
/// However short a certificate lives, no more than one per second is asked for.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
const LONGEST_TOKEN: u64 = 64 * 1024;
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
