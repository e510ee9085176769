//! Mesh TLS: rustls configurations that always use the leaf and the bundle of this moment.
//!
//! TLS 1.3 only, X25519MLKEM768 first, AES-128-GCM first where the processor has AES. A configuration is made once, per
//! listener or per endpoint, and never again: leaf and bundle are read at each handshake.
//!
//! **After every handshake the peer must be verified with [`MeshTls::verify_client`] or [`EndpointTls::verify`]**. In a
//! full handshake that finds a cached answer. In a resumed one it is the only check there is: rustls restores the peer's
//! chain from the ticket and asks nobody, though the bundle may have changed or the certificate ended meanwhile.
//!
//! Tickets are dropped early all the same, so that such refusals stay rare and come as clean full handshakes: a server's
//! ticket key is made anew when an anchor goes, and a client forgets an endpoint's tickets when leaf or bundle change or
//! the server's certificate ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs as provider;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::TrustBundle;
use crate::certificate::LeafCertificate;
use crate::peer::{PeerRefused, PeerRole, Trust, VerifiedPeer};
use crate::spiffe_id::SpiffeId;

mod sessions;
mod verifier;

use sessions::{EndpointSessions, ServerTickets};
use verifier::{ClientVerifier, LiveLeaf, ServerVerifier};

/// The leaf and bundle of a process, and the TLS configurations that follow them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MeshTls {
    state: Arc<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    leaf: ArcSwapOption<LeafCertificate>,
    trust: ArcSwap<Trust>,
    /// Goes up with every change of leaf or bundle; tickets of before are not offered.
    generation: AtomicU64,
    /// Goes up when an anchor goes; tickets of before are not accepted.
    anchors_gone: AtomicU64,
    clock: Arc<dyn TimeProvider>,
    crypto: Arc<CryptoProvider>,
}

impl State {
    fn now(&self) -> SystemTime {
        // Without a clock nothing is valid.
        self.clock.current_time().map_or(SystemTime::UNIX_EPOCH, system_time)
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        role: PeerRole,
        now: SystemTime,
    ) -> Result<VerifiedPeer, PeerRefused> {
        self.trust.load().verify(chain, role, now)
    }
}

/// Whether a server asks its clients for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// No client gets in without one: mesh TLS.
    Required,
    /// Asked for, and believed if [`MeshTls::verify_client`] says so after the handshake; one it refuses counts as none
    /// shown. For the certificate authority, whose clients have none at first, and a useless one at worst.
    Optional,
    /// Not asked for.
    None,
}

impl MeshTls {
    /// With the system's clock. Without a bundle every peer is refused, until [`set_bundle`](Self::set_bundle).
    pub fn new(bundle: Option<Arc<TrustBundle>>) -> Self {
        Self::with_clock(bundle, Arc::new(DefaultTimeProvider))
    }

    /// With a clock of the caller's.
    pub fn with_clock(bundle: Option<Arc<TrustBundle>>, clock: Arc<dyn TimeProvider>) -> Self {
        Self {
            state: Arc::new(State {
                leaf: ArcSwapOption::empty(),
                trust: ArcSwap::from_pointee(Trust::new(bundle)),
                generation: AtomicU64::new(0),
                anchors_gone: AtomicU64::new(0),
                clock,
                crypto: Arc::new(crypto_provider(hardware_aes())),
            }),
        }
    }

    /// The certificate in use.
    pub fn leaf(&self) -> Option<Arc<LeafCertificate>> {
        self.state.leaf.load_full()
    }

    /// Uses another certificate from the next handshake on. Open connections go on.
    pub fn set_leaf(&self, leaf: LeafCertificate) {
        self.state.leaf.store(Some(Arc::new(leaf)));
        self.state.generation.fetch_add(1, Ordering::Release);
    }

    /// The bundle in force.
    pub fn bundle(&self) -> Option<Arc<TrustBundle>> {
        self.state.trust.load().bundle().cloned()
    }

    /// Trusts another bundle from now on; says whether it differs. The caller then verifies its open connections again.
    pub fn set_bundle(&self, bundle: Arc<TrustBundle>) -> bool {
        let before = self.bundle();
        if before.as_ref() == Some(&bundle) {
            return false;
        }
        let removes = before.is_some_and(|before| !bundle.contains_all(&before));
        self.state.trust.store(Arc::new(Trust::new(Some(bundle))));
        if removes {
            self.state.anchors_gone.fetch_add(1, Ordering::Release);
        }
        self.state.generation.fetch_add(1, Ordering::Release);
        true
    }

    /// The configuration of a listener, to be shared by all workers: they share its ticket keys. `protocols` are ALPN
    /// names, most preferred first.
    pub fn server_config(&self, clients: ClientCertificates, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_details(self.state.crypto.clone(), self.state.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3 suites");
        let builder = match clients {
            ClientCertificates::Required => {
                builder.with_client_cert_verifier(Arc::new(ClientVerifier::new(self.state.clone(), true)))
            }
            ClientCertificates::Optional => {
                builder.with_client_cert_verifier(Arc::new(ClientVerifier::new(self.state.clone(), false)))
            }
            ClientCertificates::None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(LiveLeaf::new(self.state.clone())));
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config.ticketer = Arc::new(ServerTickets::new(self.state.clone()));
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        // A client opens few connections to us; each one used up brings the next ticket.
        config.send_tls13_tickets = 1;
        config.max_early_data_size = 0;
        Arc::new(config)
    }

    /// The configuration for dialling one endpoint, who must be one of `expected`. `protocols` are ALPN names; one
    /// connection can be given fewer (`TlsConnector::with_alpn`). The name dialled with is a hint for SNI only.
    pub fn endpoint(&self, expected: Vec<SpiffeId>, protocols: &[&[u8]]) -> EndpointTls {
        let expected: Arc<[SpiffeId]> = expected.into();
        let sessions = Arc::new(EndpointSessions::new(self.state.clone()));
        let verifier = ServerVerifier::new(self.state.clone(), expected.clone(), sessions.clone());
        let mut config = ClientConfig::builder_with_details(self.state.crypto.clone(), self.state.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3 suites")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(LiveLeaf::new(self.state.clone())));
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::store(sessions.clone());
        config.enable_early_data = false;
        EndpointTls { state: self.state.clone(), config: Arc::new(config), expected, sessions }
    }

    /// Who the client of a finished handshake is; `chain` is what the connection's `peer_certificates` returned. Also for
    /// open connections, after a change of bundle.
    pub fn verify_client(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<VerifiedPeer, PeerRefused> {
        self.state.verify(chain.unwrap_or_default(), PeerRole::Client, self.state.now())
    }

    /// Verifies a chain, leaf first, at any time.
    pub fn verify_peer(
        &self,
        chain: &[CertificateDer<'_>],
        role: PeerRole,
        now: SystemTime,
    ) -> Result<VerifiedPeer, PeerRefused> {
        self.state.verify(chain, role, now)
    }
}

/// How one endpoint is dialled, with its sessions to resume. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EndpointTls {
    state: Arc<State>,
    config: Arc<ClientConfig>,
    expected: Arc<[SpiffeId]>,
    sessions: Arc<EndpointSessions>,
}

impl EndpointTls {
    /// The rustls configuration.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// Who may answer.
    pub fn expected(&self) -> &[SpiffeId] {
        &self.expected
    }

    /// Who the server of a finished handshake is; `chain` is what the connection's `peer_certificates` returned. Also for
    /// open connections, after a change of bundle.
    pub fn verify(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<VerifiedPeer, PeerRefused> {
        let peer = self.state.verify(chain.unwrap_or_default(), PeerRole::Server, self.state.now());
        let checked = peer.and_then(|peer| expect(&self.expected, peer));
        if checked.is_err() {
            self.sessions.forget();
        }
        checked
    }

    /// Drops the endpoint's tickets, after a handshake that failed: the next one is a full one.
    pub fn forget_sessions(&self) {
        self.sessions.forget();
    }
}

fn expect(expected: &[SpiffeId], peer: VerifiedPeer) -> Result<VerifiedPeer, PeerRefused> {
    if expected.contains(&peer.id) {
        return Ok(peer);
    }
    let names: Vec<&str> = expected.iter().take(MAX_SHOWN_IDS).map(SpiffeId::as_str).collect();
    Err(PeerRefused::WrongId { expected: names.join(", "), actual: peer.id })
}

fn crypto_provider(hardware_aes: bool) -> CryptoProvider {
    use provider::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let cipher_suites = if hardware_aes {
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256]
    } else {
        vec![TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384]
    };
    let kx_groups = vec![provider::kx_group::X25519MLKEM768, provider::kx_group::X25519, provider::kx_group::SECP256R1];
    CryptoProvider { cipher_suites, kx_groups, ..provider::default_provider() }
}

fn hardware_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs())
}

const MAX_SHOWN_IDS: usize = 4;

#[cfg(test)]
mod tests;
