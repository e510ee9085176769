//! Probes of the application that the kubelet asks the proxy for: the proxy really dials the application.
//!
//! The kubelet's own connection would meet the redirect. A tcpSocket probe would find the proxy listening whether or not
//! the application does, and what HTTPS and gRPC probes say can't be told from anybody's traffic. Everything here does
//! what the kubelet does (`pkg/probe` of Kubernetes), on the address and port it would use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use proto::Bootstrap;
use proto::bootstrap::{Probe, ProbeCheck};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{http as codecs, upstream};

/// Probes the application; `agent` is who asks. What is wrong is said in one sentence.
pub(super) async fn run(probe: &Probe, bootstrap: &Bootstrap, agent: Option<&HeaderValue>) -> Result<(), String> {
    let limit = Duration::from_millis(probe.timeout_ms.clamp(1, LONGEST));
    let address = address(probe.port, bootstrap)?;
    let probing = async {
        let tcp = upstream::connect(address, bootstrap.socket_mark, limit).await.map_err(|error| error.to_string())?;
        match &probe.check {
            ProbeCheck::Tcp => Ok(()),
            ProbeCheck::Grpc { service } => grpc(tcp, address, service, agent).await,
            ProbeCheck::Https { path, headers } => https(tcp, address, path, headers, agent).await,
        }
    };
    let outcome = tokio::time::timeout(limit, Box::pin(probing)).await;
    outcome.unwrap_or_else(|_| Err(format!("{address} did not answer within {limit:?}")))
}

/// The pod's own address, as for the kubelet, but loopback for what listens nowhere else.
fn address(port: u16, bootstrap: &Bootstrap) -> Result<SocketAddr, String> {
    let ports = &bootstrap.ports;
    if [ports.outbound, ports.inbound, ports.admin, ports.health].contains(&port) {
        return Err(format!("port {port} is the proxy's own"));
    }
    let own = bootstrap.workload.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let ip = match own {
        own if !bootstrap.loopback_ports.contains(&port) => own,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    Ok(SocketAddr::new(ip, port))
}

/// A status from 200 to 399 is success.
async fn https(
    tcp: TcpStream,
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
    agent: Option<&HeaderValue>,
) -> Result<(), String> {
    let name = ServerName::IpAddress(address.ip().into());
    let tls = TlsConnector::from(Arc::clone(&ANYBODY)).connect(name, tcp).await;
    let tls = tls.map_err(|error| format!("{address} does not speak TLS: {error}"))?;
    let request = request(address, path, headers, agent)?;
    let failed = |error: hyper::Error| format!("{address} does not answer HTTPS: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(failed)?;
    let response = tokio::select! {
        response = sender.send_request(request) => response.map_err(failed)?,
        Err(error) = connection => return Err(failed(error)),
    };
    match response.status().as_u16() {
        200..400 => Ok(()),
        status => Err(format!("{address} answers {status}")),
    }
}

fn request(
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
    agent: Option<&HeaderValue>,
) -> Result<Request<Empty<Bytes>>, String> {
    let uri: Uri = path.parse().map_err(|error| format!("the probe's path {path:?} cannot be asked for: {error}"))?;
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let wrong = || format!("the probe's header {name:?} is none");
        let name = HeaderName::try_from(name.as_str()).map_err(|_| wrong())?;
        map.append(name, HeaderValue::try_from(value.as_str()).map_err(|_| wrong())?);
    }
    let host = HeaderValue::try_from(address.to_string()).map_err(|error| error.to_string())?;
    let agent = agent.cloned().unwrap_or(HeaderValue::from_static(AGENT));
    for (name, value) in [(HOST, host), (USER_AGENT, agent), (ACCEPT, HeaderValue::from_static("*/*"))] {
        map.entry(name).or_insert(value);
    }
    map.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    *request.headers_mut() = map;
    Ok(request)
}

/// `grpc.health.v1.Health/Check` must answer `SERVING`.
async fn grpc(tcp: TcpStream, address: SocketAddr, service: &str, agent: Option<&HeaderValue>) -> Result<(), String> {
    let failed = |error: h2::Error| format!("{address} does not answer gRPC: {error}");
    let (sender, connection) = codecs::h2::client(LARGEST_ANSWER).handshake::<_, Bytes>(tcp).await.map_err(failed)?;
    let calling = async {
        let mut sender = sender.ready().await.map_err(failed)?;
        let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, agent.cloned().unwrap_or(HeaderValue::from_static(AGENT)))
            .body(())
            .map_err(|error| error.to_string())?;
        let (response, mut body) = sender.send_request(request, false).map_err(failed)?;
        body.send_data(framed(&HealthCheckRequest { service: service.to_owned() }), true).map_err(failed)?;
        let (head, mut body) = response.await.map_err(failed)?.into_parts();
        if head.status != 200 {
            return Err(format!("{address} answers {} and not gRPC", head.status.as_u16()));
        }
        let mut answer = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(failed)?;
            if answer.len() + chunk.len() > LARGEST_ANSWER as usize {
                return Err(format!("{address} answers more than a health check has to say"));
            }
            let _ = body.flow_control().release_capacity(chunk.len());
            answer.extend_from_slice(&chunk);
        }
        // An error comes with the head alone.
        let trailers = body.trailers().await.map_err(failed)?.unwrap_or(head.headers);
        verdict(address, &trailers, &answer)
    };
    tokio::select! {
        outcome = calling => outcome,
        Err(error) = connection => Err(failed(error)),
    }
}

fn verdict(address: SocketAddr, trailers: &HeaderMap, answer: &[u8]) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => {}
        "12" => return Err(format!("{address} does not implement grpc.health.v1.Health")),
        status => return Err(format!("{address} answers grpc-status {status:?}: {}", text("grpc-message"))),
    }
    // One byte for compression and four for the length stand before a message.
    let status = answer.get(5..).and_then(|message| HealthCheckResponse::decode(message).ok()).map(|it| it.status);
    match status {
        Some(SERVING) => Ok(()),
        Some(status) => Err(format!("{address} answers {}", STATUSES.get(status as usize).unwrap_or(&"UNKNOWN"))),
        None => Err(format!("{address} answers something else than a HealthCheckResponse")),
    }
}

fn framed(message: &impl prost::Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(encoded.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    frame.put_slice(&encoded);
    frame.freeze()
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Made for the first HTTPS probe, and shared by all.
static ANYBODY: LazyLock<Arc<ClientConfig>> = LazyLock::new(anybody);

/// TLS 1.2 or 1.3 with a server that may be anybody: a probe asks whether it answers, not who it is.
fn anybody() -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for every version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    // Each probe asks for all of it, as the kubelet's would.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Accepts every certificate and every signature, as the kubelet does not look at them either.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const AGENT: &str = "kube-probe/mesh-proxy";
const SERVING: i32 = 1;
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const LARGEST_ANSWER: u32 = 16 * 1024;
/// An hour, in milliseconds: more than anybody asks for.
const LONGEST: u64 = 3_600_000;

#[cfg(test)]
mod tests;
