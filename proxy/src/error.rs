//! [`Error`]: everything that can keep a connection or a request from being served.
//!
//! One variant per cause somebody branches on. What follows from a cause (the word, the status, whose fault it is,
//! whether another endpoint may be tried) is decided here and nowhere else; words and statuses come from [`Reason`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::HandshakeFailure;
use policy::ServicePort;
use proto::Reason;

use crate::http::h1::error::H1Error;

/// Why the mesh answers, closes or refuses instead of the application.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Discovery said nothing in time.
    #[error("no controller has told this proxy about {0} yet; see meshctl proxy-status")]
    DiscoveryUnavailable(String),
    /// Routes exist, none matches.
    #[error("no route of {0} matches the request")]
    NoRoute(ServicePort),
    /// A route's backend names nothing.
    #[error("the route {0} sends to a Service that does not exist or has no such port")]
    BackendUnresolved(String),
    /// Nobody serves.
    #[error("{0} has no ready endpoint")]
    NoEndpoints(String),
    /// Nobody serves on the client's node, and nobody else may be asked.
    #[error("{0} has no ready endpoint on this node, and its internalTrafficPolicy is Local")]
    NoLocalEndpoints(String),
    /// RST in answer to SYN.
    #[error("{0} refused the connection")]
    ConnectRefused(SocketAddr),
    /// No answer to SYN.
    #[error("{address} did not answer within {after:?}; a NetworkPolicy may drop the connection")]
    ConnectTimeout {
        /// Who was dialled.
        address: SocketAddr,
        /// How long we waited.
        after: Duration,
    },
    /// Any other failure to connect.
    #[error("{address} cannot be reached: {source}")]
    ConnectFailed {
        /// Who was dialled.
        address: SocketAddr,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// No mesh TLS came about, or with somebody else than it should have.
    #[error("mesh TLS with {address} failed: {problem}")]
    Tls {
        /// The other side.
        address: SocketAddr,
        /// Why, in one word.
        failure: HandshakeFailure,
        /// Why, for people.
        problem: String,
    },
    /// We have nothing to show.
    #[error("this proxy has no valid certificate yet; see meshctl identity")]
    CertificateUnavailable,
    /// The endpoint ended the connection too early.
    #[error("{0} closed the connection before a whole response")]
    ConnectionClosed(SocketAddr),
    /// A pooled connection was dead; nothing was sent on it.
    #[error("the reused connection to {0} had ended")]
    ConnectionLost(SocketAddr),
    /// `timeouts.request`.
    #[error("the request took longer than the route allows ({0:?})")]
    RequestTimeout(Duration),
    /// `timeouts.backendRequest`.
    #[error("the try took longer than the route allows ({0:?})")]
    BackendTimeout(Duration),
    /// The application does not listen, or its proxy said so.
    #[error("the application does not listen at {0}")]
    AppRefused(SocketAddr),
    /// The application went away too early.
    #[error("the application at {0} closed the connection before a whole response")]
    AppClosed(SocketAddr),
    /// The workload shuts down.
    #[error("the workload is shutting down")]
    Draining,
    /// STRICT.
    #[error("{0} spoke plaintext and this workload accepts mesh TLS only (PeerAuthentication STRICT)")]
    PlaintextRefused(SocketAddr),
    /// Somebody dialled a port of the proxy itself.
    #[error("{0} is a port of the proxy itself, which no connection may be sent to")]
    OwnPort(SocketAddr),
    /// Somebody sent a connection for another address to this workload.
    #[error("{0} is not an address of this workload, which passes nothing on for others")]
    OthersAddress(SocketAddr),
    /// The client's HTTP/1 is broken.
    #[error("the request is not valid: {0}")]
    Request(H1Error),
    /// The endpoint's HTTP/1 is broken.
    #[error("the response is not valid: {0}")]
    Response(H1Error),
    /// The client's HTTP/2 request cannot be forwarded.
    #[error("the request is not valid: {0}")]
    RequestInvalid(&'static str),
    /// A limit of ours.
    #[error("the limit of {0} is reached")]
    Overloaded(&'static str),
    /// The client left.
    #[error("the client closed the connection before the response was complete")]
    ClientClosed,
    /// A peer broke HTTP/2, or what mesh proxies say to each other.
    #[error("{0}")]
    Protocol(String),
    /// What the other side's proxy told us of its own failure.
    #[error("the proxy of {address} answered {reason}")]
    Told {
        /// Whose proxy.
        address: SocketAddr,
        /// Its reason.
        reason: Reason,
    },
    /// Should not happen.
    #[error("{0}; please report it")]
    Internal(&'static str),
}

/// Whose doing it was, for log levels and for who is looked at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Who called.
    Client,
    /// Who was called.
    Server,
    /// The mesh or its configuration.
    Mesh,
}

impl Error {
    /// The word in `Proxy-Status`, logs and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::DiscoveryUnavailable(_) => Reason::DiscoveryUnavailable,
            Self::NoRoute(_) => Reason::NoRoute,
            Self::BackendUnresolved(_) => Reason::BackendUnresolved,
            Self::NoEndpoints(_) => Reason::NoEndpoints,
            Self::NoLocalEndpoints(_) => Reason::NoLocalEndpoints,
            Self::ConnectRefused(_) => Reason::ConnectRefused,
            Self::ConnectTimeout { .. } => Reason::ConnectTimeout,
            Self::ConnectFailed { .. } | Self::OwnPort(_) | Self::OthersAddress(_) => Reason::ConnectFailed,
            Self::Tls { failure, .. } => handshake_reason(*failure),
            Self::CertificateUnavailable => Reason::CertificateUnavailable,
            Self::ConnectionClosed(_) => Reason::ConnectionClosed,
            Self::ConnectionLost(_) => Reason::ConnectionLost,
            Self::RequestTimeout(_) => Reason::RequestTimeout,
            Self::BackendTimeout(_) => Reason::BackendTimeout,
            Self::AppRefused(_) => Reason::AppRefused,
            Self::AppClosed(_) => Reason::AppClosed,
            Self::Draining => Reason::Draining,
            Self::PlaintextRefused(_) => Reason::PlaintextRefused,
            Self::Request(problem) => problem.request_reason(),
            Self::Response(problem) => problem.response_reason(),
            Self::RequestInvalid(_) => Reason::RequestInvalid,
            Self::Overloaded(_) => Reason::Overloaded,
            Self::ClientClosed => Reason::ClientClosed,
            Self::Protocol(_) => Reason::ProtocolError,
            Self::Told { reason, .. } => *reason,
            Self::Internal(_) => Reason::Internal,
        }
    }

    /// Status of the response the mesh makes of it.
    pub fn status(&self) -> http::StatusCode {
        http::StatusCode::from_u16(self.reason().status()).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether another endpoint may be tried although the request is not known to be idempotent: nothing of it can
    /// have reached an application, and another endpoint may well do better.
    pub fn retryable(&self) -> bool {
        match self.reason() {
            Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::TlsFailed
            | Reason::TlsIdentityMismatch
            | Reason::TlsUntrusted
            | Reason::ConnectionLost
            | Reason::AppRefused
            | Reason::Draining => !matches!(self, Self::OwnPort(_) | Self::OthersAddress(_)),
            Reason::Overloaded => matches!(self, Self::Told { .. }),
            Reason::DiscoveryUnavailable
            | Reason::NoRoute
            | Reason::BackendUnresolved
            | Reason::NoEndpoints
            | Reason::NoLocalEndpoints
            | Reason::CertificateUnavailable
            | Reason::ConnectionClosed
            | Reason::RequestTimeout
            | Reason::BackendTimeout
            | Reason::AppClosed
            | Reason::PlaintextRefused
            | Reason::PolicyDenied
            | Reason::EgressDenied
            | Reason::RequestInvalid
            | Reason::HeadTooLarge
            | Reason::VersionUnsupported
            | Reason::TransferCodingUnsupported
            | Reason::ResponseInvalid
            | Reason::ResponseHeadTooLarge
            | Reason::ClientClosed
            | Reason::ProtocolError
            | Reason::Internal => false,
        }
    }

    /// Whose doing it was.
    pub fn fault(&self) -> Fault {
        match self.reason() {
            Reason::NoRoute
            | Reason::RequestInvalid
            | Reason::HeadTooLarge
            | Reason::VersionUnsupported
            | Reason::TransferCodingUnsupported
            | Reason::ClientClosed
            | Reason::PlaintextRefused
            | Reason::PolicyDenied
            | Reason::EgressDenied => Fault::Client,
            Reason::NoEndpoints
            | Reason::NoLocalEndpoints
            | Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::ConnectionClosed
            | Reason::ConnectionLost
            | Reason::RequestTimeout
            | Reason::BackendTimeout
            | Reason::AppRefused
            | Reason::AppClosed
            | Reason::Draining
            | Reason::ResponseInvalid
            | Reason::ResponseHeadTooLarge
            | Reason::ProtocolError => Fault::Server,
            Reason::DiscoveryUnavailable
            | Reason::BackendUnresolved
            | Reason::TlsFailed
            | Reason::TlsIdentityMismatch
            | Reason::TlsUntrusted
            | Reason::CertificateUnavailable
            | Reason::Overloaded
            | Reason::Internal => Fault::Mesh,
        }
    }
}

fn handshake_reason(failure: HandshakeFailure) -> Reason {
    match failure {
        HandshakeFailure::UnknownAuthority
        | HandshakeFailure::Expired
        | HandshakeFailure::NotYetValid
        | HandshakeFailure::NoSpiffeId
        | HandshakeFailure::NoCertificate
        | HandshakeFailure::BadCertificate => Reason::TlsUntrusted,
        HandshakeFailure::WrongId => Reason::TlsIdentityMismatch,
        HandshakeFailure::RefusedByPeer
        | HandshakeFailure::NoProtocol
        | HandshakeFailure::Protocol
        | HandshakeFailure::Closed
        | HandshakeFailure::TimedOut => Reason::TlsFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> SocketAddr {
        "10.0.0.7:80".parse().unwrap()
    }

    #[test]
    fn what_may_have_reached_an_application_is_never_tried_again() {
        for reason in Reason::ALL.iter().copied() {
            let error = Error::Told { address: address(), reason };
            assert_eq!(error.reason(), reason);
            assert!(!(error.retryable() && reason.may_have_reached_app()), "{reason}");
            assert_eq!(error.status().as_u16(), reason.status());
        }
    }

    #[test]
    fn dialling_ourselves_and_our_own_limits_are_not_cured_by_another_endpoint() {
        assert!(!Error::OwnPort(address()).retryable());
        assert!(!Error::Overloaded("connections").retryable());
        assert!(Error::ConnectRefused(address()).retryable());
        assert_eq!(Error::Overloaded("connections").fault(), Fault::Mesh);
    }
}
