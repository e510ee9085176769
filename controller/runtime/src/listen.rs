//! The listener of a control-plane program: mesh TLS in front of tonic.
//!
//! Handshakes run beside each other, bounded in number and time, so a silent client holds up nobody. What comes out is
//! finished and verified: [`PeerInfo`] in a request's extensions says who called.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use identity::{ClientCertificates, HandshakeFailure, MeshTls, SpiffeId};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Binds a listening socket, with an error a person can act on.
pub async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, flag, source })
}

/// A port that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; choose another address with {flag}")]
pub struct BindError {
    address: SocketAddr,
    flag: &'static str,
    source: io::Error,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Its address.
    pub address: SocketAddr,
    /// Its identity; always there where client certificates are required.
    pub id: Option<SpiffeId>,
}

/// Handshakes that failed, by reason: `mesh_tls_handshake_failures_total`.
#[derive(Debug, Clone, Default)]
pub struct HandshakeMetrics {
    failures: Family<[(&'static str, &'static str); 1], Counter>,
}

impl HandshakeMetrics {
    /// Registers the counter, with a zero for every reason.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for reason in HandshakeFailure::ALL {
            let _ = metrics.failures.get_or_create(&[("reason", reason.as_str())]);
        }
        let help = "Refused or failed mesh TLS handshakes, by reason";
        registry.register("mesh_tls_handshake_failures", help, metrics.failures.clone());
        metrics
    }

    fn count(&self, reason: HandshakeFailure) {
        self.failures.get_or_create(&[("reason", reason.as_str())]).inc();
    }
}

/// How a listener speaks mesh TLS.
#[derive(Debug, Clone)]
pub struct MeshListener {
    mesh: MeshTls,
    clients: ClientCertificates,
    config: Arc<ServerConfig>,
    metrics: HandshakeMetrics,
}

impl MeshListener {
    /// gRPC (ALPN `h2`) with the current leaf and bundle of `mesh`.
    pub fn grpc(mesh: MeshTls, clients: ClientCertificates, metrics: HandshakeMetrics) -> Self {
        let config = mesh.server_config(clients, &[b"h2"]);
        Self { mesh, clients, config, metrics }
    }

    async fn handshake(&self, stream: TcpStream, address: SocketAddr) -> Option<MeshStream> {
        // Small messages both ways; a failure here shows in the handshake.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(self.config.clone());
        let failed = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(tls)) => match self.peer(&tls) {
                Ok(id) => return Some(MeshStream { tls, peer: PeerInfo { address, id } }),
                Err(refused) => (HandshakeFailure::from(&refused), refused.to_string()),
            },
            Ok(Err(error)) => (HandshakeFailure::of_io(&error), error.to_string()),
            Err(_) => (HandshakeFailure::TimedOut, format!("not finished within {HANDSHAKE_TIMEOUT:?}")),
        };
        let (reason, error) = failed;
        self.metrics.count(reason);
        tracing::info!(%address, %reason, error, "TLS handshake failed");
        None
    }

    fn peer(&self, tls: &TlsStream<TcpStream>) -> Result<Option<SpiffeId>, identity::PeerRefused> {
        match self.clients {
            ClientCertificates::Required => {
                self.mesh.verify_client(tls.get_ref().1.peer_certificates()).map(|peer| Some(peer.id))
            }
            ClientCertificates::None => Ok(None),
        }
    }
}

/// The connections of a listener, after their handshakes. Dropping the stream closes the listener and unfinished
/// handshakes.
pub fn mesh_incoming(listener: TcpListener, tls: MeshListener) -> impl Stream<Item = io::Result<MeshStream>> {
    let (sender, receiver) = mpsc::channel(1);
    let mut accepting = JoinSet::new();
    accepting.spawn(accept(listener, tls, sender));
    Incoming { receiver, _accepting: accepting }
}

async fn accept(listener: TcpListener, tls: MeshListener, sender: mpsc::Sender<io::Result<MeshStream>>) {
    let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        while handshakes.try_join_next().is_some() {}
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors or memory: it passes, or health checks end us.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, sender) = (tls.clone(), sender.clone());
        handshakes.spawn(async move {
            if let Some(stream) = tls.handshake(stream, address).await {
                let _ = sender.send(Ok(stream)).await;
            }
            drop(slot);
        });
    }
}

struct Incoming {
    receiver: mpsc::Receiver<io::Result<MeshStream>>,
    _accepting: JoinSet<()>,
}

impl Stream for Incoming {
    type Item = io::Result<MeshStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct MeshStream {
    tls: TlsStream<TcpStream>,
    peer: PeerInfo,
}

impl Connected for MeshStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// About 30 KB each while they last.
const MAX_HANDSHAKES: usize = 512;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
