//! Heads to bytes: runs of untouched lines are copied as one, in the order and spelling they came in.

use bytes::{BufMut, BytesMut};
use http::StatusCode;

use crate::http::head::edit::Edits;
use crate::http::head::headers::{Headers, Lines};
use crate::http::head::{RequestHead, RequestLine, ResponseHead, TargetSpans};

/// What the next hop is told about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Nothing: the version's default.
    Default,
    /// `Connection: close`.
    Close,
    /// `Connection: keep-alive`, which HTTP/1.0 needs to hear.
    KeepAlive,
    /// `Connection: upgrade`, beside the `Upgrade` field of the head.
    Upgrade,
}

/// Appends a request head. One that came over HTTP/2 is written as HTTP/1.1.
pub fn request(head: &RequestHead, connection: Connection, out: &mut BytesMut) {
    match (&head.line, &head.headers) {
        (RequestLine::Spans(line), Headers::Lines(lines)) => {
            let edits = &head.edits;
            out.reserve(lines.bytes.len() + MARGIN);
            if edits.path().is_none() && edits.authority().is_none() {
                write_lines(lines, edits, None, 0, out);
            } else {
                write_request_line(line, lines, edits, out);
                let rest = after_first_line(lines);
                write_lines(lines, edits, edits.authority().map(|it| it.as_str()), rest, out);
            }
        }
        (_, Headers::Map(_)) | (RequestLine::Parts { .. }, _) => {
            let path = head.edits.path().map_or_else(|| head.path_and_query(), |path| path.as_str());
            let authority = head.edits.authority().map_or_else(|| head.authority(), |it| it.as_str());
            put(out, &[head.method(), " ", path, " HTTP/1.1\r\nhost: ", authority, "\r\n"]);
            write_map(&head.headers, &head.edits, out);
        }
    }
    finish(&head.edits, connection, out);
}

/// Appends a response head, always as HTTP/1.1: that is what this proxy speaks (RFC 9110 §2.5).
pub fn response(head: &ResponseHead, connection: Connection, out: &mut BytesMut) {
    match &head.headers {
        Headers::Lines(lines) => {
            out.reserve(lines.bytes.len() + MARGIN);
            out.put_slice(b"HTTP/1.1");
            write_lines(lines, &head.edits, None, "HTTP/1.1".len(), out);
        }
        Headers::Map(_) => {
            status_line(head.status, out);
            write_map(&head.headers, &head.edits, out);
        }
    }
    finish(&head.edits, connection, out);
}

/// Appends the first line of a response the mesh makes itself.
pub fn status_line(status: StatusCode, out: &mut BytesMut) {
    let reason = status.canonical_reason().unwrap_or_default();
    put(out, &["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"]);
}

/// Copies everything from `from` to the last field, without the fields of this hop and those that edits drop.
fn write_lines(lines: &Lines, edits: &Edits, authority: Option<&str>, from: usize, out: &mut BytesMut) {
    let mut run = from;
    let end = lines.bytes.len() - "\r\n".len();
    let untouched = edits.is_empty();
    for (index, field) in lines.fields.iter().enumerate() {
        let name = field.name.of(&lines.bytes);
        let host = authority.filter(|_| name.eq_ignore_ascii_case(b"host"));
        if !field.hop && host.is_none() && (untouched || !edits.drops(name)) {
            continue;
        }
        out.put_slice(&lines.bytes[run..field.name.start()]);
        if let Some(authority) = host {
            put(out, &["Host: ", authority, "\r\n"]);
        }
        run = lines.fields.get(index + 1).map_or(end, |next| next.name.start());
    }
    out.put_slice(&lines.bytes[run..end]);
}

fn write_request_line(line: &TargetSpans, lines: &Lines, edits: &Edits, out: &mut BytesMut) {
    let authority = edits.authority().map(|authority| authority.as_str().as_bytes());
    let path = edits.path().map(|path| path.as_str().as_bytes());
    out.put_slice(&lines.bytes[..line.target.start()]);
    // In origin form only the path is in the target; else the authority is there as well, before the path.
    let is_origin_form = line.path.start() == line.target.start() && !line.is_connect;
    if !is_origin_form {
        out.put_slice(&lines.bytes[line.target.start()..line.authority.start()]);
        out.put_slice(authority.unwrap_or_else(|| line.authority.of(&lines.bytes)));
    }
    if !line.is_connect {
        out.put_slice(path.unwrap_or_else(|| line.path.of(&lines.bytes)));
    }
    out.put_slice(&lines.bytes[line.target.end()..after_first_line(lines)]);
}

fn after_first_line(lines: &Lines) -> usize {
    let end = lines.bytes.len() - "\r\n".len();
    lines.fields.first().map_or(end, |field| field.name.start())
}

fn write_map(headers: &Headers, edits: &Edits, out: &mut BytesMut) {
    for (name, value) in headers.iter() {
        if !edits.drops(name.as_bytes()) {
            field(name, value, out);
        }
    }
}

fn finish(edits: &Edits, connection: Connection, out: &mut BytesMut) {
    for (name, value) in edits.added() {
        field(name.as_str(), value.as_bytes(), out);
    }
    match connection {
        Connection::Default => {}
        Connection::Close => out.put_slice(b"connection: close\r\n"),
        Connection::KeepAlive => out.put_slice(b"connection: keep-alive\r\n"),
        Connection::Upgrade => out.put_slice(b"connection: upgrade\r\n"),
    }
    out.put_slice(b"\r\n");
}

fn field(name: &str, value: &[u8], out: &mut BytesMut) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn put(out: &mut BytesMut, pieces: &[&str]) {
    for piece in pieces {
        out.put_slice(piece.as_bytes());
    }
}

/// Room for what is usually added.
const MARGIN: usize = 128;
