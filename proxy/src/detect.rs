//! Which protocol the first bytes of a connection speak.
//!
//! Deciding is a pure function over bytes ([`classify`]); waiting for enough of them is [`detect`]. The bytes are kept, and the caller
//! puts them back in front of the stream ([`crate::net::prefixed::Prefixed`]).

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use client_hello::{ClientHello, Parsed};
use preface::Preface;

pub mod client_hello;
pub mod preface;

/// What a connection speaks, as far as its first bytes tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1: a request line.
    Http1,
    /// HTTP/2 with prior knowledge: its connection preface.
    Http2,
    /// TLS, with what the client said in the open.
    Tls(ClientHello),
    /// Anything else.
    Bytes,
}

/// What [`detect`] found, and the bytes it took from the stream to find it.
#[derive(Debug)]
pub struct Detection {
    /// What ended the search.
    pub outcome: Outcome,
    /// Everything that was read, in order.
    pub prefix: BytesMut,
}

/// What ended the search for a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The bytes tell.
    Protocol(Protocol),
    /// Not one byte came in time: the server may have to speak first.
    Silent,
    /// The client closed its direction without having sent a byte.
    Closed,
}

/// Decides on the bytes at hand, or says that more are needed by `None`.
///
/// Asks for at most [`MAX_PREFIX`] bytes.
pub fn classify(bytes: &[u8]) -> Option<Protocol> {
    match client_hello::parse(bytes) {
        Parsed::Hello(hello) => return Some(Protocol::Tls(hello)),
        Parsed::NeedMore if bytes.is_empty() => return None,
        Parsed::NeedMore if bytes.len() < MAX_PREFIX => return None,
        Parsed::NeedMore => return Some(Protocol::Bytes),
        Parsed::NotTls => {}
    }
    match preface::classify(bytes) {
        Preface::Http1 => Some(Protocol::Http1),
        Preface::Http2 => Some(Protocol::Http2),
        Preface::Other => Some(Protocol::Bytes),
        Preface::NeedMore => None,
    }
}

/// Reads until the protocol is known, nothing has come for `silence`, or what came is incomplete for [`PATIENCE`].
///
/// `prefix` holds what was read before, for a second try after [`Outcome::Silent`]. Bytes that stay incomplete are judged as they
/// stand: the start of a request line as HTTP/1, the rest as bytes.
pub async fn detect<S>(stream: &mut S, mut prefix: BytesMut, silence: Duration) -> io::Result<Detection>
where
    S: AsyncRead + Unpin,
{
    let outcome = detect_into(stream, &mut prefix, silence).await?;
    Ok(Detection { outcome, prefix })
}

/// As [`detect`]; may be cancelled: what was read until then is in `prefix`.
pub async fn detect_into<S>(stream: &mut S, prefix: &mut BytesMut, silence: Duration) -> io::Result<Outcome>
where
    S: AsyncRead + Unpin,
{
    let start = Instant::now();
    loop {
        if let Some(protocol) = classify(prefix) {
            return Ok(Outcome::Protocol(protocol));
        }
        prefix.reserve(READ_BYTES);
        let patience = match prefix.first() {
            None => silence,
            Some(&client_hello::HANDSHAKE) => HELLO_PATIENCE.max(silence),
            Some(_) => PATIENCE.max(silence),
        };
        match timeout_at(start + patience, stream.read_buf(prefix)).await {
            Ok(Ok(0)) if prefix.is_empty() => return Ok(Outcome::Closed),
            Err(_) if prefix.is_empty() => return Ok(Outcome::Silent),
            Ok(Ok(0)) | Err(_) => return Ok(Outcome::Protocol(as_it_stands(prefix))),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

fn as_it_stands(bytes: &[u8]) -> Protocol {
    if preface::starts_request_line(bytes) { Protocol::Http1 } else { Protocol::Bytes }
}

/// The most bytes that are looked at before deciding.
pub const MAX_PREFIX: usize = client_hello::MAX_BYTES;
/// How long the rest of an incomplete beginning is waited for, counted from the start.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// The same for what can hardly be anything else than TLS. A ClientHello takes two segments, and what is lost may take
/// seconds to come again; no application would know what to do with half of one.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Enough for almost every request head and ClientHello, without which a waiting connection would hold more.
const READ_BYTES: usize = 2 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const SILENCE: Duration = Duration::from_millis(50);

    async fn detected(pieces: &[&[u8]], close: bool) -> Detection {
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        let feed = async {
            for piece in pieces {
                far.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            if close {
                far.shutdown().await.unwrap();
            }
        };
        let (detection, ()) = tokio::join!(detect(&mut near, BytesMut::new(), SILENCE), feed);
        detection.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_put_together_and_kept() {
        let found = detected(&[b"GE", b"T / HT", b"TP/1.1\r\nHost: a"], false).await;
        assert_eq!(found.outcome, Outcome::Protocol(Protocol::Http1));
        assert_eq!(found.prefix, &b"GET / HTTP/1.1\r\nHost: a"[..]);
        let found = detected(&[b"PRI * HTTP/2.0\r\n", b"\r\nSM\r\n\r\n"], false).await;
        assert_eq!(found.outcome, Outcome::Protocol(Protocol::Http2));
        assert_eq!(detected(&[b"*1\r\n$4\r\nPING\r\n"], false).await.outcome, Outcome::Protocol(Protocol::Bytes));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_an_early_end_are_told_apart() {
        let start = Instant::now();
        assert_eq!(detected(&[], false).await.outcome, Outcome::Silent);
        assert_eq!(Instant::now() - start, SILENCE);
        assert_eq!(detected(&[], true).await.outcome, Outcome::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_beginning_gets_a_second_and_is_judged_as_it_stands() {
        let start = Instant::now();
        let found = detected(&[b"GET /half"], false).await;
        assert_eq!(found.outcome, Outcome::Protocol(Protocol::Http1));
        assert_eq!(Instant::now() - start, PATIENCE);
        assert_eq!(detected(&[b"QUI"], false).await.outcome, Outcome::Protocol(Protocol::Bytes));
        let start = Instant::now();
        assert_eq!(detected(&[b"\x16\x03\x01"], false).await.outcome, Outcome::Protocol(Protocol::Bytes));
        assert_eq!(Instant::now() - start, HELLO_PATIENCE);
        assert_eq!(detected(&[&[22, 3, 1]], true).await.outcome, Outcome::Protocol(Protocol::Bytes));
    }

    #[test]
    fn never_asks_for_more_than_the_limit() {
        for first in [&b"\x16\x03\x01\x3f\xff\x01\x00\xff\xff"[..], b"GET /", b"A", b"\r\n"] {
            let mut bytes = first.to_vec();
            bytes.resize(MAX_PREFIX, b'a');
            assert!(classify(&bytes).is_some(), "{first:?}");
        }
    }
}
