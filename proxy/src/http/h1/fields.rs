//! What the fields of a head say about the message itself: length, coding, host, connection. One pass, no allocation.

use super::error::H1Error;
use super::{Framing, Version};
use crate::http::head::edit::is_identity;
use crate::http::head::headers::{Field, Span};

/// The fields that mean something to the connection rather than to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    /// `content_length` and `transfer_encoding`: what CGI-style servers cannot tell from the real ones.
    Disguised,
    Connection,
    KeepAlive,
    ProxyConnection,
    Upgrade,
    Http2Settings,
    Te,
    Expect,
    /// `x-forwarded-client-cert`: the identity this mesh vouches for.
    Identity,
    Other,
}

impl Known {
    /// By length first: nearly every field is decided by one comparison.
    pub(super) fn of(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            14 if is("content-length") => Self::ContentLength,
            14 if is("content_length") => Self::Disguised,
            14 if is("http2-settings") => Self::Http2Settings,
            16 if is("proxy-connection") => Self::ProxyConnection,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("transfer_encoding") => Self::Disguised,
            23 if is_identity(name) => Self::Identity,
            _ => Self::Other,
        }
    }

    pub(super) fn is_forbidden_in_trailers(self) -> bool {
        match self {
            Self::Other | Self::Expect | Self::Te | Self::KeepAlive | Self::ProxyConnection => false,
            Self::Host
            | Self::ContentLength
            | Self::TransferEncoding
            | Self::Disguised
            | Self::Connection
            | Self::Upgrade
            | Self::Http2Settings
            | Self::Identity => true,
        }
    }

    /// A field that `Connection` may not remove: the next reader would see another message, or another sender.
    fn is_protected(self) -> bool {
        matches!(self, Self::Host | Self::ContentLength | Self::TransferEncoding | Self::Disguised | Self::Identity)
    }
}

/// What one pass over a head's fields found.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) host: Option<Span>,
    length: Option<u64>,
    coding: Coding,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    /// `Connection: upgrade`.
    connection_upgrade: bool,
    /// The index of the one `Upgrade` field.
    upgrade: Option<usize>,
    /// An upgrade to cleartext HTTP/2: would turn the connection into one nobody in between reads.
    h2c: bool,
    pub(super) expects_continue: bool,
    nominates: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    Chunked,
    Other,
}

impl Facts {
    /// Reads all fields, and marks those that belong to this hop only.
    pub(super) fn read(bytes: &[u8], fields: &mut [Field]) -> Result<Self, H1Error> {
        let mut facts = Self::default();
        for (index, field) in fields.iter_mut().enumerate() {
            let known = Known::of(field.name.of(bytes));
            if known != Known::Other {
                facts.note(known, index, field, bytes)?;
            }
        }
        if facts.nominates {
            mark_nominated(bytes, fields)?;
        }
        Ok(facts)
    }

    fn note(&mut self, known: Known, index: usize, field: &mut Field, bytes: &[u8]) -> Result<(), H1Error> {
        let value = field.value.of(bytes);
        match known {
            Known::Host if self.host.is_some() => return Err(H1Error::Host("two Host fields")),
            Known::Host => self.host = Some(field.value),
            Known::ContentLength if self.length.is_some() => {
                return Err(H1Error::Length("two Content-Length fields"));
            }
            Known::ContentLength => self.length = Some(length(value)?),
            Known::TransferEncoding => {
                self.coding = match self.coding {
                    Coding::None if value.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
                    Coding::None => Coding::Other,
                    Coding::Chunked | Coding::Other => {
                        return Err(H1Error::Length("two Transfer-Encoding fields"));
                    }
                };
                if self.coding == Coding::Other && tokens(value).any(|token| token.eq_ignore_ascii_case(b"chunked")) {
                    return Err(H1Error::Length("Transfer-Encoding lists more than chunked"));
                }
            }
            Known::Disguised => {
                return Err(H1Error::Length("an underscore in the name of a framing field"));
            }
            Known::Connection => {
                field.hop = true;
                self.connection(value);
            }
            Known::KeepAlive | Known::ProxyConnection | Known::Http2Settings => field.hop = true,
            Known::Upgrade => {
                field.hop = true;
                self.h2c |= self.upgrade.is_some() || tokens(value).any(|token| token.eq_ignore_ascii_case(b"h2c"));
                self.upgrade = Some(index);
            }
            Known::Te => field.hop = !value.eq_ignore_ascii_case(b"trailers"),
            Known::Expect => self.expects_continue = value.eq_ignore_ascii_case(b"100-continue"),
            Known::Identity | Known::Other => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for token in tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.connection_upgrade = true;
            } else {
                self.nominates = true;
            }
        }
    }

    /// What the length fields alone say; `None` if there is none.
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, H1Error> {
        match (self.coding, self.length) {
            (Coding::None, None) => Ok(None),
            (Coding::None, Some(0)) => Ok(Some(Framing::Empty)),
            (Coding::None, Some(length)) => Ok(Some(Framing::Length(length))),
            (_, Some(_)) => Err(H1Error::Length("both Content-Length and Transfer-Encoding")),
            _ if version == Version::Http10 => Err(H1Error::Length("Transfer-Encoding in HTTP/1.0")),
            (Coding::Chunked, None) => Ok(Some(Framing::Chunked)),
            (Coding::Other, None) => Err(H1Error::TransferCoding),
        }
    }

    /// Whether the sender keeps the connection open after this message (RFC 9112 §9.3).
    pub(super) fn is_persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// The field that asks for, or grants, a protocol this proxy may pipe.
    pub(super) fn upgrade_field(&self) -> Option<usize> {
        self.upgrade.filter(|_| self.connection_upgrade && !self.h2c)
    }
}

/// Drops what `Connection` names (RFC 9110 §7.6.1), unless that would change what the message is.
fn mark_nominated(bytes: &[u8], fields: &mut [Field]) -> Result<(), H1Error> {
    for index in 0..fields.len() {
        if Known::of(fields[index].name.of(bytes)) != Known::Connection {
            continue;
        }
        for token in tokens(fields[index].value.of(bytes)) {
            if Known::of(token).is_protected() {
                return Err(H1Error::Syntax("Connection names a field that may not be removed"));
            }
            for field in fields.iter_mut() {
                field.hop |= field.name.of(bytes).eq_ignore_ascii_case(token);
            }
        }
    }
    Ok(())
}

/// The comma-separated elements of a field, trimmed, the empty ones left out.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Digits only: no sign, no list, no space, and nothing that overflows.
fn length(value: &[u8]) -> Result<u64, H1Error> {
    let digits = !value.is_empty() && value.len() <= MAX_LENGTH_DIGITS && value.iter().all(u8::is_ascii_digit);
    if !digits {
        return Err(H1Error::Length("Content-Length is not one number below 10^18"));
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

const MAX_LENGTH_DIGITS: usize = 18;
