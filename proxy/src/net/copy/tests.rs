//! Copying between real sockets: half-close, order of the end, slow receivers.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn each_end_of_stream_is_passed_on_by_itself() {
    let (mut client, mut near) = pair().await;
    let (mut far, mut server) = pair().await;
    let relayed = tokio::spawn(async move { relay(&mut near, &mut far, |_, _| {}).await });

    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    // The client has closed its direction; the other one still works, in as many pieces as it likes.
    for piece in ["an", "swer"] {
        server.write_all(piece.as_bytes()).await.unwrap();
        let mut got = vec![0; piece.len()];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, piece.as_bytes());
    }
    assert!(!relayed.is_finished());
    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    relayed.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_server_may_close_first() {
    let (mut client, mut near) = pair().await;
    let (mut far, mut server) = pair().await;
    let relayed = tokio::spawn(async move { relay(&mut near, &mut far, |_, _| {}).await });

    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    client.write_all(b"more").await.unwrap();
    client.shutdown().await.unwrap();
    let mut more = String::new();
    server.read_to_string(&mut more).await.unwrap();
    assert_eq!(more, "more");
    relayed.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_is_gone_ends_both_directions_once_that_is_enough() {
    let (mut client, mut near) = pair().await;
    let (mut far, mut server) = pair().await;
    let (enough, told) = tokio::sync::oneshot::channel::<()>();
    let relayed = tokio::spawn(async move {
        let told = async { drop(told.await) };
        relay_until(&mut near, &mut far, |_, _| {}, told).await
    });

    // While the server talks, nothing is enough.
    enough.send(()).unwrap();
    server.write_all(b"last").await.unwrap();
    let mut last = [0; 4];
    client.read_exact(&mut last).await.unwrap();
    assert!(!relayed.is_finished());
    // The client never closes.
    drop(server);
    relayed.await.unwrap().unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn many_megabytes_both_ways_and_every_byte_counted() {
    const SIZE: usize = 20_000_000;
    let (client, mut near) = pair().await;
    let (mut far, server) = pair().await;
    let counts: &'static [AtomicUsize; 2] = Box::leak(Box::default());
    let relayed = tokio::spawn(async move {
        let count = |direction, bytes| {
            counts[usize::from(direction == Direction::Back)].fetch_add(bytes, Ordering::Relaxed);
        };
        relay(&mut near, &mut far, count).await
    });
    let ends = [client, server].map(|stream| {
        tokio::spawn(async move {
            let (mut read, mut write) = stream.into_split();
            let sent: Vec<u8> = (0..SIZE).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let expected = sent.clone();
            let write = tokio::spawn(async move {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            write.await.unwrap();
            assert!(got == expected, "bytes were lost, doubled or swapped");
        })
    });
    for end in ends {
        end.await.unwrap();
    }
    relayed.await.unwrap().unwrap();
    assert_eq!(counts.each_ref().map(|count| count.load(Ordering::Relaxed)), [SIZE, SIZE]);
}

#[tokio::test]
async fn a_receiver_that_does_not_read_holds_up_only_its_own_direction() {
    let (mut client, mut near) = pair().await;
    let (mut far, mut server) = pair().await;
    let relayed = tokio::spawn(async move { relay(&mut near, &mut far, |_, _| {}).await });

    let (mut client_read, mut client_write) = client.split();
    let flood = vec![7; 1 << 20];
    let flooding = async {
        loop {
            client_write.write_all(&flood).await.unwrap();
        }
    };
    let answered = async {
        for _ in 0..100 {
            server.write_all(b"x").await.unwrap();
            assert_eq!(client_read.read_u8().await.unwrap(), b'x');
        }
    };
    tokio::select! {
        () = answered => {}
        () = flooding => {}
    }
    relayed.abort();
}

#[tokio::test]
async fn says_which_side_failed() {
    let (client, mut near) = pair().await;
    let (mut far, server) = pair().await;
    let relayed = tokio::spawn(async move { relay(&mut near, &mut far, |_, _| {}).await });
    socket2::SockRef::from(&server).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(server);
    let error = relayed.await.unwrap().unwrap_err();
    assert!(error.is_second());
    assert!(error.to_string().starts_with("reading from the server failed"), "{error}");
    drop(client);
}

/// A receiver that buffers, as TLS does: what it took goes out only when it is flushed.
struct Buffering {
    inner: tokio::io::DuplexStream,
    held: Vec<u8>,
}

impl AsyncRead for Buffering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Buffering {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let outcome = Pin::new(&mut self.inner).poll_write(cx, &held);
            self.held = held;
            let some = ready!(outcome)?;
            self.held.drain(..some);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn flushes_before_it_waits() {
    let (mut client, mut near) = tokio::io::duplex(1024);
    let (inner, mut server) = tokio::io::duplex(3);
    let mut far = Buffering { inner, held: Vec::new() };
    let relayed = tokio::spawn(async move { relay(&mut near, &mut far, |_, _| {}).await });
    client.write_all(b"ping pong").await.unwrap();
    let mut got = [0; 9];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping pong");
    drop(client);
    server.shutdown().await.unwrap();
    relayed.await.unwrap().unwrap();
}
