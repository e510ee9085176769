//! Real sockets: mesh TLS, tonic, and a small client.

use std::net::SocketAddr;
use std::time::SystemTime;

use controller_runtime::incoming::{HandshakeMetrics, IncomingConfig, incoming};
use controller_runtime::shutdown::ShutdownTrigger;
use hyper_util::rt::TokioIo;
use identity::{ClientCertificates, Issuer, KeyAndRequest, MeshTls, SpiffeId};
use prometheus_client::registry::Registry;
use proto::discovery::discovery_client::DiscoveryClient;
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::session::tests::{facts, mesh};
use super::*;
use crate::metrics::UsedUpLabels;
use crate::progress::Progress;

mod crowd;
mod memory;

const CONTROLLER: &str = "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

struct Control {
    issuer: Issuer,
    hub: Hub,
    metrics: Metrics,
    registry: Registry,
    address: SocketAddr,
    shutdown: ShutdownTrigger,
}

struct Client {
    requests: mpsc::Sender<wire::DiscoverRequest>,
    responses: Streaming<wire::DiscoverResponse>,
}

fn tls(issuer: &Issuer, id: &str) -> MeshTls {
    let id: SpiffeId = id.parse().unwrap();
    let key = KeyAndRequest::new(&id).unwrap();
    let issued = issuer.issue(key.csr(), &id, Duration::from_secs(3600), SystemTime::now()).unwrap();
    let tls = MeshTls::new(Some(Arc::new(issuer.bundle().clone())));
    tls.set_leaf(key.complete(issued.chain).unwrap());
    tls
}

fn config(admission: AdmissionLimits) -> ServeConfig {
    ServeConfig {
        replica: "replica-a".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        admission,
        stream_life: Duration::from_secs(1800),
    }
}

impl Control {
    async fn start(streams: usize) -> Self {
        let limits = AdmissionLimits { streams, per_second: 5000.0, burst: 5000.0, pods_per_address: None };
        Self::start_with(limits).await
    }

    async fn start_with(admission: AdmissionLimits) -> Self {
        let (issuer, _) = Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
        let (trigger, shutdown) = Shutdown::pair();
        let mut registry = Registry::default();
        let (hub, metrics) = (Hub::new(mesh(), Instant::now()), Metrics::register(&mut registry));
        let service =
            DiscoveryService::new(config(admission), hub.clone(), metrics.clone(), shutdown.clone()).into_server();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = incoming(
            listener,
            tls(&issuer, CONTROLLER),
            IncomingConfig::new(ClientCertificates::Required),
            HandshakeMetrics::default(),
            shutdown.clone(),
        );
        let stop = shutdown.requested();
        tokio::spawn(crate::run::server().serve_with_incoming_shutdown(service, connections, stop));
        Self { issuer, hub, metrics, registry, address, shutdown: trigger }
    }

    fn publish(&self, position: u64, endpoints: &[u8]) -> bool {
        self.hub.publish(facts(endpoints), Progress::of("directory", position), Instant::now())
    }

    /// Of all shares that somebody met with a limit of.
    fn used_up(&self) -> Vec<&'static str> {
        let met = |share: &UsedUp| {
            let labels = UsedUpLabels { share: share.as_str() };
            self.metrics.used_up.get_or_create(&labels).get() > 0
        };
        UsedUp::ALL.into_iter().filter(met).map(UsedUp::as_str).collect()
    }

    fn metrics_text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    async fn channel(&self, tls: MeshTls) -> Result<Channel, tonic::transport::Error> {
        channel_to(self.address, tls).await
    }

    async fn open(&self, id: &str, hello: wire::Hello) -> Result<Client, Status> {
        open_at(self.address, tls(&self.issuer, id), hello).await
    }
}

async fn channel_to(address: SocketAddr, tls: MeshTls) -> Result<Channel, tonic::transport::Error> {
    channel_from([127, 0, 0, 1], address, tls).await
}

async fn channel_from(source: [u8; 4], address: SocketAddr, tls: MeshTls) -> Result<Channel, tonic::transport::Error> {
    let endpoint = tls.endpoint(vec![CONTROLLER.parse().unwrap()], &[b"h2"]);
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let endpoint = endpoint.clone();
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            let name = "controller".try_into().unwrap();
            let stream = TlsConnector::from(endpoint.config()).connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://controller").connect_with_connector(connector).await
}

async fn open_at(address: SocketAddr, tls: MeshTls, hello: wire::Hello) -> Result<Client, Status> {
    open_on(channel_to(address, tls).await.unwrap(), hello).await
}

async fn open_on(channel: Channel, hello: wire::Hello) -> Result<Client, Status> {
    let (requests, outgoing) = mpsc::channel(16);
    let hello = wire::discover_request::Kind::Hello(hello);
    requests.send(wire::DiscoverRequest { kind: Some(hello) }).await.unwrap();
    let responses = DiscoveryClient::new(channel).discover(ReceiverStream::new(outgoing)).await?.into_inner();
    Ok(Client { requests, responses })
}

impl Client {
    async fn subscribe(&self, kind: wire::key::Kind) {
        let subscribe = wire::Subscribe { key: Some(wire::Key { kind: Some(kind) }) };
        let kind = wire::discover_request::Kind::Subscribe(subscribe);
        self.requests.send(wire::DiscoverRequest { kind: Some(kind) }).await.unwrap();
    }

    async fn next(&mut self) -> Option<wire::discover_response::Kind> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await;
        next.expect("an answer in time").unwrap().and_then(|response| response.kind)
    }

    async fn update(&mut self) -> wire::Update {
        loop {
            match self.next().await {
                Some(wire::discover_response::Kind::Update(update)) => return update,
                Some(wire::discover_response::Kind::Heartbeat(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn goodbye(&mut self) -> wire::Goodbye {
        loop {
            match self.next().await {
                Some(wire::discover_response::Kind::Goodbye(goodbye)) => return goodbye,
                Some(_) => {}
                None => panic!("the stream ended without a word"),
            }
        }
    }
}

fn endpoints() -> wire::key::Kind {
    wire::key::Kind::Endpoints(wire::ServicePort { namespace: "shop".into(), name: "web".into(), port: 80 })
}

fn hello_from(last: u8) -> wire::Hello {
    wire::Hello { addresses: vec![vec![10, 1, 0, last].into()], ..wire::Hello::default() }
}

fn count(update: &wire::Update) -> usize {
    let Some(wire::update::Value::Endpoints(endpoints)) = &update.value else { panic!("{update:?}") };
    endpoints.endpoints.len()
}

#[tokio::test]
async fn a_proxy_is_told_what_it_asks_for_and_what_changes() {
    let control = Control::start(10).await;
    let mut client = control.open(WEB, hello_from(1)).await.unwrap();
    let Some(wire::discover_response::Kind::Heartbeat(heartbeat)) = client.next().await else { panic!() };
    assert_eq!(heartbeat.controller, "replica-a");
    client.subscribe(endpoints()).await;
    client.subscribe(wire::key::Kind::Inbound(wire::Unit {})).await;
    assert!(control.publish(1, &[1, 2]));
    let (first, second) = (client.update().await, client.update().await);
    assert_eq!((count(&first), first.hash.len()), (2, 16));
    let Some(wire::update::Value::Inbound(inbound)) = second.value else { panic!("{second:?}") };
    assert_eq!(inbound.workload, "web-1");
    assert!(control.publish(2, &[1]));
    let changed = client.update().await;
    assert_eq!((count(&changed), changed.as_of.unwrap().positions["directory"]), (1, 2));
    let pushes =
        control.metrics_text().lines().find(|line| line.contains("push_duration_seconds_count")).map(str::to_owned);
    assert_eq!(
        pushes.as_deref(),
        Some("mesh_controller_config_push_duration_seconds_count 1"),
        "answers are no pushes"
    );
    let acknowledge = wire::Acknowledge { key: changed.key, hash: changed.hash };
    let kind = Some(wire::discover_request::Kind::Acknowledge(acknowledge));
    client.requests.send(wire::DiscoverRequest { kind }).await.unwrap();
    while control.metrics.acknowledged.get() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!control.publish(1, &[1, 2]), "facts of before");
}

#[tokio::test]
async fn nobody_learns_anothers_workload() {
    let control = Control::start(10).await;
    control.publish(1, &[1]);
    for (id, address) in [("spiffe://cluster.local/ns/shop/sa/other", 1), (WEB, 2)] {
        let mut client = control.open(id, hello_from(address)).await.unwrap();
        client.subscribe(wire::key::Kind::Inbound(wire::Unit {})).await;
        assert_eq!(client.update().await.value, Some(wire::update::Value::Absent(wire::Unit {})), "{id}");
    }
}

#[tokio::test]
async fn a_replica_behind_the_mark_only_sends_heartbeats() {
    let control = Control::start(10).await;
    control.publish(4, &[1, 2]);
    let mark = Some(Progress::of("directory", 5).to_wire());
    let mut client = control.open(WEB, wire::Hello { mark, ..hello_from(1) }).await.unwrap();
    client.subscribe(endpoints()).await;
    for _ in 0..2 {
        let Some(wire::discover_response::Kind::Heartbeat(heartbeat)) = client.next().await else { panic!() };
        assert_eq!(heartbeat.as_of.unwrap().positions["directory"], 4);
    }
    assert_eq!(control.metrics.behind.get(), 1);
    control.publish(5, &[1]);
    assert_eq!(count(&client.update().await), 1);
}

#[tokio::test]
async fn certificates_of_others_do_not_get_in() {
    let control = Control::start(10).await;
    let (stranger, _) = Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
    let foreign = tls(&stranger, WEB);
    foreign.set_bundle(Arc::new(control.issuer.bundle().clone()));
    let refused = match control.channel(foreign).await {
        Err(_) => true,
        // With TLS 1.3 a client learns that it was refused only with its first read.
        Ok(channel) => {
            let requests = tokio_stream::iter([wire::DiscoverRequest::default()]);
            match DiscoveryClient::new(channel).discover(requests).await {
                Err(_) => true,
                Ok(response) => response.into_inner().message().await.is_err(),
            }
        }
    };
    assert!(refused);
}

#[tokio::test]
async fn who_does_not_fit_in_is_told_when_to_come_back() {
    let control = Control::start(1).await;
    let _first = control.open(WEB, hello_from(1)).await.unwrap();
    let mut second = control.open(WEB, hello_from(1)).await.unwrap();
    let goodbye = second.goodbye().await;
    assert_eq!(goodbye.reason, "overloaded");
    assert!(goodbye.retry_after_ms >= 1000);
    assert_eq!(control.metrics.streams.get(), 1);
    assert_eq!(control.used_up(), ["streams"]);
}

#[tokio::test]
async fn streams_are_told_when_the_controller_stops() {
    let control = Control::start(10).await;
    let mut client = control.open(WEB, hello_from(1)).await.unwrap();
    let _ = client.next().await;
    control.shutdown.stop();
    assert_eq!(client.goodbye().await.reason, "draining");
}

#[tokio::test]
async fn a_stream_without_hello_is_refused() {
    let control = Control::start(10).await;
    let channel = control.channel(tls(&control.issuer, WEB)).await.unwrap();
    let requests = tokio_stream::iter([wire::DiscoverRequest::default()]);
    let mut responses = DiscoveryClient::new(channel).discover(requests).await.unwrap().into_inner();
    let status = responses.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("Hello"), "{status}");
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_the_latest_when_it_does() {
    let control = Control::start(10).await;
    control.publish(1, &[1]);
    let mut client = control.open(WEB, hello_from(1)).await.unwrap();
    client.subscribe(endpoints()).await;
    assert_eq!(count(&client.update().await), 1);
    let many: Vec<u8> = (1..=200).collect();
    for position in 2..600 {
        let length = if position % 2 == 0 { 200 } else { 199 };
        control.publish(position, &many[..length]);
        tokio::task::yield_now().await;
    }
    control.publish(600, &[9]);
    let mut received = 0;
    while count(&client.update().await) != 1 {
        received += 1;
    }
    // What the windows of HTTP/2 hold, not one per change.
    assert!(received < 300, "{received}");
}
