//! One body on its way from one connection to another, checked and otherwise untouched.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::Framing;
use super::body::{Body, Piece};
use super::connection::Connection;
use super::error::H1Error;

/// The rest of a body, and how much of it was relayed.
#[derive(Debug)]
pub struct Relay {
    body: Body,
    /// Checked bytes at the front of the sender's input.
    ready: usize,
    /// Bytes relayed so far, chunk framing included.
    pub bytes: u64,
    /// Leave the chunked coding out: the receiver speaks HTTP/1.0.
    only_content: bool,
    /// Written, and maybe still held back by the stream.
    unflushed: bool,
}

/// Which side ended the relay early.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Reading failed.
    #[error("the sender failed: {0}")]
    From(io::Error),
    /// Writing failed.
    #[error("the receiver failed: {0}")]
    To(io::Error),
    /// The body is broken.
    #[error(transparent)]
    Broken(#[from] H1Error),
}

impl Relay {
    /// A whole body.
    pub fn new(framing: Framing) -> Self {
        Self { body: Body::new(framing), ready: 0, bytes: 0, only_content: false, unflushed: true }
    }

    /// A body of which the receiver gets the content without the chunked coding.
    pub fn only_content(framing: Framing) -> Self {
        Self { only_content: true, ..Self::new(framing) }
    }

    /// Checks what has arrived; if that is the rest of the body, returns its length. Nothing is consumed.
    pub fn whole(&mut self, arrived: &[u8]) -> Result<Option<usize>, H1Error> {
        if self.body.is_end() {
            return Ok(Some(0));
        }
        self.ready += self.body.relay(&arrived[self.ready..])?;
        Ok(self.body.is_end().then_some(self.ready))
    }

    /// Moves what can be moved; ready when all of the body is written and flushed.
    pub fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Connection<A>,
        to: &mut Connection<B>,
    ) -> Poll<Result<(), RelayError>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            self.check(from)?;
            if self.ready > 0 && !to.output.is_empty() && self.ready <= SMALL {
                // A small body travels with its head: one write.
                to.output.extend_from_slice(&from.input.data()[..self.ready]);
                self.advance(from, self.ready);
            }
            if !to.output.is_empty() {
                self.unflushed = true;
                ready!(to.poll_write(cx)).map_err(RelayError::To)?;
            }
            if self.ready > 0 {
                let piece = &from.input.data()[..self.ready];
                self.unflushed = true;
                let count = ready!(Pin::new(&mut to.io).poll_write(cx, piece)).map_err(RelayError::To)?;
                if count == 0 {
                    return Poll::Ready(Err(RelayError::To(io::ErrorKind::WriteZero.into())));
                }
                self.advance(from, count);
                continue;
            }
            let more_arrived = !self.body.is_end() && self.only_content && self.skips(from)?;
            if more_arrived {
                continue;
            }
            if self.unflushed {
                ready!(to.poll_flush(cx)).map_err(RelayError::To)?;
                self.unflushed = false;
            }
            if self.body.is_end() {
                return Poll::Ready(Ok(()));
            }
            if ready!(from.poll_read(cx)).map_err(RelayError::From)? == 0 {
                self.body.close()?;
            }
        }
    }

    /// Extends `ready` by what arrived since.
    fn check<A>(&mut self, from: &Connection<A>) -> Result<(), H1Error> {
        let arrived = &from.input.data()[self.ready..];
        if self.body.is_end() || arrived.is_empty() {
            return Ok(());
        }
        if !self.only_content {
            self.ready += self.body.relay(arrived)?;
        }
        Ok(())
    }

    /// Without the coding, pieces are taken one by one. True if there is something to do about one.
    fn skips<A>(&mut self, from: &mut Connection<A>) -> Result<bool, H1Error> {
        match self.body.next(from.input.data())? {
            Piece::Data(count) => self.ready = count,
            Piece::Framing(count) | Piece::Trailers(count) => from.input.consume(count),
            Piece::More => return Ok(false),
            Piece::End => {}
        }
        Ok(true)
    }

    fn advance<A>(&mut self, from: &mut Connection<A>, count: usize) {
        from.input.consume(count);
        self.ready -= count;
        self.bytes += count as u64;
    }
}

/// Bodies up to this are copied behind their head, rather than written separately.
const SMALL: usize = 16 * 1024;
