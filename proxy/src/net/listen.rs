//! Listening sockets, for IPv4 and IPv6 alike.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Listens on all addresses of the pod, both families on one socket. Port 0 lets the kernel choose.
///
/// Where there is no IPv6 at all, listens on IPv4. Must be called inside a tokio runtime.
pub fn everywhere(port: u16) -> Result<TcpListener, ListenError> {
    match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(ListenError::NoSuchAddress { .. }) => listen((Ipv4Addr::UNSPECIFIED, port).into()),
        outcome => outcome,
    }
}

/// Listens on `127.0.0.1` and, where there is IPv6, on `::1` with the same port. Must be called inside a tokio runtime.
///
/// Connections that the rules redirect on their way out arrive here too, so the outbound port needs no other listener.
pub fn on_loopback(port: u16) -> Result<Vec<TcpListener>, ListenError> {
    let first = listen((Ipv4Addr::LOCALHOST, port).into())?;
    let port = first.local_addr().map_or(port, |addr| addr.port());
    match listen((Ipv6Addr::LOCALHOST, port).into()) {
        Ok(second) => Ok(vec![first, second]),
        Err(ListenError::NoSuchAddress { .. }) => Ok(vec![first]),
        Err(error) => Err(error),
    }
}

/// Listens on one address. `[::]` takes IPv4 as well. Must be called inside a tokio runtime.
pub fn listen(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(addr).map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => ListenError::InUse { addr },
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => ListenError::NoSuchAddress { addr },
        Some(libc::EACCES) => ListenError::NotPermitted { addr },
        _ => ListenError::Other { addr, source },
    })
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// EADDRINUSE.
    #[error("port {} is in use ({addr}): stop the program that holds it ('ss -ltnp' names it), or give another port", addr.port())]
    InUse {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// EADDRNOTAVAIL, EAFNOSUPPORT.
    #[error("cannot listen on {addr}: this machine has no such address, give one of its own")]
    NoSuchAddress {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// EACCES.
    #[error(
        "not allowed to listen on {addr}: ports below 1024 need the NET_BIND_SERVICE capability, give a higher port"
    )]
    NotPermitted {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {addr}: {source}")]
    Other {
        /// What was asked for.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    // A restarted proxy must not wait for connections of its predecessor that linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connections that wait to be accepted; the kernel caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn one_socket_takes_both_families() {
        let listener = everywhere(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            TcpStream::connect((host, port)).await.unwrap();
            listener.accept().await.unwrap();
        }
    }

    #[tokio::test]
    async fn loopback_has_one_port_in_both_families() {
        let listeners = on_loopback(0).unwrap();
        assert_eq!(listeners.len(), 2);
        let addrs: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        assert_eq!(addrs[0].port(), addrs[1].port());
        assert!(addrs.iter().all(|addr| addr.ip().is_loopback()));
    }

    #[tokio::test]
    async fn a_port_in_use_is_one_sentence() {
        let listener = everywhere(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = everywhere(port).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "port {port} is in use ([::]:{port}): stop the program that holds it ('ss -ltnp' names it), or give another port"
            )
        );
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_named() {
        let error = listen("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("cannot listen on 192.0.2.1:0"), "{error}");
    }
}
