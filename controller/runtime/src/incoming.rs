//! From a TCP listener to mesh TLS streams for tonic.
//!
//! Handshakes run beside each other, so a slow client holds up nobody; each has a time limit, and so many may be pending
//! before the listener's own queue has to wait. A connection that fails its handshake is counted by reason and told to
//! nobody else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use identity::{ClientCertificates, HandshakeFailure, MeshTls, PeerRefused, SpiffeId};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::shutdown::Shutdown;

/// How connections are accepted.
#[derive(Debug, Clone, Copy)]
pub struct IncomingConfig {
    /// Whether clients must show a certificate.
    pub clients: ClientCertificates,
    /// Time for one handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at once; further connections wait in the listener's queue.
    pub max_pending: usize,
    /// ALPN names that are spoken, the preferred one first.
    pub protocols: &'static [&'static [u8]],
}

impl IncomingConfig {
    /// 10 s for each of at most 1,024 handshakes at once, and HTTP/2 afterwards.
    pub fn new(clients: ClientCertificates) -> Self {
        Self { clients, handshake_timeout: Duration::from_secs(10), max_pending: 1024, protocols: &[b"h2"] }
    }
}

/// Counts what came of handshakes; register it once per process.
#[derive(Debug, Clone, Default)]
pub struct HandshakeMetrics {
    failures: Family<FailureLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

impl HandshakeMetrics {
    /// Puts `mesh_tls_handshake_failures_total{reason}` into the registry, every reason at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for reason in HandshakeFailure::ALL {
            drop(metrics.failures.get_or_create(&FailureLabels { reason: reason.as_str() }));
        }
        registry.register(
            "mesh_tls_handshake_failures",
            "Refused or failed mesh TLS handshakes by reason",
            metrics.failures.clone(),
        );
        metrics
    }

    fn failed(&self, reason: HandshakeFailure) {
        self.failures.get_or_create(&FailureLabels { reason: reason.as_str() }).inc();
    }
}

/// Who is at the other end; in the extensions of every request (`request.extensions().get::<Peer>()`).
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it dialled from.
    pub address: SocketAddr,
    /// Who it is; `None` where no certificate was asked for.
    pub id: Option<SpiffeId>,
    /// End of its certificate's life.
    pub valid_until: Option<SystemTime>,
}

/// A connection with its handshake behind it.
#[derive(Debug)]
pub struct MeshStream {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

/// Accepts until `shutdown`; the stream of connections never yields an error.
pub fn incoming(
    listener: TcpListener,
    tls: MeshTls,
    config: IncomingConfig,
    metrics: HandshakeMetrics,
    shutdown: Shutdown,
) -> ReceiverStream<Result<MeshStream, io::Error>> {
    let (ready, connections) = mpsc::channel(16);
    let acceptor = Acceptor {
        acceptor: TlsAcceptor::from(tls.server_config(config.clients, config.protocols)),
        tls,
        clients: config.clients,
        timeout: config.handshake_timeout,
        metrics,
    };
    let pending = Arc::new(Semaphore::new(config.max_pending));
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, Arc::new(acceptor), pending, ready) => {}
            () = shutdown.requested() => {}
        }
    });
    ReceiverStream::new(connections)
}

#[derive(Clone)]
struct Acceptor {
    acceptor: TlsAcceptor,
    tls: MeshTls,
    clients: ClientCertificates,
    timeout: Duration,
    metrics: HandshakeMetrics,
}

async fn accept(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    pending: Arc<Semaphore>,
    ready: mpsc::Sender<Result<MeshStream, io::Error>>,
) {
    loop {
        let permit = pending.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: waiting is all that helps, and a tight loop would not.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            match acceptor.handshake(stream, address).await {
                Ok(stream) => {
                    // Fails only when the server has stopped.
                    let _ = ready.send(Ok(stream)).await;
                }
                Err((reason, error)) => {
                    acceptor.metrics.failed(reason);
                    tracing::info!(%address, reason = reason.as_str(), error, "TLS handshake failed");
                }
            }
            drop(permit);
        });
    }
}

impl Acceptor {
    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<MeshStream, (HandshakeFailure, String)> {
        // Discovery is small messages that must not wait for each other.
        let _ = stream.set_nodelay(true);
        let stream = tokio::time::timeout(self.timeout, self.acceptor.accept(stream))
            .await
            .map_err(|_| (HandshakeFailure::TimedOut, "the handshake took too long".to_owned()))?
            .map_err(|error| (HandshakeFailure::of_io(&error), error.to_string()))?;
        let peer = self.peer(&stream, address).map_err(|error| (HandshakeFailure::from(&error), error.to_string()))?;
        Ok(MeshStream { stream, peer })
    }

    fn peer(&self, stream: &TlsStream<TcpStream>, address: SocketAddr) -> Result<Peer, PeerRefused> {
        if self.clients == ClientCertificates::None {
            return Ok(Peer { address, id: None, valid_until: None });
        }
        // Resumed handshakes bring a chain nobody verified; this call is what verifies it.
        match self.tls.verify_client(stream.get_ref().1.peer_certificates()) {
            Ok(verified) => Ok(Peer { address, id: Some(verified.id), valid_until: Some(verified.valid_until) }),
            Err(_) if self.clients == ClientCertificates::Optional => Ok(Peer { address, id: None, valid_until: None }),
            Err(refused) => Err(refused),
        }
    }
}

impl Connected for MeshStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
