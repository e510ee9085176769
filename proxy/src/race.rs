//! Who speaks first: for clients that are silent, so that a server which must speak first can.

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::stream::Stream;

/// Who spoke first.
#[derive(Debug)]
pub enum First {
    /// The client; its bytes are still in the socket.
    Client,
    /// The server, or it ended in order; these are its bytes.
    Server(BytesMut),
    /// The server failed: a reset, which its client must not take for an end in order. The kernel says so only once.
    Failed,
}

/// Resolves when the client has spoken, or closed, or failed; reads nothing. A socket's readiness alone may be a false
/// alarm.
pub async fn spoken(client: &TcpStream) {
    // An error will be met again by whoever reads.
    let _ = client.peek(&mut [0]).await;
}

/// Waits for either side. Nothing is read from the client; a client that closed has spoken.
pub async fn first(client: &TcpStream, server: &mut Stream) -> First {
    let mut bytes = BytesMut::with_capacity(FIRST_BYTES);
    tokio::select! {
        // When both have spoken, the client is who decides.
        biased;
        () = spoken(client) => First::Client,
        read = server.read_buf(&mut bytes) => match read {
            Ok(_) => First::Server(bytes),
            Err(_) => First::Failed,
        },
    }
}

/// What the first bytes of a server say of a client that is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerSpeaks {
    /// A protocol in which servers greet: its clients need not be waited for.
    Greeting,
    /// HTTP/1 that lost patience with its client (such as 408), or nothing at all before the end.
    Farewell,
    /// HTTP/2, whose server may send its settings before the client's; routing has to wait for the client.
    Http2,
}

/// Reads a server's first bytes.
pub fn server_speaks(bytes: &[u8]) -> ServerSpeaks {
    if bytes.is_empty() || bytes.starts_with(b"HTTP/") {
        return ServerSpeaks::Farewell;
    }
    // RFC 9113, sections 3.4 and 6.5: the server's preface is a SETTINGS frame (type 4) of stream 0, not an acknowledgement.
    match bytes {
        [0, 0, length, 4, 0, 0, 0, 0, 0, ..] if length % 6 == 0 => ServerSpeaks::Http2,
        _ => ServerSpeaks::Greeting,
    }
}

const FIRST_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_are_told_from_http() {
        assert_eq!(server_speaks(b"J\0\0\0\n8.0.36"), ServerSpeaks::Greeting);
        assert_eq!(server_speaks(b"220 mail ESMTP\r\n"), ServerSpeaks::Greeting);
        assert_eq!(server_speaks(b"HTTP/1.1 408 Request Timeout\r\n"), ServerSpeaks::Farewell);
        assert_eq!(server_speaks(b""), ServerSpeaks::Farewell);
        assert_eq!(server_speaks(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"), ServerSpeaks::Http2);
        assert_eq!(server_speaks(b"\0\0\0\x04\x01\0\0\0\0"), ServerSpeaks::Greeting);
    }
}
