//! `/live`, `/ready` and `/metrics` on a port of their own, in plain HTTP.
//!
//! `/ready` answers 200 only while every condition holds, else 503 with one line per condition that does not: what a
//! person with curl wants to read.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Conditions that must hold before the program is ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeMap<&'static str, String>>>,
    remarks: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Ready from the start; [`Readiness::wait_for`] adds conditions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until `condition` is [`met`](Self::met), for the reason given. Replaces an earlier reason.
    pub fn wait_for(&self, condition: &'static str, reason: impl Into<String>) {
        self.missing.lock().insert(condition, reason.into());
    }

    /// The condition holds.
    pub fn met(&self, condition: &'static str) {
        self.missing.lock().remove(condition);
    }

    /// Something that whoever looks should know, though the program is ready; `None`: no more.
    pub fn remark(&self, about: &'static str, remark: Option<String>) {
        match remark {
            Some(remark) => self.remarks.lock().insert(about, remark),
            None => self.remarks.lock().remove(about),
        };
    }

    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        self.missing.lock().is_empty()
    }

    /// Remarks, or what is missing.
    fn report(&self) -> Result<String, String> {
        let lines =
            |of: &BTreeMap<&'static str, String>| of.iter().map(|(about, it)| format!("{about}: {it}\n")).collect();
        let missing = self.missing.lock();
        if missing.is_empty() { Ok(lines(&self.remarks.lock())) } else { Err(lines(&missing)) }
    }
}

/// Serves health and metrics for as long as the program lives; should that end, it is said.
pub async fn keep(listener: TcpListener, registry: Registry, readiness: Readiness) {
    if let Err(error) = serve(listener, Arc::new(registry), readiness, std::future::pending()).await {
        tracing::error!(%error, "health and metrics are gone");
    }
}

/// Serves health and metrics until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    serve_with(listener, registry, readiness, Router::new(), shutdown).await
}

/// As [`serve`], with routes of the program's own beside ours.
pub async fn serve_with(
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: Readiness,
    more: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready).with_state(readiness))
        .route("/metrics", get(metrics).with_state(registry))
        .merge(more);
    let mut open = Open::default();
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => open.push(tokio::spawn(connection(stream, router.clone()))),
                Err(error) => {
                    // Out of file descriptors, or the like: other connections must end first.
                    tracing::warn!(%error, "cannot accept on the health port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown => {}
    }
    Ok(())
}

async fn connection(stream: TcpStream, router: Router) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // However it ends, nobody is left to tell.
    let _ = tokio::time::timeout(LONGEST_CONNECTION, connection).await;
}

/// The open connections, the oldest first.
///
/// Where there is no room the oldest makes it: the port is open to all, and whoever opens connections and says nothing
/// must neither keep a probe waiting nor use up the descriptors that proxies need.
#[derive(Debug, Default)]
struct Open(VecDeque<JoinHandle<()>>);

impl Open {
    fn push(&mut self, connection: JoinHandle<()>) {
        if self.0.len() >= MOST_CONNECTIONS {
            self.0.retain(|connection| !connection.is_finished());
        }
        if self.0.len() >= MOST_CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(connection);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    match readiness.report() {
        Ok(remarks) => format!("ready\n{remarks}").into_response(),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing).into_response(),
    }
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}\n")).into_response()
        }
    }
}

/// What the OpenMetrics specification calls its text format.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const LARGEST_HEAD: usize = 16 * 1024;
const LONGEST_CONNECTION: Duration = Duration::from_secs(300);
const MOST_CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn request(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("mesh_example", "An example", counter.clone());
        counter.inc();
        let readiness = Readiness::new();
        readiness.wait_for("certificate", "mesh-identity does not answer");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(registry), readiness.clone(), std::future::pending()));

        assert!(request(address, "/live").await.starts_with("HTTP/1.1 200"));
        let answer = request(address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("certificate: mesh-identity does not answer\n"), "{answer}");
        readiness.met("certificate");
        assert!(request(address, "/ready").await.starts_with("HTTP/1.1 200"));
        readiness.remark("kubernetes", Some("one pod is odd".to_owned()));
        assert!(request(address, "/ready").await.ends_with("ready\nkubernetes: one pod is odd\n"));
        readiness.remark("kubernetes", None);
        assert!(request(address, "/ready").await.ends_with("ready\n"));
        assert!(request(address, "/metrics").await.contains("mesh_example_total 1"));
        server.abort();
    }

    #[tokio::test]
    async fn connections_that_say_nothing_keep_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Arc::new(Registry::default());
        let server = tokio::spawn(serve(listener, registry, Readiness::new(), std::future::pending()));
        let mut idle = Vec::new();
        for _ in 0..2 * MOST_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(request(address, "/live").await.starts_with("HTTP/1.1 200"));
        let first = tokio::time::timeout(PATIENCE / 2, idle[0].read(&mut [0; 1])).await;
        assert_eq!(first.expect("the oldest had to go").unwrap_or_default(), 0);
        server.abort();
    }
}
