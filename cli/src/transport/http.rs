//! One GET over a stream that leads to a proxy, whatever the stream is.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{MAX_BODY, TransportError};
use crate::table;

/// GETs `path` from the HTTP server at the other end. Whoever calls sets a deadline.
pub(super) async fn get(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Result<Bytes, TransportError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(path).header("host", "admin").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| TransportError::Unreachable(error.to_string()))?;
    // The connection is driven here rather than in a task of its own, so that nothing outlives a timeout.
    let answer = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => TransportError::TooLarge,
            None => TransportError::Unreachable(error.to_string()),
        })?;
        let body = body.to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        // Quoted to people, and whoever answers here may be anybody's program.
        let beginning = table::one_line(String::from_utf8_lossy(&body[..body.len().min(200)]).trim());
        Err(TransportError::Status { path: path.to_owned(), status: status.as_u16(), body: beginning })
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: hyper::Error) -> TransportError {
    TransportError::Unreachable(error.to_string())
}
