//! A worker: one thread, one single-threaded runtime, and everything its connections share without locks.
//!
//! The first worker accepts and hands each socket to the least loaded worker; with one worker that is itself. A
//! connection never moves afterwards.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use identity::MeshTls;
use policy::{Inbound, Outbound, ServicePort, Settings};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use crate::Error;
use crate::balance::{Affinities, Backend, Load, Loads};
use crate::config::Config;
use crate::control::{Discovery, Watch};
use crate::drain::{Drain, Phase};
use crate::http::client::Client;
use crate::net::keepalive::keep_alive;
use crate::net::orig_dst::{OriginalDestination, normal};
use crate::net::pacing::do_not_pace;
use crate::outbound::plan::Plan;
use crate::outbound::verdicts::Verdicts;
use crate::stream::reset_on_drop;
use crate::telemetry::callers::Callers;
use crate::telemetry::{Direction, Occurrence, PeerLabels, Telemetry};
use crate::tls::Tls;
use crate::{inbound, outbound};

/// What all workers, and the threads beside them, share.
#[derive(Debug)]
pub struct Shared {
    /// What the proxy started from.
    pub config: Config,
    /// The view of the world.
    pub discovery: Discovery,
    /// What the controller says of our own workload.
    pub inbound: Watch<Inbound>,
    /// Mesh-wide settings.
    pub settings: Watch<Settings>,
    /// Leaf and bundle.
    pub mesh_tls: MeshTls,
    /// Sends whenever another bundle is in force; open connections are then verified again.
    pub trust_changed: watch::Sender<()>,
    /// Metrics and failures.
    pub telemetry: Telemetry,
    /// How far the end has come.
    pub drain: Drain,
    /// Endpoints kept by all workers alike.
    pub affinities: Arc<Affinities>,
    /// Our own side of every edge.
    pub labels: Arc<PeerLabels>,
    server_tls: Arc<rustls::ServerConfig>,
    most_connections: usize,
}

/// One worker's state.
#[derive(Debug)]
pub struct Worker {
    /// What it shares with others.
    pub shared: Arc<Shared>,
    /// Mesh TLS, with the sessions this worker may resume.
    pub tls: Tls,
    /// Destinations whose server speaks first.
    pub verdicts: RefCell<Verdicts>,
    /// Who calls our workload.
    pub callers: Callers,
    /// HTTP connections to endpoints.
    pub http: Client,
    plans: RefCell<HashMap<SocketAddr, Rc<Plan>>>,
    loads: Rc<Loads>,
    backends: RefCell<HashMap<ServicePort, Rc<Backend>>>,
}

impl Shared {
    /// Puts together what the parts of the proxy made.
    pub fn new(config: Config, discovery: Discovery, mesh_tls: MeshTls, telemetry: Telemetry, drain: Drain) -> Self {
        let workload = &config.bootstrap.workload;
        let name = if workload.owner.is_empty() { &workload.name } else { &workload.owner };
        let labels = PeerLabels {
            workload: name.as_str().into(),
            namespace: workload.namespace.as_str().into(),
            principal: config.id.as_str().into(),
            app: workload.app.as_str().into(),
            version: workload.version.as_str().into(),
            cluster: workload.cluster.as_str().into(),
        };
        Self {
            inbound: discovery.inbound(),
            settings: discovery.settings(),
            server_tls: Tls::server_config(&mesh_tls),
            trust_changed: watch::Sender::new(()),
            affinities: Arc::default(),
            labels: Arc::new(labels),
            most_connections: most_connections(getrlimit(Resource::Nofile).current),
            config,
            discovery,
            mesh_tls,
            telemetry,
            drain,
        }
    }

    /// Whether an address is our own workload's.
    pub fn is_own_address(&self, address: IpAddr) -> bool {
        self.config.bootstrap.workload.addresses.contains(&address)
    }

    /// Whether a port is one the proxy listens on.
    pub fn is_own_port(&self, port: u16) -> bool {
        let ports = &self.config.bootstrap.ports;
        port != 0 && [ports.outbound, ports.inbound, ports.admin, ports.health].contains(&port)
    }

    /// Refuses to dial the proxy itself, which would never end.
    pub fn refuse_own_port(&self, address: SocketAddr) -> Result<(), Error> {
        let ours = self.is_own_address(address.ip()) || address.ip().is_loopback() || address.ip().is_unspecified();
        if ours && self.is_own_port(address.port()) { Err(Error::OwnPort(address)) } else { Ok(()) }
    }

    /// Refuses inbound connections that were not sent to this workload.
    ///
    /// The redirect comes before routing: what a neighbour on the same network sends to our link address arrives here
    /// whatever its destination, `127.0.0.1` and the outside world included. Passing it on would publish ports that listen
    /// on loopback only, and lend others our address.
    pub fn refuse_others_address(&self, address: SocketAddr) -> Result<(), Error> {
        let ip = address.ip();
        let nobodys = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
        // An address that the bootstrap does not know, on a second network or of a load balancer, is one that can be bound.
        let ours = self.is_own_address(ip) || (!nobodys && UdpSocket::bind((ip, 0)).is_ok());
        if ours { Ok(()) } else { Err(Error::OthersAddress(address)) }
    }

    /// Tells people of a failure: ring, metric, log.
    pub fn failed(&self, direction: Direction, source: &str, destination: &str, error: &Error, status: u16) {
        let detail = error.to_string();
        let reason = error.reason();
        self.telemetry.failures.record(&Occurrence { reason, direction, source, destination, status, detail: &detail });
        if let Error::Tls { failure, .. } = error {
            self.telemetry.metrics.tls_failure(*failure, direction);
        }
    }
}

impl Worker {
    /// A worker without connections.
    pub fn new(shared: Arc<Shared>) -> Self {
        let tls = Tls::new(shared.mesh_tls.clone(), Arc::clone(&shared.server_tls), &shared.config.bootstrap.workload);
        let trust = shared.trust_changed.subscribe();
        Self {
            shared,
            tls,
            verdicts: RefCell::default(),
            callers: Callers::default(),
            http: Client::new(trust),
            plans: RefCell::default(),
            loads: Rc::default(),
            backends: RefCell::default(),
        }
    }

    /// What discovery says of a destination, ready for requests.
    pub fn plan(&self, address: SocketAddr, found: &Arc<Outbound>) -> Rc<Plan> {
        let mut plans = self.plans.borrow_mut();
        if let Some(plan) = plans.get(&address).filter(|plan| plan.is_of(found)) {
            return Rc::clone(plan);
        }
        if plans.len() >= MOST_IDLE_BACKENDS {
            plans.retain(|_, plan| Rc::strong_count(plan) > 1);
        }
        let plan = Rc::new(Plan::new(self, found));
        plans.insert(address, Rc::clone(&plan));
        plan
    }

    /// An endpoint could not be used: others go first for a while.
    pub fn hold_off(&self, load: &Load, now: Instant) {
        if load.failed(now) {
            self.shared.telemetry.metrics.breaker_trip();
        }
    }

    /// The endpoints of a backend. Keep it with the connection: it follows what discovery says by itself.
    pub fn backend(&self, id: &ServicePort) -> Rc<Backend> {
        let mut backends = self.backends.borrow_mut();
        if let Some(backend) = backends.get(id) {
            return Rc::clone(backend);
        }
        if backends.len() >= MOST_IDLE_BACKENDS {
            backends.retain(|_, backend| Rc::strong_count(backend) > 1);
        }
        let (discovery, affinities) = (&self.shared.discovery, Arc::clone(&self.shared.affinities));
        let backend = Rc::new(Backend::new(id.clone(), discovery, Rc::clone(&self.loads), affinities));
        backends.insert(id.clone(), Rc::clone(&backend));
        backend
    }
}

/// A socket to accept on, and which way what it accepts goes.
#[derive(Debug)]
pub struct Listener {
    /// Which way.
    pub direction: Direction,
    /// A listening, non-blocking socket.
    pub socket: std::net::TcpListener,
}

/// Starts the workers, each a thread. They stop accepting when draining reaches [`Phase::Closing`], and end when their
/// last connection has.
pub fn start(shared: &Arc<Shared>, listeners: Vec<Listener>) -> io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let mut others = Vec::new();
    for index in 1..shared.config.bootstrap.workers {
        let (sender, receiver) = mpsc::unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        others.push(Other { sender, load });
        let shared = Arc::clone(shared);
        threads.push(thread(index, move || run_with(shared, receive(receiver)))?);
    }
    let own = Arc::clone(shared);
    threads.push(thread(0, move || run_with(own, accept(listeners, others)))?);
    Ok(threads)
}

fn thread(index: usize, body: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        if let Err(error) = body() {
            tracing::error!(%error, index, "a worker could not start");
        }
    })
}

/// Runs a worker until `feed` has ended and its connections have, too.
fn run_with<F>(shared: Arc<Shared>, feed: impl FnOnce(Rc<Hall>) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()?;
    let tasks = LocalSet::new();
    let hall = Rc::new(Hall { worker: Rc::new(Worker::new(shared)), load: Arc::default() });
    tasks.spawn_local(feed(hall));
    runtime.block_on(tasks);
    Ok(())
}

/// Where a worker's connections begin.
struct Hall {
    worker: Rc<Worker>,
    load: Arc<AtomicUsize>,
}

/// Another worker, seen from the one that accepts.
struct Other {
    sender: mpsc::UnboundedSender<Arrival>,
    load: Arc<AtomicUsize>,
}

struct Arrival {
    direction: Direction,
    socket: std::net::TcpStream,
    client: SocketAddr,
    /// Taken by who hands over, or all that arrives at once would go to the same worker.
    load: LoadGuard,
}

/// Takes part of the load off a worker when a connection ends.
struct LoadGuard(Arc<AtomicUsize>);

impl LoadGuard {
    fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Hall {
    fn begin(&self, direction: Direction, tcp: TcpStream, client: SocketAddr, load: LoadGuard) {
        let worker = Rc::clone(&self.worker);
        spawn_local(async move {
            let _open = worker.shared.drain.connection();
            let _counted = worker.shared.telemetry.metrics.connection(direction);
            let _load = load;
            serve(&worker, direction, tcp, client).await;
        });
    }

    /// Whether there is room for one more; if not, it is counted and closed.
    fn admits(&self, direction: Direction, client: SocketAddr) -> bool {
        let shared = &self.worker.shared;
        if shared.drain.open() < shared.most_connections {
            return true;
        }
        shared.failed(direction, &client.ip().to_string(), "", &Error::Overloaded("open connections"), 0);
        false
    }
}

async fn serve(worker: &Rc<Worker>, direction: Direction, tcp: TcpStream, client: SocketAddr) {
    let client = normal(client);
    // Responses are written whole: waiting for more would only delay them. Fails on dead sockets alone.
    let _ = tcp.set_nodelay(true);
    keep_alive(&tcp);
    let destination = match OriginalDestination::of(&tcp) {
        Ok(destination) => destination.addr(),
        Err(_) => {
            let own = tcp.local_addr().map_or(client, normal);
            let error = Error::OwnPort(own);
            worker.shared.failed(direction, &client.ip().to_string(), &own.to_string(), &error, 0);
            return;
        }
    };
    if direction == Direction::Outbound {
        do_not_pace(&tcp);
        return outbound::serve(worker, tcp, destination).await;
    }
    match worker.shared.refuse_others_address(destination) {
        Ok(()) => inbound::serve(worker, tcp, client, destination).await,
        Err(error) => {
            reset_on_drop(&tcp);
            worker.shared.failed(direction, &client.ip().to_string(), &destination.to_string(), &error, 0);
        }
    }
}

fn accept(listeners: Vec<Listener>, others: Vec<Other>) -> impl FnOnce(Rc<Hall>) -> Accepting {
    move |hall| {
        Box::pin(async move {
            let others = Rc::new(others);
            for listener in listeners {
                spawn_local(accept_on(listener, Rc::clone(&hall), Rc::clone(&others)));
            }
        })
    }
}

type Accepting = std::pin::Pin<Box<dyn Future<Output = ()>>>;

async fn accept_on(listener: Listener, hall: Rc<Hall>, others: Rc<Vec<Other>>) {
    let Listener { direction, socket } = listener;
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot accept connections"),
    };
    let drain = hall.worker.shared.drain.clone();
    let closing = drain.reached(Phase::Closing);
    tokio::pin!(closing);
    let mut said: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut closing => return,
        };
        match accepted {
            Ok((tcp, client)) if hall.admits(direction, client) => hand_over(&hall, &others, direction, tcp, client),
            Ok((tcp, _)) => drop(tcp),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: connections wait in the backlog while others end.
                let now = Instant::now();
                if said.is_none_or(|at| now - at >= SAY_AGAIN) {
                    said = Some(now);
                    tracing::warn!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn hand_over(hall: &Hall, others: &[Other], direction: Direction, tcp: TcpStream, client: SocketAddr) {
    let lightest = others.iter().min_by_key(|other| other.load.load(Relaxed));
    match lightest.filter(|other| other.load.load(Relaxed) < hall.load.load(Relaxed)) {
        None => hall.begin(direction, tcp, client, LoadGuard::new(&hall.load)),
        Some(other) => {
            // Leaves this thread's reactor. Fails only on a socket that is gone already.
            if let Ok(socket) = tcp.into_std() {
                let _ = other.sender.send(Arrival { direction, socket, client, load: LoadGuard::new(&other.load) });
            }
        }
    }
}

fn receive(mut arrivals: mpsc::UnboundedReceiver<Arrival>) -> impl FnOnce(Rc<Hall>) -> Accepting {
    move |hall| {
        Box::pin(async move {
            while let Some(Arrival { direction, socket, client, load }) = arrivals.recv().await {
                if let Ok(tcp) = TcpStream::from_std(socket) {
                    hall.begin(direction, tcp, client, load);
                }
            }
        })
    }
}

/// The client gave up between its SYN and our accept.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Two descriptors each, with some left for everything else.
fn most_connections(descriptors: Option<u64>) -> usize {
    let descriptors = usize::try_from(descriptors.unwrap_or(MOST_DESCRIPTORS)).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(OTHER_DESCRIPTORS) / 2).max(16)
}

const MOST_DESCRIPTORS: u64 = 1 << 20;
const OTHER_DESCRIPTORS: usize = 128;
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// However often it cannot.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// Backends kept although no connection uses them.
const MOST_IDLE_BACKENDS: usize = 1024;
/// Polls between looks at the sockets.
const EVENT_INTERVAL: u32 = 61;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{issuer, proxy};

    #[test]
    fn the_bound_follows_the_descriptors() {
        assert_eq!(most_connections(Some(1024)), 448);
        assert_eq!(most_connections(Some(0)), 16);
        assert_eq!(most_connections(None), (1 << 19) - 64);
    }

    #[tokio::test]
    async fn what_arrives_at_once_is_shared_out() {
        let tasks = LocalSet::new();
        let sharing = async {
            let hall = Hall { worker: proxy(&issuer(), "web", "10.0.0.2"), load: Arc::default() };
            let (sender, mut arrivals) = mpsc::unbounded_channel();
            let others = [Other { sender, load: Arc::default() }];
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut accepted = Vec::new();
            let mut clients = Vec::new();
            for _ in 0..8 {
                clients.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
                accepted.push(listener.accept().await.unwrap());
            }
            // Nobody looks at one before all are there.
            for (tcp, client) in accepted {
                hand_over(&hall, &others, Direction::Inbound, tcp, client);
            }
            let mut handed = 0;
            while arrivals.try_recv().is_ok() {
                handed += 1;
            }
            assert_eq!(handed, 4);
        };
        tasks.run_until(sharing).await;
    }

    #[test]
    fn only_what_was_sent_to_this_workload_is_passed_on() {
        let worker = proxy(&issuer(), "web", "10.0.0.2");
        for (address, passes) in [
            ("10.0.0.2:80", true),
            ("127.0.0.1:6379", false),
            ("[::1]:6379", false),
            ("0.0.0.0:80", false),
            ("224.0.0.1:80", false),
            ("192.0.2.1:443", false),
            ("[2001:db8::1]:443", false),
        ] {
            let outcome = worker.shared.refuse_others_address(address.parse().unwrap());
            assert_eq!(outcome.is_ok(), passes, "{address}: {outcome:?}");
        }
    }
}
