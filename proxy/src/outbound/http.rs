//! HTTP/1 requests of the application: one loop per connection, one request after the other.
//!
//! Match, filter, draw a backend, choose an endpoint, send; try another endpoint where nothing can have reached an
//! application. Errors become responses at the end of [`Lane::request`] and nowhere else.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use policy::{Endpoint, Outbound};
use proto::Reason;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Destination;
use super::plan::{Plan, PlannedBackend, PlannedRule};
use super::record::Record;
use crate::Error;
use crate::balance::Member;
use crate::control::Watch;
use crate::http::client::{Server, cause_of};
use crate::http::h1::Limits;
use crate::http::h1::buffer::Buffer;
use crate::http::h1::connection::{Connection, ReadError};
use crate::http::h1::exchange::{Exchange, Finished};
use crate::http::h1::parse::{Request, Response};
use crate::http::head::RequestHead;
use crate::http::respond;
use crate::net::copy;
use crate::net::prefixed::Prefixed;
use crate::stream::Stream;
use crate::telemetry::RequestOutcome;
use crate::upstream::{MOST_TRIES, patience};
use crate::worker::Worker;

/// Serves a connection of the application that speaks HTTP/1.
pub async fn serve(worker: &Rc<Worker>, client: Prefixed<TcpStream>, destination: &Destination) {
    let (prefix, stream) = client.into_parts();
    let mut lane = Lane::new(worker, destination);
    let mut client = Connection::with_input(Stream::from(stream), Buffer::with_prefix(&prefix));
    loop {
        let request = match client.read_request(&lane.limits).await {
            Ok(Some(request)) => request,
            Ok(None) | Err(ReadError::Io(_)) => return,
            Err(ReadError::Refused(problem)) => {
                lane.refresh();
                let record = Record::new(worker, lane.address, &lane.plan, false);
                Box::pin(lane.fail(&mut client, &record, &Error::Request(problem), None)).await;
                return;
            }
        };
        match lane.request(&mut client, request).await {
            Next::Request => {}
            Next::Close => return,
            Next::Tunnel(server) => return Box::pin(tunnel(client, server.connection)).await,
        }
    }
}

/// One connection's view of where its requests go.
struct Lane<'w> {
    worker: &'w Rc<Worker>,
    address: SocketAddr,
    watch: Watch<Outbound>,
    plan: Rc<Plan>,
    limits: Limits,
}

/// What follows a request.
enum Next {
    Request,
    Close,
    Tunnel(Server),
}

/// Why a request failed, and whether it may be sent again.
struct Failure {
    error: Error,
    replayable: bool,
}

/// One try of a request.
#[derive(Clone, Copy)]
pub(super) struct Try<'a> {
    pub(super) rule: &'a PlannedRule,
    pub(super) backend: &'a PlannedBackend,
    pub(super) member: &'a Member,
    pub(super) limit: Limit,
}

impl Failure {
    fn last(error: Error) -> Self {
        Self { error, replayable: false }
    }
}

/// When a try ends at the latest, and what is said then.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    deadline: Option<Instant>,
    /// `timeouts.backendRequest` rather than `timeouts.request`.
    backend: bool,
    after: Duration,
}

impl<'w> Lane<'w> {
    fn new(worker: &'w Rc<Worker>, destination: &Destination) -> Self {
        let address = destination.address;
        let limits = Limits { head: worker.shared.config.bootstrap.max_head_bytes, ..Limits::default() };
        let watch = worker.shared.discovery.outbound(address);
        Self { worker, address, watch, plan: worker.plan(address, &destination.outbound), limits }
    }

    /// Follows discovery: one atomic load where nothing changed.
    fn refresh(&mut self) {
        if let Some(current) = self.watch.current().value()
            && !self.plan.is_of(&current)
        {
            self.plan = self.worker.plan(self.address, &current);
        }
    }

    /// One request, from its head to the last byte of its response.
    async fn request(&mut self, client: &mut Connection<Stream>, mut request: Request) -> Next {
        self.refresh();
        let plan = Rc::clone(&self.plan);
        let mut record = Record::new(self.worker, self.address, &plan, request.head.is_grpc());
        let outcome = match plan.rule(&request.head) {
            Ok(rule) => self.forward(client, &mut request, rule, &mut record).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok((finished, server)) => {
                let Finished { request_bytes, response_bytes, .. } = finished;
                record.done(RequestOutcome { request_bytes, response_bytes, ..RequestOutcome::default() });
                if finished.tunnel {
                    return Next::Tunnel(server);
                }
                let persistent = finished.client_persistent;
                if finished.server_persistent {
                    self.worker.http.put(server, Instant::now());
                }
                if persistent {
                    return Next::Request;
                }
                Box::pin(client.close()).await;
                Next::Close
            }
            Err(error) => Box::pin(self.fail(client, &record, &error, Some(&request))).await,
        }
    }

    /// Sends the request to a backend of its rule, and to another endpoint if that cannot do harm.
    async fn forward(
        &self,
        client: &mut Connection<Stream>,
        request: &mut Request,
        rule: &PlannedRule,
        record: &mut Record,
    ) -> Result<(Finished, Server), Error> {
        rule.filters.request(&mut request.head.edits);
        let backend = rule.backend(|below| rand::random_range(0..below))?;
        backend.filters.request(&mut request.head.edits);
        backend.ready(rule).await?;
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut last = None;
        let mut fresh = false;
        for attempt in 1..=MOST_TRIES {
            let now = Instant::now();
            let member = match backend.choose(self.address.is_ipv6(), &tried, now) {
                Ok(member) => member,
                Err(error) => return Err(last.unwrap_or(error)),
            };
            let go = Try { rule, backend, member: &member, limit: rule.limit(record.start, now) };
            let outcome = match self.connect(&go, &tried, fresh).await {
                Ok(server) => self.attempt(client, server, request, &go, record).await,
                Err(failure) => Err(failure),
            };
            let failure = match outcome {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if !failure.replayable || attempt == MOST_TRIES {
                return Err(failure.error);
            }
            record.retried();
            // A reused connection that ended says nothing about the endpoint.
            fresh = failure.error.reason() == Reason::ConnectionLost;
            if !fresh {
                tried.push(member.endpoint.address);
            }
            last = Some(failure.error);
        }
        Err(last.unwrap_or(Error::Internal("no try was made")))
    }

    async fn connect(&self, go: &Try<'_>, tried: &[SocketAddr], fresh: bool) -> Result<Server, Failure> {
        let Try { backend, member, limit, .. } = *go;
        let client = &self.worker.http;
        if let Some(server) = if fresh { None } else { client.take(&member.endpoint) } {
            return Ok(server);
        }
        let Some(name) = backend.server_name() else {
            return Err(Failure::last(Error::Internal("a backend without a name was chosen")));
        };
        let alone = !backend.has_other(self.address.is_ipv6(), tried.len());
        let patience = patience(tried.len(), alone);
        let connecting = Box::pin(client.connect(self.worker, &member.endpoint, name, patience));
        match limit.within(connecting).await {
            Ok(Ok(server)) => {
                member.load.connected();
                Ok(server)
            }
            Ok(Err(error)) => {
                self.worker.hold_off(&member.load, Instant::now());
                Err(Failure { replayable: error.retryable(), error })
            }
            Err(error) => Err(Failure::last(error)),
        }
    }

    /// One try on one connection.
    async fn attempt(
        &self,
        client: &mut Connection<Stream>,
        mut server: Server,
        request: &Request,
        go: &Try<'_>,
        record: &mut Record,
    ) -> Result<(Finished, Server), Failure> {
        let Try { rule, backend, member, limit } = *go;
        let in_flight = member.load.start();
        let sent_at = Instant::now();
        record.tried(go, sent_at);
        let sent = {
            let sending = pin!(Exchange::send(client, &mut server.connection, request, &self.limits));
            limit.within(sending).await.map_err(Failure::last)?
        };
        let (exchange, mut response) = match sent {
            Ok(answered) => answered,
            Err(failed) => {
                let (error, replayable) = cause_of(failed, &server, is_idempotent(&request.head));
                return Err(Failure { error, replayable });
            }
        };
        let now = Instant::now();
        in_flight.load().answered(now.saturating_duration_since(sent_at), now);
        if let Some(reason) = refused(&member.endpoint, &response) {
            let error = Error::Told { address: member.endpoint.address, reason };
            if error.retryable() && exchange.is_replayable() {
                self.worker.hold_off(in_flight.load(), now);
                return Err(Failure { error, replayable: true });
            }
        }
        rule.filters.response(&mut response.head.edits);
        backend.filters.response(&mut response.head.edits);
        record.answered = Some(response.head.status().as_u16());
        let finished = {
            let finishing = pin!(exchange.finish(client, &mut server.connection, response, false));
            limit.within(finishing).await.map_err(Failure::last)?
        };
        match finished {
            Ok(finished) => Ok((finished, server)),
            Err(failed) => Err(Failure::last(cause_of(failed, &server, false).0)),
        }
    }

    /// The one place where an error becomes a response to an HTTP/1 client of the application.
    async fn fail(
        &self,
        client: &mut Connection<Stream>,
        record: &Record,
        error: &Error,
        request: Option<&Request>,
    ) -> Next {
        let response = record.failed(error);
        if record.answered.is_some() || error.reason() == Reason::ClientClosed {
            // Half a response must not look like a whole one.
            client.io.reset_on_drop();
            return Next::Close;
        }
        if respond::answer(&response, request, client).await { Next::Request } else { Next::Close }
    }
}

impl PlannedRule {
    pub(super) fn limit(&self, start: Instant, now: Instant) -> Limit {
        let request = self.request_timeout.map(|after| (start + after, after));
        let backend = self.backend_timeout.map(|after| (now + after, after));
        match (request, backend) {
            (Some((until, after)), None) => Limit { deadline: Some(until), backend: false, after },
            (Some((until, after)), Some((earlier, _))) if until <= earlier => {
                Limit { deadline: Some(until), backend: false, after }
            }
            (_, Some((until, after))) => Limit { deadline: Some(until), backend: true, after },
            (None, None) => Limit { deadline: None, backend: false, after: Duration::ZERO },
        }
    }
}

impl Limit {
    /// Takes pinned work: a future that is moved into another counts twice in every connection's size.
    pub(super) async fn within<T>(self, work: impl Future<Output = T> + Unpin) -> Result<T, Error> {
        let Some(deadline) = self.deadline else { return Ok(work.await) };
        timeout_at(deadline, work).await.map_err(|_| {
            if self.backend { Error::BackendTimeout(self.after) } else { Error::RequestTimeout(self.after) }
        })
    }
}

/// What the peer's proxy says where the application has not seen the request.
fn refused(endpoint: &Endpoint, response: &Response) -> Option<Reason> {
    let from_mesh = endpoint.identity.is_some() && response.head.status() == http::StatusCode::SERVICE_UNAVAILABLE;
    if from_mesh { respond::told(&response.head) } else { None }
}

/// RFC 9110 §9.2.2: what may be sent twice.
pub fn is_idempotent(head: &RequestHead) -> bool {
    matches!(head.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// Both sides agreed to speak something else from here on.
async fn tunnel(client: Connection<Stream>, server: Connection<Stream>) {
    let mut client = into_pipe(client);
    let mut server = into_pipe(server);
    if copy::relay(&mut client, &mut server, |_, _| {}).await.is_err() {
        client.inner().reset_on_drop();
        server.inner().reset_on_drop();
    }
}

/// What was read beyond the head belongs to the new protocol.
pub fn into_pipe(mut connection: Connection<Stream>) -> Prefixed<Stream> {
    Prefixed::new(connection.input.take_all(), connection.io)
}

#[cfg(test)]
mod tests;
