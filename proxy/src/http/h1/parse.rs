//! Bytes to heads. httparse finds the fields; what it lets pass and another reader might take differently is refused here.

use std::mem::MaybeUninit;

use http::StatusCode;

use super::buffer::Buffer;
use super::error::H1Error;
use super::fields::Facts;
use super::{Framing, Limits, Tunnel, Version};
use crate::http::head::edit::Edits;
use crate::http::head::headers::{Field, Headers, Lines, Span};
use crate::http::head::{RequestHead, RequestLine, ResponseHead, TargetSpans};

/// A request head, and what it says about the message.
#[derive(Debug)]
pub struct Request {
    /// The head.
    pub head: RequestHead,
    /// What ends the body.
    pub framing: Framing,
    /// The version the client speaks.
    pub version: Version,
    /// Whether the client keeps its connection open.
    pub persistent: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the connection may become a byte pipe.
    pub tunnel: Option<Tunnel>,
}

/// What a response's length depends on besides the response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The request was HEAD.
    pub head: bool,
    /// What the request wanted the connection to become.
    pub tunnel: Option<Tunnel>,
}

/// A response head, and what it says about the message.
#[derive(Debug)]
pub struct Response {
    /// The head.
    pub head: ResponseHead,
    /// What ends the body.
    pub framing: Framing,
    /// Whether the connection can carry another request after this response.
    pub persistent: bool,
    /// 1xx, but for 101: another response follows.
    pub interim: bool,
    /// The connection is a byte pipe from here on.
    pub tunnel: bool,
}

impl Request {
    /// Whether, where nobody but the mesh answers this request, what follows it is another one: it has no body, and
    /// nothing came behind a CONNECT, which would be meant for the tunnel. `unread` is what came behind it.
    pub fn is_followed_by_another(&self, unread: &Buffer) -> bool {
        let into_tunnel = self.tunnel == Some(Tunnel::Connect) && !unread.is_empty();
        self.persistent && self.framing == Framing::Empty && !into_tunnel
    }
}

/// Takes one request head off the buffer; `None` if more bytes are needed.
pub fn request(buffer: &mut Buffer, limits: &Limits) -> Result<Option<Request>, H1Error> {
    buffer.skip_empty_lines();
    if buffer.data().first().is_some_and(|first| !is_token_byte(*first) && *first != b'\r') {
        return Err(H1Error::Syntax("the request line does not begin with a method"));
    }
    let Some(end) = buffer.head_end(limits.head)? else {
        return Ok(None);
    };
    let bytes = buffer.take(end);
    let mut slots = [const { MaybeUninit::uninit() }; Limits::MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let slots = &mut slots[..limits.fields.min(Limits::MAX_FIELDS)];
    let complete = parsed.parse_with_uninit_headers(&bytes, slots).map_err(|error| refuse(error, limits))?;
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(H1Error::Syntax("the request line is incomplete"));
    };
    if !complete.is_complete() {
        return Err(H1Error::Syntax("the head is incomplete"));
    }
    let version = Version::of(version);
    let mut fields = locate(&bytes, parsed.headers);
    let facts = Facts::read(&bytes, &mut fields)?;
    let line = target_spans(&bytes, method, target, &facts, version)?;
    let framing = facts.framing(version)?.unwrap_or(Framing::Empty);
    let tunnel = if line.is_connect {
        if framing != Framing::Empty {
            return Err(H1Error::Length("CONNECT with a body"));
        }
        Some(Tunnel::Connect)
    } else {
        let upgrade = facts.upgrade_field();
        let field = upgrade.filter(|_| framing == Framing::Empty && version == Version::Http11);
        field.map(|index| {
            fields[index].hop = false;
            Tunnel::Upgrade
        })
    };
    Ok(Some(Request {
        framing,
        version,
        persistent: facts.is_persistent(version),
        expects_continue: facts.expects_continue && version == Version::Http11 && framing != Framing::Empty,
        tunnel,
        head: RequestHead {
            line: RequestLine::Spans(line),
            headers: Headers::Lines(Lines { bytes, fields }),
            edits: Edits::default(),
        },
    }))
}

/// Takes one response head off the buffer; `None` if more bytes are needed.
pub fn response(buffer: &mut Buffer, limits: &Limits, asked: Asked) -> Result<Option<Response>, H1Error> {
    if buffer.data().first().is_some_and(|first| *first != b'H') {
        return Err(H1Error::Syntax("the status line does not begin with HTTP/"));
    }
    let Some(end) = buffer.head_end(limits.head)? else {
        return Ok(None);
    };
    let bytes = buffer.take(end);
    let mut slots = [const { MaybeUninit::uninit() }; Limits::MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let slots = &mut slots[..limits.fields.min(Limits::MAX_FIELDS)];
    let complete = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, &bytes, slots)
        .map_err(|error| refuse(error, limits))?;
    let (true, Some(code), Some(version)) = (complete.is_complete(), parsed.code, parsed.version) else {
        return Err(H1Error::Syntax("the status line is incomplete"));
    };
    let version = Version::of(version);
    let status = StatusCode::from_u16(code).map_err(|_| H1Error::Syntax("a status below 100"))?;
    let mut fields = locate(&bytes, parsed.headers);
    let facts = Facts::read(&bytes, &mut fields)?;
    let declared = facts.framing(version)?;
    let tunnel = match asked.tunnel {
        Some(Tunnel::Connect) => status.is_success(),
        Some(Tunnel::Upgrade) => status == StatusCode::SWITCHING_PROTOCOLS && facts.upgrade_field().is_some(),
        None => false,
    };
    if status == StatusCode::SWITCHING_PROTOCOLS && !tunnel {
        return Err(H1Error::Syntax("101 to a request that asked for no upgrade"));
    }
    let keeps_upgrade = status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::UPGRADE_REQUIRED;
    if let Some(index) = facts.upgrade_field().filter(|_| keeps_upgrade) {
        fields[index].hop = false;
    }
    // A length on a response that has none by definition is dropped: one reader would wait for a body, another would not.
    let never_has_body = status.is_informational() || status == StatusCode::NO_CONTENT || tunnel;
    if never_has_body && declared.is_some() {
        drop_length(&bytes, &mut fields);
    }
    let framing = if never_has_body || asked.head || status == StatusCode::NOT_MODIFIED {
        Framing::Empty
    } else {
        declared.unwrap_or(Framing::UntilClose)
    };
    let misplaced = never_has_body && declared.is_some_and(|declared| declared != Framing::Empty);
    Ok(Some(Response {
        framing,
        persistent: facts.is_persistent(version) && framing != Framing::UntilClose && !misplaced && !tunnel,
        interim: status.is_informational() && !tunnel,
        tunnel,
        head: ResponseHead { status, headers: Headers::Lines(Lines { bytes, fields }), edits: Edits::default() },
    }))
}

impl Version {
    fn of(minor: u8) -> Self {
        if minor == 0 { Self::Http10 } else { Self::Http11 }
    }
}

fn refuse(error: httparse::Error, limits: &Limits) -> H1Error {
    match error {
        httparse::Error::TooManyHeaders => H1Error::TooManyFields(limits.fields),
        httparse::Error::Version => H1Error::Version,
        httparse::Error::HeaderName => H1Error::Syntax("a field name is malformed, folded, or followed by a space"),
        httparse::Error::HeaderValue => H1Error::Syntax("a field value holds a control character"),
        httparse::Error::NewLine => H1Error::Syntax("a stray CR"),
        httparse::Error::Status => H1Error::Syntax("the status is not three digits"),
        httparse::Error::Token => H1Error::Syntax("the first line is malformed"),
    }
}

fn locate(bytes: &[u8], headers: &[httparse::Header<'_>]) -> Vec<Field> {
    let field = |header: &httparse::Header<'_>| Field {
        name: Span::locate(bytes, header.name.as_bytes()),
        value: Span::locate(bytes, header.value),
        hop: false,
    };
    headers.iter().map(field).collect()
}

/// Splits the target (RFC 9112 §3.2), and finds the one authority.
fn target_spans(
    bytes: &[u8],
    method: &str,
    target: &str,
    facts: &Facts,
    version: Version,
) -> Result<TargetSpans, H1Error> {
    let host = match facts.host {
        Some(host) => host,
        None if version == Version::Http10 => Span::default(),
        None => return Err(H1Error::Host("HTTP/1.1 without a Host field")),
    };
    if !host.of(bytes).iter().all(|&byte| is_authority_byte(byte)) {
        return Err(H1Error::Host("Host is not a name with an optional port"));
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(H1Error::Syntax("the target holds a fragment or bytes that must be escaped"));
    }
    let mut line = TargetSpans {
        method: Span::locate(bytes, method.as_bytes()),
        target: Span::locate(bytes, target.as_bytes()),
        path: Span::locate(bytes, target.as_bytes()),
        authority: host,
        is_connect: method == "CONNECT",
    };
    if line.is_connect {
        line.path = Span::default();
        line.authority = line.target;
        if !target.bytes().all(is_authority_byte) || !target.contains(':') {
            return Err(H1Error::Syntax("the target of CONNECT is not host:port"));
        }
        let named = target.rsplit_once(':').map_or(target, |(name, _)| name);
        let sent = host.of(bytes);
        if !same(sent, target.as_bytes()) && !same(sent, named.as_bytes()) && !host.is_empty() {
            return Err(H1Error::Host("Host and the target of CONNECT differ"));
        }
        return Ok(line);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(line);
    }
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(H1Error::Syntax("the target is no path"));
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(H1Error::Syntax("the target's scheme is neither http nor https"));
    }
    let name = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    if name.is_empty() || !name.bytes().all(is_authority_byte) {
        return Err(H1Error::Host("the target's authority is not a name with an optional port"));
    }
    if facts.host.is_some() && !same(host.of(bytes), name.as_bytes()) {
        return Err(H1Error::Host("Host and the target's authority differ"));
    }
    line.authority = Span::locate(bytes, name.as_bytes());
    line.path = Span::new(line.authority.end(), line.target.end());
    if line.path.of(bytes).first() == Some(&b'?') {
        return Err(H1Error::Syntax("the target has a query and no path"));
    }
    Ok(line)
}

fn drop_length(bytes: &[u8], fields: &mut [Field]) {
    for field in fields {
        let name = field.name.of(bytes);
        field.hop |= name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding");
    }
}

fn same(one: &[u8], other: &[u8]) -> bool {
    one.eq_ignore_ascii_case(other)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 3986's host and port without user information: nobody's parser is told of another name.
fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&byte)
}
