//! A stream that is read in large pieces for a reader that asks for small ones: rustls asks for 4 KiB at a time, which would cost four
//! system calls for every record of a fast peer.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::copy::LARGEST_PIECE;

/// Reads up to 256 KiB at once and hands them out. Holds memory only while it holds bytes.
///
/// Is pending only when it holds nothing: whoever reads until then knows all that had arrived.
#[derive(Debug)]
pub struct ReadAhead<S> {
    inner: S,
    held: Option<Box<Held>>,
}

/// The bytes of `buffer` from `start` to `end` were read and not handed out yet.
#[derive(Debug)]
struct Held {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<S> ReadAhead<S> {
    /// Reads `inner` ahead from now on.
    pub fn new(inner: S) -> Self {
        Self { inner, held: None }
    }

    /// The stream beneath.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Hands out what is held, as far as there is room.
    fn serve(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(held) = &mut self.held else { return };
        let some = buf.remaining().min(held.end - held.start);
        buf.put_slice(&held.buffer[held.start..held.start + some]);
        held.start += some;
        if held.start == held.end {
            SPARE.set(self.held.take());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.held.is_none() {
            if buf.remaining() >= LARGE {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            let mut spare = SPARE.take().unwrap_or_else(|| Box::new(Held::new()));
            let mut ahead = ReadBuf::new(&mut spare.buffer);
            let outcome = Pin::new(&mut this.inner).poll_read(cx, &mut ahead);
            let read = ahead.filled().len();
            (spare.start, spare.end) = (0, read);
            if read == 0 {
                SPARE.set(Some(spare));
                return outcome;
            }
            this.held = Some(spare);
            ready!(outcome)?;
        }
        this.serve(buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Held {
    fn new() -> Self {
        Self { buffer: vec![0; AHEAD].into_boxed_slice(), start: 0, end: 0 }
    }
}

thread_local! {
    /// The buffer of whoever last handed out everything: on most threads the only one.
    static SPARE: Cell<Option<Box<Held>>> = const { Cell::new(None) };
}

/// Sixteen full records: as much as one write of a relay.
const AHEAD: usize = LARGEST_PIECE;
/// Who asks for as much is served directly.
const LARGE: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (ReadAhead<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (dialled, accepted) = tokio::join!(dialled, listener.accept());
        (ReadAhead::new(dialled.unwrap()), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn hands_out_every_byte_in_order_whatever_the_sizes() {
        let (mut ahead, mut far) = pair().await;
        let sent: Vec<u8> = (0..1_000_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            far.write_all(&sent).await.unwrap();
            far.shutdown().await.unwrap();
        });
        let (mut got, mut size) = (Vec::new(), 1);
        loop {
            let mut piece = vec![0; size];
            let some = ahead.read(&mut piece).await.unwrap();
            if some == 0 {
                break;
            }
            got.extend_from_slice(&piece[..some]);
            size = size * 7 % 50_021 + 1;
        }
        writer.await.unwrap();
        assert!(got == expected, "bytes were lost, doubled or swapped");
        assert!(ahead.held.is_none());
    }

    #[tokio::test]
    async fn holds_no_memory_when_it_holds_no_bytes() {
        let (mut ahead, mut far) = pair().await;
        far.write_all(b"hello").await.unwrap();
        let mut two = [0; 2];
        ahead.read_exact(&mut two).await.unwrap();
        assert_eq!(ahead.held.as_ref().map(|held| held.end - held.start), Some(3));
        let mut rest = [0; 100];
        assert_eq!(ahead.read(&mut rest).await.unwrap(), 3);
        assert!(ahead.held.is_none());
    }
}
