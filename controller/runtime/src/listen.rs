//! Binding a port, with errors that say what to do.

use std::io;
use std::net::SocketAddr;

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
    TcpListener::bind(address).await.map_err(|cause| match cause.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { flag, address },
        io::ErrorKind::AddrNotAvailable => ListenError::NoSuchAddress { flag, address },
        _ => ListenError::Other { flag, address, cause },
    })
}

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
}
