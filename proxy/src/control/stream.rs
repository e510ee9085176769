//! The discovery stream: kept up to some controller, wherever it can be had, for as long as the proxy lives.
//!
//! A controller is left for another when it is silent for three heartbeats, when it is behind what this proxy has
//! already seen, or when its own sources are stale, provided there is another. What the proxy holds stays in force
//! all the while.

use std::net::SocketAddr;
use std::time::Duration;

use proto::discovery::discover_request::Kind as Request;
use proto::discovery::discover_response::Kind as Response;
use proto::discovery::discovery_client::DiscoveryClient;
use proto::discovery::{
    Acknowledge, DiscoverRequest, DiscoverResponse, Goodbye, Heartbeat, Hello, Progress, Reject, Subscribe,
    Unsubscribe, Update,
};
use proto::names;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::Discovery;
use super::backoff::Backoff;
use super::dial::{DialError, Dialer};
use super::key::ip_to_wire;
use super::progress;
use super::state::ControlState;
use super::store::{Change, Verdict};
use crate::config::Config;

/// Keeps a discovery stream.
#[derive(Debug)]
pub(crate) struct StreamClient {
    pub(crate) discovery: Discovery,
    pub(crate) state: ControlState,
    pub(crate) dialer: Dialer,
    pub(crate) introduction: Introduction,
    /// How long a controller may be silent: [`SILENCE`], or less in tests.
    pub(crate) silence: Duration,
}

/// What the proxy says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    workload: String,
    namespace: String,
    addresses: Vec<bytes::Bytes>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0} ended the stream")]
    Closed(SocketAddr),
    #[error("{address} ended the stream: {}", .status.message())]
    Status { address: SocketAddr, status: Box<tonic::Status> },
    #[error("{address} has been silent for {after:?}")]
    Silent { address: SocketAddr, after: Duration },
    #[error("{address} is busy or leaves: {reason}")]
    Goodbye { address: SocketAddr, reason: String, retry_after: Duration },
    #[error("{address} is behind what is already known ({watch})")]
    Behind { address: SocketAddr, watch: String },
    #[error("the sources of {address} are {age:?} old")]
    Stale { address: SocketAddr, age: Duration },
}

impl Introduction {
    pub(crate) fn new(config: &Config) -> Self {
        let workload = &config.bootstrap.workload;
        Self {
            workload: workload.name.clone(),
            namespace: workload.namespace.clone(),
            addresses: workload.addresses.iter().map(|address| ip_to_wire(*address).into()).collect(),
        }
    }
}

impl StreamClient {
    /// Never returns; the caller stops it by dropping it.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let (mut behind_since, mut say_again_at) = (None, Instant::now());
        loop {
            let ended = self.one_stream(&mut backoff, &mut behind_since).await;
            self.discovery.store().end();
            let reason = ended.to_string();
            let now = Instant::now();
            // Not at every try.
            if self.state.disconnected(&reason) || now >= say_again_at {
                say_again_at = now + SAY_AGAIN;
                tracing::warn!(reason, "no discovery stream; what is known stays in force");
            } else {
                tracing::debug!(reason, "no discovery stream still");
            }
            match ended {
                Ended::Goodbye { address, retry_after, .. } => self.dialer.stay_away(address, retry_after),
                Ended::Behind { address, .. } | Ended::Stale { address, .. } => {
                    self.dialer.disappointed_by(address);
                }
                Ended::Closed(address) | Ended::Status { address, .. } | Ended::Silent { address, .. } => {
                    self.dialer.others_first(address, FAILED_FOR);
                }
                Ended::Dial(error) => {
                    if let Some(address) = error.address() {
                        self.dialer.others_first(address, FAILED_FOR);
                    }
                }
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }

    async fn one_stream(&mut self, backoff: &mut Backoff, behind_since: &mut Option<Instant>) -> Ended {
        let address = match self.dialer.choose().await {
            Ok(address) => address,
            Err(error) => return error.into(),
        };
        let channel = match self.dialer.dial(address).await {
            Ok(channel) => channel,
            Err(error) => return error.into(),
        };
        let (outgoing, requests) = mpsc::unbounded_channel();
        let floor = self.introduce(&outgoing);
        let mut client = DiscoveryClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let opening = client.discover(UnboundedReceiverStream::new(requests));
        let responses = match timeout(OPEN, opening).await {
            Ok(Ok(responses)) => responses.into_inner(),
            Ok(Err(status)) => return Ended::Status { address, status: Box::new(status) },
            Err(_) => return Ended::Silent { address, after: OPEN },
        };
        tracing::info!(controller = %address, "discovery stream is up");
        self.state.connected(&address.to_string());
        let stream = OneStream { address, floor, outgoing, responses, client: self, backoff, behind_since };
        stream.follow().await
    }

    /// Says what is held and asks for the rest; returns the mark.
    fn introduce(&self, outgoing: &UnboundedSender<DiscoverRequest>) -> Progress {
        let (held, mark, wanted) = self.discovery.store().begin();
        let hello = Hello {
            proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
            workload: self.introduction.workload.clone(),
            namespace: self.introduction.namespace.clone(),
            addresses: self.introduction.addresses.clone(),
            mark: Some(mark.clone()),
            held,
        };
        tell(outgoing, Request::Hello(hello));
        for key in wanted {
            tell(outgoing, Request::Subscribe(Subscribe { key: Some(key.to_wire()) }));
        }
        mark
    }
}

/// One stream while it is up.
struct OneStream<'c> {
    address: SocketAddr,
    /// How far the world was known when the stream began: nothing from before is believed.
    floor: Progress,
    outgoing: UnboundedSender<DiscoverRequest>,
    responses: Streaming<DiscoverResponse>,
    client: &'c mut StreamClient,
    backoff: &'c mut Backoff,
    behind_since: &'c mut Option<Instant>,
}

impl OneStream<'_> {
    async fn follow(mut self) -> Ended {
        let address = self.address;
        let silence = self.client.silence;
        let mut silent_at = Instant::now() + silence;
        loop {
            let response = tokio::select! {
                response = self.responses.message() => response,
                () = self.client.discovery.store().changed() => {
                    self.tell_changes();
                    continue;
                }
                () = sleep_until(silent_at) => return Ended::Silent { address, after: silence },
            };
            let kind = match response {
                Ok(Some(response)) => response.kind,
                Ok(None) => return Ended::Closed(address),
                Err(status) => return Ended::Status { address, status: Box::new(status) },
            };
            match kind {
                Some(Response::Update(update)) => self.update(update),
                Some(Response::Heartbeat(heartbeat)) => {
                    silent_at = Instant::now() + silence;
                    if let Some(ended) = self.heartbeat(heartbeat).await {
                        return ended;
                    }
                }
                Some(Response::Goodbye(Goodbye { reason, retry_after_ms })) => {
                    let retry_after = Duration::from_millis(retry_after_ms);
                    return Ended::Goodbye { address, reason, retry_after };
                }
                // Of a newer controller.
                None => {}
            }
        }
    }

    fn tell_changes(&self) {
        for change in self.client.discovery.store().take_changes() {
            let request = match change {
                Change::Subscribe(key) => Request::Subscribe(Subscribe { key: Some(key.to_wire()) }),
                Change::Unsubscribe(key) => Request::Unsubscribe(Unsubscribe { key: Some(key.to_wire()) }),
            };
            tell(&self.outgoing, request);
        }
    }

    fn update(&mut self, update: Update) {
        self.backoff.reset();
        let (key, hash) = (update.key.clone(), update.hash.clone());
        match self.client.discovery.store().apply(update, &self.floor) {
            Verdict::Accepted(name) => {
                tracing::debug!(key = %name, "in force");
                tell(&self.outgoing, Request::Acknowledge(Acknowledge { key, hash }));
            }
            Verdict::Rejected(name, reason) => {
                tracing::warn!(key = %name, reason, "rejected; what was in force stays");
                self.client.state.rejected();
                tell(&self.outgoing, Request::Reject(Reject { key, hash, reason }));
            }
            Verdict::Behind(name, watch) => tracing::debug!(key = %name, watch, "from the past, ignored"),
            Verdict::Unwanted => {}
        }
    }

    /// Takes note, and says whether the controller should be left.
    async fn heartbeat(&mut self, heartbeat: Heartbeat) -> Option<Ended> {
        let now = Instant::now();
        let as_of = heartbeat.as_of.unwrap_or_default();
        let address = self.address;
        if let Some(watch) = progress::behind(&as_of, &self.floor).map(str::to_owned) {
            let since = *self.behind_since.get_or_insert(now);
            if now.duration_since(since) >= MARK_PATIENCE {
                // Nobody has caught up for so long that the sources must have begun anew (a restored etcd, a new
                // directory): from now on the picture of today is better than none.
                tracing::warn!(watch, "every controller is behind what this proxy has seen; believing them anew");
                self.client.discovery.store().forget_mark();
                *self.behind_since = None;
                return Some(Ended::Behind { address, watch });
            }
            let impatient = now.duration_since(since) >= self.client.silence;
            let leave = impatient && self.client.dialer.has_better_than(address).await;
            return leave.then_some(Ended::Behind { address, watch });
        }
        *self.behind_since = None;
        self.backoff.reset();
        let age = Duration::from_millis(heartbeat.watch_age_ms);
        self.client.discovery.store().advance(&as_of);
        self.client.state.heartbeat(&heartbeat.controller, as_of, age);
        if age < STALE {
            self.client.dialer.content_with(address);
            return None;
        }
        let leave = self.client.dialer.has_better_than(address).await;
        leave.then_some(Ended::Stale { address, age })
    }
}

fn tell(outgoing: &UnboundedSender<DiscoverRequest>, kind: Request) {
    // Fails only when the stream has ended, which reading it will say.
    let _ = outgoing.send(DiscoverRequest { kind: Some(kind) });
}

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const OPEN: Duration = Duration::from_secs(5);
/// Three heartbeats.
pub(crate) const SILENCE: Duration = Duration::from_secs(3 * names::HEARTBEAT_SECONDS);
/// Sources of a controller older than this are a reason to look for another.
const STALE: Duration = Duration::from_secs(30);
const SAY_AGAIN: Duration = Duration::from_secs(60);
const FAILED_FOR: Duration = Duration::from_secs(5);
const MARK_PATIENCE: Duration = Duration::from_secs(600);
/// A Service with tens of thousands of endpoints.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests;
