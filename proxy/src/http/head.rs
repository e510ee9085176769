//! The one view of a message's head: route matching, filters, authorization and telemetry know [`RequestHead`] and
//! [`ResponseHead`], and nothing of HTTP/1 or HTTP/2.
//!
//! Looking up always shows what was received. Changes go to a list of [`Edits`] and take effect when the head is written, so
//! a request can be written again, to another endpoint.

pub mod edit;
pub(in crate::http) mod headers;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, Method, StatusCode, Uri, header, request, response};

use self::edit::Edits;
use self::headers::{Headers, Lines, Span};

/// The head of a request.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub(in crate::http) line: RequestLine,
    pub(in crate::http) headers: Headers,
    /// What is changed when the head is written.
    pub edits: Edits,
}

#[derive(Debug, Clone)]
pub(in crate::http) enum RequestLine {
    /// Spans of the head's bytes.
    Spans(TargetSpans),
    Parts {
        method: Method,
        uri: Uri,
    },
}

/// Where the parts of a request line lie.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct TargetSpans {
    pub(in crate::http) method: Span,
    pub(in crate::http) target: Span,
    /// Empty for CONNECT, and for an absolute form without a path.
    pub(in crate::http) path: Span,
    pub(in crate::http) authority: Span,
    pub(in crate::http) is_connect: bool,
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub(in crate::http) status: StatusCode,
    pub(in crate::http) headers: Headers,
    /// What is changed when the head is written.
    pub edits: Edits,
}

/// An HTTP/2 request whose `Host` names somebody else than its `:authority` (RFC 9113 §8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Host and :authority of the request differ")]
pub struct AuthorityMismatch;

impl RequestHead {
    /// Wraps an HTTP/2 request. A `Host` field becomes the authority; a second opinion is refused.
    pub fn from_parts(parts: request::Parts) -> Result<Self, AuthorityMismatch> {
        let request::Parts { method, uri, mut headers, .. } = parts;
        let mut hosts = headers.get_all(header::HOST).iter();
        let uri = match (hosts.next(), hosts.next(), uri.authority()) {
            (None, _, _) => uri,
            (Some(host), None, Some(authority))
                if host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
            {
                uri
            }
            (Some(host), None, None) => {
                let mut uri = uri.into_parts();
                uri.authority = Some(host.as_bytes().try_into().map_err(|_| AuthorityMismatch)?);
                uri.scheme.get_or_insert(Scheme::HTTP);
                Uri::from_parts(uri).map_err(|_| AuthorityMismatch)?
            }
            _ => return Err(AuthorityMismatch),
        };
        headers.remove(header::HOST);
        Ok(Self { line: RequestLine::Parts { method, uri }, headers: Headers::Map(headers), edits: Edits::default() })
    }

    /// `GET`, `POST` …, exactly as sent.
    pub fn method(&self) -> &str {
        match (&self.line, &self.headers) {
            (RequestLine::Spans(line), Headers::Lines(lines)) => line.method.text(&lines.bytes),
            (RequestLine::Parts { method, .. }, _) => method.as_str(),
            (RequestLine::Spans(_), Headers::Map(_)) => "",
        }
    }

    /// Path and query; `*` for `OPTIONS *`, empty for CONNECT.
    pub fn path_and_query(&self) -> &str {
        match (&self.line, &self.headers) {
            (RequestLine::Spans(line), Headers::Lines(lines)) => {
                let path = line.path.text(&lines.bytes);
                if path.is_empty() && !line.is_connect { "/" } else { path }
            }
            (RequestLine::Parts { uri, .. }, _) => uri.path_and_query().map_or("", |path| path.as_str()),
            (RequestLine::Spans(_), Headers::Map(_)) => "",
        }
    }

    /// Whom the request is for, with the port if one was given; empty only where HTTP/1.0 left it out.
    pub fn authority(&self) -> &str {
        match (&self.line, &self.headers) {
            (RequestLine::Spans(line), Headers::Lines(lines)) => line.authority.text(&lines.bytes),
            (RequestLine::Parts { uri, .. }, _) => uri.authority().map_or("", |authority| authority.as_str()),
            (RequestLine::Spans(_), Headers::Map(_)) => "",
        }
    }

    /// The first field of this name, which must be lower case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.first(name)
    }

    /// All fields.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter()
    }

    /// Whether this is a gRPC call: errors then take gRPC's form.
    pub fn is_grpc(&self) -> bool {
        self.header("content-type").is_some_and(|value| value.starts_with(b"application/grpc"))
    }

    /// The request in HTTP/2's form, edits applied, fields that belong to one HTTP/1 hop left out. `None` if the target
    /// cannot be expressed in it.
    pub fn to_parts(&self) -> Option<http::Request<()>> {
        let authority = match self.edits.authority() {
            Some(authority) => authority.clone(),
            None => self.authority().try_into().ok()?,
        };
        let path = match self.edits.path() {
            Some(path) => path.clone(),
            None => self.path_and_query().try_into().ok()?,
        };
        let scheme = match &self.line {
            RequestLine::Parts { uri, .. } => uri.scheme().cloned().unwrap_or(Scheme::HTTP),
            RequestLine::Spans(_) => Scheme::HTTP,
        };
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
        let mut request = http::Request::new(());
        *request.uri_mut() = uri.build().ok()?;
        *request.method_mut() = match &self.line {
            RequestLine::Parts { method, .. } => method.clone(),
            RequestLine::Spans(_) => self.method().parse().ok()?,
        };
        *request.headers_mut() = to_map(&self.headers, &self.edits);
        Some(request)
    }
}

impl policy::Request for RequestHead {
    fn method(&self) -> &str {
        self.method()
    }

    fn path(&self) -> &str {
        let target = self.path_and_query();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    fn query(&self) -> &str {
        self.path_and_query().split_once('?').map_or("", |(_, query)| query)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.header(name)
    }
}

impl ResponseHead {
    /// Wraps an HTTP/2 response.
    pub fn from_parts(parts: response::Parts) -> Self {
        Self { status: parts.status, headers: Headers::Map(parts.headers), edits: Edits::default() }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The first field of this name, which must be lower case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.first(name)
    }

    /// All fields.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter()
    }

    /// The response in HTTP/2's form, edits applied, fields that belong to one HTTP/1 hop left out.
    pub fn to_parts(&self) -> http::Response<()> {
        let mut response = http::Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = to_map(&self.headers, &self.edits);
        response
    }
}

fn to_map(headers: &Headers, edits: &Edits) -> HeaderMap {
    let mut map = match headers {
        Headers::Map(map) => map.clone(),
        Headers::Lines(lines) => lines_to_map(lines),
    };
    if !edits.is_empty() {
        let dropped: Vec<_> = map.keys().filter(|name| edits.drops(name.as_ref())).cloned().collect();
        for name in dropped {
            map.remove(name);
        }
        for (name, value) in edits.added() {
            map.append(name, value.clone());
        }
    }
    map
}

fn lines_to_map(lines: &Lines) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(lines.fields.len());
    for field in lines.fields.iter().filter(|field| !field.hop) {
        let name = http::HeaderName::from_bytes(field.name.of(&lines.bytes));
        let value: Bytes = lines.bytes.slice(field.value.start()..field.value.end());
        let value = http::HeaderValue::from_maybe_shared(value);
        if let (Ok(name), Ok(value)) = (name, value)
            && name != header::HOST
            && name != header::TRANSFER_ENCODING
        {
            map.append(name, value);
        }
    }
    map
}
