//! One connection of a client, in the protocol it speaks: sends a request, reads the whole answer, says whether it may be
//! used again. Nothing here tries again on its own, which would hide what the tests are about.

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::load::LoadOptions;
use super::response::{self, Response};

/// What is spoken on every connection of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// GET in HTTP/1.1.
    #[default]
    Http,
    /// A unary call in gRPC over HTTP/2 with prior knowledge; the server has to send the message back.
    Grpc,
    /// SET in Redis' protocol.
    Redis,
}

/// A request, ready to be sent over and over.
#[derive(Debug)]
pub(super) struct Prepared {
    /// As it goes over the wire; for gRPC the message.
    bytes: Vec<u8>,
    /// Of gRPC.
    uri: String,
}

/// An open connection between two requests.
#[derive(Debug)]
pub(super) enum Client {
    Http(response::Connection),
    Grpc(SendRequest<Full<Bytes>>),
    Redis(BufReader<TcpStream>),
}

impl Prepared {
    pub(super) fn new(options: &LoadOptions) -> Self {
        let (path, host) = (&options.path, &options.host);
        let bytes = match options.protocol {
            Protocol::Http => {
                let headers: String = options.headers.iter().map(|header| format!("{header}\r\n")).collect();
                format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").into_bytes()
            }
            Protocol::Grpc => {
                // Not compressed, and its length (gRPC over HTTP/2, Length-Prefixed-Message).
                let length = u32::try_from(path.len()).expect("a path is short").to_be_bytes();
                [&[0][..], &length, path.as_bytes()].concat()
            }
            Protocol::Redis => format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${}\r\n{path}\r\n", path.len()).into_bytes(),
        };
        Self { bytes, uri: format!("http://{host}{path}") }
    }
}

impl Client {
    pub(super) async fn open(protocol: Protocol, target: &str) -> anyhow::Result<Self> {
        Ok(match protocol {
            Protocol::Http => Self::Http(response::Connection::open(target).await?),
            Protocol::Grpc => {
                let handshake =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(dial(target).await?));
                let (sender, connection) = handshake.await.context("handshake")?;
                // Its errors are those of its requests.
                tokio::spawn(async { drop(connection.await) });
                Self::Grpc(sender)
            }
            Protocol::Redis => Self::Redis(BufReader::new(dial(target).await?)),
        })
    }

    /// Whether the other side has left this idle connection alone: as every good client checks before reuse.
    pub(super) fn is_usable(&self) -> bool {
        match self {
            Self::Http(connection) => connection.is_usable(),
            Self::Grpc(sender) => sender.is_ready() && !sender.is_closed(),
            Self::Redis(stream) => response::is_silent(stream),
        }
    }

    /// Sends the request and reads its answer to the end.
    pub(super) async fn exchange(&mut self, request: &Prepared) -> anyhow::Result<Response> {
        match self {
            Self::Http(connection) => connection.exchange(&request.bytes).await,
            Self::Grpc(sender) => call(sender, request).await,
            Self::Redis(stream) => set(stream, request).await,
        }
    }
}

async fn call(sender: &mut SendRequest<Full<Bytes>>, prepared: &Prepared) -> anyhow::Result<Response> {
    let request = Request::post(&prepared.uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(prepared.bytes.clone())))?;
    let answer = sender.send_request(request).await.context("no response")?;
    let text = |name: &str| {
        let value = answer.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        value.unwrap_or_default()
    };
    let mut response = Response { status: answer.status().as_u16(), reusable: true, ..Response::default() };
    (response.served_by, response.proxy_status) = (text("x-served-by"), text("proxy-status"));
    let trailers_only = text("grpc-status");
    let body = answer.into_body().collect().await.context("body cut off")?;
    let trailer = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
    let body = body.to_bytes();
    if response.status == 200 {
        let status = trailer.map_or(trailers_only, |value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        ensure!(status == "0", "grpc-status {status:?} {}", response.proxy_status);
        ensure!(*body == *prepared.bytes, "another message came back");
    }
    Ok(response)
}

async fn set(stream: &mut BufReader<TcpStream>, request: &Prepared) -> anyhow::Result<Response> {
    stream.get_mut().write_all(&request.bytes).await.context("send")?;
    let mut line = String::new();
    stream.read_line(&mut line).await.context("no answer")?;
    match line.as_str() {
        "+OK\r\n" => Ok(Response { status: 200, served_by: "redis".to_owned(), reusable: true, ..Response::default() }),
        "" => bail!("closed"),
        other => bail!("{other:?}"),
    }
}

async fn dial(target: &str) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(target).await.context("connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
