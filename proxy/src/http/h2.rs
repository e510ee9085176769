//! HTTP/2 by the h2 crate: settings that bound what a peer can make us hold, and bodies from one stream to another.
//!
//! h2 itself answers rapid reset, CONTINUATION floods and header bombs, given these limits: each of them ends the
//! connection with `ENHANCE_YOUR_CALM` and disturbs nobody else.

pub mod body;
pub mod exchange;
pub mod links;

use h2::{client, server};

/// Towards a client.
pub fn server(max_head: u32) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(max_head)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .max_concurrent_reset_streams(REMEMBERED_RESETS);
    builder
}

/// Towards a server.
pub fn client(max_head: u32) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(FIRST_STREAMS)
        .max_header_list_size(max_head)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED_RESETS);
    builder
}

/// A head's limit in bytes as a setting of HTTP/2.
pub fn max_head(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What one stream may have under way unread; its body is read only as fast as the other side takes it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What all streams of a connection together may have under way unread.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams a client may have open at a time; more wait on the client's side.
const MAX_STREAMS: u32 = 1000;
/// Streams opened before a server has said how many it takes: what is sent in excess would wait for the others' end, which may
/// never come. [`links::Links`] holds the next ones back for that moment.
const FIRST_STREAMS: usize = 1;
/// What is held for a stream whose receiver gives no window.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams a client may reset before they were looked at (rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// Streams we may have to reset for protocol errors of one peer.
const LOCAL_RESETS: usize = 100;
/// Reset streams whose late frames are ignored rather than an error.
const REMEMBERED_RESETS: usize = 50;
