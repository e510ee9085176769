//! Bytes from one stream to another, both ways, until both ends have said all they had to say.
//!
//! An idle connection holds no buffer: bytes are read into one scratch buffer per thread and written from there at once, so the buffer
//! is always 256 KiB, always warm in the cache, and shared by all connections of the thread. Only what the other side does not take at
//! once is kept, in a buffer of its own and of just that size, until it does.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Which way bytes go through [`relay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the first stream (who dialled) to the second.
    Forward,
    /// From the second stream (who was dialled) to the first.
    Back,
}

/// Copies both ways until each side has closed its direction, each end of stream being passed on by itself (half-close).
///
/// `count` is told of every piece as soon as it was handed to the receiver; it is called often and should only add a number.
/// On error both directions are over: the caller drops the streams. A reset must not look like an orderly end to the other side, so
/// callers set a zero linger ([`socket2::SockRef::set_linger`]) on a plain TCP stream they drop because of an error.
pub async fn relay<A, B>(first: &mut A, second: &mut B, count: impl FnMut(Direction, usize)) -> Result<(), RelayError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    relay_until(first, second, count, std::future::pending()).await
}

/// As [`relay`], but what the second stream said to its end is the end of both, once `enough` resolves: who is gone hears nothing any
/// more. `enough` is not polled before the second stream has ended.
pub async fn relay_until<A, B>(
    first: &mut A,
    second: &mut B,
    mut count: impl FnMut(Direction, usize),
    enough: impl Future<Output = ()>,
) -> Result<(), RelayError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut forward = Half::new(Direction::Forward);
    let mut back = Half::new(Direction::Back);
    let mut enough = pin!(enough);
    poll_fn(|cx| {
        // Both are polled each time: a direction that waits must not hold up the other.
        let one = forward.poll(cx, first, second, &mut count)?;
        let other = back.poll(cx, second, first, &mut count)?;
        if other.is_ready() && (one.is_ready() || enough.as_mut().poll(cx).is_ready()) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// What ended a relay before both sides had closed.
#[derive(Debug, thiserror::Error)]
#[error("{} failed: {source}", self.place())]
pub struct RelayError {
    /// The direction the bytes were going.
    pub direction: Direction,
    /// True if the receiving side failed, false if the sending side did.
    pub writing: bool,
    /// What the stream said.
    pub source: io::Error,
}

impl RelayError {
    /// True if the side that was dialled failed, false if the side that dialled did.
    pub fn is_second(&self) -> bool {
        (self.direction == Direction::Forward) == self.writing
    }

    fn place(&self) -> &'static str {
        match (self.is_second(), self.writing) {
            (false, false) => "reading from the client",
            (false, true) => "writing to the client",
            (true, false) => "reading from the server",
            (true, true) => "writing to the server",
        }
    }
}

/// One direction.
struct Half {
    direction: Direction,
    state: State,
    /// Read, but not taken by the receiver yet: the bytes from `taken` on.
    kept: Vec<u8>,
    taken: usize,
    /// How the sender ended, while there are bytes before that to pass on.
    end: Option<io::Result<()>>,
    /// The receiver may hold bytes it took (TLS does), which must go out before this direction may sleep.
    unflushed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    ShuttingDown,
    Done,
}

impl Half {
    fn new(direction: Direction) -> Self {
        Self { direction, state: State::Copying, kept: Vec::new(), taken: 0, end: None, unflushed: false }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &mut impl FnMut(Direction, usize),
    ) -> Poll<Result<(), RelayError>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.state == State::Copying {
            ready!(self.poll_copy(cx, from, to, count))?;
            self.state = State::ShuttingDown;
        }
        if self.state == State::ShuttingDown {
            // Shutting down flushes first, in TLS and plain TCP alike. A receiver that is gone has no use for the end of the stream.
            match ready!(Pin::new(to).poll_shutdown(cx)) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                    return Poll::Ready(Err(self.failed(true, error)));
                }
                _ => self.state = State::Done,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready at the end of the stream, with everything handed to the receiver.
    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &mut impl FnMut(Direction, usize),
    ) -> Poll<Result<(), RelayError>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        ready!(self.poll_kept(cx, to, count))?;
        let mut moved = 0;
        while moved < FAIR_SHARE {
            if let Some(end) = self.end.take() {
                return Poll::Ready(end.map_err(|error| self.failed(false, error)));
            }
            let (read, drained) = with_scratch(|scratch| {
                let (read, drained) = self.fill(cx, from, scratch);
                self.pass(cx, to, &scratch[..read], count).map(|()| (read, drained))
            })?;
            moved += read;
            if !self.kept.is_empty() {
                return Poll::Pending;
            }
            if drained {
                return self.poll_flushed(cx, to);
            }
        }
        // There may be more, but other connections of this thread have waited long enough.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads what is there, as far as there is room, so that many records of TLS become one write. Says how many bytes that were, and
    /// whether the sender will wake us when there is more. How it ended, if it did, is told after these bytes are passed on.
    fn fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R, scratch: &mut [u8]) -> (usize, bool) {
        let mut buf = ReadBuf::new(scratch);
        while buf.remaining() >= RECORD {
            let before = buf.filled().len();
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Pending => return (buf.filled().len(), true),
                Poll::Ready(Ok(())) if buf.filled().len() > before => {}
                Poll::Ready(ended) => {
                    self.end = Some(ended);
                    break;
                }
            }
        }
        (buf.filled().len(), false)
    }

    /// Hands bytes to the receiver, and keeps what it does not take.
    fn pass<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        mut bytes: &[u8],
        count: &mut impl FnMut(Direction, usize),
    ) -> Result<(), RelayError> {
        while !bytes.is_empty() {
            match self.poll_write(cx, to, bytes, count)? {
                Poll::Ready(some) => bytes = &bytes[some..],
                Poll::Pending => {
                    self.kept = bytes.to_vec();
                    self.taken = 0;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Ready when nothing is kept any more.
    fn poll_kept<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        count: &mut impl FnMut(Direction, usize),
    ) -> Poll<Result<(), RelayError>> {
        while self.taken < self.kept.len() {
            let kept = std::mem::take(&mut self.kept);
            let outcome = self.poll_write(cx, to, &kept[self.taken..], count);
            self.kept = kept;
            self.taken += ready!(outcome?);
        }
        self.kept = Vec::new();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        bytes: &[u8],
        count: &mut impl FnMut(Direction, usize),
    ) -> Result<Poll<usize>, RelayError> {
        match Pin::new(to).poll_write(cx, bytes) {
            Poll::Ready(Ok(0)) => Err(self.failed(true, io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(some)) => {
                self.unflushed = true;
                count(self.direction, some);
                Ok(Poll::Ready(some))
            }
            Poll::Ready(Err(error)) => Err(self.failed(true, error)),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Pending in any case, since the sender has nothing more for now; but not before what it sent is on its way.
    fn poll_flushed<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<Result<(), RelayError>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx)).map_err(|error| self.failed(true, error))?;
            self.unflushed = false;
        }
        Poll::Pending
    }

    fn failed(&self, writing: bool, source: io::Error) -> RelayError {
        RelayError { direction: self.direction, writing, source }
    }
}

/// Lends the thread's scratch buffer, which is made at first use.
fn with_scratch<T>(act: impl FnOnce(&mut [u8]) -> T) -> T {
    // Taken, not borrowed: should a stream's read lead back here, that reader gets a buffer of its own.
    let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; LARGEST_PIECE].into_boxed_slice());
    let outcome = act(&mut scratch);
    SCRATCH.set(Some(scratch));
    outcome
}

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Sixteen TLS records, so that a fast sender costs few system calls and acknowledgements. Also the most that is kept for a receiver
/// that is slow.
pub const LARGEST_PIECE: usize = 256 * 1024;
/// The most that one record of TLS holds (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;
/// How many bytes one direction may move before others get their turn: two times the buffer.
const FAIR_SHARE: usize = 2 * LARGEST_PIECE;

#[cfg(test)]
mod tests;
