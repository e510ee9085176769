//! Calls one upstream over kept-alive connections, as an ordinary client library would.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::shop::Protocol;
use super::{CALL_WITHIN, CallSpec, grpc, lines};

/// Where calls go, and connections that are free.
#[derive(Debug)]
pub(super) struct Upstream {
    name: String,
    address: SocketAddr,
    protocol: Protocol,
    idle: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
enum Connection {
    Http(http1::SendRequest<Empty<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
    Tcp(BufReader<TcpStream>),
}

/// Why a call failed.
enum CallError {
    /// The server closed a kept connection before it saw the request: every client tries anew then.
    NeverSent,
    Failed(String),
}

impl Upstream {
    /// No connection is made yet.
    pub(super) fn new(call: &CallSpec) -> Self {
        Self { name: call.name.clone(), address: call.address, protocol: call.protocol, idle: Mutex::default() }
    }

    /// Makes a call; anything but full success is a failure.
    pub(super) async fn call(&self, path: &str) -> Result<(), String> {
        match timeout(CALL_WITHIN, self.attempt(path)).await {
            Ok(result) => result.map_err(|problem| format!("{}: {problem}", self.name)),
            Err(_) => Err(format!("{}: no answer within {CALL_WITHIN:?}", self.name)),
        }
    }

    async fn attempt(&self, path: &str) -> Result<(), String> {
        if let Some(mut connection) = self.free() {
            match connection.call(&self.name, path).await {
                Err(CallError::NeverSent) => {}
                result => return self.finish(connection, result),
            }
        }
        let mut connection = self.connect().await?;
        let result = connection.call(&self.name, path).await;
        self.finish(connection, result)
    }

    fn finish(&self, connection: Connection, result: Result<(), CallError>) -> Result<(), String> {
        match result {
            Ok(()) => {
                self.idle.lock().push(connection);
                Ok(())
            }
            Err(CallError::NeverSent) => Err("the connection was closed at once".to_owned()),
            Err(CallError::Failed(why)) => Err(why),
        }
    }

    fn free(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        while let Some(connection) = idle.pop() {
            let usable = match &connection {
                Connection::Http(sender) => sender.is_ready(),
                Connection::Grpc(sender) => sender.is_ready(),
                Connection::Tcp(_) => true,
            };
            if usable {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true).ok();
        match self.protocol {
            Protocol::Tcp => Ok(Connection::Tcp(BufReader::new(stream))),
            Protocol::Grpc => Ok(Connection::Grpc(grpc::connect(stream).await?)),
            Protocol::Http => {
                let connection = http1::handshake(TokioIo::new(stream)).await;
                let (sender, connection) = connection.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                Ok(Connection::Http(sender))
            }
        }
    }
}

impl Connection {
    async fn call(&mut self, name: &str, path: &str) -> Result<(), CallError> {
        match self {
            Self::Http(sender) => get(sender, name, path).await,
            Self::Grpc(sender) => grpc::call(sender, name).await.map_err(CallError::Failed),
            Self::Tcp(stream) => lines::ask(stream, "cart of 7").await.map_err(CallError::Failed),
        }
    }
}

async fn get(sender: &mut http1::SendRequest<Empty<Bytes>>, name: &str, path: &str) -> Result<(), CallError> {
    let failed = |why: String| CallError::Failed(why);
    let request = Request::get(path).header("host", name).header("user-agent", "meshctl-demo").body(Empty::new());
    let request = request.map_err(|error| failed(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| {
        if error.is_canceled() { CallError::NeverSent } else { failed(format!("no response: {error}")) }
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|error| failed(format!("the response broke off: {error}")))?.to_bytes();
    if head.status == 200 {
        return Ok(());
    }
    let explained = head.headers.get("proxy-status").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let why = explained.unwrap_or_else(|| String::from_utf8_lossy(&body));
    Err(failed(format!("{} {why}", head.status.as_u16())))
}

const MAX_BODY: usize = 64 * 1024;
