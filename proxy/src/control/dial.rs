//! Dialling the control plane: which address, and a gRPC channel over TLS that ends at the SPIFFE id it should.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::{EndpointTls, HandshakeFailure, MeshTls, PeerRefused, SpiffeId};
use parking_lot::Mutex;
use proto::bootstrap::Upstream;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// A service of the control plane, and what we remember of its addresses.
#[derive(Debug)]
pub(crate) struct Dialer {
    names: Vec<String>,
    tls: EndpointTls,
    mark: Option<u32>,
    manners: HashMap<SocketAddr, Manners>,
}

/// How an address is to be treated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manners {
    /// It asked not to be dialled before.
    pub(crate) not_before: Instant,
    /// It failed or was stale: others first until then.
    pub(crate) others_first: Instant,
    /// How often in a row it was behind or stale.
    pub(crate) disappointments: u32,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Dial(SocketAddr),
    /// All asked for time.
    WaitUntil(Instant),
    /// No name resolved.
    Nobody,
}

/// Why a service of the control plane could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("none of {0} resolves; check the name and the DNS service")]
    Unresolved(String),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{address} did not answer within {after:?}")]
    Silent { address: SocketAddr, after: Duration },
    #[error("TLS with {address} failed ({reason}): {source}")]
    Tls { address: SocketAddr, reason: HandshakeFailure, source: io::Error },
    #[error("{address} is not who it should be: {source}")]
    Identity { address: SocketAddr, source: PeerRefused },
    #[error("HTTP/2 with {address} failed: {source}")]
    Http { address: SocketAddr, source: tonic::transport::Error },
}

impl DialError {
    /// Who it was, if it came so far.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unresolved(_) => None,
            Self::Connect { address, .. }
            | Self::Silent { address, .. }
            | Self::Tls { address, .. }
            | Self::Identity { address, .. }
            | Self::Http { address, .. } => Some(*address),
        }
    }
}

impl Dialer {
    /// `mark` is set on every socket, so that the redirect leaves it alone.
    pub(crate) fn new(upstream: &Upstream, id: SpiffeId, tls: &MeshTls, mark: Option<u32>) -> Self {
        let tls = tls.endpoint(vec![id], &[b"h2"]);
        Self { names: upstream.addresses.clone(), tls, mark, manners: HashMap::new() }
    }

    /// Chooses an address, waiting where all asked for time.
    pub(crate) async fn choose(&mut self) -> Result<SocketAddr, DialError> {
        loop {
            let candidates = self.resolve().await;
            self.manners.retain(|address, _| candidates.contains(address));
            match choose(&candidates, &self.manners, Instant::now(), rand::random()) {
                Choice::Dial(address) => return Ok(address),
                Choice::WaitUntil(when) => tokio::time::sleep_until(when).await,
                Choice::Nobody => return Err(DialError::Unresolved(self.names.join(", "))),
            }
        }
    }

    /// Connects, and checks who answered.
    pub(crate) async fn dial(&self, address: SocketAddr) -> Result<Channel, DialError> {
        let connecting = self.connect(address);
        let silent = |_| DialError::Silent { address, after: CONNECT };
        let stream = timeout(CONNECT, connecting).await.map_err(silent)??;
        // tonic wants a connector that can be called again; this connection is checked and used once.
        let once = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
        let connector = tower::service_fn(move |_| {
            let stream = once.lock().take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            std::future::ready(stream)
        });
        let endpoint = Endpoint::from_static("http://control-plane").timeout(UNARY).buffer_size(64);
        endpoint.connect_with_connector(connector).await.map_err(|source| DialError::Http { address, source })
    }

    /// Tries others before `address` for `time`.
    pub(crate) fn others_first(&mut self, address: SocketAddr, time: Duration) {
        self.manners_of(address).others_first = Instant::now() + time;
    }

    /// It was behind or stale. Where every replica is, proxies wander from one to the next, ever more slowly.
    pub(crate) fn disappointed_by(&mut self, address: SocketAddr) {
        let manners = self.manners_of(address);
        let time = DISAPPOINTED_FOR.saturating_mul(1 << manners.disappointments.min(4));
        manners.disappointments += 1;
        manners.others_first = Instant::now() + time;
    }

    /// It is as good as can be.
    pub(crate) fn content_with(&mut self, address: SocketAddr) {
        self.manners.remove(&address);
    }

    /// Does not dial `address` for `time`.
    pub(crate) fn stay_away(&mut self, address: SocketAddr, time: Duration) {
        self.manners_of(address).not_before = Instant::now() + time.min(LONGEST_STAY_AWAY);
    }

    /// Whether somebody else than `address` could be dialled who has not disappointed lately.
    pub(crate) async fn has_better_than(&self, address: SocketAddr) -> bool {
        let now = Instant::now();
        self.resolve().await.iter().any(|other| {
            let fine = |manners: &Manners| manners.not_before <= now && manners.others_first <= now;
            *other != address && self.manners.get(other).is_none_or(fine)
        })
    }

    fn manners_of(&mut self, address: SocketAddr) -> &mut Manners {
        let now = Instant::now();
        self.manners.entry(address).or_insert(Manners::good(now))
    }

    /// Every address behind every name: with a headless Service that is every replica.
    async fn resolve(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for name in &self.names {
            match timeout(RESOLVE, tokio::net::lookup_host(name)).await {
                Ok(Ok(found)) => addresses.extend(found),
                Ok(Err(error)) => tracing::debug!(name, %error, "does not resolve"),
                Err(_) => tracing::debug!(name, "the DNS service does not answer"),
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        addresses
    }

    async fn connect(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>, DialError> {
        let failed = |source| DialError::Connect { address, source };
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        }
        .map_err(failed)?;
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket).set_mark(mark).map_err(failed)?;
        }
        let stream = socket.connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        // The name is a hint; who must answer is in the configuration.
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(self.tls.config())
            .connect(name, stream)
            .await
            .map_err(|source| DialError::Tls { address, reason: HandshakeFailure::of_io(&source), source })?;
        let chain = stream.get_ref().1.peer_certificates();
        self.tls.verify(chain).map_err(|source| DialError::Identity { address, source })?;
        Ok(stream)
    }
}

impl Manners {
    fn good(now: Instant) -> Self {
        Self { not_before: now, others_first: now, disappointments: 0 }
    }
}

/// At random among those who have not disappointed lately; if all have, the one who did so longest ago.
fn choose(candidates: &[SocketAddr], manners: &HashMap<SocketAddr, Manners>, now: Instant, random: u64) -> Choice {
    if candidates.is_empty() {
        return Choice::Nobody;
    }
    let of = |address: &SocketAddr| manners.get(address).copied().unwrap_or(Manners::good(now));
    let allowed: Vec<_> = candidates.iter().filter(|address| of(address).not_before <= now).collect();
    let good: Vec<_> = allowed.iter().filter(|address| of(address).others_first <= now).collect();
    if !good.is_empty() {
        let index = random % good.len() as u64;
        return Choice::Dial(**good[usize::try_from(index).expect("below a length")]);
    }
    match allowed.iter().min_by_key(|address| of(address).others_first) {
        Some(address) => Choice::Dial(**address),
        None => Choice::WaitUntil(candidates.iter().map(|address| of(address).not_before).min().expect("not empty")),
    }
}

const CONNECT: Duration = Duration::from_secs(5);
const RESOLVE: Duration = Duration::from_secs(5);
/// Until the head of an answer; a stream may live longer.
const UNARY: Duration = Duration::from_secs(10);
const LONGEST_STAY_AWAY: Duration = Duration::from_secs(300);
/// At first; twice as long each time after, up to sixteen times.
const DISAPPOINTED_FOR: Duration = Duration::from_secs(60);
const MOST_ADDRESSES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_disappointing_come_last_and_the_busy_are_left_alone() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let [a, b, c] = [1, 2, 3].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let mut manners = HashMap::new();
        let all = [a, b, c];
        assert_eq!(choose(&[], &manners, now, 0), Choice::Nobody);
        assert_eq!([0, 1, 2, 3].map(|random| choose(&all, &manners, now, random)), [a, b, c, a].map(Choice::Dial));
        manners.insert(a, Manners { others_first: later(9), ..Manners::good(now) });
        manners.insert(b, Manners { others_first: later(5), ..Manners::good(now) });
        assert_eq!([0, 1].map(|random| choose(&all, &manners, now, random)), [c, c].map(Choice::Dial));
        manners.insert(c, Manners { not_before: later(7), ..Manners::good(now) });
        assert_eq!(choose(&all, &manners, now, 0), Choice::Dial(b));
        for address in all {
            manners.insert(address, Manners { not_before: later(u64::from(address.port())), ..Manners::good(now) });
        }
        assert_eq!(choose(&all, &manners, now, 0), Choice::WaitUntil(later(1)));
    }
    #[tokio::test(start_paused = true)]
    async fn a_stale_replica_is_left_for_longer_each_time_and_gone_back_to_evenly() {
        let world = crate::control::fake::World::new();
        let [a, b] = [1, 2].map(|host| SocketAddr::from(([127, 0, 0, host], 8443)));
        let mut dialer =
            world.dialer(&world.tls(crate::control::fake::WORKLOAD), &[a, b], crate::control::fake::CONTROLLER);
        let shares = |dialer: &Dialer| {
            let chosen = (0..100).map(|random| choose(&[a, b], &dialer.manners, Instant::now(), random));
            chosen.filter(|choice| *choice == Choice::Dial(a)).count()
        };
        assert_eq!(shares(&dialer), 50);
        let seconds = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        dialer.disappointed_by(a);
        assert!(dialer.has_better_than(a).await);
        // The other is no better, but the first has been left just now.
        assert!(!dialer.has_better_than(b).await);
        assert_eq!(shares(&dialer), 0);
        seconds(60).await;
        assert!(dialer.has_better_than(b).await);
        assert_eq!(shares(&dialer), 50, "back evenly");
        dialer.disappointed_by(a);
        seconds(60).await;
        assert_eq!(shares(&dialer), 0, "twice as long");
        seconds(60).await;
        assert_eq!(shares(&dialer), 50);
        dialer.content_with(a);
        dialer.disappointed_by(a);
        seconds(60).await;
        assert_eq!(shares(&dialer), 50, "it had been well in between");
    }
}
