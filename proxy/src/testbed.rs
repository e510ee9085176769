//! Two meshed workloads in one process, for tests of the data path: real sockets, real TLS, a real issuer. Only the
//! redirect is missing: where a connection was meant to go is told, not asked of the kernel.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{DEFAULT_LEAF_LIFETIME, Issuer, KeyAndRequest, MeshTls, TrustDomain};
use policy::{Endpoint, Endpoints, Inbound, InboundPort, Outbound, Protocol, Service, ServicePort, Settings};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::config::Config;
use crate::control::{Discovery, Known};
use crate::drain::Drain;
use crate::telemetry::Telemetry;
use crate::telemetry::exposition::Exposition;
use crate::worker::{Shared, Worker};
use crate::{inbound, outbound};

/// An authority everybody in a test trusts.
pub(crate) fn issuer() -> Issuer {
    Issuer::create(&"cluster.local".parse::<TrustDomain>().unwrap(), SystemTime::now()).unwrap().0
}

/// A worker of the proxy of `account`, whose pod has the address `ip`.
pub(crate) fn proxy(issuer: &Issuer, account: &str, ip: &str) -> Rc<Worker> {
    let bootstrap = serde_json::json!({
        "workload": {
            "name": format!("{account}-1"), "owner": account, "namespace": "shop", "service_account": account,
            "addresses": [ip], "app": account, "version": "v1",
        },
        "identity": {"addresses": ["127.0.0.1:1"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-identity"},
        "controller": {"addresses": ["127.0.0.1:1"], "id": "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller"},
        "token_file": "/nonexistent",
    });
    let config = Config::new(proto::Bootstrap::parse(&bootstrap.to_string()).unwrap());
    let mesh_tls = MeshTls::new(Some(Arc::new(issuer.bundle().clone())));
    certify(issuer, &mesh_tls, account);
    let discovery = Discovery::default();
    discovery.put_settings(Known::Value(Arc::new(Settings {
        trust_domain: "cluster.local".to_owned(),
        cluster_networks: vec!["10.0.0.0/8".parse().unwrap()],
    })));
    discovery.put_inbound(Known::Value(Arc::new(Inbound::default())));
    let shared = Shared::new(config, discovery, mesh_tls, Telemetry::default(), Drain::new());
    Rc::new(Worker::new(Arc::new(shared)))
}

/// Gives a workload a certificate.
pub(crate) fn certify(issuer: &Issuer, mesh_tls: &MeshTls, account: &str) {
    let id = spiffe_id(account).parse().unwrap();
    let request = KeyAndRequest::new(&id).unwrap();
    let issued = issuer.issue(request.csr(), &id, DEFAULT_LEAF_LIFETIME, SystemTime::now()).unwrap();
    mesh_tls.set_leaf(request.complete(issued.chain).unwrap());
}

/// Identity of an account.
pub(crate) fn spiffe_id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

/// A listening socket on a loopback address, any port.
pub(crate) async fn listen(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A listener whose backlog is full does not answer a SYN, like an address that nobody has any more.
pub(crate) async fn silent_address() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        filling.push(stream.unwrap());
    }
    (socket, filling, address)
}

/// The inbound side of a proxy, for callers of the returned address; `app` is what they mean.
pub(crate) async fn inbound_of(worker: &Rc<Worker>, app: SocketAddr) -> SocketAddr {
    let (listener, address) = listen("127.0.0.1").await;
    let worker = Rc::clone(worker);
    spawn_local(async move {
        loop {
            let (tcp, from) = listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let worker = Rc::clone(&worker);
            spawn_local(async move { inbound::serve(&worker, tcp, from, app).await });
        }
    });
    address
}

/// A connection of the application beside `worker` to `destination`.
pub(crate) async fn call(worker: &Rc<Worker>, destination: SocketAddr) -> TcpStream {
    let (listener, address) = listen("127.0.0.1").await;
    let client = TcpStream::connect(address).await.unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let worker = Rc::clone(worker);
    spawn_local(async move { outbound::serve(&worker, tcp, destination).await });
    client
}

/// An endpoint; with an account it is meshed.
pub(crate) fn endpoint(address: SocketAddr, account: Option<&str>) -> Endpoint {
    Endpoint {
        address,
        identity: account.map(spiffe_id),
        workload: account.unwrap_or("outsider").to_owned(),
        namespace: "shop".to_owned(),
        app: String::new(),
        version: String::new(),
        cluster: String::new(),
        zone: String::new(),
        ready: true,
        protocol: Protocol::Undeclared,
    }
}

/// Makes `destination` a Service without routes, served by `endpoints`.
pub(crate) fn put_service(worker: &Worker, destination: SocketAddr, protocol: Protocol, endpoints: Vec<Endpoint>) {
    let id = ServicePort::new("shop", "web", destination.port());
    let discovery = &worker.shared.discovery;
    discovery.put_endpoints(&id, Known::Value(Arc::new(Endpoints { list: endpoints, ..Endpoints::default() })));
    let service = Service { id: id.clone(), protocol, routes: policy::Routes::default(), default_backend: Some(id) };
    discovery.put_outbound(destination, Known::Value(Arc::new(Outbound::Service(service))));
}

/// Declares a port of the workload beside `worker`, and what PeerAuthentication asks for.
pub(crate) fn put_inbound(worker: &Worker, port: u16, protocol: Protocol, mutual_tls: policy::MutualTls) {
    let ports = vec![InboundPort { port, protocol, service: Some(ServicePort::new("shop", "web", 80)) }];
    let inbound = Inbound { ports, mutual_tls, ..Inbound::default() };
    worker.shared.discovery.put_inbound(Known::Value(Arc::new(inbound)));
}

/// Words of the failures so far, newest first.
pub(crate) fn failures(worker: &Worker) -> Vec<String> {
    worker.shared.telemetry.failures.list().into_iter().map(|failure| failure.reason).collect()
}

/// What a scrape of the proxy shows.
pub(crate) fn metrics(worker: &Worker) -> String {
    Exposition::new(&worker.shared.telemetry.metrics, String::new()).collect()
}
