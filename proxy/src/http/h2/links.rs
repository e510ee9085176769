//! HTTP/2 connections to one server: streams share one, and another is opened when its streams run out.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use tokio::sync::Mutex;
use tokio::task::spawn_local;

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
    streams: Cell<usize>,
    /// It takes no more streams: GOAWAY, or gone.
    ended: Rc<Cell<bool>>,
}

type Dialled = (SendRequest<Bytes>, client::Connection<Stream, Bytes>);

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
        if let Some(lease) = self.free() {
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
        let (sender, connection) = self.connect(dial).await.inspect_err(|error| {
            let mut failed = self.failed.borrow_mut();
            *failed = Failed { dials: failed.dials + 1, error: Some(error.clone()) };
        })?;
        let ended = Rc::new(Cell::new(false));
        let told = Rc::clone(&ended);
        spawn_local(async move {
            // Its streams see what ended it.
            let _ = connection.await;
            told.set(true);
        });
        let link = Rc::new(Link { sender, streams: Cell::new(0), ended });
        self.list.borrow_mut().push(Rc::clone(&link));
        Ok(Lease::new(&link, false))
    }

    async fn connect(&self, dial: impl AsyncFn() -> Result<Stream, Error>) -> Result<Dialled, Error> {
        let stream = dial().await?;
        let handshake = super::client(self.max_head).handshake(stream).await;
        handshake.map_err(|_| Error::ConnectionLost(self.address))
    }

    /// Closes connections without streams. True if none is left.
    pub fn sweep(&self) -> bool {
        let mut list = self.list.borrow_mut();
        list.retain(|link| !link.ended.get() && link.streams.get() > 0);
        list.is_empty()
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
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
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
}
