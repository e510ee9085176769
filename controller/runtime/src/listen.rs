//! Binding a port, with errors that say what to do.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

/// Why a port can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has it.
    #[error(
        "{flag} {address}: the port is in use by another process; stop it or choose another port (0 takes a free one)"
    )]
    InUse {
        /// Flag that sets the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The address is nobody's here.
    #[error("{flag} {address}: this machine has no such address; 0.0.0.0 or [::] listens on all")]
    NoSuchAddress {
        /// Flag that sets the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{flag} {address}: cannot listen: {cause}")]
    Other {
        /// Flag that sets the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
}

/// Listens on `address`; errors name the `flag` that sets it.
pub async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if let Some(instead) = without_ipv6(address, &error) => TcpListener::bind(instead).await,
        bound => bound,
    };
    bound.map_err(|cause| match cause.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { flag, address },
        io::ErrorKind::AddrNotAvailable => ListenError::NoSuchAddress { flag, address },
        _ => ListenError::Other { flag, address, cause },
    })
}

/// `[::]` is every address there is: where the kernel was started without IPv6, every IPv4 address.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let unsupported = error.raw_os_error() == Some(ADDRESS_FAMILY_NOT_SUPPORTED);
    (unsupported && address.ip() == Ipv6Addr::UNSPECIFIED).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

/// `EAFNOSUPPORT` of Linux.
const ADDRESS_FAMILY_NOT_SUPPORTED: i32 = 97;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_flag() {
        let first = listen("--listen", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let message = listen("--listen", address).await.unwrap_err().to_string();
        assert!(message.starts_with(&format!("--listen {address}: the port is in use")), "{message}");
    }

    #[test]
    fn all_addresses_are_those_of_ipv4_where_there_is_no_ipv6() {
        let refused = io::Error::from_raw_os_error(ADDRESS_FAMILY_NOT_SUPPORTED);
        let instead = |address: &str| without_ipv6(address.parse().unwrap(), &refused);
        assert_eq!(instead("[::]:8443"), Some("0.0.0.0:8443".parse().unwrap()));
        assert_eq!(instead("[::1]:8443"), None, "one address is that address");
        let taken = io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(without_ipv6("[::]:8443".parse().unwrap(), &taken), None);
    }
}
