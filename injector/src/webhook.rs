//! The webhooks: from the body of a request to an answer, whatever the body is.
//!
//! A question that can be read is always answered as an AdmissionReview, and one that can't with an HTTP error that says
//! why. Pods that asked for a proxy never start without one because something failed here: such questions are refused, and
//! whoever creates pods tries again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use controller_runtime::preferred::Preferred;
use controller_runtime::sources::{Place, Sources};
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::names;
use serde::Deserialize as _;
use tokio::sync::watch;

use crate::config::Config;
use crate::decision::{Decision, Skipped, decide};
use crate::events::{Events, INJECTED, Told, regarding};
use crate::inject::{Injection, Outcome, inject};
use crate::metrics::Metrics;
use crate::mirror;
use crate::namespaces::Namespaces;
use crate::quoted::shortened;
use crate::review::{Answer, Question};
use crate::serve::Source;

/// What the answers are made from.
#[derive(Debug)]
pub struct Webhook {
    /// What is known of namespaces.
    pub namespaces: Namespaces,
    /// The configuration in force.
    pub config: watch::Receiver<Arc<Config>>,
    /// The trust bundle, PEM.
    pub bundle: watch::Receiver<Option<Arc<str>>>,
    /// Where people are told.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// Questions from the first byte of their body to their answer.
    questions: Sources,
}

impl Webhook {
    /// Webhooks that know no namespaces but these, and answer the preferred first.
    pub fn new(
        namespaces: Namespaces,
        config: watch::Receiver<Arc<Config>>,
        bundle: watch::Receiver<Option<Arc<str>>>,
        events: Events,
        metrics: Metrics,
        preferred: Preferred,
    ) -> Self {
        Self {
            namespaces,
            config,
            bundle,
            events,
            metrics,
            questions: Sources::new(MOST_QUESTIONS, MOST_QUESTIONS_EACH).preferring(preferred),
        }
    }

    /// The paths that the API server calls.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route(names::PODS_PATH, post(pods))
            .route(names::NAMESPACES_PATH, post(namespaces))
            .fallback(async || (StatusCode::NOT_FOUND, "here are /mutate/pods and /mutate/namespaces\n"))
            .with_state(self)
    }

    async fn pod(&self, question: &mut Question) -> Answer {
        if question.kind.kind != "Pod" || !question.kind.group.is_empty() || question.operation != "CREATE" {
            return other(question, "Pods that are created");
        }
        // What it is made from goes now: the API server may be slow to tell of the namespace.
        let pod: Pod = match serde_json::from_value(std::mem::take(&mut question.object)) {
            Ok(pod) => pod,
            Err(error) => return self.broken(question, &format!("its object is no Pod: {error}")),
        };
        let namespace = match self.namespace(&pod, question).await {
            Ok(namespace) => namespace,
            Err(error) => {
                self.count(question, |metrics| metrics.failed("namespace_unknown"));
                let message = format!("mesh-injector cannot tell whether this pod is to be injected: {error}");
                return Answer::refused("namespace_unknown", 503, message);
            }
        };
        let (config, bundle) = (self.config.borrow().clone(), self.bundle.borrow().clone());
        match inject(&pod, &namespace, &config, bundle.as_deref()) {
            Outcome::Injected(injection) => self.injected(question, &pod, &namespace, injection),
            Outcome::Skipped(skipped) => {
                let answer = self.skipped(question, &pod, &namespace, &skipped);
                // Agents on the nodes' network are in many namespaces, and asked for nothing themselves.
                if !config.refuse_uninjectable || !skipped.is_surprising() || skipped == Skipped::HostNetwork {
                    return answer;
                }
                let message = format!("not injected into the mesh, which refuses pods without it here: {skipped}");
                Answer::refused(skipped.reason(), 403, message)
            }
        }
    }

    /// What the watch has told is good enough to inject a pod by, and not to leave one out by: whoever sent us the pod may
    /// know of an annotation that we have not heard of.
    async fn namespace(&self, pod: &Pod, question: &Question) -> Result<ObjectMeta, String> {
        let name = &question.namespace;
        if name.is_empty() {
            return Err("the question names no namespace".to_owned());
        }
        match self.namespaces.known(name) {
            Some(known) if decide(pod, &known) != Decision::Skip(Skipped::NotAskedFor) => Ok(known),
            _ => self.namespaces.ask(name, question.source).await,
        }
    }

    fn injected(&self, question: &Question, pod: &Pod, namespace: &ObjectMeta, injection: Injection) -> Answer {
        let asked = if injection.is_again { "containers_added" } else { "asked_for" };
        self.count(question, |metrics| metrics.injected(asked));
        if !injection.notes.is_empty() {
            self.tell(question, pod, namespace, (INJECTED, injection.is_again), &injection.notes.join("; "));
        }
        tracing::debug!(namespace = namespace.name, pod = name(pod), "injected");
        Answer {
            patch: Some(injection.patch),
            warnings: injection.notes.iter().map(|note| format!("mesh: {note}")).collect(),
            ..Answer::unchanged(INJECTED)
        }
    }

    fn skipped(&self, question: &Question, pod: &Pod, namespace: &ObjectMeta, skipped: &Skipped) -> Answer {
        self.count(question, |metrics| metrics.skipped(skipped.reason()));
        let mut answer = Answer::unchanged(skipped.reason());
        if skipped.is_surprising() {
            let note = format!("not injected into the mesh: {skipped}");
            tracing::info!(namespace = namespace.name, pod = name(pod), reason = skipped.reason(), "{skipped}");
            self.tell(question, pod, namespace, (skipped.reason(), true), &note);
            answer.warnings.push(note);
        }
        answer
    }

    fn tell(&self, question: &Question, pod: &Pod, namespace: &ObjectMeta, cause: (&'static str, bool), note: &str) {
        if question.is_dry_run() {
            return;
        }
        let regarding = regarding(&pod.metadata, namespace.name.as_deref().unwrap_or_default());
        let (cause, is_warning) = cause;
        let source = question.source;
        self.events.tell(source, Told { regarding, is_warning, cause, note: format!("{}: {note}", name(pod)) });
    }

    /// A dry run leaves no trace.
    fn count(&self, question: &Question, count: impl FnOnce(&Metrics)) {
        if !question.is_dry_run() {
            count(&self.metrics);
        }
    }

    fn broken(&self, question: &Question, problem: &str) -> Answer {
        self.count(question, |metrics| metrics.failed("malformed"));
        Answer::refused("malformed", 400, format!("mesh-injector cannot read the AdmissionReview: {problem}"))
    }

    fn busy(&self, message: &str) -> Response {
        self.refused("overloaded", StatusCode::TOO_MANY_REQUESTS, message)
    }

    fn refused(&self, reason: &'static str, status: StatusCode, message: &str) -> Response {
        self.metrics.failed(reason);
        tracing::info!(reason, message, "a request to the webhook was refused");
        (status, format!("mesh-injector: {message}\n")).into_response()
    }

    /// A place for a question, and the question in its body, or the HTTP error that it is answered with.
    async fn question(&self, source: Source, body: Body) -> Result<(Place, Question), Response> {
        let refused = |reason, status, message: String| self.refused(reason, status, &message);
        let busy = |message: &str| self.busy(message);
        let waiting = tokio::time::timeout(PATIENCE, self.questions.wait(source.0, LONGEST_LINE));
        let Ok(Ok(mut place)) = waiting.await else {
            return Err(busy("too many questions at once; ask again"));
        };
        let reading = tokio::time::timeout(PATIENCE, Limited::new(body, LARGEST_BODY).collect());
        let body = tokio::select! {
            body = reading => body,
            () = place.taken_away() => return Err(busy("others wait for the place that this body does not fill")),
        };
        // What is left to do is ours.
        place.keep();
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let message = format!("an AdmissionReview of more than {LARGEST_BODY} bytes is not read");
                return Err(refused("too_large", StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            Ok(Err(error)) => {
                let message = format!("the body did not arrive: {error}");
                return Err(refused("malformed", StatusCode::BAD_REQUEST, message));
            }
            Err(_) => {
                let message = format!("the body did not arrive within {PATIENCE:?}");
                return Err(refused("malformed", StatusCode::REQUEST_TIMEOUT, message));
            }
        };
        match Question::parse(&body) {
            Ok(question) => Ok((place, Question { source: Some(source.0), ..question })),
            Err(error) => Err(refused("malformed", StatusCode::BAD_REQUEST, error.to_string())),
        }
    }
}

async fn pods(State(webhook): State<Arc<Webhook>>, Extension(source): Extension<Source>, body: Body) -> Response {
    match webhook.question(source, body).await {
        Ok((mut place, mut question)) => {
            let answer = tokio::select! {
                answer = webhook.pod(&mut question) => answer,
                // Half of the places may wait for an API server that is slow.
                () = place.taken_away() => return webhook.busy("others wait for the place, and the API server is slow"),
            };
            answered(&question, &answer)
        }
        Err(response) => response,
    }
}

async fn namespaces(State(webhook): State<Arc<Webhook>>, Extension(source): Extension<Source>, body: Body) -> Response {
    match webhook.question(source, body).await {
        Ok((_place, question)) => answered(&question, &namespace(&question)),
        Err(response) => response,
    }
}

/// Never refused: a namespace without its label is put right later.
fn namespace(question: &Question) -> Answer {
    let is_written = ["CREATE", "UPDATE"].contains(&question.operation.as_str());
    if question.kind.kind != "Namespace" || !question.kind.group.is_empty() || !is_written {
        return other(question, "Namespaces that are created or updated");
    }
    let Ok(namespace) = Namespace::deserialize(&question.object) else {
        return Answer { warnings: vec!["mesh: this is no Namespace".to_owned()], ..Answer::unchanged("malformed") };
    };
    let namespace = namespace.metadata;
    let mut answer = Answer::unchanged("unchanged");
    answer.warnings.extend(mirror::warning(&namespace).map(|warning| format!("mesh: {warning}")));
    if let Some(change) = mirror::change(&namespace) {
        answer.outcome = "mirrored";
        answer.patch = Some(change.json_patch(&namespace));
    }
    answer
}

/// Somebody wrote a webhook configuration of his own.
fn other(question: &Question, ours: &str) -> Answer {
    let (operation, kind) = (&question.operation, &question.kind.kind);
    let (operation, kind) = (shortened(operation), shortened(kind));
    let warning = format!("mesh: this webhook is for {ours}, not for {operation} of {kind}");
    Answer { warnings: vec![warning], ..Answer::unchanged("other_kind") }
}

fn answered(question: &Question, answer: &Answer) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, answer.review(&question.uid).to_string()).into_response()
}

/// What a pod is called, or will be called.
fn name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    let generated = || format!("{}*", metadata.generate_name.as_deref().unwrap_or("pod "));
    shortened(&metadata.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(generated))
}

/// What the API server takes itself for one object.
const LARGEST_BODY: usize = 3 << 20;
const MOST_QUESTIONS: usize = 64;
/// For one address: an API server's are answered in a millisecond or two.
const MOST_QUESTIONS_EACH: usize = 16;
/// As many as an API server has under way.
const LONGEST_LINE: usize = 600;
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
