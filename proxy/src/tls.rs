//! Mesh TLS as a worker uses it: accepting, dialling, and what two proxies say to each other inside.
//!
//! On the wire, inside TLS 1.3 with a `mesh/...` ALPN name:
//!
//! - client to server: the preface, a two-byte length and a [`Preface`] (labels only). It travels with the client's
//!   Finished.
//! - server to client, on `mesh/tcp` only: the answer, a two-byte length and a reason's word; length 0 means the
//!   application took the connection. HTTP needs none, it has statuses. So a client proxy knows for certain that no
//!   byte reached an application that is not there, and tries another endpoint.
//!
//! Trust is [`identity::MeshTls`]'s matter: every peer is verified against the bundle of this moment after every
//! handshake, resumed ones as well.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use identity::{EndpointTls, HandshakeFailure, MeshTls, PeerRole, VerifiedPeer};
use prost::Message as _;
use proto::preface::Preface;
use proto::{Reason, bootstrap, names};
use rustls::ServerConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Error;
use crate::net::copy::LARGEST_PIECE;
use crate::net::prefixed::Prefixed;
use crate::net::read_ahead::ReadAhead;
use crate::stream::{Chain, Stream};
use crate::worker::Shared;

mod handshakes;

use handshakes::Handshakes;

/// What a mesh TLS connection carries, as its ALPN name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MeshProtocol {
    /// `mesh/h1`.
    Http1,
    /// `mesh/h2`.
    Http2,
    /// `mesh/tcp`.
    Tcp,
}

/// One worker's mesh TLS.
#[derive(Debug)]
pub struct Tls {
    mesh: MeshTls,
    server: Arc<ServerConfig>,
    preface: Bytes,
    endpoints: RefCell<HashMap<SocketAddr, (Rc<str>, EndpointTls)>>,
    handshakes: Handshakes,
}

/// A mesh TLS connection that was accepted, its client verified.
#[derive(Debug)]
pub struct Accepted {
    /// What is inside, after the preface.
    pub stream: Stream,
    /// Who called.
    pub peer: VerifiedPeer,
    /// What the connection carries.
    pub protocol: MeshProtocol,
    /// What the caller says of itself.
    pub preface: Preface,
}

impl MeshProtocol {
    /// The ALPN name.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => names::ALPN_HTTP1,
            Self::Http2 => names::ALPN_HTTP2,
            Self::Tcp => names::ALPN_TCP,
        }
    }

    /// What an ALPN name means.
    pub fn from_alpn(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.alpn() == name)
    }

    /// Every one, the most preferred first.
    pub const ALL: [Self; 3] = [Self::Http2, Self::Http1, Self::Tcp];
}

impl Tls {
    /// For one worker; `server` is shared by all of them, and with it the ticket keys.
    pub fn new(mesh: MeshTls, server: Arc<ServerConfig>, workload: &bootstrap::Workload) -> Self {
        Self {
            mesh,
            server,
            preface: encode_preface(workload),
            endpoints: RefCell::default(),
            handshakes: Handshakes::default(),
        }
    }

    /// The configuration every worker accepts with.
    pub fn server_config(mesh: &MeshTls) -> Arc<ServerConfig> {
        let names = MeshProtocol::ALL.map(MeshProtocol::alpn);
        mesh.server_config(identity::ClientCertificates::Required, &names)
    }

    /// Ends a client's mesh TLS: handshake, verification, preface.
    pub async fn accept(&self, tcp: Prefixed<TcpStream>, client: SocketAddr) -> Result<Accepted, Error> {
        if self.mesh.leaf().is_none() {
            return Err(Error::CertificateUnavailable);
        }
        let places = timeout(HANDSHAKE_TIMEOUT, self.handshakes.begin(client.ip())).await;
        let Ok(_places) = places else {
            return Err(Error::Overloaded("handshakes under way"));
        };
        let handshake = TlsAcceptor::from(Arc::clone(&self.server)).accept(ReadAhead::new(tcp));
        let mut stream = timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| refusal(client, HandshakeFailure::TimedOut, &"the client took too long"))?
            .map_err(|error| refusal(client, HandshakeFailure::of_io(&error), &error))?;
        let (_, tls) = stream.get_mut();
        tls.set_buffer_limit(Some(LARGEST_PIECE));
        let peer = self
            .mesh
            .verify_client(tls.peer_certificates())
            .map_err(|refused| refusal(client, HandshakeFailure::from(&refused), &refused))?;
        let protocol = tls.alpn_protocol().and_then(MeshProtocol::from_alpn);
        let Some(protocol) = protocol else {
            return Err(refusal(client, HandshakeFailure::NoProtocol, &"no mesh protocol in common"));
        };
        let mut stream = Stream::Accepted(Box::new(stream));
        let preface = timeout(PREFACE_TIMEOUT, read_preface(&mut stream))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| Error::Protocol(format!("no valid preface from {client}: {error}")))?;
        Ok(Accepted { stream, peer, protocol, preface })
    }

    /// Makes a TCP connection to an endpoint's proxy one of mesh TLS. `name` is a hint for the other side (SNI).
    pub async fn connect(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        identity: &str,
        name: ServerName<'static>,
        protocol: MeshProtocol,
    ) -> Result<Stream, Error> {
        if self.mesh.leaf().is_none() {
            return Err(Error::CertificateUnavailable);
        }
        let endpoint = self.endpoint(address, identity)?;
        let connector = TlsConnector::from(endpoint.config());
        let send_preface = |tls: &mut rustls::ClientConnection| {
            // rustls keeps it and sends it with the Finished; memory is all it writes to, so it cannot fail.
            let _ = tls.writer().write_all(&self.preface);
        };
        let handshake =
            connector.with_alpn(vec![protocol.alpn().to_vec()]).connect_with(name, ReadAhead::new(tcp), send_preface);
        let outcome =
            timeout(HANDSHAKE_TIMEOUT, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut stream = outcome.map_err(|error| {
            endpoint.forget_sessions();
            refusal(address, HandshakeFailure::of_io(&error), &error)
        })?;
        let (_, tls) = stream.get_mut();
        tls.set_buffer_limit(Some(LARGEST_PIECE));
        endpoint
            .verify(tls.peer_certificates())
            .map_err(|refused| refusal(address, HandshakeFailure::from(&refused), &refused))?;
        if tls.alpn_protocol() != Some(protocol.alpn()) {
            return Err(refusal(address, HandshakeFailure::NoProtocol, &"no mesh protocol in common"));
        }
        Ok(Stream::Dialled(Box::new(stream)))
    }

    /// Resolves when a peer is not trusted any more: another bundle came that does not vouch for it. That its
    /// certificate ends is no reason, only new connections must bring a newer one.
    pub async fn until_distrusted(&self, shared: &Shared, peer: Option<(Chain, PeerRole)>) {
        let Some((chain, role)) = peer else { return std::future::pending().await };
        let mut changed = shared.trust_changed.subscribe();
        let valid_until = self.mesh.verify_peer(&chain, role, SystemTime::now()).map(|peer| peer.valid_until);
        loop {
            let at = SystemTime::now().min(valid_until.clone().map_or(SystemTime::UNIX_EPOCH, |end| end - SECOND));
            if self.mesh.verify_peer(&chain, role, at).is_err() || changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn endpoint(&self, address: SocketAddr, identity: &str) -> Result<EndpointTls, Error> {
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some((of, endpoint)) = endpoints.get(&address)
            && **of == *identity
        {
            return Ok(endpoint.clone());
        }
        let expected = identity
            .parse()
            .map_err(|problem| refusal(address, HandshakeFailure::WrongId, &format!("{identity:?}: {problem}")))?;
        if endpoints.len() >= MOST_ENDPOINTS {
            // Costs the others one full handshake each.
            endpoints.clear();
        }
        let endpoint = self.mesh.endpoint(vec![expected], &MeshProtocol::ALL.map(MeshProtocol::alpn));
        endpoints.insert(address, (identity.into(), endpoint.clone()));
        Ok(endpoint)
    }
}

/// Tells the client's proxy what became of a `mesh/tcp` connection: `None` is success.
pub async fn write_answer(stream: &mut (impl AsyncWrite + Unpin), failure: Option<Reason>) -> io::Result<()> {
    stream.write_all(&framed(failure.map_or("", Reason::as_str).as_bytes())).await?;
    stream.flush().await
}

/// Reads what [`write_answer`] wrote; `Ok(Some)` is the other side's reason.
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Reason>> {
    let word = read_framed(stream, LONGEST_REASON).await?;
    if word.is_empty() {
        return Ok(None);
    }
    // A newer proxy may know reasons that we do not.
    Ok(Some(std::str::from_utf8(&word).ok().and_then(|word| word.parse().ok()).unwrap_or(Reason::ConnectionClosed)))
}

async fn read_preface(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Preface> {
    let bytes = read_framed(stream, names::MAX_PREFACE).await?;
    Preface::decode(&*bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn read_framed(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{length} bytes are announced, {most} allowed"),
        ));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn encode_preface(workload: &bootstrap::Workload) -> Bytes {
    let cut = |text: &str| text[..text.floor_char_boundary(LONGEST_LABEL)].to_owned();
    let preface = Preface {
        workload: cut(if workload.owner.is_empty() { &workload.name } else { &workload.owner }),
        app: cut(&workload.app),
        version: cut(&workload.version),
        cluster: cut(&workload.cluster),
    };
    framed(&preface.encode_to_vec()).into()
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("what we frame is far shorter than 64 KiB");
    [&length.to_be_bytes(), bytes].concat()
}

fn refusal(address: SocketAddr, failure: HandshakeFailure, problem: &impl ToString) -> Error {
    Error::Tls { address, failure, problem: problem.to_string() }
}

const SECOND: Duration = Duration::from_secs(1);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Endpoints one worker keeps sessions of.
const MOST_ENDPOINTS: usize = 4096;
/// Kubernetes' limit for names.
const LONGEST_LABEL: usize = 253;
const LONGEST_REASON: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_preface_is_capped_and_strict() {
        let workload = bootstrap::Workload {
            name: "web-1".to_owned(),
            owner: "é".repeat(1000),
            app: "a".repeat(1000),
            version: "v".repeat(1000),
            ..bootstrap::Workload::default()
        };
        let bytes = encode_preface(&workload);
        assert!(bytes.len() <= names::MAX_PREFACE + 2);
        let preface = read_preface(&mut &*bytes).await.unwrap();
        assert_eq!(preface.app.len(), LONGEST_LABEL);
        assert_eq!(preface.workload.len(), LONGEST_LABEL - 1);

        let broken: [&[u8]; 4] = [b"\xff\xff", b"\x00\x03\x0a\x7fx", b"\x00\x05ab", b"\x00"];
        for bytes in broken {
            assert!(read_preface(&mut &*bytes).await.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_back_and_an_unknown_one_is_a_failure() {
        for answer in [None, Some(Reason::AppRefused)] {
            let mut wire = Vec::new();
            write_answer(&mut wire, answer).await.unwrap();
            assert_eq!(read_answer(&mut &*wire).await.unwrap(), answer);
        }
        assert_eq!(read_answer(&mut &b"\x00\x03abc"[..]).await.unwrap(), Some(Reason::ConnectionClosed));
        assert!(read_answer(&mut &b""[..]).await.is_err());
    }
}
