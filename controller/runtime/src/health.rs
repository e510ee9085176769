//! Health and metrics of a control-plane program, on one port without TLS: kubelets and Prometheus have no certificate.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// What a program waits for before it is ready. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    missing: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Health {
    /// Ready from the start, until conditions are added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition that is not met yet; `/readyz` names it while it is not.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.missing.lock().insert(name);
        Condition { health: self.clone(), name }
    }

    /// Whether every condition is met.
    pub fn is_ready(&self) -> bool {
        self.missing.lock().is_empty()
    }
}

/// One thing readiness depends on.
#[derive(Debug, Clone)]
pub struct Condition {
    health: Health,
    name: &'static str,
}

impl Condition {
    /// Says whether it is met now.
    pub fn set(&self, met: bool) {
        let mut missing = self.health.missing.lock();
        if met {
            missing.remove(self.name);
        } else {
            missing.insert(self.name);
        }
    }
}

/// Serves `/livez`, `/readyz` and `/metrics` until dropped.
pub async fn serve_health(listener: TcpListener, health: Health, registry: Registry) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(health)
        .merge(Router::new().route("/metrics", get(metrics)).with_state(Arc::new(registry)));
    axum::serve(listener, router).await
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    let missing = health.missing.lock();
    if missing.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let names: Vec<&str> = missing.iter().copied().collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", names.join(", ")))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn says_what_is_missing_and_shows_metrics() {
        let (health, mut registry) = (Health::new(), Registry::default());
        let counter: Counter = Counter::default();
        registry.register("mesh_things", "Things", counter.clone());
        counter.inc();
        let issuer = health.condition("issuer");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_health(listener, health.clone(), registry));
        assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("waiting for issuer\n"), "{answer}");
        issuer.set(true);
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(health.is_ready());
        assert!(fetch(address, "/metrics").await.contains("mesh_things_total 1"));
        server.abort();
    }
}
