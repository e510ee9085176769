//! Probes of the application that the kubelet asks the proxy for: the proxy really asks the application.
//!
//! The kubelet's own connection would meet the redirect. A tcpSocket probe would find the proxy listening whether or not
//! the application does, and HTTP, HTTPS and gRPC probes can't be told from anybody's traffic. Everything here does what
//! the kubelet does (`pkg/probe` of Kubernetes), on the address and port it would use.
//!
//! Whoever reaches the health port can ask for them, so that a probe is one of those in the pod's own manifest with
//! nothing added by who asks. Each is under way once at most, and begins twice a second at most: the others get the same
//! answer. A kubelet asks once a second at most, and so never hears the same one twice. What the application says to its
//! kubelet, and perhaps to nobody else, stays there: the answer is a status, and where it is a failure a few words for
//! the event that people read.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use parking_lot::Mutex;
use proto::Bootstrap;
use proto::bootstrap::{Ports, Probe, ProbeCheck};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::upstream;

mod grpc;
mod http;

/// What the application has to say; what is wrong where there is nothing, in one sentence.
pub(super) type Outcome = Result<Answer, String>;

/// What an application answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// The probes of one pod.
#[derive(Debug)]
pub struct Probes {
    application: Arc<Application>,
    /// The last of each path, which are those of the manifest.
    last: Mutex<HashMap<String, Last>>,
}

/// A probe that is under way or was.
#[derive(Debug)]
struct Last {
    begun: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Last {
    /// Whether its outcome is good enough for whoever asks now: there will be one, or it is young.
    fn serves(&self, now: Instant) -> bool {
        match *self.outcome.borrow() {
            None => self.outcome.has_changed().is_ok(),
            Some(_) => now.saturating_duration_since(self.begun) < PAUSE,
        }
    }
}

impl Probes {
    /// None is under way.
    pub fn new(bootstrap: &Bootstrap) -> Self {
        Self { application: Arc::new(Application::new(bootstrap)), last: Mutex::default() }
    }

    /// Probes the application, or hears of a probe of the same path; `agent` is who asks.
    pub(super) async fn run(&self, path: &str, probe: &Probe, agent: Option<&HeaderValue>) -> Outcome {
        let mut outcome = self.start(path, probe, agent);
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(BROKEN_OFF.to_owned())),
            Err(_) => Err(BROKEN_OFF.to_owned()),
        }
    }

    /// The probe goes on when who asked first has gone: others may be waiting.
    fn start(&self, path: &str, probe: &Probe, agent: Option<&HeaderValue>) -> watch::Receiver<Option<Outcome>> {
        let (mut all, begun) = (self.last.lock(), Instant::now());
        if let Some(last) = all.get(path).filter(|last| last.serves(begun)) {
            return last.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        all.insert(path.to_owned(), Last { begun, outcome: outcome.clone() });
        let (application, probe, agent) = (Arc::clone(&self.application), probe.clone(), named(agent));
        tokio::spawn(async move {
            let outcome = application.probe(&probe, &agent).await;
            sender.send_replace(Some(outcome));
        });
        outcome
    }
}

impl Answer {
    /// What whoever asked may see of the body: nothing where the probe passes, else as much as an event needs.
    pub(super) fn shown(&self) -> String {
        if self.status.as_u16() < 400 { String::new() } else { shown(&self.body) }
    }
}

/// The first of what can be printed.
pub(super) fn shown(words: &[u8]) -> String {
    let words = words.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' });
    words.take(LONGEST_SHOWN).collect::<String>().trim().to_owned()
}

/// The kubelet's name for itself, or ours where it is none: strangers have no say in what the application is sent.
fn named(agent: Option<&HeaderValue>) -> HeaderValue {
    let is_version = |byte: &u8| byte.is_ascii_alphanumeric() || b".+-".contains(byte);
    let is_kubelets = |agent: &&HeaderValue| {
        let version = agent.as_bytes().strip_prefix(KUBELET);
        agent.len() <= LONGEST_AGENT && version.is_some_and(|version| version.iter().all(is_version))
    };
    agent.filter(is_kubelets).cloned().unwrap_or(HeaderValue::from_static(AGENT))
}

/// The application of a pod, as far as probes are about it.
#[derive(Debug)]
struct Application {
    /// The pod's own, which the kubelet would dial.
    address: IpAddr,
    loopback_ports: Vec<u16>,
    ports: Ports,
    mark: Option<u32>,
}

impl Application {
    fn new(bootstrap: &Bootstrap) -> Self {
        Self {
            address: bootstrap.workload.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            loopback_ports: bootstrap.loopback_ports.clone(),
            ports: bootstrap.ports,
            mark: bootstrap.socket_mark,
        }
    }

    async fn probe(&self, probe: &Probe, agent: &HeaderValue) -> Outcome {
        let limit = Duration::from_millis(probe.timeout_ms.clamp(1, LONGEST));
        let probing = async {
            let address = SocketAddr::new(self.address, probe.port);
            let passed = || Answer { status: StatusCode::OK, body: Bytes::new() };
            match &probe.check {
                ProbeCheck::Tcp => self.dial(probe.port, limit).await.map(|_| passed()),
                ProbeCheck::Grpc { service } => {
                    let tcp = self.dial(probe.port, limit).await?;
                    grpc::check(tcp, address, service, agent).await.map(|()| passed())
                }
                ProbeCheck::Http(get) => http::get(self, http::Target::new(false, probe.port, get), get, agent).await,
                ProbeCheck::Https(get) => http::get(self, http::Target::new(true, probe.port, get), get, agent).await,
            }
        };
        let outcome = tokio::time::timeout(limit, Box::pin(probing)).await;
        outcome.unwrap_or_else(|_| Err(format!("port {} did not answer within {limit:?}", probe.port)))
    }

    /// Connects to the pod's own address, as the kubelet would, but to loopback for what listens nowhere else.
    async fn dial(&self, port: u16, limit: Duration) -> Result<TcpStream, String> {
        let Ports { outbound, inbound, admin, health } = self.ports;
        if [outbound, inbound, admin, health].contains(&port) {
            return Err(format!("port {port} is the proxy's own"));
        }
        let ip = match self.address {
            own if !self.loopback_ports.contains(&port) => own,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let connecting = upstream::connect(SocketAddr::new(ip, port), self.mark, limit);
        connecting.await.map_err(|error| error.to_string())
    }
}

const BROKEN_OFF: &str = "the probe was broken off";
const AGENT: &str = "kube-probe/mesh-proxy";
const KUBELET: &[u8] = b"kube-probe/";
const LONGEST_AGENT: usize = 64;
/// From the beginning of one probe to that of the next. A kubelet's shortest period is a second.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_SHOWN: usize = 256;
/// An hour, in milliseconds: more than anybody asks for.
const LONGEST: u64 = 3_600_000;

#[cfg(test)]
mod tests;
