//! The discovery service: who may open a stream, and a task for each that is open.
//!
//! What a stream says is decided by [`session`], who gets in by [`admission`], both pure. Here are the sockets and clocks.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use controller_runtime::incoming::Peer;
use controller_runtime::rate::{Rate, Rates};
use controller_runtime::shutdown::Shutdown;
use controller_runtime::sources::{NoPlace, Place, Sources};
use identity::SpiffeId;
use parking_lot::Mutex;
use proto::discovery as wire;
use proto::discovery::discovery_server::{Discovery, DiscoveryServer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::hub::Hub;
use crate::metrics::Metrics;

pub mod admission;
pub(crate) mod encode;
pub mod session;
mod shares;
mod stream;

use admission::{Admission, AdmissionLimits, UsedUp};
use shares::Shares;
use stream::DiscoveryStream;

/// How streams are served.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Name of this replica, told in heartbeats.
    pub replica: String,
    /// Trust domain a peer must be of.
    pub trust_domain: String,
    /// Limits on new streams.
    pub admission: AdmissionLimits,
    /// Mean life of a stream; each lives between half of it and one and a half, so that replicas rebalance.
    pub stream_life: Duration,
}

/// The discovery service.
#[derive(Debug, Clone)]
pub struct DiscoveryService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ServeConfig,
    pub(crate) hub: Hub,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    admission: Mutex<Admission>,
    places: Sources,
    shares: Arc<Shares>,
    /// Lines about those who want too much.
    complaints: Rate,
    /// Lines about what proxies of an address say: anybody may say anything.
    sayings: Rates<IpAddr>,
}

impl DiscoveryService {
    /// Serves what `hub` publishes, until `shutdown`.
    pub fn new(config: ServeConfig, hub: Hub, metrics: Metrics, shutdown: Shutdown) -> Self {
        let limits = &config.admission;
        let admission = Mutex::new(Admission::new(*limits, Instant::now()));
        let places = Sources::new(limits.streams, limits.streams_of_address());
        let shares = Arc::new(Shares::new(limits));
        let complaints = Rate::new(0.1, 10.0, Instant::now().into_std());
        let sayings = Rates::new(0.1, 10.0);
        let shared = Shared { config, hub, metrics, shutdown, admission, places, shares, complaints, sayings };
        Self { shared: Arc::new(shared) }
    }

    /// As tonic serves it, with limits on what a message may hold.
    pub fn into_server(self) -> DiscoveryServer<Self> {
        DiscoveryServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }
}

#[tonic::async_trait]
impl Discovery for DiscoveryService {
    type DiscoverStream = Pin<Box<dyn Stream<Item = Result<wire::DiscoverResponse, Status>> + Send>>;

    async fn discover(
        &self,
        request: Request<Streaming<wire::DiscoverRequest>>,
    ) -> Result<Response<Self::DiscoverStream>, Status> {
        let peer = request.extensions().get::<Peer>();
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip());
        let id = peer.and_then(|peer| peer.id.clone());
        let id = id.ok_or_else(|| Status::unauthenticated("discovery needs a mesh certificate"))?;
        if id.trust_domain() != self.shared.config.trust_domain {
            let ours = &self.shared.config.trust_domain;
            return Err(Status::permission_denied(format!("{id} is not of the trust domain {ours}")));
        }
        // One message: h2's own window holds more for a reader that is slow, and the session holds the rest.
        let (outgoing, responses) = mpsc::channel(1);
        match self.shared.enter(address, &id) {
            Ok(place) => {
                let open = OpenStream::new(self.shared.clone());
                let stream = DiscoveryStream::new(open, request.into_inner(), outgoing, (id, address));
                tokio::spawn(stream.run(place));
            }
            Err(retry_after) => {
                self.shared.metrics.goodbye("overloaded");
                let goodbye = stream::goodbye("overloaded", retry_after);
                outgoing.try_send(Ok(goodbye)).expect("a new channel has room");
            }
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

impl Shared {
    /// A place for a stream whose share has room for it, or when to come back; what all share is not touched.
    fn enter(&self, address: IpAddr, id: &SpiffeId) -> Result<Place, Duration> {
        let now = Instant::now();
        // Asked in a statement of its own: looking for a place takes longer than the lock should be held.
        let knocked = self.admission.lock().knock(now, address, id);
        let used_up = match knocked.map(|()| self.places.enter(address)) {
            Ok(Ok(place)) => return Ok(place),
            Ok(Err(NoPlace::Full { .. })) => {
                self.complain(UsedUp::Streams, address, id);
                return Err(self.admission.lock().turn_away(now));
            }
            Ok(Err(NoPlace::Own)) => UsedUp::StreamsOfAddress,
            Err(used_up) => used_up,
        };
        self.complain(used_up, address, id);
        Err(own_pause())
    }

    /// Whether what a proxy of this address says deserves a line, however many streams it opens to say so.
    fn may_note(&self, address: IpAddr) -> bool {
        self.sayings.take(address.to_canonical(), Instant::now().into_std())
    }

    /// Counts, and says so to people, not each time.
    fn complain(&self, used_up: UsedUp, address: IpAddr, id: &SpiffeId) {
        self.metrics.used_up(used_up);
        if self.complaints.take(Instant::now().into_std()) {
            tracing::warn!(%id, %address, "{used_up}");
        }
    }
}

/// Two to ten seconds: those behind one address should not come back together, nor take turns from the others.
pub(crate) fn own_pause() -> Duration {
    Duration::from_millis(rand::random_range(2000..10_000))
}

/// Counts a stream for as long as it is open.
#[derive(Debug)]
pub(crate) struct OpenStream {
    pub(crate) shared: Arc<Shared>,
}

impl OpenStream {
    fn new(shared: Arc<Shared>) -> Self {
        shared.metrics.streams.inc();
        Self { shared }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.shared.metrics.streams.dec();
    }
}

/// A Hello with all it may hold fits.
const MAX_REQUEST: usize = 4 << 20;

#[cfg(test)]
mod tests;
