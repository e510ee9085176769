//! The connection to the Kubernetes API: made the same way by every control-plane program, with errors that say what to
//! do.
//!
//! The configuration is the one everybody knows: `KUBECONFIG` or `~/.kube/config`, else the pod's own service account.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;

/// Why the Kubernetes API can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// Neither a kubeconfig nor a service account.
    #[error(
        "no way to the Kubernetes API is configured: set KUBECONFIG, or run in a pod with its service account's token mounted (automountServiceAccountToken): {0}"
    )]
    Configuration(String),
    /// The configuration can't be used.
    #[error("the Kubernetes API's configuration cannot be used: {0}")]
    Client(String),
}

/// A client that calls itself `program` with this version in the API server's audit log. No connection is made yet.
pub async fn connect(program: &str, version: &str) -> Result<Client, KubernetesError> {
    let mut config = Config::infer().await.map_err(|error| KubernetesError::Configuration(describe_chain(&error)))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    if let Ok(agent) = HeaderValue::try_from(format!("{program}/{version}")) {
        config.headers.push((USER_AGENT, agent));
    }
    Client::try_from(config).map_err(|error| KubernetesError::Client(describe(&error)))
}

/// How programs watch: asked anew every minute, so a connection that died without a word is noticed soon after. (The
/// server says nothing while nothing changes, so silence alone tells nothing.)
pub fn watch_config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// Follows one object: it, whenever it changes, or nothing where there is none. What was known stays while it cannot be followed,
/// which is tried again and logged once per outage; `what` it is, for that line.
pub fn watch_named<K>(api: Api<K>, name: &str, what: &'static str) -> impl Stream<Item = Option<K>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let events = watcher(api, watch_config().fields(&format!("metadata.name={name}")));
    let (mut listed, mut failing) = (false, false);
    events.backoff(watcher::DefaultBackoff::default()).filter_map(move |event| {
        let told = match event {
            Ok(Event::Init) => {
                listed = false;
                None
            }
            Ok(Event::InitApply(object)) => {
                listed = true;
                Some(Some(object))
            }
            Ok(Event::InitDone) => (!listed).then_some(None),
            Ok(Event::Apply(object)) => Some(Some(object)),
            Ok(Event::Delete(_)) => Some(None),
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = describe_chain(&error), "cannot follow {what}, trying again");
                }
                None
            }
        };
        failing &= told.is_none();
        std::future::ready(told)
    })
}

/// A failed call in one sentence: the API server's own words, or why it could not be asked; with advice where we have any.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            format!("the API server does not accept our credentials: {}", status.message)
        }
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "{} (the program's RBAC role is missing this right; installing again brings it back)",
                status.message
            )
        }
        kube::Error::Api(status) if status.message.is_empty() => format!("the API server answered {}", status.code),
        kube::Error::Api(status) => status.message.clone(),
        other => format!("the Kubernetes API cannot be reached: {}", describe_chain(other)),
    }
}

/// Whether the API server says that there is no such object.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether somebody else was quicker: the object exists already, or has changed since it was read.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// An error with what is behind it, each thing once: libraries' own words are often only "transport error".
pub(crate) fn describe_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any watch: those end themselves.
const READ_TIMEOUT: Duration = Duration::from_secs(310);
const WATCH_SECONDS: u32 = 60;
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answer(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status { code, message: message.to_owned(), ..Status::default() }))
    }

    #[test]
    fn a_failed_call_is_one_sentence_with_advice() {
        let forbidden = describe(&answer(403, "secrets \"mesh-issuer\" is forbidden"));
        assert!(forbidden.starts_with("secrets \"mesh-issuer\" is forbidden (") && forbidden.contains("RBAC"));
        assert_eq!(describe(&answer(500, "")), "the API server answered 500");
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let unreachable = describe(&kube::Error::Service(Box::new(refused)));
        assert_eq!(unreachable, "the Kubernetes API cannot be reached: ServiceError: connection refused");
        assert!(is_not_found(&answer(404, "")) && is_conflict(&answer(409, "")) && !is_conflict(&answer(404, "")));
    }
}
