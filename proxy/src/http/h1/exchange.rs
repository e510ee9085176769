//! One request and its response between two HTTP/1 connections.
//!
//! [`Exchange::send`] ends with the head of the final response, so that the caller may edit it, or try another server;
//! [`Exchange::finish`] relays the rest. Request and response flow at the same time: a server may answer before it has
//! read the body, and a client may send its body only when told to.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use http::header;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, LINGER};
use super::error::H1Error;
use super::parse::{Asked, Request, Response};
use super::relay::{Relay, RelayError};
use super::write;
use super::{Framing, Limits, Tunnel, Version};

/// A request under way.
#[derive(Debug)]
pub struct Exchange {
    upload: Relay,
    state: Upload,
    /// Bytes of a body that was sent with its head and is kept, for another try, until a response begins.
    held: usize,
    asked: Asked,
    version: Version,
    persistent: bool,
    expects_continue: bool,
}

/// How far the request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    Going,
    Done,
    /// The server takes no more of it.
    Cut,
}

/// What is left when the response is relayed.
#[derive(Debug)]
pub struct Finished {
    /// The client may send another request.
    pub client_persistent: bool,
    /// The server may get another request.
    pub server_persistent: bool,
    /// Both connections carry bytes of another protocol from here on.
    pub tunnel: bool,
    /// Bytes of the request's body, chunk framing included.
    pub request_bytes: u64,
    /// Bytes of the response's body, chunk framing included.
    pub response_bytes: u64,
}

/// Why an exchange ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The request is refused.
    #[error("the request is not valid: {0}")]
    Request(H1Error),
    /// The response is refused.
    #[error("the response is not valid: {0}")]
    Response(H1Error),
    /// The client left.
    #[error("the client closed before the response was complete")]
    ClientClosed,
    /// The server left.
    #[error("the server closed before the response was complete")]
    ServerClosed {
        /// Not one byte of a response came, and all of the request is still there to be sent again.
        replayable: bool,
        /// How it failed; nothing if it closed in order.
        cause: Option<io::Error>,
    },
}

impl Exchange {
    /// Sends the request, and as much of its body as it takes until the final response's head is there. Interim
    /// responses go to the client on the way.
    pub async fn send<C, S>(
        client: &mut Connection<C>,
        server: &mut Connection<S>,
        request: &Request,
        limits: &Limits,
    ) -> Result<(Self, Response), ExchangeError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut exchange = Self {
            upload: Relay::new(request.framing),
            state: Upload::Going,
            held: 0,
            asked: Asked { head: request.head.method() == "HEAD", tunnel: request.tunnel },
            version: request.version,
            persistent: request.persistent,
            expects_continue: request.expects_continue,
        };
        // The first look at the body comes before anything is sent: what is broken from the start reaches nobody.
        let whole = exchange.upload.whole(client.input.data()).map_err(ExchangeError::Request)?;
        write::request(&request.head, to_server(request), &mut server.output);
        if let Some(length) = whole {
            server.output.extend_from_slice(&client.input.data()[..length]);
            exchange.held = length;
            exchange.state = Upload::Done;
            // A server that does not take it may have said why.
            let _ = server.write().await;
        }
        let response = exchange.response_head(client, server, limits).await?;
        Ok((exchange, response))
    }

    /// Whether the request can be sent to another server instead of relaying this response.
    pub fn is_replayable(&self) -> bool {
        self.upload.bytes == 0
    }

    /// Relays the response, and what is left of the request. `close`: the client is told that its connection ends.
    pub async fn finish<C, S>(
        mut self,
        client: &mut Connection<C>,
        server: &mut Connection<S>,
        mut response: Response,
        close: bool,
    ) -> Result<Finished, ExchangeError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        client.input.consume(self.held);
        self.upload.bytes += std::mem::take(&mut self.held) as u64;
        let old_client = self.version == Version::Http10;
        let mut download = if old_client && response.framing == Framing::Chunked {
            response.head.edits.remove(header::TRANSFER_ENCODING);
            response.framing = Framing::UntilClose;
            Relay::only_content(Framing::Chunked)
        } else {
            Relay::new(response.framing)
        };
        // Asked whether to send its body and told something else than "go on", a client may send it or not.
        let unwanted = self.state == Upload::Going && self.expects_continue && self.upload.bytes == 0;
        let body_in_doubt = unwanted || self.state == Upload::Cut;
        // What came behind a CONNECT that was refused is meant for the tunnel, whatever it looks like.
        let connect_refused = self.asked.tunnel == Some(Tunnel::Connect) && !response.tunnel;
        let in_doubt = body_in_doubt || (connect_refused && !client.input.is_empty());
        let keep = self.persistent && !close && response.framing != Framing::UntilClose && !in_doubt;
        write::response(&response.head, self.to_client(&response, keep), &mut client.output);
        poll_fn(|cx| {
            self.poll_request(cx, client, server)?;
            match download.poll(cx, server, client) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                Poll::Ready(Err(RelayError::To(_))) => Poll::Ready(Err(ExchangeError::ClientClosed)),
                Poll::Ready(Err(RelayError::From(error))) => {
                    Poll::Ready(Err(ExchangeError::ServerClosed { replayable: false, cause: Some(error) }))
                }
                Poll::Ready(Err(RelayError::Broken(H1Error::Truncated))) => {
                    Poll::Ready(Err(ExchangeError::ServerClosed { replayable: false, cause: None }))
                }
                Poll::Ready(Err(RelayError::Broken(error))) => Poll::Ready(Err(ExchangeError::Response(error))),
            }
        })
        .await?;
        let uploaded = self.state == Upload::Done || Box::pin(self.rest_of_request(client, server, keep)).await;
        Ok(Finished {
            client_persistent: keep && uploaded && !response.tunnel,
            server_persistent: response.persistent && uploaded && server.input.is_empty(),
            tunnel: response.tunnel,
            request_bytes: self.upload.bytes,
            response_bytes: download.bytes,
        })
    }

    async fn response_head<C, S>(
        &mut self,
        client: &mut Connection<C>,
        server: &mut Connection<S>,
        limits: &Limits,
    ) -> Result<Response, ExchangeError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut answered = false;
        loop {
            let read = poll_fn(|cx| {
                self.poll_request(cx, client, server)?;
                server.poll_read(cx).map(Ok)
            });
            match read.await? {
                Ok(count) if count > 0 => answered = true,
                ended => {
                    let replayable = !answered && self.upload.bytes == 0;
                    return Err(ExchangeError::ServerClosed { replayable, cause: ended.err() });
                }
            }
            while let Some(response) = server.parse_response(limits, self.asked).map_err(ExchangeError::Response)? {
                if !response.interim {
                    return Ok(response);
                }
                if self.version == Version::Http11 {
                    self.expects_continue = false;
                    write::response(&response.head, write::Connection::Default, &mut client.output);
                    client.write().await.map_err(|_| ExchangeError::ClientClosed)?;
                }
            }
        }
    }

    /// Moves the request's body on; once it is sent, watches whether the client is still there.
    fn poll_request<C, S>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Connection<C>,
        server: &mut Connection<S>,
    ) -> Result<(), ExchangeError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.state == Upload::Going {
            match self.upload.poll(cx, client, server) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => self.state = Upload::Done,
                // A server that stops reading may have answered already, so its answer is still waited for.
                Poll::Ready(Err(RelayError::To(_))) => self.state = Upload::Cut,
                Poll::Ready(Err(RelayError::From(_) | RelayError::Broken(H1Error::Truncated))) => {
                    return Err(ExchangeError::ClientClosed);
                }
                Poll::Ready(Err(RelayError::Broken(error))) => return Err(ExchangeError::Request(error)),
            }
        }
        // A client that said it will close may close its sending half at once, and still wait for the answer.
        while self.persistent && client.input.data().len() < PIPELINED {
            match client.poll_read(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Err(ExchangeError::ClientClosed),
            }
        }
        Ok(())
    }

    fn to_client(&self, response: &Response, keep: bool) -> write::Connection {
        match (self.asked.tunnel, self.version) {
            (Some(Tunnel::Upgrade), _) if response.tunnel => write::Connection::Upgrade,
            (Some(Tunnel::Connect), _) if response.tunnel => write::Connection::Default,
            (_, Version::Http10) if keep => write::Connection::KeepAlive,
            (_, Version::Http11) if !keep => write::Connection::Close,
            _ => write::Connection::Default,
        }
    }

    /// The response is out and the request is not. A server that reads on gets the rest; else the client is given a
    /// moment to notice the response before its connection goes. True if all was sent.
    async fn rest_of_request<C, S>(
        &mut self,
        client: &mut Connection<C>,
        server: &mut Connection<S>,
        keep: bool,
    ) -> bool
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if keep && self.state == Upload::Going {
            let sent = poll_fn(|cx| {
                if let Poll::Ready(outcome) = self.upload.poll(cx, client, server) {
                    return Poll::Ready(outcome.is_ok());
                }
                // Anything the server does now but read ends the exchange.
                server.poll_read(cx).map(|_| false)
            });
            if sent.await {
                return true;
            }
        }
        let _ = tokio::time::timeout(LINGER, client.discard()).await;
        false
    }
}

fn to_server(request: &Request) -> write::Connection {
    match (request.tunnel, request.version) {
        (Some(Tunnel::Upgrade), _) => write::Connection::Upgrade,
        (_, Version::Http10) if request.persistent => write::Connection::KeepAlive,
        _ => write::Connection::Default,
    }
}

/// How much of later requests is read while one is being answered.
const PIPELINED: usize = 16 * 1024;

#[cfg(test)]
mod tests;
