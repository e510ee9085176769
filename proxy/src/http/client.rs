//! One worker's HTTP connections to endpoints: taken from the pool or dialled, and judged when they fail.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use identity::HandshakeFailure;
use policy::Endpoint;
use rustls_pki_types::ServerName;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::h1::connection::Connection;
use super::h1::exchange::ExchangeError;
use super::h2::links::{Lease, Links};
use super::pool::Pool;
use crate::Error;
use crate::stream::Stream;
use crate::tls::MeshProtocol;
use crate::upstream;
use crate::worker::Worker;

/// Connections to endpoints.
#[derive(Debug)]
pub struct Client {
    idle: Rc<Idle>,
}

#[derive(Debug)]
struct Idle {
    h1: Pool,
    h2: RefCell<HashMap<SocketAddr, Known>>,
    is_swept: Cell<bool>,
    trust: RefCell<watch::Receiver<()>>,
    /// How often trust has changed.
    era: Cell<u32>,
}

/// HTTP/2 connections to an address, and who was to be found there.
type Known = (Rc<Endpoint>, Rc<Links>);

/// An HTTP/1 connection to an endpoint, in use for one request.
#[derive(Debug)]
pub struct Server {
    /// The connection.
    pub connection: Connection<Stream>,
    /// Who is at its other end.
    pub endpoint: Rc<Endpoint>,
    /// It has carried a request before.
    pub reused: bool,
    /// When its peer was verified, as [`Client`] counts changes of trust.
    era: u32,
}

impl Client {
    /// No connections yet. `trust` changes with the bundle in force.
    pub fn new(trust: watch::Receiver<()>) -> Self {
        let (h1, h2, is_swept) = Default::default();
        Self { idle: Rc::new(Idle { h1, h2, is_swept, trust: RefCell::new(trust), era: Cell::new(0) }) }
    }

    /// An idle connection, if there is a good one.
    pub fn take(&self, endpoint: &Rc<Endpoint>) -> Option<Server> {
        self.idle.follow_trust();
        let connection = self.idle.h1.take(endpoint)?;
        Some(Server { connection, endpoint: Rc::clone(endpoint), reused: true, era: self.idle.era.get() })
    }

    /// A new connection; `limit` is for TCP.
    pub async fn connect(
        &self,
        worker: &Rc<Worker>,
        endpoint: &Rc<Endpoint>,
        name: &ServerName<'static>,
        limit: Duration,
    ) -> Result<Server, Error> {
        self.idle.follow_trust();
        let era = self.idle.era.get();
        let stream = upstream::dial(worker, endpoint, name, MeshProtocol::Http1, limit).await?;
        Ok(Server { connection: Connection::new(stream), endpoint: Rc::clone(endpoint), reused: false, era })
    }

    /// Takes back a connection that can carry another request.
    pub fn put(&self, server: Server, now: Instant) {
        self.idle.follow_trust();
        if server.era == self.idle.era.get() {
            self.idle.h1.put(&server.endpoint, server.connection, now);
            self.keep_swept();
        }
    }

    /// Room for a stream on an HTTP/2 connection; `limit` is for TCP where a new one is made.
    pub async fn lease(
        &self,
        worker: &Rc<Worker>,
        endpoint: &Rc<Endpoint>,
        name: &ServerName<'static>,
        limit: Duration,
    ) -> Result<Lease, Error> {
        let max_head = super::h2::max_head(worker.shared.config.bootstrap.max_head_bytes);
        self.keep_swept();
        let links = self.links(endpoint, max_head);
        let dial = async || Box::pin(upstream::dial(worker, endpoint, name, MeshProtocol::Http2, limit)).await;
        links.lease(dial).await
    }

    fn links(&self, endpoint: &Rc<Endpoint>, max_head: u32) -> Rc<Links> {
        self.idle.follow_trust();
        let mut all = self.idle.h2.borrow_mut();
        let fresh = || (Rc::clone(endpoint), Rc::new(Links::new(endpoint.address, max_head)));
        let (of, links) = all.entry(endpoint.address).or_insert_with(fresh);
        if of.identity != endpoint.identity {
            // The address has another owner now.
            (*of, *links) = fresh();
        }
        Rc::clone(links)
    }

    /// Looks after idle connections once a second, for as long as there are any. None outlives the trust it was made
    /// under.
    fn keep_swept(&self) {
        if self.idle.is_swept.replace(true) {
            return;
        }
        let idle = Rc::downgrade(&self.idle);
        spawn_local(async move {
            let mut second: u32 = 0;
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(idle) = idle.upgrade() else { return };
                second = second.wrapping_add(1);
                idle.follow_trust();
                let no_h1 = idle.h1.sweep(Instant::now());
                if second.is_multiple_of(H2_IDLE_SECONDS) {
                    idle.h2.borrow_mut().retain(|_, (_, links)| Rc::strong_count(links) > 1 || !links.sweep());
                }
                if no_h1 && idle.h2.borrow().is_empty() {
                    idle.is_swept.set(false);
                    return;
                }
            }
        });
    }
}

impl Idle {
    /// Under another bundle every peer proves itself anew; what is under way is not disturbed.
    fn follow_trust(&self) {
        let mut trust = self.trust.borrow_mut();
        if trust.has_changed().unwrap_or_default() {
            trust.mark_unchanged();
            self.era.set(self.era.get().wrapping_add(1));
            self.h1.clear();
            self.h2.borrow_mut().clear();
        }
    }
}

/// What an exchange that failed means, and whether the request may be sent again.
///
/// Again is safe where the other side cannot have passed it on: its proxy answers everything it reads, so a mesh
/// connection that it closed in order, or that ended with a TLS alert, carried this request to nobody. Where that is not
/// known, a reused connection is the usual race with a server's idle timeout, and idempotent requests may go again.
pub fn cause_of(failed: ExchangeError, server: &Server, idempotent: bool) -> (Error, bool) {
    let address = server.endpoint.address;
    let (replayable, cause) = match failed {
        ExchangeError::Request(problem) => return (Error::Request(problem), false),
        ExchangeError::Response(problem) => return (Error::Response(problem), false),
        ExchangeError::ClientClosed => return (Error::ClientClosed, false),
        ExchangeError::ServerClosed { replayable, cause } => (replayable, cause),
    };
    let in_mesh = server.connection.io.is_protected();
    let failure = cause.as_ref().map(HandshakeFailure::of_io);
    if let (true, Some(HandshakeFailure::RefusedByPeer), Some(cause)) = (in_mesh, failure, &cause) {
        let error = Error::Tls { address, failure: HandshakeFailure::RefusedByPeer, problem: cause.to_string() };
        return (error, replayable);
    }
    let untouched = in_mesh && cause.is_none();
    let again = replayable && (untouched || (idempotent && (in_mesh || server.reused)));
    let error = if again && server.reused { Error::ConnectionLost(address) } else { Error::ConnectionClosed(address) };
    (error, again)
}

const SWEEP: Duration = Duration::from_secs(1);
/// HTTP/2 connections without a stream at these intervals are closed.
const H2_IDLE_SECONDS: u32 = 60;
