//! HTTPS for the webhooks: HTTP/1.1 and HTTP/2 behind TLS, with bounds on everything a stranger can use up.

use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use controller_runtime::incoming::{HandshakeMetrics, IncomingConfig, MeshStream, incoming};
use controller_runtime::preferred::Preferred;
use controller_runtime::shutdown::Shutdown;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use identity::{ClientCertificates, MeshTls};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

/// The address that a request comes from; in the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub struct Source(pub IpAddr);

/// Serves until `shutdown`, the preferred first; what is being answered then is answered.
pub async fn serve(
    listener: TcpListener,
    tls: MeshTls,
    handshakes: HandshakeMetrics,
    router: Router,
    shutdown: Shutdown,
    preferred: Preferred,
) {
    // The API server shows no certificate of ours, so that anybody is let in: what can be done about that is a NetworkPolicy,
    // and that no address gets more than its share.
    let config = IncomingConfig {
        protocols: &[b"h2", b"http/1.1"],
        max_pending: MOST_HANDSHAKES,
        max_pending_each: MOST_HANDSHAKES / 4,
        max_connections: MOST_CONNECTIONS,
        max_connections_each: MOST_CONNECTIONS / 16,
        preferred,
        ..IncomingConfig::new(ClientCertificates::None)
    };
    let mut connections = incoming(listener, tls, config, handshakes, shutdown.clone());
    let mut open = JoinSet::new();
    while let Some(connection) = connections.next().await {
        while open.try_join_next().is_some() {}
        let Ok(stream) = connection else { continue };
        open.spawn(serve_connection(stream, router.clone(), shutdown.clone()));
    }
    let _ = tokio::time::timeout(GRACE, async { while open.join_next().await.is_some() {} }).await;
}

async fn serve_connection(stream: MeshStream, router: Router, shutdown: Shutdown) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(LARGEST_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PATIENCE))
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(16 * 1024);
    let source = Source(stream.peer().address.ip());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(source);
        router.clone().oneshot(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // However it ends, nobody is left to tell.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.requested() => {}
        () = tokio::time::sleep(LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}

const MOST_HANDSHAKES: usize = 256;
const MOST_CONNECTIONS: usize = 1024;
const MOST_STREAMS: u32 = 100;
const LARGEST_HEAD: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// API servers keep a connection for as long as they may, and then never meet another replica.
const LIFE: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(5);
