//! One request and its response between two HTTP/2 connections, streaming both ways at once.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use super::body::{BodyError, Source};
use crate::http::head::ResponseHead;

/// What is left when a response is relayed.
#[derive(Debug, Default)]
pub struct Finished {
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// `grpc-status`, from the trailers or a trailers-only response.
    pub grpc_status: Option<u16>,
}

/// Why an exchange ended early.
#[derive(Debug)]
pub enum ExchangeError<E> {
    /// The client reset the stream or left.
    ClientClosed,
    /// The server reset the stream or left; true if it certainly did not process the request.
    Server(h2::Error, bool),
    /// The caller did not want this response; nothing of it was sent.
    Unwanted(E),
}

/// Sends the request, has the response's head looked at, and relays both bodies.
///
/// `judge` may edit the head, or refuse the response so that the request can go to another server.
pub async fn run<E>(
    mut sender: SendRequest<Bytes>,
    request: Request<()>,
    body: &mut Source,
    respond: &mut SendResponse<Bytes>,
    judge: impl FnOnce(&mut ResponseHead) -> Result<(), E>,
) -> Result<Finished, ExchangeError<E>> {
    let whole = body.is_empty();
    let sent = sender.send_request(request, whole);
    let (response, mut to_server) = sent.map_err(|error| ExchangeError::Server(error, true))?;
    let mut upload = Upload { relay: (!whole).then(|| Box::pin(body.relay(&mut to_server))) };
    let mut response = pin!(response);
    let response = poll_fn(|cx| {
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(ExchangeError::ClientClosed));
        }
        upload.poll(cx)?;
        response.as_mut().poll(cx).map_err(|error| {
            let unprocessed = is_unprocessed(&error);
            ExchangeError::Server(error, unprocessed)
        })
    })
    .await?;
    let (parts, from_server) = response.into_parts();
    let mut head = ResponseHead::from_parts(parts);
    judge(&mut head).map_err(ExchangeError::Unwanted)?;
    let end = from_server.is_end_stream();
    let to_client = respond.send_response(head.to_parts(), end).map_err(|_| ExchangeError::ClientClosed)?;
    let from_head = grpc_status_of(|name| head.header(name));
    if end {
        return Ok(Finished { response_bytes: 0, grpc_status: from_head });
    }
    let finished = download(from_server, to_client, upload).await?;
    Ok(Finished { grpc_status: finished.grpc_status.or(from_head), ..finished })
}

/// Does what must come before a request can be sent, for as long as its client waits for a response; `None`: it does not.
///
/// Without this, a client that opens streams and resets them while its server is busy would leave a task for each behind.
pub async fn while_wanted<T>(respond: &mut SendResponse<Bytes>, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Whether the server says, or its ending implies, that nothing was done about the request.
pub fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    // GOAWAY fails just the streams it says were not processed.
    refused || (error.is_go_away() && error.is_remote())
}

struct Upload<F> {
    relay: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = Result<(), BodyError>>> Upload<F> {
    /// Moves the request's body on.
    fn poll<E>(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError<E>> {
        let Some(relay) = &mut self.relay else { return Ok(()) };
        match relay.as_mut().poll(cx) {
            Poll::Pending => return Ok(()),
            // A server that takes no more may have answered already, so its answer is still waited for.
            Poll::Ready(Ok(()) | Err(BodyError::Receiver(_))) => {}
            Poll::Ready(Err(BodyError::Sender(_))) => return Err(ExchangeError::ClientClosed),
        }
        self.relay = None;
        Ok(())
    }
}

async fn download<E, F>(
    from_server: RecvStream,
    mut to_client: SendStream<Bytes>,
    mut upload: Upload<F>,
) -> Result<Finished, ExchangeError<E>>
where
    F: Future<Output = Result<(), BodyError>>,
{
    let mut body = Source::new(from_server);
    let outcome = {
        let mut relay = pin!(body.relay(&mut to_client));
        poll_fn(|cx| {
            upload.poll(cx)?;
            relay.as_mut().poll(cx).map(Ok)
        })
        .await?
    };
    match outcome {
        Ok(()) => Ok(Finished {
            response_bytes: body.bytes,
            grpc_status: body.trailers().and_then(|trailers: &HeaderMap| {
                grpc_status_of(|name| trailers.get(name).map(http::HeaderValue::as_bytes))
            }),
        }),
        Err(BodyError::Receiver(_)) => Err(ExchangeError::ClientClosed),
        Err(BodyError::Sender(error)) => {
            let reason = error.reason().filter(|_| error.is_reset()).unwrap_or(Reason::INTERNAL_ERROR);
            to_client.send_reset(reason);
            Err(ExchangeError::Server(error, false))
        }
    }
}

fn grpc_status_of<'a>(header: impl Fn(&'static str) -> Option<&'a [u8]>) -> Option<u16> {
    std::str::from_utf8(header("grpc-status")?).ok()?.parse().ok()
}

/// Sends a response that the mesh made itself.
pub fn answer(respond: &mut SendResponse<Bytes>, response: Response<Bytes>) -> Result<(), h2::Error> {
    let (parts, body) = response.into_parts();
    let mut stream = respond.send_response(Response::from_parts(parts, ()), body.is_empty())?;
    if body.is_empty() { Ok(()) } else { stream.send_data(body, true) }
}
