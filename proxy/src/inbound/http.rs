//! HTTP/1 requests for the application: its connections are 1:1 with those of its clients, as it would see them
//! without a mesh.
//!
//! The application learns who calls from `x-forwarded-client-cert`, which nobody else can set.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::{Caller, Port, dial_app};
use crate::Error;
use crate::drain::Phase;
use crate::http::h1::Limits;
use crate::http::h1::buffer::Buffer;
use crate::http::h1::connection::{Connection, ReadError};
use crate::http::h1::exchange::{Exchange, ExchangeError, Finished};
use crate::http::h1::parse::Request;
use crate::http::pool::is_quiet;
use crate::http::respond;
use crate::net::copy;
use crate::net::prefixed::Prefixed;
use crate::outbound::http::{into_pipe, is_idempotent};
use crate::outbound::tcp::service_labels;
use crate::stream::Stream;
use crate::telemetry::labels::{EdgeLabels, Reporter, RequestLabels, SecurityPolicy};
use crate::telemetry::metrics::Held;
use crate::telemetry::{Direction, RequestOutcome, RequestProtocol, RequestSeries};
use crate::worker::Worker;

/// Serves a connection that speaks HTTP/1.
pub async fn serve(worker: &Rc<Worker>, client: Prefixed<Stream>, caller: &Caller, port: &Port) {
    let (prefix, stream) = client.into_parts();
    let mut client = Connection::with_input(stream, Buffer::with_prefix(&prefix));
    let mut desk = Desk::new(worker, caller, port);
    let closing = worker.shared.drain.reached(Phase::Closing);
    tokio::pin!(closing);
    loop {
        let read = tokio::select! {
            biased;
            read = client.read_request(&desk.limits) => read,
            // In order, so that a client which sends a request at this moment knows that nobody took it.
            () = &mut closing, if client.input.is_empty() => return Box::pin(client.close()).await,
        };
        let request = match read {
            Ok(Some(request)) => request,
            Ok(None) | Err(ReadError::Io(_)) => return,
            Err(ReadError::Refused(problem)) => {
                let record = Record::new(worker);
                Box::pin(desk.fail(&mut client, &record, &Error::Request(problem), None)).await;
                return;
            }
        };
        match desk.request(&mut client, request).await {
            Next::Request => {}
            Next::Close => return,
            Next::Tunnel => {
                let Some(app) = desk.app else { return };
                return Box::pin(tunnel(client, app)).await;
            }
        }
    }
}

/// Answers a plaintext client that may not come in, so that it can say why.
pub async fn refuse(worker: &Rc<Worker>, client: Prefixed<Stream>, caller: &Caller, port: &Port) {
    let (prefix, stream) = client.into_parts();
    let mut client = Connection::with_input(stream, Buffer::with_prefix(&prefix));
    let mut desk = Desk::new(worker, caller, port);
    let record = Record::new(worker);
    desk.fail(&mut client, &record, &Error::PlaintextRefused(caller.address), None).await;
}

/// One client's connection, and the application's that belongs to it.
struct Desk<'w> {
    worker: &'w Rc<Worker>,
    caller: &'w Caller,
    address: SocketAddr,
    limits: Limits,
    /// By [`RequestProtocol`]: HTTP, gRPC.
    series: [RequestSeries; 2],
    identity: Option<HeaderValue>,
    app: Option<Connection<Stream>>,
}

/// What follows a request.
enum Next {
    Request,
    Close,
    Tunnel,
}

struct Record {
    start: Instant,
    status: u16,
    answered: bool,
    _in_flight: Held,
}

impl Record {
    fn new(worker: &Worker) -> Self {
        let in_flight = worker.shared.telemetry.metrics.in_flight(Direction::Inbound);
        Self { start: Instant::now(), status: 0, answered: false, _in_flight: in_flight }
    }
}

impl<'w> Desk<'w> {
    fn new(worker: &'w Rc<Worker>, caller: &'w Caller, port: &Port) -> Self {
        Self {
            worker,
            caller,
            address: port.address,
            limits: Limits { head: worker.shared.config.bootstrap.max_head_bytes, ..Limits::default() },
            series: [RequestProtocol::Http, RequestProtocol::Grpc].map(|kind| series(worker, caller, port, kind)),
            identity: forwarded_identity(worker, caller),
            app: None,
        }
    }

    /// One request, from its head to the last byte of its response.
    async fn request(&mut self, client: &mut Connection<Stream>, mut request: Request) -> Next {
        let mut record = Record::new(self.worker);
        request.head.edits.remove(IDENTITY);
        if let Some(identity) = &self.identity {
            request.head.edits.set(IDENTITY, identity.clone());
        }
        match self.forward(client, &request, &mut record).await {
            Ok(finished) => {
                self.observe(
                    &request,
                    &RequestOutcome {
                        status: record.status,
                        duration: Instant::now().saturating_duration_since(record.start),
                        request_bytes: finished.request_bytes,
                        response_bytes: finished.response_bytes,
                        ..RequestOutcome::default()
                    },
                );
                if finished.tunnel {
                    return Next::Tunnel;
                }
                if !finished.server_persistent {
                    self.app = None;
                }
                if finished.client_persistent {
                    return Next::Request;
                }
                Box::pin(client.close()).await;
                Next::Close
            }
            Err(error) => Box::pin(self.fail(client, &record, &error, Some(&request))).await,
        }
    }

    /// Sends the request to the application; once more where its connection had ended unnoticed, or ends before it answers:
    /// an application that closes its listener resets what still waits there to be accepted.
    async fn forward(
        &mut self,
        client: &mut Connection<Stream>,
        request: &Request,
        record: &mut Record,
    ) -> Result<Finished, Error> {
        let mut reused = self.app.as_mut().is_some_and(|app| is_quiet(&mut app.io));
        let mut again = is_idempotent(&request.head);
        loop {
            if !reused {
                self.app = None;
                self.app = Some(Connection::new(Box::pin(dial_app(self.worker, self.address)).await?));
            }
            let app = self.app.as_mut().ok_or(Error::Internal("no connection to the application"))?;
            let (exchange, mut response) = match Exchange::send(client, app, request, &self.limits).await {
                Ok(answered) => answered,
                Err(ExchangeError::ServerClosed { replayable: true, .. }) if again => {
                    (reused, again) = (false, false);
                    continue;
                }
                Err(failed) => return Err(self.cause_of(&failed)),
            };
            respond::disown(&mut response.head);
            record.status = response.head.status().as_u16();
            record.answered = true;
            let close = self.worker.shared.drain.announces();
            return match exchange.finish(client, app, response, close).await {
                Ok(finished) => Ok(finished),
                Err(failed) => Err(self.cause_of(&failed)),
            };
        }
    }

    fn cause_of(&mut self, failed: &ExchangeError) -> Error {
        self.app = None;
        match *failed {
            ExchangeError::Request(problem) => Error::Request(problem),
            ExchangeError::Response(problem) => Error::Response(problem),
            ExchangeError::ClientClosed => Error::ClientClosed,
            ExchangeError::ServerClosed { .. } => Error::AppClosed(self.address),
        }
    }

    /// The one place where an error becomes a response to an HTTP/1 client of the workload.
    async fn fail(
        &mut self,
        client: &mut Connection<Stream>,
        record: &Record,
        error: &Error,
        request: Option<&Request>,
    ) -> Next {
        let shared = &self.worker.shared;
        let response = respond::response(error, request.is_some_and(|request| request.head.is_grpc()));
        let status = if record.answered { record.status } else { response.status().as_u16() };
        shared.failed(Direction::Inbound, &self.caller.name(), &self.address.to_string(), error, status);
        let duration = Instant::now().saturating_duration_since(record.start);
        let reason = Some(error.reason());
        let outcome = RequestOutcome { status, reason, duration, ..RequestOutcome::default() };
        match request {
            Some(request) => self.observe(request, &outcome),
            None => self.series[0].observe(&outcome),
        }
        if record.answered || matches!(error, Error::ClientClosed) {
            // Half a response must not look like a whole one.
            client.io.reset_on_drop();
            return Next::Close;
        }
        if respond::answer(&response, request, client).await { Next::Request } else { Next::Close }
    }

    fn observe(&self, request: &Request, outcome: &RequestOutcome) {
        self.series[usize::from(request.head.is_grpc())].observe(outcome);
    }
}

/// Where requests of a caller are counted. Resolved once per connection.
pub fn series(worker: &Worker, caller: &Caller, port: &Port, protocol: RequestProtocol) -> RequestSeries {
    let edge = EdgeLabels {
        reporter: Reporter::Destination,
        source: caller.labels.clone(),
        destination: worker.shared.labels.clone(),
        service: port.declared().and_then(|port| port.service.as_ref()).map(service_labels).unwrap_or_default().into(),
        security: if caller.id.is_some() { SecurityPolicy::MutualTls } else { SecurityPolicy::None },
    };
    worker.shared.telemetry.metrics.requests(&RequestLabels { edge, protocol, route: None })
}

/// `By=<own id>;URI=<caller's id>`, as Envoy writes it; nothing for plaintext.
pub fn forwarded_identity(worker: &Worker, caller: &Caller) -> Option<HeaderValue> {
    let id = caller.id.as_ref()?;
    HeaderValue::try_from(format!("By={};URI={id}", worker.shared.config.id)).ok()
}

async fn tunnel(client: Connection<Stream>, app: Connection<Stream>) {
    let mut client = into_pipe(client);
    let mut app = into_pipe(app);
    if copy::relay(&mut client, &mut app, |_, _| {}).await.is_err() {
        client.inner().reset_on_drop();
        app.inner().reset_on_drop();
    }
}

/// The caller's identity, as the application sees it.
pub const IDENTITY: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
