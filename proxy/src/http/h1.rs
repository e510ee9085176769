//! The HTTP/1 codec: bytes to heads ([`parse`]), heads to bytes ([`write`]), and where bodies end ([`body`]).
//!
//! Nothing in here touches a socket's policy: no timeouts, no pools, no retries. Reading RFC 9112 strictly is the whole
//! defence against request smuggling, so wherever the RFC lets a recipient guess, this codec refuses ([`error::H1Error`]).

pub mod body;
pub mod buffer;
pub mod connection;
pub mod error;
pub mod exchange;
mod fields;
pub mod parse;
pub mod relay;
pub mod write;

#[cfg(test)]
#[rustfmt::skip]
mod shapes;
#[cfg(test)]
mod tests;

/// The two versions this codec speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: closes by default, has no chunked coding, may have no `Host`.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How much of a head is accepted before it is refused with 431.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one head, the empty line included. Default 128 KiB.
    pub head: usize,
    /// Fields of one head, 1 to [`Limits::MAX_FIELDS`]. Default 128.
    pub fields: usize,
}

impl Limits {
    /// The most fields any configuration can allow.
    pub const MAX_FIELDS: usize = 256;
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: 128 * 1024, fields: 128 }
    }
}

/// What ends a message's body (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// Exactly so many bytes; never zero.
    Length(u64),
    /// The chunked coding, with trailers.
    Chunked,
    /// Everything until the sender closes; responses only.
    UntilClose,
}

/// A request that asks to turn its connection into a byte pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// `CONNECT`: a pipe once the answer is 2xx.
    Connect,
    /// `Upgrade` (WebSocket): a pipe once the answer is 101.
    Upgrade,
}
