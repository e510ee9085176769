//! A server for HTTP/1, HTTP/2 with prior knowledge and gRPC on one port. Its answers name it (`x-served-by`).
//!
//! - `?size=N`: N bytes of body (default 16). `?delay_ms=N`: answer after that long. `?status=N`: that status.
//! - `POST`: the body comes back. gRPC: the messages come back, `grpc-status: 0` in the trailers.
//! - gRPC's health service says that everything serves, but for the service `broken`.
//!
//! On SIGTERM it does what a well-behaved application does, and no more: it closes its listener and its idle
//! connections at once, finishes what is in flight, and leaves.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::told_to_stop;

/// Where and as whom to serve.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeOptions {
    /// `address:port` to listen on.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Name in `x-served-by`.
    #[arg(long, default_value = "server")]
    pub name: String,
    /// Ends TLS, with a certificate that it makes for itself.
    #[arg(long)]
    pub tls: bool,
}

/// Serves until SIGTERM.
pub async fn run(options: &ServeOptions) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    let told = async {
        // Without signal handlers, SIGTERM simply ends the process.
        if told_to_stop().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    if options.tls {
        tokio::select! {
            () = serve_tls(listener, options.name.clone(), own_certificate()?) => {}
            () = told => {}
        }
    } else {
        serve(listener, options.name.clone(), told).await;
    }
    Ok(())
}

/// HTTP/1 behind the application's own TLS.
async fn serve_tls(listener: TcpListener, name: String, acceptor: TlsAcceptor) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (name, acceptor) = (name.clone(), acceptor.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, name.clone()));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn own_certificate() -> anyhow::Result<TlsAcceptor> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["server".to_owned()])?.self_signed(&key)?;
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key.into());
    Ok(TlsAcceptor::from(Arc::new(config?)))
}

/// Serves until told, then finishes what is in flight.
pub async fn serve(listener: TcpListener, name: String, told: impl Future<Output = ()>) {
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut told = std::pin::pin!(told);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(stream, name.clone(), stopping.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = &mut told => break,
        }
    }
    drop(listener);
    drop(stop);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, name: String, mut stopping: watch::Receiver<()>) {
    let _ = stream.set_nodelay(true);
    let http2 = speaks_http2(&stream).await;
    let service = service_fn(move |request| answer(request, name.clone()));
    let io = TokioIo::new(stream);
    // The channel's sender is dropped on SIGTERM.
    let told = async move { while stopping.changed().await.is_ok() {} };
    // A peer that goes away is its own affair; the tests see failures at the client.
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let connection = builder.max_header_list_size(MAX_HEAD).serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = told => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .with_upgrades();
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = told => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// Whether the first bytes are HTTP/2's preface. Three bytes tell it from every HTTP/1 method.
async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut start = [0; 3];
    loop {
        match stream.peek(&mut start).await {
            Ok(3) => return &start == b"PRI",
            Ok(0) | Err(_) => return false,
            Ok(_) => tokio::task::yield_now().await,
        }
    }
}

async fn answer(request: Request<Incoming>, name: String) -> hyper::Result<Response<BoxBody<Bytes, hyper::Error>>> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let number = |key: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|value| value.parse::<u32>().ok())
    };
    if let Some(delay) = number("delay_ms") {
        tokio::time::sleep(Duration::from_millis(delay.into())).await;
    }
    let status = number("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(200);
    let response = Response::builder().status(status).header("x-served-by", name);
    let grpc =
        request.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let response = if request.uri().path() == HEALTH_CHECK {
        let question = request.into_body().collect().await?.to_bytes();
        let is_broken = question.ends_with(b"broken");
        let body = Bytes::from_static(if is_broken { NOT_SERVING } else { SERVING });
        let body = Full::new(body).map_err(|never: Infallible| match never {});
        let body = body.with_trailers(async { Some(Ok(grpc_ok())) });
        response.header("content-type", "application/grpc").body(body.boxed())
    } else if grpc {
        let body = request.into_body().with_trailers(async { Some(Ok(grpc_ok())) });
        response.header("content-type", "application/grpc").body(body.boxed())
    } else if request.method() == Method::POST {
        response.body(request.into_body().boxed())
    } else {
        let size = number("size").unwrap_or(16).min(MAX_SIZE) as usize;
        response.body(Full::new(Bytes::from(vec![b'x'; size])).map_err(|never: Infallible| match never {}).boxed())
    };
    Ok(response.unwrap_or_else(|_| Response::new(Full::default().map_err(|never: Infallible| match never {}).boxed())))
}

fn grpc_ok() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
}

/// gRPC Health Checking Protocol.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// One message: `status` (field 1) is SERVING, 1.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
/// The same with NOT_SERVING, 2.
const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 2];
const MAX_SIZE: u32 = 1 << 30;
/// More than the tests send; the default is less.
const MAX_HEAD: u32 = 1 << 20;
