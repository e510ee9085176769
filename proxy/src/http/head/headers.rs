//! The fields of a head, wherever they came from.

use bytes::Bytes;
use http::HeaderMap;

/// Header fields: spans of the bytes read from an HTTP/1 connection, or an HTTP/2 map.
#[derive(Debug, Clone)]
pub(in crate::http) enum Headers {
    Lines(Lines),
    Map(HeaderMap),
}

/// An HTTP/1 head as it was read: the first line, the fields, the empty line.
#[derive(Debug, Clone)]
pub(in crate::http) struct Lines {
    pub(in crate::http) bytes: Bytes,
    pub(in crate::http) fields: Vec<Field>,
}

/// One field line. It begins where its name does and ends where the next line begins.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Field {
    pub(in crate::http) name: Span,
    pub(in crate::http) value: Span,
    /// Belongs to the connection it came on, and is not forwarded.
    pub(in crate::http) hop: bool,
}

/// A piece of a head. 32 bits, as a head has a limit far below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(in crate::http) fn new(start: usize, end: usize) -> Self {
        let small = |at: usize| u32::try_from(at).expect("a head is smaller than 4 GiB");
        Self { start: small(start), end: small(end) }
    }

    /// Where `part`, which must be a slice of `whole`, lies in it.
    pub(in crate::http) fn locate(whole: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        Self::new(start, start + part.len())
    }

    pub(in crate::http) fn start(self) -> usize {
        self.start as usize
    }

    pub(in crate::http) fn end(self) -> usize {
        self.end as usize
    }

    pub(in crate::http) fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub(in crate::http) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start()..self.end()]
    }

    pub(in crate::http) fn text(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(self.of(bytes)).unwrap_or_default()
    }
}

impl Headers {
    pub(in crate::http) fn first(&self, name: &str) -> Option<&[u8]> {
        match self {
            Self::Lines(lines) => lines
                .fields
                .iter()
                .find(|field| field.name.of(&lines.bytes).eq_ignore_ascii_case(name.as_bytes()))
                .map(|field| field.value.of(&lines.bytes)),
            Self::Map(map) => map.get(name).map(http::HeaderValue::as_bytes),
        }
    }

    /// All fields in order, names as they came.
    pub(in crate::http) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let (lines, map) = match self {
            Self::Lines(lines) => (Some(lines), None),
            Self::Map(map) => (None, Some(map)),
        };
        let lines = lines.into_iter().flat_map(|lines| {
            let pair = |field: &Field| (field.name.text(&lines.bytes), field.value.of(&lines.bytes));
            lines.fields.iter().map(pair)
        });
        let map = map.into_iter().flat_map(|map| map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        lines.chain(map)
    }
}
