//! A port that listens or does not, as it is told from another port: an application that is stuck while its process goes on.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::told_to_stop;

/// Listens on `listen`, and stops or starts with every connection to `switch`, which is told `shut` or `open`; until SIGTERM.
pub async fn door(listen: SocketAddr, switch: SocketAddr) -> anyhow::Result<()> {
    let switch = TcpListener::bind(switch).await?;
    let mut listener = Some(TcpListener::bind(listen).await?);
    println!("listening on {listen}, until somebody dials {}", switch.local_addr()?);
    let work = async {
        loop {
            let (mut told, _) = tokio::select! {
                told = switch.accept() => told?,
                // Whoever comes in is let go at once.
                () = let_in(listener.as_ref()) => continue,
            };
            listener = match listener.take() {
                Some(_) => None,
                None => Some(TcpListener::bind(listen).await?),
            };
            let _ = told.write_all(if listener.is_some() { b"open\n" } else { b"shut\n" }).await;
        }
    };
    tokio::select! {
        failed = work => failed,
        stopped = told_to_stop() => Ok(stopped?),
    }
}

async fn let_in(listener: Option<&TcpListener>) {
    match listener {
        Some(listener) => drop(listener.accept().await),
        None => std::future::pending().await,
    }
}
