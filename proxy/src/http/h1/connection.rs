//! One HTTP/1 connection: the stream, what was read from it and not yet used, what is to be written to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::Limits;
use super::buffer::Buffer;
use super::error::H1Error;
use super::parse::{self, Asked, Request, Response};

/// A connection that speaks HTTP/1, towards a client or a server.
#[derive(Debug)]
pub struct Connection<S> {
    /// The stream.
    pub io: S,
    /// Read, and not yet used.
    pub input: Buffer,
    /// To be written before anything else.
    pub output: BytesMut,
}

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is refused.
    #[error(transparent)]
    Refused(#[from] H1Error),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection of which nothing was read.
    pub fn new(io: S) -> Self {
        Self::with_input(io, Buffer::default())
    }

    /// A connection whose first bytes somebody else has read.
    pub fn with_input(io: S, input: Buffer) -> Self {
        Self { io, input, output: BytesMut::new() }
    }

    /// The next request; `None` if the client closed between two. It may come late, but not slowly: 30 s for a head.
    pub async fn read_request(&mut self, limits: &Limits) -> Result<Option<Request>, ReadError> {
        let mut deadline = None;
        loop {
            if let Some(request) = parse::request(&mut self.input, limits)? {
                return Ok(Some(request));
            }
            let idle = self.input.is_empty();
            if idle {
                self.shrink();
            }
            let read = if idle {
                self.input.read(&mut self.io).await
            } else {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + HEAD_TIMEOUT);
                timeout_at(deadline, self.input.read(&mut self.io)).await.map_err(io::Error::from)?
            };
            if read? == 0 {
                return if idle { Ok(None) } else { Err(H1Error::Truncated.into()) };
            }
        }
    }

    /// The next response head, if all of it has been read.
    pub fn parse_response(&mut self, limits: &Limits, asked: Asked) -> Result<Option<Response>, H1Error> {
        parse::response(&mut self.input, limits, asked)
    }

    /// Reads once; zero is the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.poll_read(cx, &mut self.io)
    }

    /// Writes and flushes all output.
    pub async fn write(&mut self) -> io::Result<()> {
        self.io.write_all_buf(&mut self.output).await?;
        self.io.flush().await
    }

    /// Writes all output and ends the connection so that the other side can read it: a reset would destroy it.
    pub async fn write_and_close(&mut self) {
        if self.write().await.is_ok() {
            self.close().await;
        }
    }

    /// Ends a connection after a whole message: in order, so that one that ends with the connection is known to be whole,
    /// and without a reset, which could destroy it on the way.
    pub async fn close(&mut self) {
        let _ = tokio::time::timeout(LINGER, self.discard()).await;
    }

    /// Ends our direction, and reads to the end of the other.
    pub(super) async fn discard(&mut self) -> io::Result<()> {
        self.io.shutdown().await?;
        loop {
            self.input.consume(self.input.data().len());
            if self.input.read(&mut self.io).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Writes all output; the stream may still hold it.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Gives all memory back that an idle connection can do without.
    pub fn release(&mut self) {
        self.input.release();
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }

    /// Gives memory back before the connection idles.
    pub fn shrink(&mut self) {
        self.input.shrink();
        if self.output.is_empty() && self.output.capacity() > KEPT_OUTPUT {
            self.output = BytesMut::new();
        }
    }
}

/// From a head's first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client whose request nobody reads may take to notice.
pub(super) const LINGER: Duration = Duration::from_secs(1);
const KEPT_OUTPUT: usize = 4 * 1024;
