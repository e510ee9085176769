//! Calls one upstream over kept-alive connections, as an ordinary client library would.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::CALL_WITHIN;

/// Where calls go, and connections that are free.
#[derive(Debug)]
pub(super) struct Upstream {
    name: String,
    address: SocketAddr,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Upstream {
    /// No connection is made yet.
    pub(super) fn new(name: &str, address: SocketAddr) -> Self {
        Self { name: name.to_owned(), address, idle: Mutex::default() }
    }

    /// GETs `path`; anything but 200 is a failure.
    pub(super) async fn get(&self, path: &str) -> Result<(), String> {
        match timeout(CALL_WITHIN, self.attempt(path)).await {
            Ok(result) => result.map_err(|problem| format!("{}: {problem}", self.name)),
            Err(_) => Err(format!("{}: no answer within {CALL_WITHIN:?}", self.name)),
        }
    }

    async fn attempt(&self, path: &str) -> Result<(), String> {
        let mut connection = match self.free() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let response = match connection.send_request(self.request(path)?).await {
            // The server closed the connection before it saw the request: every client tries anew then.
            Err(error) if error.is_canceled() => {
                connection = self.connect().await?;
                connection.send_request(self.request(path)?).await
            }
            response => response,
        };
        let response = response.map_err(|error| format!("no response: {error}"))?;
        let status = response.status();
        let explained = response.headers().get("proxy-status").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| format!("the response broke off: {error}"))?.to_bytes();
        self.idle.lock().push(connection);
        if status.as_u16() == 200 {
            return Ok(());
        }
        let why = explained.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
        Err(format!("{} {why}", status.as_u16()))
    }

    fn free(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock();
        while let Some(connection) = idle.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true).ok();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>, String> {
        let request = Request::get(path).header("host", &self.name).header("user-agent", "meshctl-demo");
        request.body(Empty::new()).map_err(|error| error.to_string())
    }
}

const MAX_BODY: usize = 64 * 1024;
