//! What the application dials: what is it, which protocol does it speak, who serves it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use policy::{Outbound, Protocol, Service};
use proto::Reason;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::Error;
use crate::detect::{self, Outcome, detect};
use crate::net::prefixed::Prefixed;
use crate::race::{First, ServerSpeaks, first, server_speaks, spoken};
use crate::stream::reset_on_drop;
use crate::telemetry::Direction;
use crate::worker::Worker;

pub mod http;
pub mod http2;
pub mod plan;
mod record;
pub mod tcp;
pub mod verdicts;

/// Where a connection of the application goes.
#[derive(Debug, Clone)]
pub struct Destination {
    /// What the application dialled.
    pub address: SocketAddr,
    /// What it turned out to be.
    pub outbound: Arc<Outbound>,
}

impl Destination {
    /// The Service, if it is one.
    pub fn service(&self) -> Option<&Service> {
        match &*self.outbound {
            Outbound::Service(service) => Some(service),
            Outbound::Workload(_) | Outbound::Foreign => None,
        }
    }

    /// What is declared of its protocol.
    pub fn protocol(&self) -> Protocol {
        match &*self.outbound {
            Outbound::Service(service) => service.protocol,
            Outbound::Workload(endpoint) => endpoint.protocol,
            // What is not of the mesh is not looked into.
            Outbound::Foreign => Protocol::Tcp,
        }
    }

    /// How people call it.
    pub fn name(&self) -> String {
        match &*self.outbound {
            Outbound::Service(service) => service.id.to_string(),
            Outbound::Workload(endpoint) => format!("{}/{} ({})", endpoint.namespace, endpoint.workload, self.address),
            Outbound::Foreign => self.address.to_string(),
        }
    }
}

/// Serves one connection of the application, from its first byte to its last.
pub async fn serve(worker: &Rc<Worker>, client: TcpStream, address: SocketAddr) {
    let found = match worker.shared.refuse_own_port(address) {
        Ok(()) => find(worker, address).await,
        Err(error) => Err(error),
    };
    let (name, outcome) = match found {
        Ok(destination) => (destination.name(), route(worker, client, &destination).await),
        Err(error) => {
            reset_on_drop(&client);
            (address.to_string(), Err(error))
        }
    };
    if let Err(error) = outcome {
        worker.shared.failed(Direction::Outbound, &worker.shared.labels.principal, &name, &error, 0);
    }
}

/// Asks discovery. Nothing inside the cluster's networks is ever taken for foreign because nobody answered.
async fn find(worker: &Worker, address: SocketAddr) -> Result<Destination, Error> {
    let answer = worker.shared.discovery.outbound(address).first().await;
    let is_cluster = || worker.shared.settings.current().value().is_none_or(|all| all.is_cluster(address.ip()));
    let outbound = match answer {
        Ok(Some(outbound)) => outbound,
        Ok(None) | Err(_) if !is_cluster() => Arc::new(Outbound::Foreign),
        Ok(None) => return Err(Error::NoEndpoints(address.to_string())),
        Err(Reason::Overloaded) => return Err(Error::Overloaded("subscriptions")),
        Err(_) => return Err(Error::DiscoveryUnavailable(address.to_string())),
    };
    Ok(Destination { address, outbound })
}

async fn route(worker: &Rc<Worker>, client: TcpStream, destination: &Destination) -> Result<(), Error> {
    match destination.protocol() {
        Protocol::Tcp | Protocol::Tls => {
            tcp::forward(worker, Prefixed::new(BytesMut::new(), client), destination).await
        }
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => {
            // Connections are opened ahead of use; a client may take its time.
            if timeout(IDLE_TIMEOUT, spoken(&client)).await.is_err() {
                return Ok(());
            }
            as_first_bytes_say(worker, client, destination).await
        }
        Protocol::Undeclared => undeclared(worker, client, destination).await,
    }
}

async fn undeclared(worker: &Rc<Worker>, client: TcpStream, destination: &Destination) -> Result<(), Error> {
    let is_server_first = worker.verdicts.borrow().is_server_first(destination.address, Instant::now());
    let silence = if is_server_first { Duration::ZERO } else { SILENCE };
    if timeout(silence, spoken(&client)).await.is_ok() {
        return as_first_bytes_say(worker, client, destination).await;
    }
    match Box::pin(silent(worker, &client, destination)).await {
        Ok(Silent::ServerSpoke(dialled, bytes)) => {
            let tcp::Dialled { stream, edge } = dialled;
            let server = Prefixed::new(bytes, stream);
            tcp::relay(worker, Prefixed::new(BytesMut::new(), client.into()), server, edge).await;
            Ok(())
        }
        Ok(Silent::ClientSpoke) => as_first_bytes_say(worker, client, destination).await,
        Err(error) => {
            reset_on_drop(&client);
            Err(error)
        }
    }
}

enum Silent {
    ServerSpoke(tcp::Dialled, BytesMut),
    ClientSpoke,
}

/// Dials as bytes for a client that says nothing, and finds out whose turn it was.
async fn silent(worker: &Rc<Worker>, client: &TcpStream, destination: &Destination) -> Result<Silent, Error> {
    let mut dialled = tokio::select! {
        biased;
        () = spoken(client) => return Ok(Silent::ClientSpoke),
        dialled = tcp::dial(worker, destination) => dialled?,
    };
    let bytes = match first(client, &mut dialled.stream).await {
        First::Server(bytes) => bytes,
        // It is dialled anew: what an idle connection to the application costs is little, and a request that was
        // routed by the first bytes of somebody else would be wrong.
        First::Client => return Ok(Silent::ClientSpoke),
        First::Failed => return Err(Error::ConnectionClosed(destination.address)),
    };
    match server_speaks(&bytes) {
        ServerSpeaks::Greeting => worker.verdicts.borrow_mut().remember(destination.address, Instant::now()),
        ServerSpeaks::Farewell => {}
        ServerSpeaks::Http2 => {
            drop(dialled);
            spoken(client).await;
            return Ok(Silent::ClientSpoke);
        }
    }
    Ok(Silent::ServerSpoke(dialled, bytes))
}

async fn as_first_bytes_say(
    worker: &Rc<Worker>,
    mut client: TcpStream,
    destination: &Destination,
) -> Result<(), Error> {
    let found = detect(&mut client, BytesMut::new(), detect::PATIENCE).await.map_err(|_| Error::ClientClosed)?;
    let client = Prefixed::new(found.prefix, client);
    match found.outcome {
        Outcome::Protocol(detect::Protocol::Http1) if !matches!(*destination.outbound, Outbound::Foreign) => {
            worker.verdicts.borrow_mut().forget(destination.address);
            Box::pin(http::serve(worker, client, destination)).await;
            Ok(())
        }
        Outcome::Protocol(detect::Protocol::Http2) if !matches!(*destination.outbound, Outbound::Foreign) => {
            worker.verdicts.borrow_mut().forget(destination.address);
            Box::pin(http2::serve(worker, client, destination)).await
        }
        Outcome::Protocol(detect::Protocol::Http1 | detect::Protocol::Http2) => {
            worker.verdicts.borrow_mut().forget(destination.address);
            tcp::forward(worker, client, destination).await
        }
        // A client that has closed its direction already may still want to hear the server.
        Outcome::Protocol(detect::Protocol::Tls(_) | detect::Protocol::Bytes) | Outcome::Silent | Outcome::Closed => {
            tcp::forward(worker, client, destination).await
        }
    }
}

/// How long a client may be silent before its server is given the chance to speak.
pub const SILENCE: Duration = Duration::from_millis(50);
/// How long a connection may wait for its first request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
