//! One HTTP/1 connection of a client: sends a request, reads the whole response, says whether it may be used again.
//! Written by hand, because a client library would try again on its own and hide what the tests are about.

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// An open connection between two requests.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// `x-served-by`: the server's name.
    pub(super) served_by: String,
    /// `proxy-status`: why the mesh answered instead.
    pub(super) proxy_status: String,
    /// Bytes of the body.
    pub(super) length: usize,
    /// The connection may carry another request.
    pub(super) reusable: bool,
}

impl Connection {
    pub(super) async fn open(target: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target).await.context("connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Whether the other side has left this idle connection alone: as every good client checks before reuse.
    pub(super) fn is_usable(&self) -> bool {
        is_silent(&self.stream)
    }

    /// Sends the request and reads its response to the end.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Response> {
        self.stream.get_mut().write_all(request).await.context("send")?;
        let mut response = Response { reusable: true, ..Response::default() };
        let first = self.line().await.context("no response")?;
        response.status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status line")?;
        let mut chunked = false;
        loop {
            let line = self.line().await.context("head cut off")?;
            let Some((name, value)) = line.split_once(':') else {
                ensure!(line.is_empty(), "not a header: {line:?}");
                break;
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => response.length = value.parse()?,
                "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
                "connection" => response.reusable = !value.eq_ignore_ascii_case("close"),
                "x-served-by" => value.clone_into(&mut response.served_by),
                "proxy-status" => value.clone_into(&mut response.proxy_status),
                _ => {}
            }
        }
        if chunked {
            response.length = self.skip_chunks().await.context("body cut off")?;
        } else {
            self.skip(response.length).await.context("body cut off")?;
        }
        Ok(response)
    }

    async fn skip_chunks(&mut self) -> anyhow::Result<usize> {
        let mut length = 0;
        loop {
            let size = self.line().await?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)?;
            self.skip(size).await?;
            ensure!(self.line().await?.is_empty(), "chunk without an end");
            if size == 0 {
                return Ok(length);
            }
            length += size;
        }
    }

    async fn skip(&mut self, length: usize) -> anyhow::Result<()> {
        let wanted = u64::try_from(length)?;
        let copied = tokio::io::copy(&mut (&mut self.stream).take(wanted), &mut tokio::io::sink()).await?;
        ensure!(copied == wanted, "closed after {copied} of {wanted} bytes");
        Ok(())
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        let Some(line) = line.strip_suffix(b"\r\n") else { bail!("closed") };
        Ok(String::from_utf8_lossy(line).into_owned())
    }
}

/// Whether nothing has come on an idle connection, its end neither.
pub(super) fn is_silent(stream: &BufReader<TcpStream>) -> bool {
    let nothing_yet = stream.get_ref().try_read(&mut [0]);
    stream.buffer().is_empty() && nothing_yet.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
}
