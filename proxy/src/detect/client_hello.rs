//! What a TLS client says in the open: the names in its ClientHello (RFC 8446, section 4.1.2).
//!
//! A ClientHello may span TLS records, and records may span TCP segments: the parser is called again with more bytes until it knows. It
//! reads lengths, server name and ALPN only; whether the rest makes sense is for whoever ends the TLS.

/// What the bytes at the start of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A whole ClientHello.
    Hello(ClientHello),
    /// The beginning of one.
    NeedMore,
    /// Not a ClientHello, or one that breaks the rules or the limit ([`MAX_BYTES`]).
    NotTls,
}

/// The two extensions that say who is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// SNI: the host name in lower case, if there is one and it is a plain name (letters, digits, `-`, `_`, `.`).
    pub server_name: Option<String>,
    /// ALPN: protocol names in the client's order, at most [`MAX_PROTOCOLS`].
    pub alpn: Vec<Vec<u8>>,
}

impl ClientHello {
    /// True if the client offers this protocol.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }
}

/// Looks for a ClientHello at the start of a connection.
pub fn parse(bytes: &[u8]) -> Parsed {
    match handshake(bytes) {
        Ok(message) => match hello(&message) {
            Some(hello) => Parsed::Hello(hello),
            None => Parsed::NotTls,
        },
        Err(outcome) => outcome,
    }
}

/// The body of the first handshake message, put together from records.
fn handshake(bytes: &[u8]) -> Result<Vec<u8>, Parsed> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        // Each byte is judged as soon as it is there, so that other protocols are not kept waiting for five.
        let header = &rest[..rest.len().min(5)];
        let fits = match *header {
            [] => true,
            [kind] => kind == HANDSHAKE,
            [kind, major] | [kind, major, _] | [kind, major, _, _] => kind == HANDSHAKE && major == 3,
            [kind, major, _, high, low] => {
                let length = usize::from(high) << 8 | usize::from(low);
                kind == HANDSHAKE && major == 3 && (1..=MAX_RECORD).contains(&length)
            }
            _ => false,
        };
        if !fits {
            return Err(Parsed::NotTls);
        }
        let Some((&[_, _, _, high, low], body)) = rest.split_first_chunk::<5>() else {
            return Err(Parsed::NeedMore);
        };
        let length = usize::from(high) << 8 | usize::from(low);
        let fragment = &body[..body.len().min(length)];
        message.extend_from_slice(fragment);
        if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(Parsed::NotTls);
        }
        if let Some(&[_, a, b, c]) = message.first_chunk::<4>() {
            let wanted = 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
            if wanted > MAX_MESSAGE {
                return Err(Parsed::NotTls);
            }
            if message.len() >= wanted {
                message.truncate(wanted);
                message.drain(..4);
                return Ok(message);
            }
        }
        if fragment.len() < length {
            return Err(if bytes.len() < MAX_BYTES { Parsed::NeedMore } else { Parsed::NotTls });
        }
        rest = &body[length..];
        if bytes.len() - rest.len() >= MAX_BYTES {
            return Err(Parsed::NotTls);
        }
    }
}

fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?; // legacy_version, random
    reader.short_list()?; // legacy_session_id
    reader.list()?; // cipher_suites
    reader.short_list()?; // legacy_compression_methods
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello); // before TLS 1.2, extensions could be missing altogether
    }
    let mut extensions = reader.list()?;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let mut value = extensions.list()?;
        match kind {
            SERVER_NAME => hello.server_name = server_name(value.list()?)?,
            ALPN => hello.alpn = protocols(value.list()?)?,
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 6066, section 3. The outer `None` is a broken list, the inner one a name that is not fit to be one.
#[expect(clippy::option_option, reason = "two different things are missing")]
fn server_name(mut names: Reader<'_>) -> Option<Option<String>> {
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.list()?.0;
        if kind == HOST_NAME {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
            let fit = (1..=MAX_NAME).contains(&name.len()) && name.iter().all(plain);
            return Some(fit.then(|| String::from_utf8_lossy(name).to_ascii_lowercase()));
        }
    }
    Some(None)
}

/// RFC 7301, section 3.1.
fn protocols(mut names: Reader<'_>) -> Option<Vec<Vec<u8>>> {
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        let name = names.short_list()?.0;
        if name.is_empty() {
            return None;
        }
        if protocols.len() < MAX_PROTOCOLS {
            protocols.push(name.to_vec());
        }
    }
    Some(protocols)
}

/// Takes lengths and what they measure off the front.
struct Reader<'bytes>(&'bytes [u8]);

impl<'bytes> Reader<'bytes> {
    fn take(&mut self, length: usize) -> Option<&'bytes [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// With a length of two bytes before it.
    fn list(&mut self) -> Option<Self> {
        let length = self.number()?;
        self.take(length.into()).map(Self)
    }

    /// With a length of one byte before it.
    fn short_list(&mut self) -> Option<Self> {
        let length = self.take(1)?[0];
        self.take(length.into()).map(Self)
    }
}

/// A ClientHello with a post-quantum key share takes 1.5 to 2 KiB; tickets and encrypted hellos add a few more.
pub const MAX_BYTES: usize = 32 * 1024;
/// How many ALPN names are kept.
pub const MAX_PROTOCOLS: usize = 32;
/// Leaves room for record headers within [`MAX_BYTES`].
const MAX_MESSAGE: usize = 24 * 1024;
/// RFC 8446, section 5.1.
const MAX_RECORD: usize = 1 << 14;
/// The longest name of DNS.
const MAX_NAME: usize = 253;

/// The first byte of TLS.
pub const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const ALPN: u16 = 16;

#[cfg(test)]
mod tests;
