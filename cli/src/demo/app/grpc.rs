//! Just enough gRPC for one unary call: HTTP/2, a message behind its five bytes, the status in the trailers.

use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;
use http_body_util::combinators::WithTrailers;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Runs what an HTTP/2 connection does in the background.
#[derive(Debug, Clone, Copy)]
pub(super) struct Executor;

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(task);
    }
}

type Trailers = std::future::Ready<Option<Result<HeaderMap, Infallible>>>;

/// Answers any call with an empty message and the status OK.
pub(super) async fn answer(
    request: Request<Incoming>,
) -> Result<Response<WithTrailers<Full<Bytes>, Trailers>>, Infallible> {
    // The whole message first, as a real server would: a response that overtakes its request resets the stream.
    Limited::new(request.into_body(), MAX_MESSAGE).collect().await.ok();
    let trailers =
        HeaderMap::from_iter([("grpc-status".parse().expect("a valid name"), "0".parse().expect("a valid value"))]);
    let body = Full::new(EMPTY_MESSAGE).with_trailers(std::future::ready(Some(Ok(trailers))));
    let response = Response::builder().header("content-type", "application/grpc").body(body);
    Ok(response.expect("the header is valid"))
}

/// Opens a connection that carries any number of calls.
pub(super) async fn connect(stream: TcpStream) -> Result<SendRequest<Full<Bytes>>, String> {
    let connection = hyper::client::conn::http2::handshake(Executor, TokioIo::new(stream)).await;
    let (sender, connection) = connection.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Makes one call.
pub(super) async fn call(sender: &mut SendRequest<Full<Bytes>>, host: &str) -> Result<(), String> {
    let request = Request::post(format!("http://{host}/shop.Payments/Pay"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(EMPTY_MESSAGE))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| format!("no response: {error}"))?;
    let (head, body) = response.into_parts();
    let body =
        Limited::new(body, MAX_MESSAGE).collect().await.map_err(|error| format!("the response broke off: {error}"))?;
    // A server that fails at once may send the status with the headers.
    let status =
        body.trailers().and_then(|trailers| trailers.get("grpc-status")).or_else(|| head.headers.get("grpc-status"));
    match status.map(|status| status.as_bytes()) {
        Some(b"0") if head.status == 200 => Ok(()),
        status => {
            let explained = head.headers.get("proxy-status").map(|value| String::from_utf8_lossy(value.as_bytes()));
            let status = status.map(String::from_utf8_lossy).unwrap_or_default();
            Err(format!("{} grpc-status {status:?} {}", head.status.as_u16(), explained.unwrap_or_default()))
        }
    }
}

/// Not compressed, no bytes.
const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0; 5]);
const MAX_MESSAGE: usize = 64 * 1024;
