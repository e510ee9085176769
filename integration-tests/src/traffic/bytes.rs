//! Opaque TCP: an echo and a sink to talk to, a blast for throughput, connections that are pinged or only held.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::told_to_stop;

/// What came of one connection that was used all the time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingReport {
    /// Pings that came back.
    pub succeeded: u64,
    /// Why the connection ended before its time, if it did.
    pub failure: Option<String>,
}

/// Sends back whatever comes, until SIGTERM.
pub async fn echo(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    let accept = async {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    };
    tokio::select! {
        () = accept => Ok(()),
        stopped = told_to_stop() => Ok(stopped?),
    }
}

/// Dials the target for everybody who comes, and carries bytes both ways, until SIGTERM: what a reverse proxy does.
pub async fn forward(listen: SocketAddr, target: String) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    let accept = async {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            let target = target.clone();
            tokio::spawn(async move {
                let Ok(mut other) = TcpStream::connect(target).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut other).await;
            });
        }
    };
    tokio::select! {
        () = accept => Ok(()),
        stopped = told_to_stop() => Ok(stopped?),
    }
}

/// Reads and forgets, one thread a connection, until killed.
pub fn sink(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind(listen)?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; BLAST_BYTES];
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
    }
    Ok(())
}

/// Writes as fast as it can on that many connections, and returns how many bytes went out.
pub fn blast(target: SocketAddr, connections: usize, seconds: u64) -> anyhow::Result<u64> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let writers: Vec<_> = (0..connections)
        .map(|_| {
            std::thread::spawn(move || -> anyhow::Result<u64> {
                let mut stream = std::net::TcpStream::connect(target)?;
                let buffer = vec![b'x'; BLAST_BYTES];
                let mut sent = 0;
                while Instant::now() < end {
                    stream.write_all(&buffer)?;
                    sent += buffer.len() as u64;
                }
                Ok(sent)
            })
        })
        .collect();
    let mut total = 0;
    for writer in writers {
        total += writer.join().ok().context("a writer panicked")??;
    }
    Ok(total)
}

/// Uses one connection ten times a second until SIGTERM or its end.
pub async fn ping(target: SocketAddr) -> anyhow::Result<PingReport> {
    let mut report = PingReport::default();
    let outcome = tokio::select! {
        outcome = keep_pinging(target, &mut report.succeeded) => outcome,
        stopped = told_to_stop() => Ok(stopped?),
    };
    report.failure = outcome.err().map(|error| format!("{error:#}"));
    Ok(report)
}

/// Opens that many connections to an echo, sees that each works, and holds them until SIGTERM.
pub async fn hold(target: SocketAddr, connections: usize) -> anyhow::Result<()> {
    let mut held = Vec::with_capacity(connections);
    for number in 0..connections {
        let mut stream = TcpStream::connect(target).await.with_context(|| format!("connection {number}"))?;
        round_trip(&mut stream).await.with_context(|| format!("connection {number}"))?;
        held.push(stream);
    }
    println!("holding {connections} connections");
    Ok(told_to_stop().await?)
}

async fn keep_pinging(target: SocketAddr, succeeded: &mut u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(target).await.context("connect")?;
    loop {
        round_trip(&mut stream).await?;
        *succeeded += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn round_trip(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(PING).await.context("send")?;
    let mut answer = [0; PING.len()];
    timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await.context("no answer")?.context("closed")?;
    ensure!(answer == *PING, "other bytes came back");
    Ok(())
}

const PING: &[u8; 8] = b"\x01\x02ping\r\n";
const BLAST_BYTES: usize = 64 * 1024;
