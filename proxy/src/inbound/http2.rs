//! HTTP/2 requests for the application, over connections of their own to it: one per client connection, more when its
//! streams run out.

use std::rc::Rc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::HeaderValue;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::http::{IDENTITY, forwarded_identity, series};
use super::{Caller, Port, dial_app};
use crate::Error;
use crate::drain::Phase;
use crate::http::h2::body::Source;
use crate::http::h2::exchange::{self, ExchangeError, Finished};
use crate::http::h2::links::Links;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::respond;
use crate::net::prefixed::Prefixed;
use crate::stream::Stream;
use crate::telemetry::{Direction, RequestOutcome, RequestProtocol, RequestSeries};
use crate::worker::Worker;

/// Serves a connection that speaks HTTP/2.
pub async fn serve(worker: &Rc<Worker>, client: Prefixed<Stream>, caller: &Caller, port: &Port) -> Result<(), Error> {
    let broken = |error: h2::Error| Error::Protocol(format!("the client broke HTTP/2: {error}"));
    let max_head = crate::http::h2::max_head(worker.shared.config.bootstrap.max_head_bytes);
    let mut connection = crate::http::h2::server(max_head).handshake(client).await.map_err(broken)?;
    let desk = Rc::new(Desk {
        worker: Rc::clone(worker),
        caller: caller.name(),
        port: port.clone(),
        series: [RequestProtocol::Http, RequestProtocol::Grpc].map(|kind| series(worker, caller, port, kind)),
        identity: forwarded_identity(worker, caller),
        links: Links::new(port.address, max_head),
    });
    let announced = worker.shared.drain.reached(Phase::Announcing);
    tokio::pin!(announced);
    let mut leaving = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = &mut announced, if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        match accepted {
            Some(Ok((request, respond))) => drop(spawn_local(stream(Rc::clone(&desk), request, respond))),
            None => return Ok(()),
            Some(Err(error)) if error.is_io() => return Ok(()),
            Some(Err(error)) => return Err(broken(error)),
        }
    }
}

/// One client's connection, and the application's that belong to it.
struct Desk {
    worker: Rc<Worker>,
    caller: String,
    port: Port,
    series: [RequestSeries; 2],
    identity: Option<HeaderValue>,
    links: Links,
}

/// One request, from its head to the last byte of its response.
async fn stream(desk: Rc<Desk>, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let start = Instant::now();
    let _in_flight = desk.worker.shared.telemetry.metrics.in_flight(Direction::Inbound);
    let (parts, body) = request.into_parts();
    let mut body = Source::replayable(body);
    let mut status = None;
    let (outcome, grpc) = match RequestHead::from_parts(parts) {
        Ok(mut head) => {
            let grpc = head.is_grpc();
            (forward(&desk, &mut head, &mut body, &mut respond, &mut status).await, grpc)
        }
        Err(_) => (Err(Error::RequestInvalid("Host and :authority differ")), false),
    };
    let duration = Instant::now().saturating_duration_since(start);
    let observed = match outcome {
        Ok(finished) => RequestOutcome {
            status: status.unwrap_or_default(),
            grpc_status: finished.grpc_status,
            reason: None,
            duration,
            request_bytes: body.bytes,
            response_bytes: finished.response_bytes,
        },
        Err(error) => {
            let response = respond::response(&error, grpc);
            let grpc_status = respond::grpc_status(&response);
            let answered = status;
            let status = status.unwrap_or(response.status().as_u16());
            let address = desk.port.address.to_string();
            desk.worker.shared.failed(Direction::Inbound, &desk.caller, &address, &error, status);
            if answered.is_some() {
                respond.send_reset(h2::Reason::INTERNAL_ERROR);
            } else if exchange::answer(&mut respond, response).is_err() {
                respond.send_reset(h2::Reason::CANCEL);
            }
            RequestOutcome { status, grpc_status, reason: Some(error.reason()), duration, ..RequestOutcome::default() }
        }
    };
    desk.series[usize::from(grpc)].observe(&observed);
}

/// Sends the request to the application; once more where its connection had ended unnoticed, or takes no more streams.
async fn forward(
    desk: &Desk,
    head: &mut RequestHead,
    body: &mut Source,
    respond: &mut SendResponse<Bytes>,
    status: &mut Option<u16>,
) -> Result<Finished, Error> {
    let address = desk.port.address;
    head.edits.remove(IDENTITY);
    if let Some(identity) = &desk.identity {
        head.edits.set(IDENTITY, identity.clone());
    }
    let mut again = true;
    loop {
        let request = head.to_parts().ok_or(Error::RequestInvalid("the target cannot be forwarded over HTTP/2"))?;
        let dial = async || dial_app(&desk.worker, address).await;
        let leasing = async {
            let lease = desk.links.lease(dial).await?;
            let sender = lease.sender().await;
            Ok::<_, Error>((lease, sender))
        };
        let leased = exchange::while_wanted(respond, Box::pin(leasing)).await.ok_or(Error::ClientClosed)?;
        let (lease, Ok(sender)) = leased? else {
            if std::mem::take(&mut again) {
                continue;
            }
            return Err(Error::AppClosed(address));
        };
        let judge = |head: &mut ResponseHead| {
            respond::disown(head);
            *status = Some(head.status().as_u16());
            Ok::<(), Error>(())
        };
        return match exchange::run(sender, request, body, respond, judge).await {
            Ok(finished) => Ok(finished),
            Err(ExchangeError::ClientClosed) => Err(Error::ClientClosed),
            Err(ExchangeError::Unwanted(error)) => Err(error),
            Err(ExchangeError::Server(error, unprocessed)) => {
                lease.note(&error);
                if unprocessed && body.is_replayable() && std::mem::take(&mut again) {
                    continue;
                }
                // The application has not looked at it: its clients may go elsewhere.
                Err(if unprocessed { Error::AppRefused(address) } else { Error::AppClosed(address) })
            }
        };
    }
}
