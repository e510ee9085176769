//! The shop's programs: a small HTTP server that calls others for every request it gets, or, for `traffic`, makes requests
//! by itself. They know nothing of the mesh.

use std::collections::BTreeMap;
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
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

mod client;
mod driver;

pub(super) use driver::Report;

/// What a program of the shop is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AppSpec {
    /// Its name, in its answers.
    pub(super) name: String,
    /// Its version, in its answers.
    pub(super) version: String,
    /// Port to listen on.
    pub(super) port: Option<u16>,
    /// Whom it calls for every request: name, which is also the `Host`, and address.
    pub(super) calls: BTreeMap<String, SocketAddr>,
    /// Requests per second it makes by itself; 0: none.
    pub(super) rps: u32,
    /// Directory for the files [`READY`] and [`REPORT`].
    pub(super) directory: PathBuf,
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
    let upstreams = spec.calls.iter().map(|(name, address)| client::Upstream::new(name, *address)).collect();
    let app = Arc::new(App { upstreams, spec });
    let serving = app.clone().serve();
    if app.spec.rps > 0 { driver::drive(app).await } else { serving.await }
}

/// A running program.
#[derive(Debug)]
struct App {
    spec: AppSpec,
    upstreams: Vec<client::Upstream>,
}

impl App {
    async fn serve(self: Arc<Self>) -> anyhow::Result<()> {
        let port = self.spec.port.context("neither a port nor a rate of requests")?;
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
        write_file(&self.spec.directory, READY, b"")?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true).ok();
            let app = self.clone();
            let service = service_fn(move |request| app.clone().answer(request));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new());
            // A client that breaks off is no concern of anybody else's.
            tokio::spawn(async move { server.serve_connection(TokioIo::new(stream), service).await.ok() });
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
        let calls = self.upstreams.iter().map(|upstream| upstream.get(path));
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

    async fn start(name: &str, calls: &[(&str, u16)], rps: u32, directory: &Path) -> u16 {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let calls =
            calls.iter().map(|(name, port)| ((*name).to_owned(), SocketAddr::from(([127, 0, 0, 1], *port)))).collect();
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let spec = AppSpec {
            name: name.into(),
            version: "v1".into(),
            port: Some(free),
            calls,
            rps,
            directory: directory.clone(),
        };
        tokio::spawn(app(spec));
        while rps == 0 && !directory.join(READY).exists() {
            sleep(Duration::from_millis(2)).await;
        }
        free
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
        let cart = start("cart", &[], 0, directory.path()).await;
        let store = start("storefront", &[("cart", cart)], 0, directory.path()).await;
        start("traffic", &[("storefront", store)], 200, directory.path()).await;
        let report = report(directory.path(), |report| report.succeeded >= 20).await;
        assert_eq!((report.failed, report.last_failure), (0, None));
    }

    #[tokio::test]
    async fn a_failure_deep_down_reaches_the_counter() {
        let directory = tempfile::tempdir().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let store = start("storefront", &[("cart", closed)], 0, directory.path()).await;
        start("traffic", &[("storefront", store)], 200, directory.path()).await;
        let report = report(directory.path(), |report| report.failed >= 3).await;
        let why = report.last_failure.unwrap();
        assert!(why.contains("storefront: 502") && why.contains("cart"), "{why}");
    }
}
