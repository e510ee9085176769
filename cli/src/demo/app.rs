//! The shop's programs: a small HTTP server that calls others for every request it gets, or, for `traffic`, makes requests
//! by itself. They know nothing of the mesh.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

mod client;
mod driver;
mod grpc;
mod lines;

pub(super) use driver::Report;

use super::shop::Protocol;

/// What a program of the shop is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AppSpec {
    /// Its name, in its answers.
    pub(super) name: String,
    /// Its version, in its answers.
    pub(super) version: String,
    /// Ports to listen on, and what is spoken there.
    pub(super) listens: Vec<(u16, Protocol)>,
    /// Whom it calls for every request.
    pub(super) calls: Vec<CallSpec>,
    /// Requests per second it makes by itself; 0: none.
    pub(super) rps: u32,
    /// Directory for the files [`READY`] and [`REPORT`].
    pub(super) directory: PathBuf,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CallSpec {
    /// Name of the Service, also the `Host`.
    pub(super) name: String,
    /// Where it is dialled.
    pub(super) address: SocketAddr,
    /// What is spoken with it.
    pub(super) protocol: Protocol,
}

/// Runs the program that the environment describes.
pub(super) fn run() -> ExitCode {
    let result = read_spec().and_then(|spec| crate::run::runtime()?.block_on(app(spec)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-app: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read_spec() -> anyhow::Result<AppSpec> {
    let text =
        std::env::var(SPEC_VARIABLE).with_context(|| format!("{SPEC_VARIABLE} is not set; meshctl demo sets it"))?;
    Ok(serde_json::from_str(&text)?)
}

async fn app(spec: AppSpec) -> anyhow::Result<()> {
    let upstreams = spec.calls.iter().map(client::Upstream::new).collect();
    let app = Arc::new(App { upstreams, spec });
    if app.spec.rps > 0 { driver::drive(app).await } else { app.serve().await }
}

/// A running program.
#[derive(Debug)]
struct App {
    spec: AppSpec,
    upstreams: Vec<client::Upstream>,
}

impl App {
    async fn serve(self: Arc<Self>) -> anyhow::Result<()> {
        let mut listeners = Vec::new();
        for (port, protocol) in &self.spec.listens {
            listeners.push((TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).await?, *protocol));
        }
        write_file(&self.spec.directory, READY, b"")?;
        let accepting = listeners.into_iter().map(|(listener, protocol)| self.clone().accept(listener, protocol));
        join_all(accepting).await.into_iter().collect()
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, protocol: Protocol) -> anyhow::Result<()> {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true).ok();
            let app = self.clone();
            // A client that breaks off is no concern of anybody else's.
            tokio::spawn(async move {
                match protocol {
                    Protocol::Tcp => lines::serve(stream).await,
                    Protocol::Http => {
                        let service = service_fn(move |request| app.clone().answer(request));
                        let mut server = http1::Builder::new();
                        server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await.ok();
                    }
                    Protocol::Grpc => {
                        let service = service_fn(grpc::answer);
                        let server = http2::Builder::new(grpc::Executor);
                        server.serve_connection(TokioIo::new(stream), service).await.ok();
                    }
                }
            });
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, problem) = match self.call_all(request.uri().path()).await {
            Ok(()) => (200, None),
            Err(problem) => (502, Some(problem)),
        };
        let AppSpec { name, version, .. } = &self.spec;
        let body = serde_json::json!({"service": name, "version": version, "problem": problem}).to_string();
        let response = Response::builder().status(status).header("content-type", "application/json");
        Ok(response.body(Full::new(Bytes::from(body))).expect("the status and the header are valid"))
    }

    /// Calls everybody it needs, at once; all of them have to succeed.
    async fn call_all(&self, path: &str) -> Result<(), String> {
        let calls = self.upstreams.iter().map(|upstream| upstream.call(path));
        join_all(calls).await.into_iter().collect()
    }
}

/// Writes a file that is only ever seen whole.
fn write_file(directory: &Path, name: &str, content: &[u8]) -> anyhow::Result<()> {
    let unfinished = directory.join(format!("{name}.unfinished"));
    std::fs::write(&unfinished, content)?;
    Ok(std::fs::rename(unfinished, directory.join(name))?)
}

/// The environment variable with [`AppSpec`] as JSON.
pub(super) const SPEC_VARIABLE: &str = "MESHCTL_DEMO_APP";
/// File that says the program listens.
pub(super) const READY: &str = "ready";
/// File with [`Report`] as JSON.
pub(super) const REPORT: &str = "report.json";

const CALL_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    async fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
    }

    fn spec(name: &str, directory: &Path, calls: &[(&str, u16, Protocol)]) -> AppSpec {
        let call = |(name, port, protocol): &(&str, u16, Protocol)| CallSpec {
            name: (*name).to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], *port)),
            protocol: *protocol,
        };
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        AppSpec {
            name: name.into(),
            version: "v1".into(),
            listens: Vec::new(),
            calls: calls.iter().map(call).collect(),
            rps: 0,
            directory,
        }
    }

    async fn serve(spec: AppSpec, protocol: Protocol) -> u16 {
        let port = free_port().await;
        let ready = spec.directory.join(READY);
        tokio::spawn(app(AppSpec { listens: vec![(port, protocol)], ..spec }));
        while !ready.exists() {
            sleep(Duration::from_millis(2)).await;
        }
        port
    }

    async fn report(directory: &Path, enough: impl Fn(&Report) -> bool) -> Report {
        loop {
            if let Ok(text) = std::fs::read(directory.join("traffic").join(REPORT)) {
                let report: Report = serde_json::from_slice(&text).unwrap();
                if enough(&report) {
                    return report;
                }
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test]
    async fn a_chain_of_programs_answers_and_traffic_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let payments = serve(spec("payments", path, &[]), Protocol::Grpc).await;
        let sessions = serve(spec("sessions", path, &[]), Protocol::Tcp).await;
        let calls = [("payments", payments, Protocol::Grpc), ("sessions", sessions, Protocol::Tcp)];
        let store = serve(spec("storefront", path, &calls), Protocol::Http).await;
        tokio::spawn(app(AppSpec { rps: 200, ..spec("traffic", path, &[("storefront", store, Protocol::Http)]) }));
        let report = report(path, |report| report.succeeded + report.failed >= 20).await;
        assert_eq!((report.failed, report.last_failure), (0, None));
    }

    #[tokio::test]
    async fn a_failure_deep_down_reaches_the_counter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for protocol in [Protocol::Http, Protocol::Grpc, Protocol::Tcp] {
            let path = path.join(protocol.name());
            let closed = free_port().await;
            let store = serve(spec("storefront", &path, &[("cart", closed, protocol)]), Protocol::Http).await;
            tokio::spawn(app(AppSpec { rps: 200, ..spec("traffic", &path, &[("storefront", store, Protocol::Http)]) }));
            let report = report(&path, |report| report.failed >= 3).await;
            let why = report.last_failure.unwrap();
            assert!(why.contains("storefront: 502") && why.contains("cart"), "{why}");
        }
    }
}
