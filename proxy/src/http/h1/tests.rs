//! The codec as a relay would use it: a stream in, the forwarded stream out, however the bytes arrive.

use bytes::BytesMut;
use proptest::prelude::{ProptestConfig, any, prop, prop_assert_eq, proptest};

use super::body::Body;
use super::buffer::Buffer;
use super::error::H1Error;
use super::parse::{Asked, request, response};
use super::shapes::{Outcome, RESPONSES, SHAPES};
use super::write::{self, Connection};
use super::{Framing, Limits, Tunnel};
use crate::http::head::RequestHead;

/// Relays requests from pieces of a stream. What is forwarded of a message that is refused in its body does not count.
fn relay_requests<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, H1Error> {
    let mut buffer = Buffer::default();
    let mut out = BytesMut::new();
    let mut body = Body::new(Framing::Empty);
    for piece in pieces {
        buffer.extend(piece);
        loop {
            if !body.is_end() {
                let count = body.relay(buffer.data())?;
                out.extend_from_slice(&buffer.data()[..count]);
                buffer.consume(count);
                if !body.is_end() {
                    break;
                }
            }
            let Some(next) = request(&mut buffer, &Limits::default())? else {
                break;
            };
            let connection = match next.tunnel {
                Some(Tunnel::Upgrade) => Connection::Upgrade,
                _ => Connection::Default,
            };
            write::request(&next.head, connection, &mut out);
            body = Body::new(next.framing);
        }
    }
    body.close()?;
    Ok(out.to_vec())
}

fn relay_responses<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, H1Error> {
    let mut buffer = Buffer::default();
    let mut out = BytesMut::new();
    let mut body = None;
    for piece in pieces {
        buffer.extend(piece);
        if body.is_none() {
            while let Some(next) = response(&mut buffer, &Limits::default(), Asked::default())? {
                write::response(&next.head, Connection::Default, &mut out);
                if !next.interim {
                    body = Some(Body::new(next.framing));
                    break;
                }
            }
        }
        if let Some(body) = &mut body {
            let count = body.relay(buffer.data())?;
            out.extend_from_slice(&buffer.data()[..count]);
            buffer.consume(count);
        }
    }
    body.map_or(Err(H1Error::Truncated), |mut body| body.close())?;
    Ok(out.to_vec())
}

fn parse(text: &str) -> super::parse::Request {
    let mut buffer = Buffer::default();
    buffer.extend(text.as_bytes());
    request(&mut buffer, &Limits::default()).unwrap().unwrap()
}

fn written(head: &RequestHead) -> String {
    let mut out = BytesMut::new();
    write::request(head, Connection::Default, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn every_desync_shape_has_one_reading() {
    for (name, stream, expected) in SHAPES {
        let whole = relay_requests(std::iter::once(stream.as_bytes()));
        let bytewise = relay_requests(stream.as_bytes().chunks(1));
        assert_eq!(whole, bytewise, "{name}: depends on how the bytes arrive");
        match (expected, whole) {
            (Outcome::Refused(status), Err(error)) => {
                assert_eq!(error.request_reason().status(), *status, "{name}: {error}")
            }
            (Outcome::Forwarded(text), Ok(forwarded)) => {
                assert_eq!(String::from_utf8_lossy(&forwarded), *text, "{name}");
                let again = relay_requests(std::iter::once(&forwarded[..])).unwrap();
                assert_eq!(again, forwarded, "{name}: what is forwarded must read the same again");
            }
            (expected, got) => panic!("{name}: expected {expected:?}, got {got:?}"),
        }
    }
}

#[test]
fn every_response_shape_has_one_reading() {
    for (name, stream, expected) in RESPONSES {
        let whole = relay_responses(std::iter::once(stream.as_bytes()));
        assert_eq!(whole, relay_responses(stream.as_bytes().chunks(1)), "{name}");
        let text = whole.map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(text.as_deref().ok(), *expected, "{name}: {text:?}");
    }
}

#[test]
fn limits_are_431() {
    let mut buffer = Buffer::default();
    let limits = Limits { head: 256, fields: 4 };
    buffer.extend(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(300)).as_bytes());
    assert_eq!(request(&mut buffer, &limits).unwrap_err(), H1Error::HeadTooLarge(256));

    let mut buffer = Buffer::default();
    buffer.extend(b"GET / HTTP/1.1\r\nHost: a\r\na: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\n\r\n");
    let error = request(&mut buffer, &limits).unwrap_err();
    assert_eq!(error, H1Error::TooManyFields(4));
    assert_eq!(error.request_reason().status(), 431);
}

#[test]
fn a_head_shows_its_parts() {
    let request = parse(
        "PUT http://shop:80/cart?x=1 HTTP/1.1\r\nhost: shop:80\r\nX-User:  me \r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    );
    assert_eq!(request.head.method(), "PUT");
    assert_eq!(request.head.path_and_query(), "/cart?x=1");
    assert_eq!(request.head.authority(), "shop:80");
    assert_eq!(request.head.header("x-user"), Some(&b"me"[..]));
    assert_eq!(request.head.header("x-other"), None);
    assert_eq!(request.framing, Framing::Length(3));
    assert!(request.expects_continue && request.persistent);
    assert_eq!(parse("GET http://shop HTTP/1.1\r\nHost: shop\r\n\r\n").head.path_and_query(), "/");
    assert_eq!(parse("OPTIONS * HTTP/1.1\r\nHost: shop\r\n\r\n").head.path_and_query(), "*");
    let connect = parse("CONNECT shop:443 HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!((connect.head.path_and_query(), connect.head.authority()), ("", "shop:443"));
    assert_eq!(connect.tunnel, Some(Tunnel::Connect));
}

#[test]
fn persistence_follows_version_and_connection() {
    let persistent = |text| parse(text).persistent;
    assert!(persistent("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(!persistent("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n"));
    assert!(!persistent("GET / HTTP/1.0\r\n\r\n"));
    assert!(persistent("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
}

#[test]
fn edits_are_applied_when_written_and_not_before() {
    let mut head = parse("GET /old HTTP/1.1\r\nHost: a\r\nX-Drop: 1\r\nKeep: 2\r\nx-set: 3\r\n\r\n").head;
    head.edits.remove("x-drop".try_into().unwrap());
    head.edits.set("x-set".try_into().unwrap(), "4".try_into().unwrap());
    head.edits.append("keep".try_into().unwrap(), "5".try_into().unwrap());
    head.edits.replace_path("/new?q".try_into().unwrap());
    head.edits.replace_authority("b:8080".try_into().unwrap());
    assert_eq!(head.path_and_query(), "/old");
    assert_eq!(written(&head), "GET /new?q HTTP/1.1\r\nHost: b:8080\r\nKeep: 2\r\nx-set: 4\r\nkeep: 5\r\n\r\n");
    let h2 = head.to_parts().unwrap();
    assert_eq!(h2.uri(), "http://b:8080/new?q");
    assert_eq!(h2.headers().get_all("keep").iter().count(), 2);
    assert_eq!(h2.headers().get("x-drop"), None);

    let mut absolute = parse("GET http://a/old HTTP/1.1\r\nHost: a\r\n\r\n").head;
    absolute.edits.replace_authority("b".try_into().unwrap());
    assert_eq!(written(&absolute), "GET http://b/old HTTP/1.1\r\nHost: b\r\n\r\n");
}

#[test]
fn an_upgrade_keeps_its_fields() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let forwarded = relay_requests(std::iter::once(text.as_bytes())).unwrap();
    let expected = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    assert_eq!(String::from_utf8(forwarded).unwrap(), expected);

    let mut buffer = Buffer::default();
    buffer.extend(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\0");
    let asked = Asked { head: false, tunnel: Some(Tunnel::Upgrade) };
    let response = response(&mut buffer, &Limits::default(), asked).unwrap().unwrap();
    assert!(response.tunnel && !response.persistent && !response.interim);
    assert_eq!(buffer.data(), b"\x81\0");
}

#[test]
fn responses_without_a_body() {
    let read = |text: &str, asked| {
        let mut buffer = Buffer::default();
        buffer.extend(text.as_bytes());
        response(&mut buffer, &Limits::default(), asked).unwrap().unwrap()
    };
    let head = Asked { head: true, tunnel: None };
    let to_head = read("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", head);
    assert_eq!((to_head.framing, to_head.persistent), (Framing::Empty, true));
    let odd = read("HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", Asked::default());
    assert_eq!((odd.framing, odd.persistent), (Framing::Empty, false));
    let connect = Asked { head: false, tunnel: Some(Tunnel::Connect) };
    assert!(read("HTTP/1.1 200 OK\r\n\r\n", connect).tunnel);
    assert!(!read("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", connect).tunnel);
}

#[test]
fn a_cut_off_body_is_noticed() {
    for cut in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    ] {
        assert_eq!(relay_requests(std::iter::once(cut.as_bytes())), Err(H1Error::Truncated));
    }
}

#[test]
fn a_chunk_extension_has_a_limit() {
    let mut body = Body::new(Framing::Chunked);
    let line = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
    assert!(body.relay(line.as_bytes()).is_err());
    let mut body = Body::new(Framing::Chunked);
    let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert!(body.relay(trailers.as_bytes()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Any shape, or several in a row, cut anywhere: the same outcome.
    #[test]
    fn segmentation_changes_nothing(
        picks in prop::collection::vec(0..SHAPES.len(), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let stream: Vec<u8> = picks.iter().flat_map(|&pick| SHAPES[pick].1.bytes()).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let pieces = at.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
        prop_assert_eq!(relay_requests(pieces), relay_requests(std::iter::once(&stream[..])));
    }

    /// No bytes make the codec panic, and what it forwards it reads again as the same.
    #[test]
    fn mutations_never_split_differently(pick in 0..SHAPES.len(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut stream = SHAPES[pick].1.as_bytes().to_vec();
        let index = at.index(stream.len());
        stream[index] = byte;
        if let Ok(forwarded) = relay_requests(std::iter::once(&stream[..])) {
            let again = relay_requests(std::iter::once(&forwarded[..]));
            prop_assert_eq!(again, Ok(forwarded));
        }
        let _ = relay_responses(std::iter::once(&stream[..]));
    }
}
