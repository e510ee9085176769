//! Idle HTTP/1 connections of one worker to endpoints, the latest used first.
//!
//! A connection is looked at before it is handed out: one that has ended, or on which anything came without being
//! asked for, is closed instead. The rest of the race (it ends while the request is on its way) is the retry's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use policy::Endpoint;
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::h1::connection::Connection;
use crate::stream::Stream;

/// Connections that wait for the next request.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection<Stream>,
    /// Who the other side proved to be: an address may get another owner.
    endpoint: Rc<Endpoint>,
    since: Instant,
}

impl Pool {
    /// The connection to this endpoint that was used last, if one is still good.
    pub fn take(&self, endpoint: &Endpoint) -> Option<Connection<Stream>> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&endpoint.address)?;
        while let Some(mut entry) = connections.pop() {
            if entry.endpoint.identity == endpoint.identity && is_quiet(&mut entry.connection.io) {
                return Some(entry.connection);
            }
        }
        None
    }

    /// Keeps a connection whose last response is complete.
    pub fn put(&self, endpoint: &Rc<Endpoint>, mut connection: Connection<Stream>, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(endpoint.address).or_default();
        if connections.len() < MOST_IDLE {
            connection.shrink();
            connections.push(Idle { connection, endpoint: Rc::clone(endpoint), since: now });
        }
    }

    /// Closes all of them.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Closes connections that ended or were not used for a minute, and takes the buffers of the others. True if none
    /// is left.
    pub fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, connections| {
            connections.retain_mut(|entry| {
                entry.connection.release();
                now.saturating_duration_since(entry.since) < LONGEST_IDLE && is_quiet(&mut entry.connection.io)
            });
            !connections.is_empty()
        });
        idle.is_empty()
    }
}

/// Whether a connection is open and nothing is there to be read from it.
pub fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0];
    let mut read = ReadBuf::new(&mut byte);
    // Finds what TLS holds already decrypted. The waker is replaced by the next real read.
    if Pin::new(&mut *stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut read).is_ready() {
        return false;
    }
    let socket = match stream {
        Stream::Plain(tcp) => tcp,
        Stream::Dialled(tls) => tls.get_ref().0.inner(),
        Stream::Accepted(_) | Stream::Local(_) => return true,
    };
    // The runtime learns of an end of stream only when it next looks at its sockets, the kernel knows already.
    let peeked = SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]);
    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Idle connections kept per endpoint.
const MOST_IDLE: usize = 1024;
const LONGEST_IDLE: Duration = Duration::from_secs(60);
