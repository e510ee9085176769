//! Clients and servers of the tests as one program, to be started inside pods. See [`integration_tests::traffic`].

use std::net::SocketAddr;

use clap::Parser;
use integration_tests::traffic::{bytes, door, load, serve, told_to_stop};

/// Clients and servers for the tests of the mesh.
#[derive(Debug, Parser)]
enum Command {
    /// Requests at a fixed rate; prints a JSON report.
    Load(load::LoadOptions),
    /// One GET, and no second try; prints the length of the body, and fails unless the answer is 200.
    Get { target: String, path: Option<String> },
    /// Serves HTTP/1, HTTP/2 and gRPC.
    Serve(serve::ServeOptions),
    /// Sends back whatever comes.
    Echo { listen: SocketAddr },
    /// Carries bytes between whoever comes and a target.
    Forward { listen: SocketAddr, target: String },
    /// Listens on a port until somebody dials the other one, and again when somebody dials it again.
    Door { listen: SocketAddr, switch: SocketAddr },
    /// Reads and forgets.
    Sink { listen: SocketAddr },
    /// Writes as fast as it can; prints the number of bytes.
    Blast { target: SocketAddr, connections: usize, seconds: u64 },
    /// Uses one connection until SIGTERM; prints a JSON report.
    Ping { target: SocketAddr },
    /// Holds connections open until SIGTERM.
    Hold { target: SocketAddr, connections: usize },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Load(options) => {
            println!("{}", serde_json::to_string(&load::run(&options).await?)?);
            if options.stay {
                told_to_stop().await?;
            }
        }
        Command::Get { target, path } => {
            println!("{} bytes", load::get(&target, path.as_deref().unwrap_or("/")).await?);
        }
        Command::Serve(options) => serve::run(&options).await?,
        Command::Echo { listen } => bytes::echo(listen).await?,
        Command::Forward { listen, target } => bytes::forward(listen, target).await?,
        Command::Door { listen, switch } => door::door(listen, switch).await?,
        Command::Sink { listen } => bytes::sink(listen)?,
        Command::Blast { target, connections, seconds } => println!("{}", bytes::blast(target, connections, seconds)?),
        Command::Ping { target } => println!("{}", serde_json::to_string(&bytes::ping(target).await?)?),
        Command::Hold { target, connections } => bytes::hold(target, connections).await?,
    }
    Ok(())
}
