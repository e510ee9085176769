//! Bytes: one endpoint per connection, others while nothing was sent, then a relay.

use std::net::SocketAddr;
use std::rc::Rc;

use policy::{Endpoint, Outbound, ServicePort};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Destination;
use crate::Error;
use crate::balance::InFlight;
use crate::net::copy::{self, Direction as Way};
use crate::net::prefixed::Prefixed;
use crate::stream::{Stream, reset_on_drop};
use crate::telemetry::labels::{EdgeLabels, PeerLabels, Reporter, SecurityPolicy, ServiceLabels};
use crate::telemetry::series::OpenTcp;
use crate::tls::MeshProtocol;
use crate::upstream::{self, LAST_CONNECT_TIMEOUT, MOST_TRIES, patience};
use crate::worker::Worker;

/// A connection to whoever serves.
#[derive(Debug)]
pub struct Dialled {
    /// Ready for the client's bytes.
    pub stream: Stream,
    /// What is counted on it.
    pub edge: Edge,
}

/// Counts for as long as the connection is open.
#[derive(Debug)]
pub struct Edge {
    open: OpenTcp,
    _in_flight: Option<InFlight>,
}

/// Relays a client whose bytes nobody looks into.
pub async fn forward(worker: &Rc<Worker>, client: Prefixed<TcpStream>, destination: &Destination) -> Result<(), Error> {
    let (prefix, client) = client.into_parts();
    match Box::pin(dial(worker, destination)).await {
        Ok(Dialled { stream, edge }) => {
            relay(worker, Prefixed::new(prefix, client.into()), Prefixed::new(Vec::new(), stream), edge).await;
            Ok(())
        }
        Err(error) => {
            reset_on_drop(&client);
            Err(error)
        }
    }
}

/// Connects to an endpoint of the destination, trying others as long as one can do better.
pub async fn dial(worker: &Rc<Worker>, destination: &Destination) -> Result<Dialled, Error> {
    match &*destination.outbound {
        Outbound::Service(service) => {
            let id = service.default_backend.as_ref().ok_or_else(|| Error::NoEndpoints(service.id.to_string()))?;
            balanced(worker, destination, id).await
        }
        Outbound::Workload(endpoint) => {
            let name = ServerName::from(endpoint.address.ip());
            let stream = upstream::dial(worker, endpoint, &name, MeshProtocol::Tcp, LAST_CONNECT_TIMEOUT).await?;
            let edge = Edge { open: open(worker, endpoint, None, &stream), _in_flight: None };
            Ok(Dialled { stream, edge })
        }
        Outbound::Foreign => {
            let mark = worker.shared.config.bootstrap.socket_mark;
            let stream = upstream::connect(destination.address, mark, FOREIGN_CONNECT_TIMEOUT).await?.into();
            let labels = EdgeLabels {
                reporter: Reporter::Source,
                source: worker.shared.labels.clone(),
                destination: PeerLabels::default().into(),
                service: ServiceLabels { name: PASSTHROUGH.into(), host: PASSTHROUGH.into(), namespace: "".into() }
                    .into(),
                security: SecurityPolicy::None,
            };
            let open = worker.shared.telemetry.metrics.tcp(&labels).open();
            Ok(Dialled { stream, edge: Edge { open, _in_flight: None } })
        }
    }
}

async fn balanced(worker: &Rc<Worker>, destination: &Destination, id: &ServicePort) -> Result<Dialled, Error> {
    let backend = worker.backend(id);
    backend.ready().await?;
    let ipv6 = destination.address.is_ipv6();
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last = None;
    while tried.len() < MOST_TRIES {
        let member = match backend.choose(ipv6, &tried, Instant::now()) {
            Ok(member) => member,
            Err(error) => return Err(last.unwrap_or(error)),
        };
        let limit = patience(tried.len(), backend.count(ipv6) <= tried.len() + 1);
        let in_flight = member.load.start();
        match upstream::dial(worker, &member.endpoint, &backend.server_name, MeshProtocol::Tcp, limit).await {
            Ok(stream) => {
                member.load.connected();
                let service = destination.service().map(|service| &service.id);
                let edge = Edge { open: open(worker, &member.endpoint, service, &stream), _in_flight: Some(in_flight) };
                return Ok(Dialled { stream, edge });
            }
            Err(error) if error.retryable() => {
                worker.hold_off(&member.load, Instant::now());
                tried.push(member.endpoint.address);
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or(Error::Internal("no try was made")))
}

/// Copies until both sides are done, the peer is not trusted any more, or one side fails.
pub async fn relay(worker: &Worker, mut client: Prefixed<Stream>, mut server: Prefixed<Stream>, edge: Edge) {
    let distrusted = worker.tls.until_distrusted(&worker.shared, server.inner().peer());
    let copied = copy::relay(&mut client, &mut server, |way, bytes| match way {
        Way::Forward => edge.open.received(bytes as u64),
        Way::Back => edge.open.sent(bytes as u64),
    });
    let orderly = tokio::select! {
        copied = copied => copied.is_ok(),
        () = distrusted => false,
    };
    if !orderly {
        client.inner().reset_on_drop();
        server.inner().reset_on_drop();
    }
}

fn open(worker: &Worker, endpoint: &Endpoint, service: Option<&ServicePort>, stream: &Stream) -> OpenTcp {
    let labels = EdgeLabels {
        reporter: Reporter::Source,
        source: worker.shared.labels.clone(),
        destination: endpoint_labels(endpoint).into(),
        service: service.map(service_labels).unwrap_or_default().into(),
        security: if stream.is_protected() { SecurityPolicy::MutualTls } else { SecurityPolicy::None },
    };
    worker.shared.telemetry.metrics.tcp(&labels).open()
}

/// An endpoint's side of an edge; its principal is the one its proxy has shown.
pub fn endpoint_labels(endpoint: &Endpoint) -> PeerLabels {
    PeerLabels {
        workload: endpoint.workload.as_str().into(),
        namespace: endpoint.namespace.as_str().into(),
        principal: endpoint.identity.as_deref().unwrap_or_default().into(),
        app: endpoint.app.as_str().into(),
        version: endpoint.version.as_str().into(),
        cluster: endpoint.cluster.as_str().into(),
    }
}

/// A Service as labels name it.
pub fn service_labels(id: &ServicePort) -> ServiceLabels {
    ServiceLabels {
        host: format!("{}.{}.svc.cluster.local", id.name, id.namespace).into(),
        name: id.name.as_str().into(),
        namespace: id.namespace.as_str().into(),
    }
}

/// Out in the world things take longer; the client has timeouts of its own.
const FOREIGN_CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// Istio's name for what passes through.
const PASSTHROUGH: &str = "PassthroughCluster";
