//! The only way to a proxy: list the pods, and GET a path of their admin.
//!
//! Commands take `impl Transport` and never know what is behind it. A demo is reached over unix sockets
//! ([`unix_socket::UnixSockets`]).

use std::future::Future;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;

pub mod unix_socket;

/// A way to the proxies of one mesh.
pub trait Transport: Sync {
    /// All pods, with or without a proxy, sorted by name.
    fn pods(&self) -> impl Future<Output = Result<Vec<Pod>, TransportError>> + Send;

    /// What is wrong with the objects the mesh is told to follow, as `file:line: problem`. `None` where this way does not
    /// lead to them.
    fn problems(&self) -> impl Future<Output = Result<Option<Vec<String>>, TransportError>> + Send;

    /// What the proxy of a pod answers to a GET of `path` on its admin. Other statuses than 200 are errors.
    fn get(&self, pod: &str, path: &str) -> impl Future<Output = Result<Bytes, TransportError>> + Send;
}

/// A pod, as whoever runs it knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Deployment or the like.
    pub workload: String,
    /// There should be a proxy.
    pub meshed: bool,
}

/// Names of the pods that should have a proxy.
pub async fn proxies(transport: &impl Transport) -> Result<Vec<String>, TransportError> {
    Ok(transport.pods().await?.into_iter().filter(|pod| pod.meshed).map(|pod| pod.name).collect())
}

/// Why a proxy could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The list of pods cannot be had.
    #[error("the list of pods cannot be read: {0}")]
    List(String),
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
    /// What it said, or why not.
    pub result: Result<T, TransportError>,
}

/// Asks several proxies for the same path, a few at a time; answers in the order of `proxies`.
pub async fn ask(transport: &impl Transport, proxies: &[String], path: &str) -> Vec<Answer<Bytes>> {
    let answers = proxies
        .iter()
        .map(|proxy| async move { Answer { proxy: proxy.clone(), result: transport.get(proxy, path).await } });
    stream::iter(answers).buffered(AT_ONCE).collect().await
}

/// [`ask`], for answers in JSON.
pub async fn ask_json<T: DeserializeOwned>(
    transport: &impl Transport,
    proxies: &[String],
    path: &str,
) -> Vec<Answer<T>> {
    let read = |answer: Answer<Bytes>| {
        let result = answer.result.and_then(|body| {
            let malformed = |problem: serde_json::Error| TransportError::Malformed {
                path: path.to_owned(),
                problem: problem.to_string(),
            };
            serde_json::from_slice(&body).map_err(malformed)
        });
        Answer { proxy: answer.proxy, result }
    };
    ask(transport, proxies, path).await.into_iter().map(read).collect()
}

/// Longest answer of a proxy, in bytes.
pub const MAX_BODY: usize = 16 * 1024 * 1024;
const AT_ONCE: usize = 32;
