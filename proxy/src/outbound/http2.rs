//! HTTP/2 requests of the application, gRPC among them: one task per stream, each routed by itself.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use policy::{Endpoint, Outbound};
use proto::Reason;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::Destination;
use super::http::Try;
use super::plan::Plan;
use super::record::Record;
use crate::Error;
use crate::http::h2::body::Source;
use crate::http::h2::exchange::{self, ExchangeError, Finished};
use crate::http::h2::links::Lease;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::respond;
use crate::net::prefixed::Prefixed;
use crate::telemetry::RequestOutcome;
use crate::upstream::{MOST_TRIES, patience};
use crate::worker::Worker;

/// Serves a connection of the application that speaks HTTP/2.
pub async fn serve(worker: &Rc<Worker>, client: Prefixed<TcpStream>, destination: &Destination) -> Result<(), Error> {
    let broken = |error: h2::Error| Error::Protocol(format!("the client broke HTTP/2: {error}"));
    let max_head = crate::http::h2::max_head(worker.shared.config.bootstrap.max_head_bytes);
    let mut connection = crate::http::h2::server(max_head).handshake(client).await.map_err(broken)?;
    let watch = worker.shared.discovery.outbound(destination.address);
    let mut found = Arc::clone(&destination.outbound);
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = match accepted {
            Ok(accepted) => accepted,
            // A client that just leaves is no news.
            Err(error) if error.is_io() => break,
            Err(error) => return Err(broken(error)),
        };
        if let Some(current) = watch.current().value() {
            found = current;
        }
        spawn_local(stream(Rc::clone(worker), destination.address, Arc::clone(&found), request, respond));
    }
    Ok(())
}

/// A try that failed, and whether nothing can have been done about the request.
struct Failure {
    error: Error,
    unprocessed: bool,
}

/// One request, from its head to the last byte of its response.
async fn stream(
    worker: Rc<Worker>,
    address: SocketAddr,
    found: Arc<Outbound>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let plan = worker.plan(address, &found);
    let (parts, body) = request.into_parts();
    let mut body = Source::replayable(body);
    let (outcome, record) = match RequestHead::from_parts(parts) {
        Ok(mut head) => {
            let mut record = Record::new(&worker, address, &plan, head.is_grpc());
            let streams = (&mut body, &mut respond);
            (forward(&worker, address, &plan, &mut head, streams, &mut record).await, record)
        }
        Err(_) => {
            let record = Record::new(&worker, address, &plan, false);
            (Err(Error::RequestInvalid("Host and :authority differ")), record)
        }
    };
    match outcome {
        Ok(Finished { response_bytes, grpc_status }) => {
            let request_bytes = body.bytes;
            record.done(RequestOutcome { request_bytes, response_bytes, grpc_status, ..RequestOutcome::default() });
        }
        Err(error) => fail(&record, &error, &mut respond),
    }
}

async fn forward(
    worker: &Rc<Worker>,
    address: SocketAddr,
    plan: &Plan,
    head: &mut RequestHead,
    (body, respond): (&mut Source, &mut SendResponse<Bytes>),
    record: &mut Record,
) -> Result<Finished, Error> {
    let rule = plan.rule(head)?;
    rule.filters.request(&mut head.edits);
    let backend = rule.backend(|below| rand::random_range(0..below))?;
    backend.filters.request(&mut head.edits);
    exchange::while_wanted(respond, backend.ready(rule)).await.ok_or(Error::ClientClosed)??;
    let request = head.to_parts().ok_or(Error::RequestInvalid("the target cannot be forwarded over HTTP/2"))?;
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last = None;
    for attempt in 1..=MOST_TRIES {
        let now = Instant::now();
        let member = match backend.choose(address.is_ipv6(), &tried, now) {
            Ok(member) => member,
            Err(error) => return Err(last.unwrap_or(error)),
        };
        let alone = !backend.has_other(address.is_ipv6(), tried.len());
        let go = Try { rule, backend, member: &member, limit: rule.limit(record.start, now) };
        let connecting = connect(worker, &go, patience(tried.len(), alone));
        let leased = exchange::while_wanted(respond, connecting).await.ok_or(Error::ClientClosed)?;
        let lease = match leased {
            Ok(lease) => lease,
            Err(error) if error.retryable() && attempt < MOST_TRIES => {
                record.retried();
                tried.push(member.endpoint.address);
                last = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let sending = copy_of(&request);
        let failure = match try_once(&lease, sending, (&mut *body, &mut *respond), &go, record).await {
            Ok(finished) => return Ok(finished),
            Err(failure) => failure,
        };
        if !failure.unprocessed || !body.is_replayable() || attempt == MOST_TRIES || record.answered.is_some() {
            return Err(failure.error);
        }
        record.retried();
        // A connection that ended says nothing about the endpoint.
        if failure.error.reason() != Reason::ConnectionLost {
            tried.push(member.endpoint.address);
        }
        last = Some(failure.error);
    }
    Err(last.unwrap_or(Error::Internal("no try was made")))
}

async fn connect(worker: &Rc<Worker>, go: &Try<'_>, patience: Duration) -> Result<Lease, Error> {
    let Some(name) = go.backend.server_name() else {
        return Err(Error::Internal("a backend without a name was chosen"));
    };
    let leased = go.limit.within(Box::pin(worker.http.lease(worker, &go.member.endpoint, name, patience))).await?;
    match leased {
        Ok(lease) => {
            go.member.load.connected();
            Ok(lease)
        }
        Err(error) => {
            worker.hold_off(&go.member.load, Instant::now());
            Err(error)
        }
    }
}

/// One try on one connection.
async fn try_once(
    lease: &Lease,
    request: http::Request<()>,
    (body, respond): (&mut Source, &mut SendResponse<Bytes>),
    go: &Try<'_>,
    record: &mut Record,
) -> Result<Finished, Failure> {
    let endpoint = &go.member.endpoint;
    let in_flight = go.member.load.start();
    let sent_at = Instant::now();
    record.tried(go, sent_at);
    let lost = |_| Failure { error: Error::ConnectionLost(endpoint.address), unprocessed: true };
    let gone = || Failure { error: Error::ClientClosed, unprocessed: false };
    let sender = exchange::while_wanted(respond, lease.sender()).await.ok_or_else(gone)?.map_err(lost)?;
    let judge = |head: &mut ResponseHead| {
        let now = Instant::now();
        in_flight.load().answered(now.saturating_duration_since(sent_at), now);
        if let Some(error) = refused(endpoint, head) {
            return Err(error);
        }
        go.rule.filters.response(&mut head.edits);
        go.backend.filters.response(&mut head.edits);
        record.answered = Some(head.status().as_u16());
        Ok(())
    };
    let exchange = pin!(exchange::run(sender, request, body, respond, judge));
    let outcome = go.limit.within(exchange).await.map_err(|error| Failure { error, unprocessed: false })?;
    outcome.map_err(|failed| match failed {
        ExchangeError::ClientClosed => Failure { error: Error::ClientClosed, unprocessed: false },
        ExchangeError::Unwanted(error) => Failure { error, unprocessed: true },
        ExchangeError::Server(error, unprocessed) => {
            lease.note(&error);
            let error = if unprocessed {
                Error::ConnectionLost(endpoint.address)
            } else if error.is_reset() {
                Error::Protocol(format!("{} reset the stream: {error}", endpoint.address))
            } else {
                Error::ConnectionClosed(endpoint.address)
            };
            Failure { error, unprocessed }
        }
    })
}

/// The one place where an error becomes a response to an HTTP/2 client of the application.
fn fail(record: &Record, error: &Error, respond: &mut SendResponse<Bytes>) {
    let response = record.failed(error);
    if record.answered.is_some() {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
    } else if exchange::answer(respond, response).is_err() {
        respond.send_reset(h2::Reason::CANCEL);
    }
}

/// What the peer's proxy says where the application has not seen the request, gRPC's form of it included.
fn refused(endpoint: &Endpoint, head: &ResponseHead) -> Option<Error> {
    endpoint.identity.as_ref()?;
    let error = Error::Told { address: endpoint.address, reason: respond::told(head)? };
    error.retryable().then_some(error)
}

fn copy_of(request: &http::Request<()>) -> http::Request<()> {
    let mut copy = http::Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[cfg(test)]
mod tests;
