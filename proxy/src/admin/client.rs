//! `mesh-proxy wait` and `mesh-proxy drain`: the other end of admin, for the proxy beside this command.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Why the proxy did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens, or not properly.
    #[error("no proxy answers at {address}: {source}")]
    Unreachable {
        /// Where it should be.
        address: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// It said no.
    #[error("the proxy at {address} answered {status}: {body}")]
    Refused {
        /// Where it is.
        address: SocketAddr,
        /// Its answer.
        status: u16,
        /// Why.
        body: String,
    },
    /// It is not ready yet.
    #[error("the proxy is not ready after {after:?}: {reason}")]
    NotReady {
        /// How long we waited.
        after: Duration,
        /// What is missing.
        reason: String,
    },
}

/// Starts draining, and returns as soon as the proxy has understood.
pub fn drain(admin_port: u16) -> Result<(), CallError> {
    let address = loopback(admin_port);
    match call(address, "POST", "/drain")? {
        (200, _) => Ok(()),
        (status, body) => Err(CallError::Refused { address, status, body }),
    }
}

/// Returns once the proxy is ready. `tell` hears why it is not yet, when the reason changes, but not all the time.
pub fn wait(health_port: u16, limit: Duration, mut tell: impl FnMut(&str)) -> Result<(), CallError> {
    let began = Instant::now();
    let (mut told, mut tell_again) = (String::new(), began);
    loop {
        let reason = match call(loopback(health_port), "GET", "/ready") {
            Ok((200, _)) => return Ok(()),
            Ok((_, body)) => body.trim().replace('\n', "; "),
            Err(error) => error.to_string(),
        };
        let now = Instant::now();
        if reason != told && now >= tell_again {
            tell(&reason);
            tell_again = now + BETWEEN_WORDS;
            told.clone_from(&reason);
        }
        if now - began >= limit {
            return Err(CallError::NotReady { after: limit, reason });
        }
        std::thread::sleep(BETWEEN);
    }
}

fn call(address: SocketAddr, method: &str, path: &str) -> Result<(u16, String), CallError> {
    let unreachable = |source| CallError::Unreachable { address, source };
    let exchange = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.take(LARGEST).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(unreachable)?;
    parse(&answer).ok_or_else(|| unreachable(io::Error::new(io::ErrorKind::InvalidData, "that is not HTTP")))
}

/// Status and body of an answer that carries its length and ends with the connection.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN_WORDS: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(50);
const LARGEST: u64 = 64 * 1024;
