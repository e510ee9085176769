//! What others dial at our workload: who is it, may it, and on to the application.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use policy::{Inbound, InboundPort, MutualTls, Protocol};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Error;
use crate::control::Known;
use crate::detect::{self, Outcome, detect, detect_into};
use crate::net::pacing::do_not_pace;
use crate::net::prefixed::Prefixed;
use crate::outbound::SILENCE;
use crate::race::{First, ServerSpeaks, first, server_speaks, spoken};
use crate::stream::{Stream, reset_on_drop};
use crate::telemetry::{Direction, PeerLabels};
use crate::tls::{Accepted, MeshProtocol};
use crate::upstream;
use crate::worker::Worker;

pub mod http;
pub mod http2;
pub mod tcp;

/// Who is on the other side of an inbound connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where it comes from; our own address where it is our own workload.
    pub address: SocketAddr,
    /// Its SPIFFE id, from its certificate; `None`: plaintext.
    pub id: Option<Arc<str>>,
    /// Its side of the edge: names from its preface, namespace and principal from its certificate.
    pub labels: Arc<PeerLabels>,
}

/// One port of our workload.
#[derive(Debug, Clone)]
pub struct Port {
    /// What the caller dialled.
    pub address: SocketAddr,
    /// What the controller says of the workload; nothing where no controller was heard yet.
    pub inbound: Option<Arc<Inbound>>,
}

impl Caller {
    fn plaintext(address: SocketAddr) -> Self {
        Self { address, id: None, labels: Arc::default() }
    }

    fn verified(worker: &Worker, address: SocketAddr, accepted: &Accepted) -> Self {
        let id = &accepted.peer.id;
        let labels = worker.callers.labels(id.namespace(), id.as_str(), &accepted.preface);
        Self { address, id: Some(Arc::clone(&labels.principal)), labels }
    }

    fn ourselves(worker: &Worker, address: SocketAddr) -> Self {
        let labels = Arc::clone(&worker.shared.labels);
        Self { address, id: Some(Arc::clone(&labels.principal)), labels }
    }

    fn name(&self) -> String {
        self.id.as_deref().map_or_else(|| self.address.ip().to_string(), str::to_owned)
    }
}

impl Port {
    /// What is declared for it.
    pub fn declared(&self) -> Option<&InboundPort> {
        self.inbound.as_ref().and_then(|inbound| inbound.port(self.address.port()))
    }

    fn protocol(&self) -> Protocol {
        self.declared().map_or(Protocol::Undeclared, |port| port.protocol)
    }

    fn mutual_tls(&self) -> MutualTls {
        self.inbound.as_ref().map_or(MutualTls::default(), |inbound| inbound.mutual_tls)
    }
}

/// Serves one connection from somewhere else, from its first byte to its last.
pub async fn serve(worker: &Rc<Worker>, client: TcpStream, from: SocketAddr, address: SocketAddr) {
    let mut caller = Caller::plaintext(from);
    let outcome = match worker.shared.refuse_own_port(address) {
        Ok(()) => route(worker, client, &mut caller, address).await,
        Err(error) => Err(error),
    };
    report(worker, &caller, address, outcome);
}

/// Takes a connection of our own workload to itself; returns its other end.
pub fn serve_in_process(worker: &Rc<Worker>, address: SocketAddr, protocol: MeshProtocol) -> Stream {
    let (near, far) = tokio::io::duplex(IN_PROCESS_BUFFER);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let caller = Caller::ourselves(&worker, SocketAddr::new(address.ip(), 0));
        let port = Port { address, inbound: worker.shared.inbound.current().value() };
        let stream = Prefixed::new(BytesMut::new(), Stream::Local(far));
        let outcome = match worker.shared.refuse_own_port(address) {
            Ok(()) => mesh(&worker, stream, &caller, &port, protocol).await,
            Err(error) => Err(error),
        };
        report(&worker, &caller, address, outcome);
    });
    Stream::Local(near)
}

fn report(worker: &Worker, caller: &Caller, address: SocketAddr, outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        worker.shared.failed(Direction::Inbound, &caller.name(), &address.to_string(), &error, 0);
    }
}

async fn route(worker: &Rc<Worker>, client: TcpStream, caller: &mut Caller, address: SocketAddr) -> Result<(), Error> {
    let mut is_spoken = timeout(SILENCE, spoken(&client)).await.is_ok();
    if !is_spoken && matches!(worker.shared.inbound.current(), Known::Waiting) {
        // Silence must not get anybody past a rule that is not known yet.
        tokio::select! {
            () = spoken(&client) => is_spoken = true,
            known = worker.shared.inbound.first() => if known.is_err() {
                reset_on_drop(&client);
                return Err(Error::DiscoveryUnavailable(address.to_string()));
            },
        }
    }
    let port = Port { address, inbound: worker.shared.inbound.current().value() };
    if !is_spoken && !port.protocol().is_http() && port.mutual_tls() != MutualTls::Strict {
        // Either a client far away, or one whose server must speak first.
        if let Some((server, bytes)) = Box::pin(silent(worker, &client, &port)).await? {
            let stream = Prefixed::new(BytesMut::new(), client.into());
            let relayed = async {
                tcp::relay(worker, stream, Prefixed::new(bytes, server), caller, &port).await;
                Ok(())
            };
            return Box::pin(while_allowed(worker, caller.address, relayed)).await;
        }
    } else if !is_spoken && timeout(IDLE_TIMEOUT, spoken(&client)).await.is_err() {
        return Ok(());
    }
    Box::pin(as_first_bytes_say(worker, client, caller, &port)).await
}

/// Dials the application for a client that says nothing. `None`: the client spoke after all.
async fn silent(worker: &Rc<Worker>, client: &TcpStream, port: &Port) -> Result<Option<(Stream, BytesMut)>, Error> {
    let Ok(mut server) = dial_app(worker, port.address).await else {
        // Mesh TLS or HTTP gets a proper answer once it has spoken.
        return if timeout(APP_GONE_TIMEOUT, spoken(client)).await.is_ok() {
            Ok(None)
        } else {
            reset_on_drop(client);
            Err(Error::AppRefused(port.address))
        };
    };
    let bytes = match first(client, &mut server).await {
        First::Server(bytes) => bytes,
        First::Client => return Ok(None),
        First::Failed => {
            reset_on_drop(client);
            return Err(Error::AppClosed(port.address));
        }
    };
    if server_speaks(&bytes) == ServerSpeaks::Http2 {
        drop(server);
        spoken(client).await;
        return Ok(None);
    }
    Ok(Some((server, bytes)))
}

async fn as_first_bytes_say(
    worker: &Rc<Worker>,
    mut client: TcpStream,
    caller: &mut Caller,
    port: &Port,
) -> Result<(), Error> {
    let found = detect(&mut client, BytesMut::new(), detect::PATIENCE).await.map_err(|_| Error::ClientClosed)?;
    let client = Prefixed::new(found.prefix, client);
    let is_mesh = |hello: &detect::client_hello::ClientHello| MeshProtocol::ALL.iter().any(|p| hello.offers(p.alpn()));
    match found.outcome {
        Outcome::Protocol(detect::Protocol::Tls(hello)) if is_mesh(&hello) => {
            let accepted = Box::pin(worker.tls.accept(client, caller.address)).await?;
            *caller = Caller::verified(worker, caller.address, &accepted);
            let protocol = accepted.protocol;
            mesh(worker, Prefixed::new(BytesMut::new(), accepted.stream), caller, port, protocol).await
        }
        outcome => plaintext(worker, client, &outcome, caller, port).await,
    }
}

/// Not mesh TLS: plain, or the application's own TLS.
async fn plaintext(
    worker: &Rc<Worker>,
    client: Prefixed<TcpStream>,
    outcome: &Outcome,
    caller: &Caller,
    port: &Port,
) -> Result<(), Error> {
    // Without a word from a controller nobody knows whether plaintext is allowed.
    let inbound = worker.shared.inbound.first().await;
    let port = match inbound {
        Ok(inbound) => Port { address: port.address, inbound },
        Err(_) => {
            reset_on_drop(client.inner());
            return Err(Error::DiscoveryUnavailable(port.address.to_string()));
        }
    };
    let (prefix, tcp) = client.into_parts();
    if port.mutual_tls() == MutualTls::Strict {
        if matches!(outcome, Outcome::Protocol(detect::Protocol::Http1)) {
            Box::pin(http::refuse(worker, Prefixed::new(prefix, tcp.into()), caller, &port)).await;
            return Ok(());
        }
        reset_on_drop(&tcp);
        return Err(Error::PlaintextRefused(caller.address));
    }
    let client = Prefixed::new(prefix, Stream::from(tcp));
    let served = async {
        match read_as(outcome, &port) {
            MeshProtocol::Http2 => http2::serve(worker, client, caller, &port).await,
            MeshProtocol::Http1 => {
                http::serve(worker, client, caller, &port).await;
                Ok(())
            }
            MeshProtocol::Tcp => tcp::forward(worker, client, caller, &port).await,
        }
    };
    Box::pin(while_allowed(worker, caller.address, served)).await
}

/// Serves plaintext for as long as it may come in: a rule that comes later ends what is open.
async fn while_allowed(
    worker: &Worker,
    from: SocketAddr,
    served: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let mut inbound = worker.shared.inbound.clone();
    let refused = async {
        while inbound.current().value().is_none_or(|inbound| inbound.mutual_tls != MutualTls::Strict) {
            inbound.changed().await;
        }
    };
    tokio::select! {
        biased;
        () = refused => Err(Error::PlaintextRefused(from)),
        served = served => served,
    }
}

/// What a mesh proxy sent, or we ourselves.
async fn mesh(
    worker: &Rc<Worker>,
    client: Prefixed<Stream>,
    caller: &Caller,
    port: &Port,
    protocol: MeshProtocol,
) -> Result<(), Error> {
    match protocol {
        MeshProtocol::Tcp => Box::pin(mesh_tcp(worker, client, caller, port)).await,
        MeshProtocol::Http1 | MeshProtocol::Http2 => mesh_http(worker, client, caller, port, protocol).await,
    }
}

async fn mesh_http(
    worker: &Rc<Worker>,
    client: Prefixed<Stream>,
    caller: &Caller,
    port: &Port,
    protocol: MeshProtocol,
) -> Result<(), Error> {
    let distrusted = worker.tls.until_distrusted(&worker.shared, client.inner().peer());
    let served = async {
        if protocol == MeshProtocol::Http2 {
            return Box::pin(http2::serve(worker, client, caller, port)).await;
        }
        Box::pin(http::serve(worker, client, caller, port)).await;
        Ok(())
    };
    tokio::select! {
        served = served => served,
        () = distrusted => Ok(()),
    }
}

/// `mesh/tcp`: bytes, as the client's proxy says. What that proxy says is a hint: HTTP is read as HTTP all the same, or
/// whoever has a certificate could speak to the application in somebody else's name.
async fn mesh_tcp(
    worker: &Rc<Worker>,
    mut client: Prefixed<Stream>,
    caller: &Caller,
    port: &Port,
) -> Result<(), Error> {
    let mut server = tcp::dial_answered(worker, &mut client, port).await?;
    if matches!(port.protocol(), Protocol::Tcp | Protocol::Tls) {
        tcp::relay(worker, client, Prefixed::new(Vec::new(), server), caller, port).await;
        return Ok(());
    }
    let (mut spoken, mut greeting) = (BytesMut::new(), BytesMut::new());
    let first = tokio::select! {
        biased;
        outcome = client_speaks(&mut client, &mut spoken) => outcome.map(Some),
        read = server.read_buf(&mut greeting) => read.map(|_| None),
    };
    let outcome = match first {
        // Its settings may come before its client's, so they decide nothing.
        Ok(None) if server_speaks(&greeting) == ServerSpeaks::Http2 => {
            client_speaks(&mut client, &mut spoken).await.map(Some)
        }
        first => first,
    };
    let Ok(outcome) = outcome else {
        client.inner().reset_on_drop();
        server.reset_on_drop();
        return Ok(());
    };
    let protocol = outcome.map_or(MeshProtocol::Tcp, |outcome| read_as(&outcome, port));
    let client = Prefixed::new(spoken, client.into_parts().1);
    if protocol == MeshProtocol::Tcp {
        tcp::relay(worker, client, Prefixed::new(greeting, server), caller, port).await;
        return Ok(());
    }
    drop(server);
    mesh_http(worker, client, caller, port, protocol).await
}

/// How what a client said first is read. What some application takes for HTTP though we do not must not get past us on a port
/// that is declared HTTP: the parser refuses it.
fn read_as(outcome: &Outcome, port: &Port) -> MeshProtocol {
    match outcome {
        Outcome::Protocol(detect::Protocol::Http1) => MeshProtocol::Http1,
        Outcome::Protocol(detect::Protocol::Http2) => MeshProtocol::Http2,
        Outcome::Protocol(detect::Protocol::Bytes) if port.protocol().is_http() => MeshProtocol::Http1,
        Outcome::Protocol(detect::Protocol::Tls(_) | detect::Protocol::Bytes) | Outcome::Silent | Outcome::Closed => {
            MeshProtocol::Tcp
        }
    }
}

/// Waits for a client that may well leave the first word to its server; may be cancelled.
async fn client_speaks(client: &mut Prefixed<Stream>, spoken: &mut BytesMut) -> io::Result<Outcome> {
    if spoken.is_empty() && client.read_buf(spoken).await? == 0 {
        return Ok(Outcome::Closed);
    }
    detect_into(client, spoken, detect::PATIENCE).await
}

/// Connects to the application: on the pod's own address, on loopback only where the workload says so.
pub async fn dial_app(worker: &Worker, address: SocketAddr) -> Result<Stream, Error> {
    let bootstrap = &worker.shared.config.bootstrap;
    let app = if bootstrap.loopback_ports.contains(&address.port()) {
        let loopback =
            if address.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
        SocketAddr::new(loopback, address.port())
    } else {
        address
    };
    match upstream::connect(app, bootstrap.socket_mark, APP_CONNECT_TIMEOUT).await {
        Ok(tcp) => {
            do_not_pace(&tcp);
            Ok(tcp.into())
        }
        Err(Error::ConnectRefused(_)) => Err(Error::AppRefused(address)),
        Err(error) => Err(error),
    }
}

const IN_PROCESS_BUFFER: usize = 64 * 1024;
/// An application whose backlog is full does not answer; on one machine nothing else takes long.
const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a silent client whose application is not there may take to say that it is a mesh proxy.
const APP_GONE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may wait for its first byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
