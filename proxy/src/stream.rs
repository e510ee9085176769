//! [`Stream`]: whatever carries a connection, as one type, so that everything above is compiled once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use identity::PeerRole;
use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use crate::net::prefixed::Prefixed;
use crate::net::read_ahead::ReadAhead;

/// One side of a connection. TLS is boxed: its state is far larger than the rest.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP, or the application's own TLS inside it.
    Plain(TcpStream),
    /// Mesh TLS that we dialled.
    Dialled(Box<client::TlsStream<ReadAhead<TcpStream>>>),
    /// Mesh TLS that we accepted.
    Accepted(Box<server::TlsStream<ReadAhead<Prefixed<TcpStream>>>>),
    /// Inside this process: our own workload, called by itself.
    Local(DuplexStream),
}

/// A peer's certificates, leaf first.
pub type Chain = Vec<CertificateDer<'static>>;

impl Stream {
    /// Makes sure that dropping it will look like a failure to the other side, not like an orderly end.
    pub fn reset_on_drop(&self) {
        match self {
            Self::Plain(tcp) => reset_on_drop(tcp),
            // Ends without close_notify, which TLS tells from an orderly end; a reset could destroy an alert under way.
            Self::Dialled(_) | Self::Accepted(_) | Self::Local(_) => {}
        }
    }

    /// Mesh TLS, or the inside of this process.
    pub fn is_protected(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// What the other side of mesh TLS has shown, and which side it is.
    pub fn peer(&self) -> Option<(Chain, PeerRole)> {
        let (chain, role) = match self {
            Self::Dialled(tls) => (tls.get_ref().1.peer_certificates()?, PeerRole::Server),
            Self::Accepted(tls) => (tls.get_ref().1.peer_certificates()?, PeerRole::Client),
            Self::Plain(_) | Self::Local(_) => return None,
        };
        Some((chain.iter().map(|der| der.clone().into_owned()).collect(), role))
    }
}

/// Makes sure that dropping the socket sends a reset: the other side must not take a failure for an orderly end.
pub fn reset_on_drop(tcp: &TcpStream) {
    // Only fails on a socket that is gone already.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }
}

macro_rules! each {
    ($stream:expr, $inner:ident => $act:expr) => {
        match $stream {
            Stream::Plain($inner) => $act,
            Stream::Dialled($inner) => $act,
            Stream::Accepted($inner) => $act,
            Stream::Local($inner) => $act,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }
}
