//! Where a body ends: a state machine that checks the framing and says how many bytes may be relayed as they are.

use super::Framing;
use super::error::H1Error;
use super::fields::Known;

/// The rest of one message's body.
#[derive(Debug)]
pub struct Body {
    state: State,
}

/// What the front of the unread bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes of content.
    Data(usize),
    /// So many bytes of chunked coding: a size line or the end of a chunk.
    Framing(usize),
    /// So many bytes of trailer fields, the empty line at the end included. The last piece of a chunked body.
    Trailers(usize),
    /// Nothing can be said before more arrives.
    More,
    /// The body is over; what follows belongs to the next message.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    /// `scanned` bytes hold no line end that was not looked at, the current line begins at `line`.
    Trailers {
        scanned: usize,
        line: usize,
    },
    UntilClose,
    End,
}

impl Body {
    /// The whole body of a message.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::End,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether every byte of it has been seen.
    pub fn is_end(&self) -> bool {
        self.state == State::End
    }

    /// What the front of `bytes` is; the caller consumes it before asking again.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, H1Error> {
        if self.state == State::End {
            return Ok(Piece::End);
        }
        if bytes.is_empty() {
            return Ok(Piece::More);
        }
        match self.state {
            State::Length(left) | State::ChunkData(left) => {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - count as u64;
                self.state = match (self.state, left) {
                    (State::ChunkData(_), 0) => State::ChunkEnd,
                    (State::ChunkData(_), left) => State::ChunkData(left),
                    (_, 0) => State::End,
                    (_, left) => State::Length(left),
                };
                Ok(Piece::Data(count))
            }
            State::ChunkSize => self.chunk_size(bytes),
            State::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Piece::Framing(2))
                }
                [b'\r'] => Ok(Piece::More),
                _ => Err(H1Error::Chunk("a chunk is longer than its size says")),
            },
            State::Trailers { scanned, line } => self.trailers(bytes, scanned, line),
            State::UntilClose => Ok(Piece::Data(bytes.len())),
            State::End => Ok(Piece::End),
        }
    }

    /// How many bytes at the front may be relayed as they are.
    pub fn relay(&mut self, bytes: &[u8]) -> Result<usize, H1Error> {
        let mut total = 0;
        loop {
            match self.next(&bytes[total..])? {
                Piece::Data(count) | Piece::Framing(count) | Piece::Trailers(count) => total += count,
                Piece::More | Piece::End => return Ok(total),
            }
        }
    }

    /// The sender closed: fine only where closing is what ends the body.
    pub fn close(&mut self) -> Result<(), H1Error> {
        match self.state {
            State::End | State::UntilClose => {
                self.state = State::End;
                Ok(())
            }
            _ => Err(H1Error::Truncated),
        }
    }

    /// `size [";" extension] CR LF`. Extensions are relayed, but only printable ones and short: they exist to confuse.
    fn chunk_size(&mut self, bytes: &[u8]) -> Result<Piece, H1Error> {
        let window = &bytes[..bytes.len().min(MAX_SIZE_LINE)];
        let digits = window.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits > MAX_SIZE_DIGITS || (digits == 0 && !window.is_empty()) {
            return Err(H1Error::Chunk("a chunk size is not 1 to 15 hexadecimal digits"));
        }
        match window.get(digits) {
            None => return Ok(Piece::More),
            Some(b'\r' | b';') => {}
            Some(_) => return Err(H1Error::Chunk("a chunk size is followed by something else than CR LF")),
        }
        let extension = window[digits..].iter().position(|&byte| !is_printable(byte));
        let Some(end) = extension.map(|count| digits + count) else {
            return if bytes.len() >= MAX_SIZE_LINE {
                Err(H1Error::Chunk("a chunk extension is longer than 256 bytes"))
            } else {
                Ok(Piece::More)
            };
        };
        match bytes[end..] {
            [b'\r', b'\n', ..] => {}
            [b'\r'] => return Ok(Piece::More),
            _ => return Err(H1Error::Chunk("a chunk size line holds a control character")),
        }
        let size = bytes[..digits]
            .iter()
            .fold(0_u64, |size, &digit| size * 16 + u64::from(char::from(digit).to_digit(16).unwrap_or(0)));
        self.state = match size {
            0 => State::Trailers { scanned: 0, line: 0 },
            size => State::ChunkData(size),
        };
        Ok(Piece::Framing(end + 2))
    }

    /// Trailers wait until all of them are there, so that none is relayed before every one is checked.
    fn trailers(&mut self, bytes: &[u8], mut scanned: usize, mut line: usize) -> Result<Piece, H1Error> {
        let bytes = &bytes[..bytes.len().min(MAX_TRAILERS)];
        while let Some(found) = memchr::memchr(b'\n', &bytes[scanned..]) {
            let at = scanned + found;
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(H1Error::Chunk("a trailer line does not end in CR LF"));
            }
            if at == line + 1 {
                check_trailers(&bytes[..=at])?;
                self.state = State::End;
                return Ok(Piece::Trailers(at + 1));
            }
            scanned = at + 1;
            line = at + 1;
        }
        if bytes.len() == MAX_TRAILERS {
            return Err(H1Error::Chunk("the trailers are larger than 16 KiB"));
        }
        self.state = State::Trailers { scanned: bytes.len(), line };
        Ok(Piece::More)
    }
}

/// Trailers may not say anything about framing, routing or identity (RFC 9110 §6.5.1): some reader would believe it.
fn check_trailers(block: &[u8]) -> Result<(), H1Error> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let parsed = httparse::parse_headers(block, &mut fields)
        .map_err(|_| H1Error::Chunk("a trailer field is malformed, or there are more than 64"))?;
    let httparse::Status::Complete((_, fields)) = parsed else {
        return Err(H1Error::Chunk("a trailer field is malformed"));
    };
    for field in fields {
        if Known::of(field.name.as_bytes()).is_forbidden_in_trailers() {
            return Err(H1Error::Chunk("a trailer field names length, coding, host or identity"));
        }
    }
    Ok(())
}

fn is_printable(byte: u8) -> bool {
    byte == b'\t' || (b' '..=b'~').contains(&byte)
}

/// Fifteen digits are 2^60 bytes and cannot overflow.
const MAX_SIZE_DIGITS: usize = 15;
const MAX_SIZE_LINE: usize = 256;
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;
