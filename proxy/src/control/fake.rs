//! A control plane for tests: real sockets, real TLS, answers as the test says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{ClientCertificates, Issuer, KeyAndRequest, LeafCertificate, MeshTls, SpiffeId};
use proto::bootstrap::Upstream;
use proto::discovery::discover_request::Kind as Asked;
use proto::discovery::discover_response::Kind as Said;
use proto::discovery::discovery_server::{Discovery, DiscoveryServer};
use proto::discovery::{DiscoverRequest, DiscoverResponse, Heartbeat, Progress};
use proto::identity::identity_server::{Identity, IdentityServer};
use proto::identity::{CertifyRequest, CertifyResponse};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tower::Service as _;

use super::dial::Dialer;

pub(crate) const WORKLOAD: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub(crate) const CONTROLLER: &str = "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller";
pub(crate) const AUTHORITY: &str = "spiffe://cluster.local/ns/mesh-system/sa/mesh-identity";

/// An authority everybody in a test trusts.
pub(crate) struct World {
    pub(crate) issuer: Arc<Issuer>,
}

/// One discovery stream, seen from the controller.
pub(crate) struct FakeStream {
    asked: Streaming<DiscoverRequest>,
    say: mpsc::Sender<Result<DiscoverResponse, Status>>,
}

/// A controller: its address, and the streams proxies open.
pub(crate) struct FakeController {
    pub(crate) address: SocketAddr,
    streams: mpsc::Receiver<FakeStream>,
}

impl World {
    pub(crate) fn new() -> Self {
        let (issuer, _) = Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
        Self { issuer: Arc::new(issuer) }
    }

    pub(crate) fn leaf(&self, id: &str) -> LeafCertificate {
        let id: SpiffeId = id.parse().unwrap();
        let key = KeyAndRequest::new(&id).unwrap();
        let issued = self.issuer.issue(key.csr(), &id, Duration::from_secs(3600), SystemTime::now()).unwrap();
        key.complete(issued.chain).unwrap()
    }

    /// TLS of somebody who trusts this world's authority and has a certificate of it.
    pub(crate) fn tls(&self, id: &str) -> MeshTls {
        let tls = MeshTls::new(Some(Arc::new(self.issuer.bundle().clone())));
        tls.set_leaf(self.leaf(id));
        tls
    }

    pub(crate) fn dialer(&self, tls: &MeshTls, addresses: &[SocketAddr], id: &str) -> Dialer {
        let addresses = addresses.iter().map(SocketAddr::to_string).collect();
        let upstream = Upstream { addresses, id: id.to_owned() };
        Dialer::new(&upstream, id.parse().unwrap(), tls, None)
    }

    /// A controller that is really `id`.
    pub(crate) async fn controller(&self, id: &str) -> FakeController {
        let config = self.tls(id).server_config(ClientCertificates::Required, &[b"h2"]);
        let (opened, streams) = mpsc::channel(8);
        let service = DiscoveryServer::new(Opening(opened));
        let address = serve(config, move |request| {
            let mut service = service.clone();
            async move { service.call(request).await }
        });
        FakeController { address: address.await, streams }
    }

    /// An authority that signs for `lifetime` whoever shows the token `good`.
    pub(crate) async fn authority(&self, lifetime: Duration) -> SocketAddr {
        let config = self.tls(AUTHORITY).server_config(ClientCertificates::None, &[b"h2"]);
        let service = IdentityServer::new(Signing { issuer: self.issuer.clone(), lifetime });
        serve(config, move |request| {
            let mut service = service.clone();
            async move { service.call(request).await }
        })
        .await
    }
}

impl FakeController {
    /// The next stream a proxy opens.
    pub(crate) async fn stream(&mut self) -> FakeStream {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.expect("a proxy dials in time").unwrap()
    }

    /// Whether nobody has opened a stream.
    pub(crate) fn is_alone(&self) -> bool {
        self.streams.is_empty()
    }
}

impl FakeStream {
    /// What the proxy says next; `None` when it has left.
    pub(crate) async fn asked(&mut self) -> Option<Asked> {
        let next = tokio::time::timeout(PATIENCE, self.asked.message()).await.expect("the proxy speaks in time");
        next.ok().flatten().map(|request| request.kind.expect("proxies say only what they know"))
    }

    pub(crate) async fn say(&self, kind: Said) {
        // The proxy may have left: tests see that elsewhere.
        let _ = self.say.send(Ok(DiscoverResponse { kind: Some(kind) })).await;
    }

    pub(crate) async fn heartbeat(&self, position: u64, watch_age_ms: u64) {
        let as_of = Some(progress(position));
        self.say(Said::Heartbeat(Heartbeat { as_of, watch_age_ms, controller: "fake".to_owned() })).await;
    }
}

pub(crate) fn progress(position: u64) -> Progress {
    Progress { positions: [("services".to_owned(), position)].into() }
}

struct Opening(mpsc::Sender<FakeStream>);

#[tonic::async_trait]
impl Discovery for Opening {
    type DiscoverStream = ReceiverStream<Result<DiscoverResponse, Status>>;

    async fn discover(
        &self,
        request: Request<Streaming<DiscoverRequest>>,
    ) -> Result<Response<Self::DiscoverStream>, Status> {
        let (say, said) = mpsc::channel(64);
        self.0.send(FakeStream { asked: request.into_inner(), say }).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(said)))
    }
}

struct Signing {
    issuer: Arc<Issuer>,
    lifetime: Duration,
}

#[tonic::async_trait]
impl Identity for Signing {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let CertifyRequest { csr, token } = request.into_inner();
        if token != "good" {
            return Err(Status::unauthenticated("the token is not good"));
        }
        let now = SystemTime::now();
        let issued = self.issuer.issue(&csr, &WORKLOAD.parse().unwrap(), self.lifetime, now);
        let issued = issued.map_err(|error| Status::permission_denied(error.to_string()))?;
        Ok(Response::new(CertifyResponse {
            chain: issued.chain.iter().map(|der| der.to_vec().into()).collect(),
            not_after: 0,
            bundle: self.issuer.bundle().to_pem(),
        }))
    }
}

async fn serve<F>(
    config: Arc<rustls::ServerConfig>,
    answer: impl Fn(http::Request<Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (TlsAcceptor::from(config.clone()), answer.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    address
}

/// Fails a test that would hang.
const PATIENCE: Duration = Duration::from_secs(10);
