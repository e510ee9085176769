//! The discovery service: who may open a stream, and a task for each that is open.
//!
//! What a stream says is decided by [`session`], who gets in by [`admission`], both pure. Here are the sockets and clocks.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use controller_runtime::incoming::Peer;
use controller_runtime::shutdown::Shutdown;
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
mod stream;

use admission::{Admission, AdmissionLimits};
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
    open: AtomicUsize,
}

impl DiscoveryService {
    /// Serves what `hub` publishes, until `shutdown`.
    pub fn new(config: ServeConfig, hub: Hub, metrics: Metrics, shutdown: Shutdown) -> Self {
        let admission = Mutex::new(Admission::new(config.admission, Instant::now()));
        Self { shared: Arc::new(Shared { config, hub, metrics, shutdown, admission, open: AtomicUsize::new(0) }) }
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
        let id = request.extensions().get::<Peer>().and_then(|peer| peer.id.clone());
        let id = id.ok_or_else(|| Status::unauthenticated("discovery needs a mesh certificate"))?;
        if id.trust_domain() != self.shared.config.trust_domain {
            let ours = &self.shared.config.trust_domain;
            return Err(Status::permission_denied(format!("{id} is not of the trust domain {ours}")));
        }
        // One message: h2's own window holds more for a reader that is slow, and the session holds the rest.
        let (outgoing, responses) = mpsc::channel(1);
        let admitted = self.shared.admission.lock().admit(Instant::now(), self.shared.open.load(Ordering::Relaxed));
        match admitted {
            Ok(()) => {
                let open = OpenStream::new(self.shared.clone());
                let stream = DiscoveryStream::new(open, request.into_inner(), outgoing, id);
                tokio::spawn(stream.run());
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

/// Counts a stream for as long as it is open.
#[derive(Debug)]
pub(crate) struct OpenStream {
    pub(crate) shared: Arc<Shared>,
}

impl OpenStream {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        shared.metrics.streams.inc();
        Self { shared }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.streams.dec();
    }
}

/// A Hello with all it may hold fits.
const MAX_REQUEST: usize = 4 << 20;

#[cfg(test)]
mod tests;
