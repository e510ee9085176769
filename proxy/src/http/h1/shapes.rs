//! Desync shapes: byte streams that two HTTP/1 readers are known to split differently, taken from the public literature
//! on request smuggling (CL.TE, TE.CL, TE.TE, CL.0, chunk and trailer tricks, host confusion, h2c upgrade). Every one is
//! refused, or read in exactly one way and forwarded in a form that leaves no second one.

/// What becomes of a stream of requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Refused with this status; nothing of the message that breaks the rules is forwarded.
    Refused(u16),
    /// Forwarded as exactly these bytes.
    Forwarded(&'static str),
}

use Outcome::{Forwarded, Refused};

/// A name, the bytes a client sends, and the outcome.
pub(super) type Shape = (&'static str, &'static str, Outcome);

/// Requests.
pub(super) const SHAPES: &[Shape] = &[
    ("CL.TE", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", Refused(400)),
    ("TE.CL", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\nG\r\n0\r\n\r\n", Refused(400)),
    ("two lengths that differ", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
    ("two equal lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
    ("length list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", Refused(400)),
    ("length with plus", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", Refused(400)),
    ("length negative", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nhello", Refused(400)),
    ("length hexadecimal", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", Refused(400)),
    ("length with underscore digits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n0123456789", Refused(400)),
    ("length overflows", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello", Refused(400)),
    ("length empty", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello", Refused(400)),
    ("length spelled with underscore", "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\nhello", Refused(400)),
    ("coding spelled with underscore", "POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("TE.TE: chunked twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("TE.TE: chunked and a cow", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n", Refused(400)),
    ("chunked not last", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", Refused(400)),
    ("chunked twice in a list", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused(501)),
    ("identity with a length", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
    ("quoted chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused(501)),
    ("vertical tab before chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("empty coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\nContent-Length: 1\r\n\r\nG", Refused(400)),
    ("coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("tab after the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", Forwarded("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n")),
    ("space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("folded coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("folded field", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n Content-Length: 5\r\n\r\n", Refused(400)),
    ("space before the first field", "GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n", Refused(400)),
    ("bare LF ends the head", "GET / HTTP/1.1\nHost: a\n\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("bare LF hides a field", "POST / HTTP/1.1\r\nHost: a\r\nX: x\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("bare CR hides a field", "POST / HTTP/1.1\r\nHost: a\r\nX: x\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("CR CR LF", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Refused(400)),
    ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Refused(400)),
    ("NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", Refused(400)),
    ("field without a colon", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length\r\n\r\n", Refused(400)),
    ("field without a name", "GET / HTTP/1.1\r\nHost: a\r\n: 5\r\n\r\n", Refused(400)),
    ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused(400)),
    ("no host", "GET / HTTP/1.1\r\nX: 1\r\n\r\n", Refused(400)),
    ("host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused(400)),
    ("host with user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Refused(400)),
    ("host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused(400)),
    ("absolute form against host", "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", Refused(400)),
    ("absolute form agrees", "GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n", Forwarded("GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n")),
    ("absolute form with user", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("target of another scheme", "GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("target without a slash", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("target with a fragment", "GET /admin#x HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(505)),
    ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("tab in the request line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("HTTP/0.9", "GET /\r\n\r\n", Refused(400)),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused(505)),
    ("lower-case version", "GET / http/1.1\r\nHost: a\r\n\r\n", Refused(505)),
    ("CONNECT with a body", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
    ("Connection removes the length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: Content-Length\r\n\r\nhello", Refused(400)),
    ("Connection removes the host", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, host\r\n\r\n", Refused(400)),
    ("Connection removes a field", "GET / HTTP/1.1\r\nHost: a\r\nX-Hop: 1\r\nConnection: x-hop\r\n\r\n", Forwarded("GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
    ("h2c upgrade", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n", Forwarded("GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
    ("upgrade with a body", "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx", Forwarded("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")),
    ("CL.0: a body on GET stays a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET GET /x HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET GET /x HTTP/1.1\r\nHost: a\r\n\r\n")),
    ("chunk size with 0x", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    ("chunk size negative", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n", Refused(400)),
    ("chunk size overflows", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n", Refused(400)),
    ("chunk size with a space", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n", Refused(400)),
    ("chunk size with bare LF", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", Refused(400)),
    ("chunk extension with bare LF", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\na\r\n0\r\n\r\n", Refused(400)),
    ("chunk extension with bare CR", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\rx\r\na\r\n0\r\n\r\n", Refused(400)),
    ("chunk longer than its size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", Refused(400)),
    ("chunk ended by bare LF", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n", Refused(400)),
    ("trailer says a length", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", Refused(400)),
    ("trailer forges an identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Forwarded-Client-Cert: URI=a\r\n\r\n", Refused(400)),
    ("trailer with bare LF", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\n\r\n", Refused(400)),
    ("TERM.EXT: a request in an extension", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;GET /x\r\n\r\n", Forwarded("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;GET /x\r\n\r\n")),
    ("empty lines between requests", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")),
    ("pipelined chunked and plain", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;n=v\r\nabc\r\n0\r\nX: 1\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", Forwarded("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;n=v\r\nabc\r\n0\r\nX: 1\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")),
    ("TLS to a plaintext port", "\x16\x03\x01\x02", Refused(400)),
];

/// Responses: a name, the bytes, and how the stream splits, or nothing if it is refused.
pub(super) const RESPONSES: &[(&str, &str, Option<&str>)] = &[
    ("CL and TE", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", None),
    ("coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
    ("gzip coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", None),
    ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", None),
    ("folded", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", None),
    ("101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", None),
    ("status of two digits", "HTTP/1.1 20 OK\r\n\r\n", None),
    ("no HTTP", "SSH-2.0-OpenSSH\r\n", None),
    ("length on 204", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", Some("HTTP/1.1 204 No Content\r\n\r\n")),
    ("coding on 204", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n", Some("HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n")),
    ("length on 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\n\r\n", Some("HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\n\r\n")),
    ("interim, then final", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Some("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
    ("HTTP/1.0 until close", "HTTP/1.0 200 OK\r\n\r\nbody", Some("HTTP/1.1 200 OK\r\n\r\nbody")),
    ("no reason phrase", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Some("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n")),
    ("advertised upgrade", "HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n", Some("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
];
