//! The admin port and socket, and the health and metrics port. Paths and JSON are those of [`proto::admin`].
//!
//! Admin listens on loopback and on a socket only its owner may open: whoever reaches it may change the log level and
//! start draining. Health answers on every address and knows nothing but readiness, metrics and the application's probes
//! that the kubelet was pointed at us with.

pub mod client;
mod open;
mod probe;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt as _, Either, Full, Limited, StreamBody};
use hyper::body::{Body, Frame};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::admin::Info;
use proto::names;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::Config;
use crate::control::Discovery;
use crate::control::state::{ControlState, since_1970};
use crate::drain::{Drain, Phase};
use crate::telemetry::Telemetry;
use crate::telemetry::exposition::{Exposition, Text};
use crate::telemetry::log::LogControl;

pub use probe::Probes;

use open::Open;

/// What the answers are made from.
#[derive(Debug)]
pub struct Admin {
    /// What the proxy started from.
    pub config: Config,
    /// The picture of the world.
    pub discovery: Discovery,
    /// Stream and certificate.
    pub state: ControlState,
    /// Metrics and failures.
    pub telemetry: Telemetry,
    /// The phase, and the way to start draining.
    pub drain: Drain,
    /// The log's filter.
    pub log: LogControl,
    /// When the process started.
    pub started: SystemTime,
    /// The application's probes.
    pub probes: Probes,
}

/// Who asks: what is answered depends on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Loopback or the socket: everything.
    Admin,
    /// From anywhere: readiness and metrics.
    Health,
}

/// An answer's body: at once, or piece by piece for metrics.
type Answer = Either<Full<Bytes>, StreamBody<stream::Iter<Pieces>>>;
type Pieces = std::iter::Map<Exposition, fn(String) -> Result<Frame<Bytes>, Infallible>>;

impl Admin {
    /// Serves a TCP listener. Never returns.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, scope: Scope) {
        let mut open = Open::default();
        loop {
            match listener.accept().await {
                Ok((stream, from)) => open.push(from.ip(), tokio::spawn(self.clone().connection(stream, scope))),
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Serves the socket. Never returns.
    pub async fn serve_socket(self: Arc<Self>, listener: UnixListener) {
        let mut open = Open::default();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => open.push(ONESELF, tokio::spawn(self.clone().connection(stream, Scope::Admin))),
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn connection<S>(self: Arc<Self>, stream: S, scope: Scope)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(|request| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.answer(scope, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        // However it ends, nobody is left to tell.
        let _ = tokio::time::timeout(LONGEST_CONNECTION, connection).await;
    }

    /// Answers one request.
    pub async fn answer<B>(&self, scope: Scope, request: Request<B>) -> Response<Answer>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let open = matches!(head.uri.path(), "/ready" | "/live" | "/metrics" | "/stats/prometheus");
        if head.uri.path().starts_with(names::APP_PROBE_PREFIX) {
            return self.probe(&head).await;
        }
        if scope == Scope::Health && !open {
            return text(StatusCode::NOT_FOUND, "here are /ready, /live and /metrics; the rest is on the admin port\n");
        }
        match (head.uri.path(), &head.method) {
            ("/log", &Method::PUT) => self.set_log(body).await,
            ("/drain", &Method::POST) => {
                tracing::info!("draining was asked for");
                self.drain.advance(Phase::Draining);
                text(StatusCode::OK, "draining\n")
            }
            (path, &Method::GET) => self.get(path),
            (_, _) => text(StatusCode::METHOD_NOT_ALLOWED, "GET; PUT for /log, POST for /drain\n"),
        }
    }

    fn get(&self, path: &str) -> Response<Answer> {
        match path {
            "/info" => json(&self.info()),
            "/identity" => json(&self.state.identity()),
            "/discovery" => json(&self.state.discovery(&self.discovery)),
            "/failures" => json(&self.telemetry.failures.list()),
            "/config" => json(&self.config.bootstrap),
            "/log" => text(StatusCode::OK, &(self.log.current() + "\n")),
            "/metrics" | "/stats/prometheus" => self.metrics(),
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => match self.unready() {
                reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n"),
                reasons => text(StatusCode::SERVICE_UNAVAILABLE, &(reasons.join("\n") + "\n")),
            },
            "/drain" => text(StatusCode::METHOD_NOT_ALLOWED, "POST starts draining\n"),
            _ => text(StatusCode::NOT_FOUND, PATHS),
        }
    }

    /// Probes the application for the kubelet.
    async fn probe(&self, head: &request::Parts) -> Response<Answer> {
        let path = head.uri.path();
        if head.method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET asks for a probe\n");
        }
        let Some(probe) = self.config.bootstrap.probes.get(path) else {
            return text(StatusCode::NOT_FOUND, "the pod has no such probe\n");
        };
        match self.probes.run(path, probe, head.headers.get(header::USER_AGENT)).await {
            Ok(answer) => {
                if answer.status.as_u16() >= 400 {
                    tracing::info!(path, status = answer.status.as_u16(), "the application does not pass its probe");
                }
                text(answer.status, &answer.shown())
            }
            Err(reason) => {
                tracing::info!(path, reason, "the application does not pass its probe");
                text(StatusCode::SERVICE_UNAVAILABLE, &probe::shown(reason.as_bytes()))
            }
        }
    }

    /// Why the proxy is not ready, line by line.
    ///
    /// While it drains it is ready: whatever comes is served. Kubernetes sends new clients elsewhere because the pod ends,
    /// not because of this; where all pods of a Service end at once they serve on, which it takes a ready pod for
    /// (`ProxyTerminatingEndpoints`).
    fn unready(&self) -> Vec<String> {
        let mut reasons = self.state.missing(&self.discovery, SystemTime::now());
        if self.drain.phase() >= Phase::Closing {
            reasons.push("draining".to_owned());
        }
        reasons
    }

    fn info(&self) -> Info {
        let workload = &self.config.bootstrap.workload;
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workload: workload.name.clone(),
            owner: workload.owner.clone(),
            namespace: workload.namespace.clone(),
            pid: std::process::id(),
            started_ms: since_1970(self.started),
            ready: self.unready().is_empty(),
            draining: self.drain.phase() > Phase::Serving,
        }
    }

    fn metrics(&self) -> Response<Answer> {
        let mut preamble = Text::default();
        let workload = &self.config.bootstrap.workload;
        preamble.family("mesh_build_info", "gauge", "1, with the version in a label.");
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("workload", workload.owner.as_str())];
        preamble.sample("mesh_build_info", &labels, 1);
        self.state.write_metrics(&mut preamble);
        let exposition = Exposition::new(&self.telemetry.metrics, preamble.into_string());
        let frame: fn(String) -> _ = |piece| Ok(Frame::data(piece.into()));
        let body = Either::Right(StreamBody::new(stream::iter(exposition.map(frame))));
        response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
    }

    async fn set_log<B>(&self, body: B) -> Response<Answer>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let collecting = Limited::new(body, LARGEST_FILTER).collect();
        let Ok(Ok(filter)) = tokio::time::timeout(PATIENCE, Box::pin(collecting)).await else {
            return text(
                StatusCode::BAD_REQUEST,
                "send the filter as the body, for example info or warn,proxy=debug\n",
            );
        };
        let filter = String::from_utf8_lossy(&filter.to_bytes()).into_owned();
        match self.log.set(&filter) {
            Ok(()) => {
                tracing::info!(filter, "the log filter was changed");
                text(StatusCode::OK, &(self.log.current() + "\n"))
            }
            Err(error) => text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        }
    }
}

/// Out of file descriptors, or the like: other connections must end first.
async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept on the admin or health port");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn json(value: &impl serde::Serialize) -> Response<Answer> {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            response(StatusCode::OK, "application/json", Either::Left(Full::new(bytes.into())))
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Answer> {
    response(status, "text/plain; charset=utf-8", Either::Left(Full::new(Bytes::copy_from_slice(text.as_bytes()))))
}

fn response(status: StatusCode, kind: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const PATHS: &str = "/info /identity /discovery /failures /config /metrics /log /drain /ready /live\n";
/// Who comes by the socket is one user.
const ONESELF: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_CONNECTION: Duration = Duration::from_secs(300);
const LARGEST_HEAD: usize = 16 * 1024;
const LARGEST_FILTER: usize = 1024;

#[cfg(test)]
mod tests;
