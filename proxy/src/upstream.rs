//! Dialling: a plain socket, mesh TLS to an endpoint's proxy, or our own inbound side in process.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use identity::HandshakeFailure;
use policy::Endpoint;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::Error;
use crate::inbound;
use crate::net::keepalive::keep_alive;
use crate::stream::Stream;
use crate::tls::{MeshProtocol, read_answer};
use crate::worker::Worker;

/// Connects to an endpoint: in process where it is our own workload, by mesh TLS where it has an identity, else plain.
///
/// On `mesh/tcp`, returns only when the other side's application has taken the connection. `limit` bounds the wait for
/// the TCP connection alone.
pub async fn dial(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    name: &ServerName<'static>,
    protocol: MeshProtocol,
    limit: Duration,
) -> Result<Stream, Error> {
    let address = endpoint.address;
    let mut stream = if worker.shared.is_own_address(address.ip()) {
        // On the wire the redirect rules would not bring it back to us: the application would get our ClientHello.
        inbound::serve_in_process(worker, address, protocol)
    } else {
        worker.shared.refuse_own_port(address)?;
        let tcp = connect(address, worker.shared.config.bootstrap.socket_mark, limit).await?;
        match &endpoint.identity {
            None => return Ok(tcp.into()),
            Some(identity) => worker.tls.connect(tcp, address, identity, name.clone(), protocol).await?,
        }
    };
    if protocol == MeshProtocol::Tcp {
        match timeout(ANSWER_TIMEOUT, read_answer(&mut stream)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(reason))) => return Err(Error::Told { address, reason }),
            // Nothing was sent yet, whatever went wrong: an alert, a reset, a proxy that died.
            Ok(Err(error)) => {
                let failure = HandshakeFailure::of_io(&error);
                return Err(Error::Tls { address, failure, problem: error.to_string() });
            }
            Err(_) => return Err(Error::ConnectTimeout { address, after: ANSWER_TIMEOUT }),
        }
    }
    Ok(stream)
}

/// Connects a socket. `mark` keeps the redirect rules off it where the user id does not.
pub async fn connect(address: SocketAddr, mark: Option<u32>, limit: Duration) -> Result<TcpStream, Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectRefused(address),
        io::ErrorKind::TimedOut => Error::ConnectTimeout { address, after: limit },
        _ => Error::ConnectFailed { address, source: source.into() },
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark).map_err(failed)?;
    }
    socket.set_nodelay(true).map_err(failed)?;
    match timeout(limit, socket.connect(address)).await {
        Ok(outcome) => outcome.inspect(keep_alive).map_err(failed),
        Err(_) => Err(Error::ConnectTimeout { address, after: limit }),
    }
}

/// How long a TCP connection to an endpoint may take when `tried` others failed before; `alone`: no other is left.
///
/// Inside a cluster an answer takes milliseconds: whoever says nothing for longer is probably gone, and the next
/// endpoint is the better bet. The last one gets the time that a lost SYN and a far cluster need.
pub fn patience(tried: usize, alone: bool) -> Duration {
    match tried {
        _ if alone => LAST_CONNECT_TIMEOUT,
        0 => Duration::from_millis(150),
        1 => Duration::from_secs(1),
        _ => LAST_CONNECT_TIMEOUT,
    }
}

/// Endpoints tried at most for one connection or request.
pub const MOST_TRIES: usize = 3;
/// For a TCP connection to the only address there is.
pub const LAST_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the other side to dial its application.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
