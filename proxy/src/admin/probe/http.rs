//! HTTP and HTTPS probes: GET as the pod declares it.
//!
//! A redirect that stays on the pod's address is followed, ten at most; one that leads elsewhere ends the probe, and is a
//! success. So the kubelet does it, and it could not do it itself here: what a `Location` is relative to is the
//! application's port, not ours.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use ::http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use ::http::response::Parts;
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use proto::bootstrap::HttpGet;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{Answer, Application, LONGEST, Outcome};

/// What is asked for on the pod's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    is_secure: bool,
    port: u16,
    /// Path and query.
    path: String,
    /// Whether a declared `Host` still counts: it does not where a redirect named a host.
    keeps_host: bool,
}

/// Asks, and follows where the answer leads.
pub(super) async fn get(application: &Application, target: Target, get: &HttpGet, agent: &HeaderValue) -> Outcome {
    let mut target = target;
    for _ in 0..MOST_REQUESTS {
        let (head, body) = ask(application, &target, get, agent).await?;
        match target.redirected(application.address, &head) {
            Some(next) => target = next,
            None => return Ok(Answer { status: head.status, body }),
        }
    }
    Err(format!("port {} redirects more than {} times", target.port, MOST_REQUESTS - 1))
}

async fn ask(
    application: &Application,
    target: &Target,
    get: &HttpGet,
    agent: &HeaderValue,
) -> Result<(Parts, Bytes), String> {
    let address = SocketAddr::new(application.address, target.port);
    let request = request(address, target, &get.headers, agent)?;
    let tcp = application.dial(target.port, std::time::Duration::from_millis(LONGEST)).await?;
    if !target.is_secure {
        return exchange(tcp, request).await.map_err(|error| format!("{address} does not answer HTTP: {error}"));
    }
    let name = ServerName::IpAddress(address.ip().into());
    let tls = TlsConnector::from(Arc::clone(&ANYBODY)).connect(name, tcp).await;
    let tls = tls.map_err(|error| format!("{address} does not speak TLS: {error}"))?;
    exchange(tls, request).await.map_err(|error| format!("{address} does not answer HTTPS: {error}"))
}

/// The head, and as much of the body as the kubelet reads.
async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(Parts, Bytes), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let asking = async {
        let (head, mut body) = sender.send_request(request).await?.into_parts();
        let mut read = BytesMut::new();
        while read.len() < LARGEST_BODY
            && let Some(frame) = body.frame().await
        {
            if let Some(data) = frame?.data_ref() {
                read.extend_from_slice(&data[..data.len().min(LARGEST_BODY - read.len())]);
            }
        }
        Ok((head, read.freeze()))
    };
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        // What it ended with is told to whoever reads.
        _ = connection => asking.await,
    }
}

fn request(
    address: SocketAddr,
    target: &Target,
    headers: &[(String, String)],
    agent: &HeaderValue,
) -> Result<Request<Empty<Bytes>>, String> {
    let path = &target.path;
    let uri: Uri = path.parse().map_err(|error| format!("the probe's path {path:?} cannot be asked for: {error}"))?;
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let wrong = || format!("the probe's header {name:?} is none");
        let name = HeaderName::try_from(name.as_str()).map_err(|_| wrong())?;
        map.append(name, HeaderValue::try_from(value.as_str()).map_err(|_| wrong())?);
    }
    if !target.keeps_host {
        map.remove(HOST);
    }
    let host = HeaderValue::try_from(address.to_string()).map_err(|error| error.to_string())?;
    for (name, value) in [(HOST, host), (USER_AGENT, agent.clone()), (ACCEPT, HeaderValue::from_static("*/*"))] {
        map.entry(name).or_insert(value);
    }
    // Declared as empty: not to be sent.
    for name in [USER_AGENT, ACCEPT] {
        if map.get(&name).is_some_and(HeaderValue::is_empty) {
            map.remove(name);
        }
    }
    map.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    *request.headers_mut() = map;
    Ok(request)
}

impl Target {
    /// As declared.
    pub(super) fn new(is_secure: bool, port: u16, get: &HttpGet) -> Self {
        Self { is_secure, port, path: sendable(&get.path), keeps_host: true }
    }

    /// Where a redirect leads that the kubelet would follow.
    fn redirected(&self, own: IpAddr, head: &Parts) -> Option<Self> {
        let redirects = [
            StatusCode::MOVED_PERMANENTLY,
            StatusCode::FOUND,
            StatusCode::SEE_OTHER,
            StatusCode::TEMPORARY_REDIRECT,
            StatusCode::PERMANENT_REDIRECT,
        ];
        let location = head.headers.get(LOCATION).filter(|_| redirects.contains(&head.status))?;
        self.resolve(own, std::str::from_utf8(location.as_bytes()).ok().filter(|location| !location.is_empty())?)
    }

    /// A reference in the sense of RFC 3986, section 5; nothing where it leads elsewhere.
    fn resolve(&self, own: IpAddr, location: &str) -> Option<Self> {
        let (scheme, rest) = match location.find([':', '/', '?', '#']) {
            Some(end) if location[end..].starts_with(':') => location.split_at(end + 1),
            _ => ("", location),
        };
        let Some(rest) = rest.strip_prefix("//") else {
            let is_sibling = scheme.is_empty();
            return is_sibling.then(|| Self { path: self.sibling(location), ..self.clone() });
        };
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "" => self.is_secure,
            "http:" => false,
            "https:" => true,
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let address = match authority.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => {
                let ip = authority.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
                SocketAddr::new(ip, if is_secure { 443 } else { 80 })
            }
        };
        let path = sendable(&if path.starts_with('/') { path.to_owned() } else { format!("/{path}") });
        (address.ip() == own).then(|| Self { is_secure, port: address.port(), path, keeps_host: false })
    }

    /// The path of a reference that names no host.
    fn sibling(&self, reference: &str) -> String {
        let own = self.path.split_once('?').map_or(self.path.as_str(), |(path, _)| path);
        let (path, query) = reference.split_at(reference.find(['?', '#']).unwrap_or(reference.len()));
        if path.is_empty() {
            return sendable(&format!("{own}{query}"));
        }
        let directory = own.rsplit_once('/').map_or("", |(directory, _)| directory);
        let whole = if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
        let mut parts = Vec::new();
        for part in whole.split('/').skip(1) {
            match part {
                "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        if whole.ends_with("/.") || whole.ends_with("/..") {
            parts.push("");
        }
        sendable(&format!("/{}{query}", parts.join("/")))
    }
}

/// What a request can carry: no fragment, and escapes for what is no character of a path or query.
fn sendable(path: &str) -> String {
    let path = path.split_once('#').map_or(path, |(path, _)| path);
    let mut sendable = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte) {
            sendable.push(char::from(byte));
        } else {
            sendable.push_str(&format!("%{byte:02X}"));
        }
    }
    sendable
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

/// What is asked first, and ten redirects.
const MOST_REQUESTS: usize = 11;
/// The kubelet's limit.
const LARGEST_BODY: usize = 10 * 1024;

#[cfg(test)]
mod tests;
