//! Why mesh TLS handshakes fail, as the closed set of words of `mesh_tls_handshake_failures_total{reason}`.

use std::fmt;
use std::io;

use rustls::CertificateError;

use crate::peer::PeerRefused;

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// The peer's certificate comes from an authority outside the bundle.
    UnknownAuthority,
    /// The peer's certificate has ended.
    Expired,
    /// The peer's certificate begins later.
    NotYetValid,
    /// The peer's certificate does not name exactly one workload.
    NoSpiffeId,
    /// The peer is somebody else than it should be.
    WrongId,
    /// The peer showed no certificate.
    NoCertificate,
    /// The peer's certificate is broken or not meant for this use.
    BadCertificate,
    /// The peer refused us with an alert; its own log says why.
    RefusedByPeer,
    /// No common mesh protocol (ALPN).
    NoProtocol,
    /// The peer does not speak TLS 1.3 as we do, or breaks it.
    Protocol,
    /// The connection ended within the handshake.
    Closed,
    /// The handshake took too long.
    TimedOut,
}

impl HandshakeFailure {
    /// Every reason, for metrics that show zeros.
    pub const ALL: [Self; 12] = [
        Self::UnknownAuthority,
        Self::Expired,
        Self::NotYetValid,
        Self::NoSpiffeId,
        Self::WrongId,
        Self::NoCertificate,
        Self::BadCertificate,
        Self::RefusedByPeer,
        Self::NoProtocol,
        Self::Protocol,
        Self::Closed,
        Self::TimedOut,
    ];

    /// The metric label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NoSpiffeId => "no_spiffe_id",
            Self::WrongId => "wrong_id",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::RefusedByPeer => "refused_by_peer",
            Self::NoProtocol => "no_protocol",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::TimedOut => "timed_out",
        }
    }

    /// The reason of what a TLS stream over a socket returned: a TLS error inside the I/O error, or the socket's own.
    pub fn of_io(error: &io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return tls.into();
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::InvalidData => Self::Protocol,
            _ => Self::Closed,
        }
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&PeerRefused> for HandshakeFailure {
    fn from(refused: &PeerRefused) -> Self {
        match refused {
            PeerRefused::NoCertificate => Self::NoCertificate,
            PeerRefused::UnknownAuthority => Self::UnknownAuthority,
            PeerRefused::Expired => Self::Expired,
            PeerRefused::NotYetValid => Self::NotYetValid,
            PeerRefused::NoSpiffeId => Self::NoSpiffeId,
            PeerRefused::WrongId { .. } => Self::WrongId,
            PeerRefused::Unusable(_) | PeerRefused::ChainTooLong => Self::BadCertificate,
        }
    }
}

impl From<&rustls::Error> for HandshakeFailure {
    fn from(error: &rustls::Error) -> Self {
        use rustls::Error;
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(certificate) => Self::of_certificate(certificate),
            Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol => {
                Self::NoProtocol
            }
            Error::AlertReceived(_) => Self::RefusedByPeer,
            _ => Self::Protocol,
        }
    }
}

impl HandshakeFailure {
    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::Expired => Self::Expired,
            CertificateError::NotValidYet => Self::NotYetValid,
            // The way our own verifiers' refusals travel through rustls.
            CertificateError::Other(other) => {
                other.0.downcast_ref::<PeerRefused>().map_or(Self::BadCertificate, Self::from)
            }
            _ => Self::BadCertificate,
        }
    }
}

/// A refusal as rustls takes it: with the alert that fits where there is one, else carried along as it is.
pub(crate) fn tls_error(refused: PeerRefused) -> rustls::Error {
    let error = match refused {
        PeerRefused::NoCertificate => return rustls::Error::NoCertificatesPresented,
        PeerRefused::UnknownAuthority => CertificateError::UnknownIssuer,
        PeerRefused::Expired => CertificateError::Expired,
        PeerRefused::NotYetValid => CertificateError::NotValidYet,
        other => CertificateError::Other(rustls::OtherError(std::sync::Arc::new(other))),
    };
    rustls::Error::InvalidCertificate(error)
}
