//! [`App`]: the whole proxy, put together, bound, run, and ended.
//!
//! The thread that calls [`App::run`] is the control thread: discovery, certificates, admin and metrics live on its
//! runtime. Workers are threads of their own ([`crate::worker`]).

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::MeshTls;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::admin::{Admin, Probes, Scope};
use crate::config::Config;
use crate::control::Discovery;
use crate::control::clients::{Clients, ClientsError};
use crate::control::state::ControlState;
use crate::drain::{Drain, Phase};
use crate::net::listen::{self, ListenError};
use crate::net::orphans;
use crate::telemetry::log::LogControl;
use crate::telemetry::{Direction, Telemetry};
use crate::worker::{self, Listener, Shared};

/// A proxy that has bound its ports and not served yet.
#[derive(Debug)]
pub struct App {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    clients: Clients,
    admin: Arc<Admin>,
    admin_listeners: Vec<TcpListener>,
    admin_socket: Option<UnixListener>,
    health: TcpListener,
    bound: Bound,
}

/// Where the proxy listens; of use where the bootstrap said port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Redirected connections of the application.
    pub outbound: SocketAddr,
    /// Redirected connections of others.
    pub inbound: SocketAddr,
    /// Admin, on loopback.
    pub admin: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
}

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port could not be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin socket could not be had.
    #[error("cannot listen on {path}: {source}; admin_socket must be in a directory this user can write to")]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something in the bootstrap cannot work.
    #[error(transparent)]
    Clients(#[from] ClientsError),
    /// The kernel refused a thread, a signal handler or the like.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl App {
    /// Binds everything and takes over what an earlier process kept. Must be called inside a tokio runtime.
    pub fn build(config: Config, log: LogControl) -> Result<Self, StartError> {
        let started = SystemTime::now();
        let ports = config.bootstrap.ports;
        let outbound = listen::on_loopback(ports.outbound)?;
        let inbound = listen::everywhere(ports.inbound)?;
        let admin_listeners = listen::on_loopback(ports.admin)?;
        let health = listen::everywhere(ports.health)?;
        let admin_socket = config.bootstrap.admin_socket.as_deref().map(listen_on_socket).transpose()?;
        let bound = Bound {
            outbound: outbound[0].local_addr()?,
            inbound: inbound.local_addr()?,
            admin: admin_listeners[0].local_addr()?,
            health: health.local_addr()?,
        };
        let mut listeners = vec![Listener { direction: Direction::Inbound, socket: inbound.into_std()? }];
        for listener in outbound {
            listeners.push(Listener { direction: Direction::Outbound, socket: listener.into_std()? });
        }
        let (discovery, telemetry, drain) = (Discovery::default(), Telemetry::default(), Drain::new());
        let tls = MeshTls::new(None);
        let state = ControlState::new(&config.id);
        let shared = Shared::new(config.clone(), discovery.clone(), tls.clone(), telemetry.clone(), drain.clone());
        let clients = Clients::new(&config, &discovery, &state, &tls, shared.trust_changed.clone())?;
        let probes = Probes::new(&config.bootstrap);
        let admin = Arc::new(Admin { config, discovery, state, telemetry, drain, log, started, probes });
        let shared = Arc::new(shared);
        Ok(Self { shared, listeners, clients, admin, admin_listeners, admin_socket, health, bound })
    }

    /// Where it listens.
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Serves until `shutdown` resolves, then gives what is under way a moment to finish.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
        let Bound { outbound, inbound, admin, health } = self.bound;
        tracing::info!(%outbound, %inbound, %admin, %health, version = env!("CARGO_PKG_VERSION"), "serving");
        let drain = self.shared.drain.clone();
        let _workers = worker::start(&self.shared, self.listeners)?;
        // Ends every task when it goes.
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clients.run());
        for listener in self.admin_listeners {
            tasks.spawn(self.admin.clone().serve(listener, Scope::Admin));
        }
        if let Some(listener) = self.admin_socket {
            tasks.spawn(self.admin.clone().serve_socket(listener));
        }
        tasks.spawn(self.admin.clone().serve(self.health, Scope::Health));
        let delay = Duration::from_millis(self.shared.config.bootstrap.drain_delay_ms);
        tasks.spawn(announce(drain.clone(), delay));
        let metrics = self.shared.telemetry.metrics.clone();
        tasks.spawn(async move {
            let mut hours = tokio::time::interval(IDLE_SERIES);
            loop {
                hours.tick().await;
                metrics.forget_idle();
            }
        });
        shutdown.await;
        tracing::info!(open = drain.open(), "closing");
        drain.advance(Phase::Closing);
        if tokio::time::timeout(LAST_MOMENT, ended(&drain)).await.is_err() {
            tracing::warn!(open = drain.open(), "connections were still open, or peers had not got all that was said");
        }
        Ok(())
    }
}

/// Resolves with SIGTERM or SIGINT. Must be called inside a tokio runtime.
pub fn terminated() -> Result<impl Future<Output = ()>, StartError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Once draining has begun, tells clients to go elsewhere as soon as they had time to hear it from the mesh.
async fn announce(drain: Drain, delay: Duration) {
    drain.reached(Phase::Draining).await;
    tokio::time::sleep(delay).await;
    tracing::info!(open = drain.open(), "telling clients to go elsewhere");
    drain.advance(Phase::Announcing);
}

/// Resolves when no connection is open, and peers have what was said last. That takes a round trip, so waiting for it is a few looks.
async fn ended(drain: &Drain) {
    drain.closed().await;
    while orphans::undelivered().is_ok_and(|bytes| bytes > 0) {
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// For the owner only. A socket that an earlier process left is replaced.
fn listen_on_socket(path: &Path) -> Result<UnixListener, StartError> {
    let listen = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    listen().map_err(|source| StartError::Socket { path: path.to_owned(), source })
}

/// SIGTERM to exit; what a native sidecar is given costs every pod's end that much.
const LAST_MOMENT: Duration = Duration::from_millis(900);
/// A look walks the node's whole table of connections.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
const IDLE_SERIES: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
