//! Where a redirected connection wanted to go.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::SockRef;

/// The address that was dialled before the redirect rules changed it, never an IPv4 address dressed as IPv6.
///
/// A type of its own, so that it is not taken for the peer's or the listener's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginalDestination(SocketAddr);

impl OriginalDestination {
    /// Asks the kernel (`SO_ORIGINAL_DST`) about a connection that a listener behind redirect rules accepted.
    ///
    /// A connection that was not redirected has none: where connection tracking is off the kernel says so, else it names the address
    /// at which the connection was accepted. Both are [`io::ErrorKind::NotFound`]: somebody dialled the proxy's own port, and taking
    /// that for a destination would make the proxy dial itself.
    pub fn of(connection: &impl AsFd) -> io::Result<Self> {
        let socket = SockRef::from(connection);
        let local = normal(inet(&socket.local_addr()?)?);
        // A dual-stack listener accepts IPv4 connections on IPv6 sockets, which answer to the IPv4 question only.
        let asked = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
        let original = asked.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOPROTOOPT) => io::ErrorKind::NotFound.into(),
            _ => error,
        })?;
        let original = normal(inet(&original)?);
        if original == local { Err(io::ErrorKind::NotFound.into()) } else { Ok(Self(original)) }
    }

    /// A destination that is known in another way than from the kernel.
    pub fn new(addr: SocketAddr) -> Self {
        Self(normal(addr))
    }

    /// The address and port.
    pub fn addr(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for OriginalDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The same address, with IPv4 as IPv4.
pub fn normal(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
        IpAddr::V6(_) => addr,
    }
}

fn inet(addr: &socket2::SockAddr) -> io::Result<SocketAddr> {
    addr.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_that_was_not_redirected_has_none() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(addr).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(OriginalDestination::of(&accepted).unwrap_err().kind(), io::ErrorKind::NotFound, "{addr}");
        }
    }

    #[test]
    fn ipv4_is_never_dressed_as_ipv6() {
        let dressed: SocketAddr = "[::ffff:10.96.0.7]:80".parse().unwrap();
        assert_eq!(OriginalDestination::new(dressed).addr(), "10.96.0.7:80".parse().unwrap());
        assert_eq!(OriginalDestination::new(dressed).to_string(), "10.96.0.7:80");
        let real: SocketAddr = "[fd00::7]:80".parse().unwrap();
        assert_eq!(normal(real), real);
    }
}
