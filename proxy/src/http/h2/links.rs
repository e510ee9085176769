//! HTTP/2 connections to one server: streams share one, and another is opened when its streams run out.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::Error;
use crate::stream::Stream;

/// Every HTTP/2 connection to one server.
#[derive(Debug)]
pub struct Links {
    address: SocketAddr,
    max_head: u32,
    list: RefCell<Vec<Rc<Link>>>,
    /// One dials at a time; who waited finds the new connection, or what became of it.
    dialling: Mutex<()>,
    failed: RefCell<Failed>,
}

/// How many dials failed, and why the last one did.
#[derive(Debug, Default)]
struct Failed {
    dials: u64,
    error: Option<Error>,
}

#[derive(Debug)]
struct Link {
    sender: SendRequest<Bytes>,
    streams: Rc<Cell<usize>>,
    /// It takes no more streams: GOAWAY, or gone.
    ended: Rc<Cell<bool>>,
    /// The server has said how many streams it takes.
    told: watch::Receiver<bool>,
}

type Dialled = (SendRequest<Bytes>, client::Connection<Stream, Bytes>, Option<PingPong>);

/// Room for one stream on a connection.
#[derive(Debug)]
pub struct Lease {
    link: Rc<Link>,
    /// The connection had carried streams before.
    pub reused: bool,
}

impl Links {
    /// No connection yet.
    pub fn new(address: SocketAddr, max_head: u32) -> Self {
        Self { address, max_head, list: RefCell::default(), dialling: Mutex::new(()), failed: RefCell::default() }
    }

    /// Room for a stream; `dial` makes a new connection where there is none.
    pub async fn lease(&self, dial: impl AsyncFn() -> Result<Stream, Error>) -> Result<Lease, Error> {
        if let Some(lease) = self.free() {
            return Ok(lease);
        }
        let failed_before = self.failed.borrow().dials;
        let _dialling = self.dialling.lock().await;
        if let Some(lease) = self.free_soon().await {
            return Ok(lease);
        }
        // Dialling anew for each of them, one after the other, would keep the last waiting for hours.
        if self.failed.borrow().dials != failed_before
            && let Some(error) = &self.failed.borrow().error
        {
            return Err(error.clone());
        }
        if self.list.borrow().len() >= MOST_LINKS
            && let Some(busy) = self.list.borrow().iter().min_by_key(|link| link.streams.get())
        {
            // h2 holds the stream back until the server takes another.
            return Ok(Lease::new(busy, true));
        }
        let dialled = self.connect(dial).await.inspect_err(|error| {
            let mut failed = self.failed.borrow_mut();
            *failed = Failed { dials: failed.dials + 1, error: Some(error.clone()) };
        })?;
        let link = Rc::new(Link::start(dialled));
        self.list.borrow_mut().push(Rc::clone(&link));
        Ok(Lease::new(&link, false))
    }

    async fn connect(&self, dial: impl AsyncFn() -> Result<Stream, Error>) -> Result<Dialled, Error> {
        let stream = dial().await?;
        let is_mesh = stream.is_protected();
        let handshake = super::client(self.max_head).handshake(stream).await;
        let (sender, mut connection) = handshake.map_err(|_| Error::ConnectionLost(self.address))?;
        // Only proxies of the mesh are sure to put up with it: some servers end connections for a few pings.
        let vigil = if is_mesh { connection.ping_pong() } else { None };
        Ok((sender, connection, vigil))
    }

    /// Closes connections without streams. True if none is left.
    pub fn sweep(&self) -> bool {
        let mut list = self.list.borrow_mut();
        list.retain(|link| !link.ended.get() && link.streams.get() > 0);
        list.is_empty()
    }

    /// The same, when every connection has said how many streams it takes.
    async fn free_soon(&self) -> Option<Lease> {
        loop {
            if let Some(lease) = self.free() {
                return Some(lease);
            }
            let mut told = self.list.borrow().iter().find(|link| !*link.told.borrow()).map(|link| link.told.clone())?;
            let _ = told.wait_for(|told| *told).await;
        }
    }

    /// The connection with the most streams that has room: the others may then close.
    fn free(&self) -> Option<Lease> {
        let mut list = self.list.borrow_mut();
        list.retain(|link| !link.ended.get());
        let has_room = |link: &&Rc<Link>| link.streams.get() < link.sender.current_max_send_streams();
        let link = list.iter().filter(has_room).max_by_key(|link| link.streams.get())?;
        Some(Lease::new(link, true))
    }
}

impl Link {
    /// Keeps the connection going, and notes when it has said how many streams it takes, and when it ends.
    fn start((sender, mut connection, vigil): Dialled) -> Self {
        let (ended, streams): (Rc<Cell<bool>>, Rc<Cell<usize>>) = Default::default();
        let (tell, told) = watch::channel(false);
        let (gone, limit, open) = (Rc::clone(&ended), sender.clone(), Rc::clone(&streams));
        spawn_local(async move {
            let settings = poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                let is_told = polled.is_ready() || limit.current_max_send_streams() != super::FIRST_STREAMS;
                if is_told { Poll::Ready(polled.is_ready()) } else { Poll::Pending }
            });
            let is_over = timeout(PATIENCE, settings).await.unwrap_or(false);
            tell.send_replace(true);
            drop(limit);
            if !is_over {
                tokio::select! {
                    // Its streams see what ended it.
                    _ = connection => {}
                    () = unanswered(vigil, open) => {}
                }
            }
            gone.set(true);
        });
        Self { sender, streams, ended, told }
    }
}

impl Lease {
    fn new(link: &Rc<Link>, reused: bool) -> Self {
        link.streams.set(link.streams.get() + 1);
        Self { link: Rc::clone(link), reused }
    }

    /// A sender that may open the stream now. Fails where the connection has ended: nothing was sent then.
    pub async fn sender(&self) -> Result<SendRequest<Bytes>, h2::Error> {
        let ready = self.link.sender.clone().ready().await;
        if ready.is_err() {
            self.retire();
        }
        ready
    }

    /// A stream failed: if with its connection, no other goes there.
    pub fn note(&self, error: &h2::Error) {
        if !error.is_reset() {
            self.retire();
        }
    }

    /// No other stream goes to this connection.
    pub fn retire(&self) {
        self.link.ended.set(true);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.streams.set(self.link.streams.get() - 1);
    }
}

/// Resolves when a server has vanished without a word while it had streams: to TCP that is news after a quarter of an
/// hour only, and until then every new stream would join the others.
async fn unanswered(vigil: Option<PingPong>, streams: Rc<Cell<usize>>) {
    let Some(mut vigil) = vigil else { return pending().await };
    loop {
        sleep(PING_EVERY).await;
        if streams.get() > 0 && timeout(PING_PATIENCE, vigil.ping(Ping::opaque())).await.is_err() {
            return;
        }
    }
}

/// For a server to say how many streams it takes, which is the first thing it must say (RFC 9113, section 3.4).
const PATIENCE: Duration = Duration::from_secs(1);
/// While there are streams.
const PING_EVERY: Duration = Duration::from_secs(10);
/// As long as gRPC waits: a machine that is moved stands still for seconds.
const PING_PATIENCE: Duration = Duration::from_secs(20);
/// Connections per server and worker.
const MOST_LINKS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_dial_learns_how_it_ended() {
        let address: SocketAddr = "10.0.0.7:80".parse().unwrap();
        let links = Links::new(address, 1024);
        let dials = Cell::new(0);
        let dial = async || {
            dials.set(dials.get() + 1);
            sleep(Duration::from_secs(5)).await;
            Err(Error::AppRefused(address))
        };
        let (one, two, three) = tokio::join!(links.lease(dial), links.lease(dial), links.lease(dial));
        for outcome in [one, two, three] {
            assert!(matches!(outcome, Err(Error::AppRefused(_))), "{outcome:?}");
        }
        assert_eq!(dials.get(), 1);
        assert!(links.lease(dial).await.is_err());
        assert_eq!(dials.get(), 2, "who comes later tries anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_vanished_is_given_up() {
        let local = tokio::task::LocalSet::new();
        let test = async {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let near = Cell::new(Some(Stream::Local(near)));
            let links = Links::new("10.0.0.7:80".parse().unwrap(), 16 * 1024);
            let lease = links.lease(async || Ok(near.take().unwrap())).await.unwrap();
            let (first, server) = tokio::join!(lease.sender(), h2::server::handshake(far));
            let mut server: h2::server::Connection<_, Bytes> = server.unwrap();
            let request = || http::Request::get("http://web/").body(()).unwrap();
            let (_answered, _) = first.unwrap().send_request(request(), true).unwrap();
            let (_, mut respond) = server.accept().await.unwrap().unwrap();
            // Slow is not gone.
            let slow = timeout(PING_EVERY * 10, server.accept());
            assert!(slow.await.is_err());
            respond.send_response(http::Response::new(()), true).unwrap();
            // Nobody looks after its socket any more.
            let (response, _) = lease.sender().await.unwrap().send_request(request(), true).unwrap();
            let outcome = timeout(PING_EVERY + PING_PATIENCE * 2, response).await;
            assert!(outcome.expect("waited for ever").is_err());
            assert!(links.free().is_none());
        };
        local.run_until(test).await;
    }
}
