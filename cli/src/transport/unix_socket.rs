//! Proxies reached over unix sockets, as a demo has them: `<directory>/proxies/<name>/admin.sock`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::location::{self, ADMIN_SOCKET, PROXIES, PodState, STATE_FILE};

use super::{Pod, Transport, TransportError, http};

/// The proxies of one demo.
#[derive(Debug, Clone)]
pub struct UnixSockets {
    directory: PathBuf,
}

impl UnixSockets {
    /// The demo that lives in `directory`.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }
}

impl Transport for UnixSockets {
    async fn pods(&self) -> Result<Vec<Pod>, TransportError> {
        // Not tokio::fs: it starts threads, and the process that runs the demo cannot.
        if self.directory.join(STATE_FILE).is_file() {
            let state =
                location::read_state(&self.directory).map_err(|error| TransportError::List(error.to_string()))?;
            return Ok(sorted(state.pods.into_iter().map(pod).collect()));
        }
        // Not a demo's, but laid out like one.
        let directory = self.directory.join(PROXIES);
        let list = |error: std::io::Error| TransportError::List(format!("{}: {error}", directory.display()));
        let mut pods = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(list)? {
            let entry = entry.map_err(list)?;
            if let (true, Ok(name)) = (entry.path().is_dir(), entry.file_name().into_string()) {
                pods.push(Pod { proxy: name.clone(), workload: name.clone(), name, meshed: true, ..Pod::default() });
            }
        }
        Ok(sorted(pods))
    }

    async fn problems(&self) -> Result<Option<Vec<String>>, TransportError> {
        if !self.directory.join(STATE_FILE).is_file() {
            return Ok(None);
        }
        let state = location::read_state(&self.directory).map_err(|error| TransportError::List(error.to_string()))?;
        Ok(state.manifest_problems)
    }

    /// Three missed heartbeats: a directory is looked at all the time.
    fn stale_after(&self) -> Duration {
        Duration::from_secs(3 * proto::names::HEARTBEAT_SECONDS)
    }

    async fn get(&self, proxy: &str, path: &str) -> Result<Bytes, TransportError> {
        if proxy.is_empty() || proxy.contains('/') || proxy.starts_with('.') {
            return Err(TransportError::Unreachable(format!("{proxy:?} is no name of a pod")));
        }
        get(&self.directory.join(PROXIES).join(proxy).join(ADMIN_SOCKET), path).await
    }
}

fn pod(state: PodState) -> Pod {
    Pod {
        proxy: state.name.clone(),
        name: state.name,
        namespace: state.namespace,
        workload: state.workload,
        meshed: state.meshed,
        ..Pod::default()
    }
}

fn sorted(mut pods: Vec<Pod>) -> Vec<Pod> {
    pods.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    pods
}

/// GETs `path` from the HTTP server on a unix socket.
pub async fn get(socket: &Path, path: &str) -> Result<Bytes, TransportError> {
    match timeout(LIMIT, exchange(socket, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(TransportError::TimedOut(LIMIT.as_secs())),
    }
}

async fn exchange(socket: &Path, path: &str) -> Result<Bytes, TransportError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|error| TransportError::Unreachable(format!("{}: {error}", socket.display())))?;
    http::get(stream, path).await
}

const LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixListener;

    use super::*;
    use crate::transport::{MAX_BODY, ask, ask_json, proxies};

    async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, body) = match request.uri().path() {
            "/info" => (200, Bytes::from_static(b"{\"workload\": 1}")),
            "/huge" => (200, Bytes::from(vec![b'x'; MAX_BODY + 1])),
            "/slow" => std::future::pending().await,
            _ => (404, Bytes::from_static(b"no such thing\n")),
        };
        Ok(Response::builder().status(status).body(Full::new(body)).unwrap())
    }

    fn serve(directory: &Path, name: &str) {
        let directory = directory.join(PROXIES).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let listener = UnixListener::bind(directory.join(ADMIN_SOCKET)).unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
    }

    #[tokio::test]
    async fn proxies_are_listed_and_asked() {
        let directory = tempfile::tempdir().unwrap();
        serve(directory.path(), "web-1");
        serve(directory.path(), "api-1");
        std::fs::create_dir_all(directory.path().join(PROXIES).join("gone-1")).unwrap();
        let transport = UnixSockets::new(directory.path());
        let proxies = proxies(&transport).await.unwrap();
        assert_eq!(proxies, ["api-1", "gone-1", "web-1"]);
        let answers = ask(&transport, &proxies, "/info").await;
        assert_eq!(answers.iter().map(|answer| answer.result.is_ok()).collect::<Vec<_>>(), [true, false, true]);
        assert!(matches!(&answers[1].result, Err(TransportError::Unreachable(why)) if why.contains("gone-1")));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_that_says_so() {
        let directory = tempfile::tempdir().unwrap();
        serve(directory.path(), "web-1");
        let transport = UnixSockets::new(directory.path());
        let error = transport.get("web-1", "/nothing").await.unwrap_err().to_string();
        assert_eq!(error, "answered /nothing with 404: no such thing");
        assert_eq!(transport.get("web-1", "/huge").await, Err(TransportError::TooLarge));
        assert!(transport.get("../web-1", "/info").await.is_err());
        let answers = ask_json::<String>(&transport, &["web-1".to_owned()], "/info").await;
        assert!(matches!(&answers[0].result, Err(TransportError::Malformed { .. })), "{answers:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_hangs_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        serve(directory.path(), "web-1");
        let error = UnixSockets::new(directory.path()).get("web-1", "/slow").await;
        assert_eq!(error, Err(TransportError::TimedOut(5)));
    }
}
