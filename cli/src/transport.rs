//! The only way to a proxy: list the pods, and GET a path of their admin.
//!
//! Commands take `impl Transport` and never know what is behind it. A demo is reached over unix sockets
//! ([`unix_socket::UnixSockets`]), a cluster by port-forwarding through its API server ([`port_forward::PortForward`]).

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::progress::Progress;
use crate::target::Kind;

mod http;
pub mod owner;
pub mod port_forward;
pub mod unix_socket;

/// A way to the proxies of one mesh.
pub trait Transport: Sync {
    /// All pods that run or are about to, with or without a proxy, sorted by what their proxy is called.
    fn pods(&self) -> impl Future<Output = Result<Vec<Pod>, TransportError>> + Send;

    /// What is wrong with the objects the mesh is told to follow, as `file:line: problem`. `None` where this way does not
    /// lead to them.
    fn problems(&self) -> impl Future<Output = Result<Option<Vec<String>>, TransportError>> + Send;

    /// Age of a proxy's picture that nothing need be wrong for: from there on it counts as stale.
    fn stale_after(&self) -> Duration;

    /// What a proxy answers to a GET of `path` on its admin. Other statuses than 200 are errors.
    fn get(&self, proxy: &str, path: &str) -> impl Future<Output = Result<Bytes, TransportError>> + Send;
}

/// A pod, as whoever runs it knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// What its proxy is called, here and in everything that is printed: in a demo the pod's name, in a cluster
    /// `namespace/name`.
    pub proxy: String,
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Deployment or the like.
    pub workload: String,
    /// What the workload is; none where that is not known.
    pub kind: Option<Kind>,
    /// Services of its namespace that select it, where that is known.
    pub services: Vec<String>,
    /// There should be a proxy.
    pub meshed: bool,
    /// Bytes that its proxy may take, where that is limited.
    pub memory_limit: Option<u64>,
}

/// The proxies there should be.
pub async fn proxies(transport: &impl Transport) -> Result<Vec<String>, TransportError> {
    Ok(transport.pods().await?.into_iter().filter(|pod| pod.meshed).map(|pod| pod.proxy).collect())
}

/// Why a proxy could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The list of pods cannot be had.
    #[error("the list of pods cannot be read: {0}")]
    List(String),
    /// Whoever asks has no right to it.
    #[error("the list of pods may not be read: {0}")]
    NotAllowed(String),
    /// Nobody listens.
    #[error("does not answer ({0}); its log says why")]
    Unreachable(String),
    /// Not in time.
    #[error("did not answer within {0} s")]
    TimedOut(u64),
    /// Not with 200.
    #[error("answered {path} with {status}: {body}")]
    Status {
        /// What was asked.
        path: String,
        /// HTTP status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// More than [`MAX_BODY`].
    #[error("answered with more than {} MiB", MAX_BODY / 1024 / 1024)]
    TooLarge,
    /// Not what we expect to read.
    #[error("answered {path} with something this version does not understand ({problem}); see meshctl version")]
    Malformed {
        /// What was asked.
        path: String,
        /// What is wrong with the answer.
        problem: String,
    },
}

/// One proxy's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// Name of the proxy.
    pub proxy: String,
    /// When it answered, or was given up.
    pub at: Instant,
    /// What it said, or why not.
    pub result: Result<T, TransportError>,
}

/// Asks several proxies for the same path, a few at a time; answers in the order of `proxies`.
pub async fn ask(transport: &impl Transport, proxies: &[String], path: &str) -> Vec<Answer<Bytes>> {
    let answers = proxies.iter().enumerate().map(|(index, proxy)| async move {
        let result = transport.get(proxy, path).await;
        (index, Answer { proxy: proxy.clone(), at: Instant::now(), result })
    });
    // In the order in which they come: one that hangs holds up nobody behind it.
    let mut coming = stream::iter(answers).buffer_unordered(AT_ONCE);
    let mut answers = Vec::with_capacity(proxies.len());
    let mut progress = (proxies.len() > AT_ONCE).then(Progress::new);
    while let Some(answer) = coming.next().await {
        answers.push(answer);
        if let Some(progress) = &mut progress {
            progress.count("proxies were asked", answers.len(), proxies.len());
        }
    }
    answers.sort_unstable_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// [`ask`], for answers in JSON.
pub async fn ask_json<T: DeserializeOwned>(
    transport: &impl Transport,
    proxies: &[String],
    path: &str,
) -> Vec<Answer<T>> {
    ask(transport, proxies, path).await.into_iter().map(|answer| answer.json(path)).collect()
}

/// Asks one proxy for something in JSON.
pub async fn ask_one<T: DeserializeOwned>(transport: &impl Transport, proxy: &str, path: &str) -> Answer<T> {
    let result = transport.get(proxy, path).await;
    Answer { proxy: proxy.to_owned(), at: Instant::now(), result }.json(path)
}

impl Answer<Bytes> {
    fn json<T: DeserializeOwned>(self, path: &str) -> Answer<T> {
        let result = self.result.and_then(|body| {
            let malformed = |problem: serde_json::Error| TransportError::Malformed {
                path: path.to_owned(),
                problem: problem.to_string(),
            };
            serde_json::from_slice(&body).map_err(malformed)
        });
        Answer { proxy: self.proxy, at: self.at, result }
    }
}

/// Longest answer of a proxy, in bytes.
pub const MAX_BODY: usize = 16 * 1024 * 1024;
/// Proxies asked at the same time.
pub const AT_ONCE: usize = 16;
