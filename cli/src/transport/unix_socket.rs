//! Proxies reached over unix sockets, as a demo has them: `<directory>/proxies/<name>/admin.sock`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::location::{self, ADMIN_SOCKET, PROXIES, PodState, STATE_FILE};

use super::{MAX_BODY, Pod, Transport, TransportError};

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
                pods.push(Pod { workload: name.clone(), name, namespace: String::new(), meshed: true });
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

    async fn get(&self, pod: &str, path: &str) -> Result<Bytes, TransportError> {
        if pod.is_empty() || pod.contains('/') || pod.starts_with('.') {
            return Err(TransportError::Unreachable(format!("{pod:?} is no name of a pod")));
        }
        get(&self.directory.join(PROXIES).join(pod).join(ADMIN_SOCKET), path).await
    }
}

fn pod(state: PodState) -> Pod {
    Pod { name: state.name, namespace: state.namespace, workload: state.workload, meshed: state.meshed }
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
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(path).header("host", "admin").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| TransportError::Unreachable(error.to_string()))?;
    // The connection is driven here rather than in a task of its own, so that nothing outlives a timeout.
    let answer = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => TransportError::TooLarge,
            None => TransportError::Unreachable(error.to_string()),
        })?;
        let body = body.to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        let beginning = String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned();
        Err(TransportError::Status { path: path.to_owned(), status: status.as_u16(), body: beginning })
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: hyper::Error) -> TransportError {
    TransportError::Unreachable(error.to_string())
}

const LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::Response;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use tokio::net::UnixListener;

    use super::*;
    use crate::transport::{ask, ask_json, proxies};

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
