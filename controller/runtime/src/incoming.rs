//! From a TCP listener to mesh TLS streams for tonic.
//!
//! Handshakes run beside each other, so a slow client holds up nobody; each has a time limit, and so many may be pending
//! before the listener's own queue has to wait. A connection that fails its handshake is counted by reason and told to
//! nobody else. Where strangers can dial, no address gets more than its share of handshakes and of connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
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
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::preferred::Preferred;
use crate::shutdown::Shutdown;
use crate::sources::{NoPlace, Place, Sources};

/// How connections are accepted.
#[derive(Debug, Clone)]
pub struct IncomingConfig {
    /// Whether clients must show a certificate.
    pub clients: ClientCertificates,
    /// Time for one handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at once; further connections wait in the listener's queue.
    pub max_pending: usize,
    /// Of these, for one address; what is more is hung up on.
    pub max_pending_each: usize,
    /// Connections behind their handshake.
    pub max_connections: usize,
    /// Of these, for one address.
    pub max_connections_each: usize,
    /// Who comes first where all is full.
    pub preferred: Preferred,
    /// ALPN names that are spoken, the preferred one first.
    pub protocols: &'static [&'static [u8]],
}

impl IncomingConfig {
    /// 10 s for each of at most 1,024 handshakes at once, and HTTP/2 afterwards. An address may have all of them, as it
    /// must where everybody dials from one machine.
    pub fn new(clients: ClientCertificates) -> Self {
        Self {
            clients,
            handshake_timeout: Duration::from_secs(10),
            max_pending: 1024,
            max_pending_each: usize::MAX,
            max_connections: usize::MAX,
            max_connections_each: usize::MAX,
            preferred: Preferred::default(),
            protocols: &[b"h2"],
        }
    }

    /// The same where so many pods share an address, in most clusters one: for each pod an address has 64 handshakes and 512
    /// connections at most, so that a node's worth of pods behind the node's address is no trouble even where one is
    /// expected; all together have 65,536 connections.
    pub fn for_pods(clients: ClientCertificates, pods_per_address: usize) -> Self {
        Self {
            max_pending_each: pods_per_address.saturating_mul(64),
            max_connections: 65_536,
            max_connections_each: pods_per_address.saturating_mul(512),
            ..Self::new(clients)
        }
    }
}

/// Counts what came of handshakes; register it once per process.
#[derive(Debug, Clone, Default)]
pub struct HandshakeMetrics {
    failures: Family<FailureLabels, Counter>,
    turned_away: Family<FailureLabels, Counter>,
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
        for reason in [SHARE, FULL, TAKEN] {
            drop(metrics.turned_away.get_or_create(&FailureLabels { reason }));
        }
        registry.register(
            "mesh_connections_turned_away",
            "Connections hung up on for want of room: their address had its share, all was full, or their place went to an address with fewer",
            metrics.turned_away.clone(),
        );
        metrics
    }

    fn turned_away(&self, reason: &'static str) {
        self.turned_away.get_or_create(&FailureLabels { reason }).inc();
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
    place: Place,
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
        connections: Sources::new(config.max_connections, config.max_connections_each)
            .preferring(config.preferred.clone()),
    };
    let pending = Sources::new(config.max_pending, config.max_pending_each).preferring(config.preferred);
    let has_shares = config.max_pending_each < config.max_pending;
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, Arc::new(acceptor), (pending, has_shares), ready) => {}
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
    connections: Sources,
}

async fn accept(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    (pending, has_shares): (Sources, bool),
    ready: mpsc::Sender<Result<MeshStream, io::Error>>,
) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: waiting is all that helps, and a tight loop would not.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = match pending.enter(address.ip()) {
            Ok(place) => place,
            Err(NoPlace::Own) => {
                acceptor.metrics.turned_away(SHARE);
                continue;
            }
            // Whoever has none of them waits; the others must not hold it up, where strangers can dial.
            Err(NoPlace::Full { own: 1.. }) if has_shares => {
                acceptor.metrics.turned_away(FULL);
                continue;
            }
            Err(NoPlace::Full { .. }) => match in_turn(&pending, address.ip()).await {
                Ok(place) => place,
                Err(_) => continue,
            },
        };
        tokio::spawn(acceptor.clone().welcome(stream, address, place, ready.clone()));
    }
}

/// A place as soon as there is one: everybody behind waits as well, so that handshakes which take long go first.
async fn in_turn(pending: &Sources, source: IpAddr) -> Result<Place, NoPlace> {
    let outlasted = async {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if let Ok(place) = pending.enter_past(source, SLOW) {
                return place;
            }
        }
    };
    tokio::select! {
        place = pending.wait(source, 1) => place,
        place = outlasted => Ok(place),
    }
}

impl Acceptor {
    /// From a connection to a stream for the server; `pending` is its place among the handshakes.
    async fn welcome(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        mut pending: Place,
        ready: mpsc::Sender<Result<MeshStream, io::Error>>,
    ) {
        let shaken = tokio::select! {
            shaken = self.handshake(stream, address) => shaken,
            () = pending.taken_away() => return self.metrics.turned_away(TAKEN),
        };
        let (stream, peer) = match shaken {
            Ok(shaken) => shaken,
            Err((reason, error)) => {
                self.metrics.failed(reason);
                tracing::info!(%address, reason = reason.as_str(), error, "TLS handshake failed");
                return;
            }
        };
        match self.connections.enter(address.ip()) {
            // Fails only when the server has stopped.
            Ok(place) => drop(ready.send(Ok(MeshStream { stream, peer, place })).await),
            Err(NoPlace::Own) => self.metrics.turned_away(SHARE),
            Err(NoPlace::Full { .. }) => self.metrics.turned_away(FULL),
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Peer), (HandshakeFailure, String)> {
        // Discovery is small messages that must not wait for each other.
        let _ = stream.set_nodelay(true);
        let stream = tokio::time::timeout(self.timeout, self.acceptor.accept(stream))
            .await
            .map_err(|_| (HandshakeFailure::TimedOut, "the handshake took too long".to_owned()))?
            .map_err(|error| (HandshakeFailure::of_io(&error), error.to_string()))?;
        let peer = self.peer(&stream, address).map_err(|error| (HandshakeFailure::from(&error), error.to_string()))?;
        Ok((stream, peer))
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

impl MeshStream {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
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
        if self.place.poll_taken_away(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
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

const SHARE: &str = "share";
const FULL: &str = "full";
const TAKEN: &str = "taken";
/// Many times what a handshake takes where all is well, with the others that are under way.
const SLOW: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
