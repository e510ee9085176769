//! HTTP by its first line: the connection preface of HTTP/2, or a request line of HTTP/1.

/// What the first bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// `PRI * HTTP/2.0` (RFC 9113, section 3.4).
    Http2,
    /// A request line (RFC 9112, section 3).
    Http1,
    /// Neither, whatever follows.
    Other,
    /// Either is still possible.
    NeedMore,
}

/// Decides as early as it can be sure.
///
/// A method and a path alone are not HTTP: `GET key` is also Redis and memcached, `OPTIONS rtsp://…` is RTSP, `CONNECT {…}` is NATS. So
/// a request line counts when its version is there. Most clients send it in their first segment. A line that goes on for more than
/// [`MAX_UNSURE`] bytes and began as HTTP does counts without.
pub fn classify(bytes: &[u8]) -> Preface {
    // What comes later must not change the answer, however the bytes were cut into segments.
    let bytes = &bytes[..bytes.len().min(MAX_UNSURE)];
    if bytes.starts_with(HTTP2) {
        return Preface::Http2;
    }
    if HTTP2.starts_with(bytes) {
        return Preface::NeedMore;
    }
    let Some(line) = skip_empty_line(bytes) else { return Preface::NeedMore };
    match request_line(line) {
        Line::Request => Preface::Http1,
        Line::Impossible => Preface::Other,
        Line::Unfinished if bytes.len() < MAX_UNSURE => Preface::NeedMore,
        Line::Unfinished if starts_request_line(line) => Preface::Http1,
        Line::Unfinished => Preface::Other,
    }
}

/// True if the bytes begin with a method of HTTP and the first byte of a target.
pub fn starts_request_line(bytes: &[u8]) -> bool {
    let mut parts = skip_empty_line(bytes).unwrap_or_default().splitn(2, |&byte| byte == b' ');
    let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let target_starts = match method {
        b"CONNECT" => target.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'['),
        b"OPTIONS" => matches!(target.first(), Some(b'/' | b'*')) || target.starts_with(b"http"),
        _ => target.starts_with(b"/") || target.starts_with(b"http"),
    };
    METHODS.contains(&method) && target_starts
}

enum Line {
    Request,
    Impossible,
    Unfinished,
}

fn request_line(line: &[u8]) -> Line {
    let Some(method) = line.iter().position(|&byte| !is_token(byte)) else {
        return if line.len() > MAX_METHOD { Line::Impossible } else { Line::Unfinished };
    };
    if method == 0 || method > MAX_METHOD || line[method] != b' ' {
        return Line::Impossible;
    }
    let rest = &line[method + 1..];
    let Some(end) = rest.iter().position(|&byte| byte < b' ' || byte == 0x7f) else {
        return Line::Unfinished;
    };
    let (rest, ending) = rest.split_at(end);
    let Some(target) = rest.len().checked_sub(VERSION.len() + 1) else {
        return Line::Impossible;
    };
    let (target, version) = rest.split_at(target);
    let is_version = version.starts_with(VERSION) && version[VERSION.len()].is_ascii_digit();
    // A bare line feed is not a line end in HTTP, but it is an attempt at HTTP: the parser is to refuse it, with its reason.
    if !target.is_empty() && is_version && matches!(ending[0], b'\r' | b'\n') {
        Line::Request
    } else {
        Line::Impossible
    }
}

/// A server should ignore an empty line before the request line (RFC 9112, section 2.2). `None` while it may still be one.
fn skip_empty_line(bytes: &[u8]) -> Option<&[u8]> {
    match bytes {
        [] | [b'\r'] => None,
        [b'\r', b'\n', rest @ ..] => Some(rest),
        _ => Some(bytes),
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// How many bytes are looked at before a line without an end in sight is judged by its beginning. Longer than the first line of other text protocols.
pub const MAX_UNSURE: usize = 1024;
/// The longest registered method has 17 bytes (UPDATEREDIRECTREF).
const MAX_METHOD: usize = 32;
const HTTP2: &[u8] = b"PRI * HTTP/2.0";
/// With the space before it; one digit follows.
const VERSION: &[u8] = b" HTTP/1.";
const METHODS: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_known_by_its_whole_first_line() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.0\r",
            "POST http://a/b?c=d HTTP/1.1\r\nHost: a\r\n",
            "CONNECT a:443 HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "VERSION-CONTROL /x HTTP/1.1\r\n",
            "M-SEARCH * HTTP/1.1\r\n",
            "\r\nGET / HTTP/1.1\r\n",
            "GET / HTTP/1.1\nHost: a\n",
            "GET /a b HTTP/1.1\r\n",
        ] {
            assert_eq!(classify(line.as_bytes()), Preface::Http1, "{line:?}");
        }
    }

    #[test]
    fn every_beginning_needs_more_and_none_decides_otherwise() {
        for whole in ["PRI * HTTP/2.0", "PATCH /some/path HTTP/1.1\r", "\r\nGET / HTTP/1.1\r"] {
            for end in 0..whole.len() {
                assert_eq!(classify(&whole.as_bytes()[..end]), Preface::NeedMore, "{:?}", &whole[..end]);
            }
            assert_ne!(classify(whole.as_bytes()), Preface::NeedMore);
        }
        assert_eq!(classify(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Preface::Http2);
        // A method that begins like the preface.
        assert_eq!(classify(b"PROPFIND / HTTP/1.1\r\n"), Preface::Http1);
    }

    #[test]
    fn other_protocols_are_not_taken_for_http() {
        for first in [
            &b"*1\r\n$4\r\nPING\r\n"[..],
            b"GET key\r\n",
            b"get key1 key2\r\n",
            b"OPTIONS rtsp://a/b RTSP/1.0\r\n",
            b"INVITE sip:a@b SIP/2.0\r\n",
            b"CONNECT {\"verbose\":false}\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"EHLO example.org\r\n",
            b"GET /\r\n",
            b"GET  HTTP/1.1\r\n",
            b" GET / HTTP/1.1\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GET /\0 HTTP/1.1\r\n",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\r\n\r\n",
            b"\n",
        ] {
            assert_eq!(classify(first), Preface::Other, "{:?}", String::from_utf8_lossy(first));
        }
    }

    #[test]
    fn a_long_target_decides_without_its_version() {
        let long = [b"GET /".as_slice(), &[b'a'; MAX_UNSURE]].concat();
        assert_eq!(classify(&long), Preface::Http1);
        let key = [b"get key".as_slice(), &[b'a'; MAX_UNSURE]].concat();
        assert_eq!(classify(&key), Preface::Other);
        assert_eq!(classify(&[b'A'; MAX_METHOD + 1]), Preface::Other);
    }
}
