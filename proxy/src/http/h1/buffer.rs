//! The read buffer of one HTTP/1 connection: small, grows with what arrives, gives its memory back when idle.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::H1Error;

/// Bytes read and not yet consumed.
///
/// A head is split off without a copy; once it is dropped, the next read reuses its memory, so a keep-alive connection
/// with small messages allocates once.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: BytesMut,
    /// Up to here there is no line end that has not been looked at.
    scanned: usize,
    /// Where the line that contains `scanned` begins.
    line: usize,
    /// How much the next read asks for; doubles while reads fill it.
    chunk: usize,
}

impl Buffer {
    /// A buffer that begins with bytes that somebody else read (protocol detection).
    pub fn with_prefix(prefix: &[u8]) -> Self {
        let mut buffer = Self::default();
        buffer.extend(prefix);
        buffer
    }

    /// What is there.
    pub fn data(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends bytes, as a read would.
    pub fn extend(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// Forgets the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.bytes.advance(count);
        self.scanned = 0;
        self.line = 0;
    }

    /// Splits off the first `count` bytes without copying them.
    pub fn take(&mut self, count: usize) -> Bytes {
        self.scanned = 0;
        self.line = 0;
        self.bytes.split_to(count).freeze()
    }

    /// Reads once; zero is the end of the stream.
    pub async fn read(&mut self, io: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.make_room();
        let count = io.read_buf(&mut self.bytes).await?;
        self.adapt(count);
        Ok(count)
    }

    /// As [`Buffer::read`], for code that drives two directions at once.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, io: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<usize>> {
        self.make_room();
        let read = pin!(io.read_buf(&mut self.bytes)).poll(cx);
        if let Poll::Ready(Ok(count)) = read {
            self.adapt(count);
        }
        read
    }

    /// Gives memory back that an idle connection does not need.
    pub fn shrink(&mut self) {
        if self.bytes.is_empty() {
            self.chunk = START;
            if self.bytes.capacity() > START {
                self.bytes = BytesMut::new();
            }
        }
    }

    /// Gives all memory back.
    pub fn release(&mut self) {
        if self.bytes.is_empty() {
            self.chunk = START;
            self.bytes = BytesMut::new();
        }
    }

    /// Takes everything that is there.
    pub fn take_all(&mut self) -> Bytes {
        self.take(self.bytes.len())
    }

    /// Where the head at the front ends, if all of it is there. Looks at every byte once, however it arrives, and refuses
    /// line ends that are not CR LF.
    pub(super) fn head_end(&mut self, limit: usize) -> Result<Option<usize>, H1Error> {
        while let Some(found) = memchr::memchr(b'\n', &self.bytes[self.scanned..]) {
            let at = self.scanned + found;
            if at == 0 || self.bytes[at - 1] != b'\r' {
                return Err(H1Error::Syntax("a line does not end in CR LF"));
            }
            let empty_line = at == self.line + 1;
            self.scanned = at + 1;
            self.line = at + 1;
            if self.scanned > limit {
                return Err(H1Error::HeadTooLarge(limit));
            }
            if empty_line {
                return Ok(Some(self.scanned));
            }
        }
        self.scanned = self.bytes.len();
        if self.scanned >= limit {
            return Err(H1Error::HeadTooLarge(limit));
        }
        Ok(None)
    }

    /// Skips the empty lines some clients send between requests (RFC 9112 §2.2).
    pub(super) fn skip_empty_lines(&mut self) {
        while self.line == 0 && self.bytes.starts_with(b"\r\n") {
            self.consume(2);
        }
    }

    fn make_room(&mut self) {
        let wanted = self.chunk.max(START);
        if self.bytes.capacity() - self.bytes.len() < wanted / 2 {
            self.bytes.reserve(wanted);
        }
    }

    fn adapt(&mut self, count: usize) {
        if count >= self.chunk.max(START) / 2 && self.bytes.capacity() == self.bytes.len() {
            self.chunk = (self.chunk.max(START) * 4).min(MOST);
        }
    }
}

/// The first read: holds nearly every head.
const START: usize = 2 * 1024;
/// The largest read: a body is relayed in pieces of this size.
const MOST: usize = 64 * 1024;
