//! The pieces rustls calls in a handshake: whom we accept, and what we show.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::sessions::EndpointSessions;
use super::{State, expect, system_time};
use crate::failure::tls_error;
use crate::peer::{PeerRefused, PeerRole, VerifiedPeer};
use crate::spiffe_id::SpiffeId;

/// Accepts clients whom the bundle of this moment vouches for; what they may do is policy's matter.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    state: Arc<State>,
    required: bool,
}

impl ClientVerifier {
    /// Where certificates are not `required`, a wrong one must not keep anybody out: who it is gets decided after the
    /// handshake, which has proved no more than that the client has the certificate's key.
    pub(super) fn new(state: Arc<State>, required: bool) -> Self {
        Self { state, required }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.required {
            verify(&self.state, end_entity, intermediates, PeerRole::Client, now).map_err(tls_error)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.state.crypto.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.state.crypto.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts the servers that were meant. The name dialled with plays no part.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    state: Arc<State>,
    expected: Arc<[SpiffeId]>,
    sessions: Arc<EndpointSessions>,
}

impl ServerVerifier {
    pub(super) fn new(state: Arc<State>, expected: Arc<[SpiffeId]>, sessions: Arc<EndpointSessions>) -> Self {
        Self { state, expected, sessions }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = verify(&self.state, end_entity, intermediates, PeerRole::Server, now)
            .and_then(|peer| expect(&self.expected, peer))
            .map_err(tls_error)?;
        self.sessions.begin(peer.valid_until);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.state.crypto.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.state.crypto.signature_verification_algorithms.supported_schemes()
    }
}

/// Shows the certificate of this moment, on either end.
#[derive(Debug)]
pub(super) struct LiveLeaf {
    state: Arc<State>,
}

impl LiveLeaf {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.state.leaf.load().as_ref().map(|leaf| leaf.certified().clone())
    }
}

impl ResolvesServerCert for LiveLeaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for LiveLeaf {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.state.leaf.load().is_some()
    }
}

fn verify(
    state: &State,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: PeerRole,
    now: UnixTime,
) -> Result<VerifiedPeer, PeerRefused> {
    let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
    state.verify(&chain, role, system_time(now))
}

fn tls13_only() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}
