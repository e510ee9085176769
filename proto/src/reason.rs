//! [`Reason`]: the closed list of why the mesh itself answered, closed or refused.
//!
//! One word per cause, the same in the `Proxy-Status` header's `details` (RFC 9209), the log line, the metric label
//! `reason` and the command line. The sentence beside each word is what documentation and `meshctl` print.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($variant:ident $word:literal $status:literal $error:literal $reached:literal $sentence:literal;)*) => {
        /// Why the mesh answered instead of the application.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $sentence] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The sentence: what happened, and what to look at.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// Status of the response the mesh makes, where there is one to make.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The registered proxy error type (RFC 9209, section 2.3).
            pub const fn proxy_error(self) -> &'static str {
                match self { $(Self::$variant => $error,)* }
            }

            /// Whether the request may have reached an application: if not, another endpoint may be tried.
            pub const fn may_have_reached_app(self) -> bool {
                match self { $(Self::$variant => $reached,)* }
            }
        }
    };
}

reasons! {
    // variant word status RFC-9209-error may-have-reached-app sentence
    DiscoveryUnavailable "discovery_unavailable" 503 "destination_not_found" false "No controller has told this proxy about the destination yet; see meshctl proxy-status.";
    NoRoute "no_route" 404 "destination_not_found" false "Routes exist for the Service and none of them matches the request.";
    BackendUnresolved "backend_unresolved" 500 "proxy_configuration_error" false "The route names a backend that does not exist or has no such port.";
    NoEndpoints "no_endpoints" 503 "destination_unavailable" false "The Service has no ready endpoint.";
    NoLocalEndpoints "no_local_endpoints" 503 "destination_unavailable" false "The Service's internalTrafficPolicy is Local, and none of its ready endpoints is on the client's node.";
    ConnectRefused "connect_refused" 502 "connection_refused" false "The endpoint's proxy or host refused the connection.";
    ConnectTimeout "connect_timeout" 504 "connection_timeout" false "The endpoint did not answer the connection attempt; a NetworkPolicy may drop it.";
    ConnectFailed "connect_failed" 502 "destination_ip_unroutable" false "The endpoint could not be reached.";
    TlsFailed "tls_failed" 502 "tls_protocol_error" false "The mesh TLS handshake with the endpoint failed.";
    TlsIdentityMismatch "tls_identity_mismatch" 502 "tls_certificate_error" false "The endpoint showed another identity than the one it should have.";
    TlsUntrusted "tls_untrusted" 502 "tls_certificate_error" false "The peer's certificate is expired, of another trust domain's authority, or names no workload.";
    CertificateUnavailable "certificate_unavailable" 503 "proxy_internal_error" false "This proxy has no valid certificate; see meshctl identity.";
    ConnectionClosed "connection_closed" 502 "connection_terminated" true "The endpoint closed the connection before a whole response.";
    ConnectionLost "connection_lost" 502 "connection_terminated" false "A reused connection had ended before the request was sent.";
    RequestTimeout "request_timeout" 504 "http_response_timeout" true "The route's request timeout ended the request.";
    BackendTimeout "backend_timeout" 504 "http_response_timeout" true "The route's backendRequest timeout ended the try.";
    AppRefused "app_refused" 503 "connection_refused" false "The application does not listen on the port.";
    AppClosed "app_closed" 502 "connection_terminated" true "The application closed the connection before a whole response.";
    Draining "draining" 503 "destination_unavailable" false "The workload is shutting down.";
    PlaintextRefused "plaintext_refused" 403 "connection_limit_reached" false "The workload accepts mesh TLS only (PeerAuthentication STRICT) and the client spoke plaintext.";
    PolicyDenied "policy_denied" 403 "http_request_denied" false "An AuthorizationPolicy denies the request.";
    EgressDenied "egress_denied" 403 "http_request_denied" false "The destination is outside the mesh and egress policy refuses it.";
    RequestInvalid "request_invalid" 400 "http_request_error" false "The request is not valid HTTP, or could be read in two ways.";
    HeadTooLarge "head_too_large" 431 "http_request_error" false "The request's head is larger than max_head_bytes.";
    VersionUnsupported "version_unsupported" 505 "http_request_error" false "The request's HTTP version is not spoken here.";
    TransferCodingUnsupported "transfer_coding_unsupported" 501 "http_request_error" false "The request uses a transfer coding other than chunked.";
    ResponseInvalid "response_invalid" 502 "http_protocol_error" true "The response is not valid HTTP, or could be read in two ways.";
    ResponseHeadTooLarge "response_head_too_large" 502 "http_response_header_section_size" true "The response's head is larger than max_head_bytes.";
    Overloaded "overloaded" 503 "connection_limit_reached" false "A limit of connections, streams or pending requests is reached.";
    ClientClosed "client_closed" 499 "http_request_error" true "The client went away before the response was complete.";
    ProtocolError "protocol_error" 502 "http_protocol_error" true "A peer broke the HTTP/2 protocol.";
    Internal "internal" 500 "proxy_internal_error" true "The proxy failed in a way it does not know; please report it.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is not one of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an error reason of the mesh")]
pub struct UnknownReason(String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(word: &str) -> Result<Self, UnknownReason> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word).ok_or_else(|| UnknownReason(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_read_back() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse::<Reason>().unwrap(), *reason);
            assert!(reason.sentence().ends_with('.'), "{reason}");
        }
        assert!("teapot".parse::<Reason>().is_err());
    }
}
