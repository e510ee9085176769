//! Kubernetes events: why a pod got no proxy, and which of several words counted.
//!
//! They are told of the pod's owner, where `kubectl describe` shows them, since the pod itself does not exist yet. They
//! wait in a short queue and never hold up an answer: when the API server is slower than pods come, some are dropped. So
//! are those that come faster than an address, a namespace, or all of them together, may have them: who asks need not be
//! an API server.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller_runtime::rate::{Rate, Rates};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

/// The queue's entrance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<Told>,
    rates: Arc<MostOften>,
    dropped: Counter,
}

/// How often there may be events.
#[derive(Debug)]
struct MostOften {
    all: Rate,
    /// Asked before all others: whoever invents questions takes no more than half of what there is.
    source: Rates<Option<IpAddr>>,
    namespace: Rates<String>,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Of whom.
    pub regarding: ObjectReference,
    /// Whether something is wrong, rather than worth knowing.
    pub is_warning: bool,
    /// Why, as one word: of [`crate::Skipped::reason`], or [`INJECTED`].
    pub cause: &'static str,
    /// A sentence.
    pub note: String,
}

impl Events {
    /// A queue and its other end.
    pub fn queue() -> (Self, mpsc::Receiver<Told>) {
        let (queue, receiver) = mpsc::channel(LONGEST_QUEUE);
        let rates = MostOften {
            all: Rate::new(MOST_A_SECOND, MOST_AT_ONCE, Instant::now()),
            source: Rates::new(MOST_A_SECOND / 2.0, MOST_AT_ONCE / 2.0),
            namespace: Rates::new(EACH_A_SECOND, EACH_AT_ONCE),
        };
        (Self { queue, rates: Arc::new(rates), dropped: Counter::default() }, receiver)
    }

    /// Puts `mesh_events_dropped_total` into the registry.
    pub fn register(&self, registry: &mut Registry) {
        let what = "Events that were not published: too many of a namespace, or of all, at once";
        registry.register("mesh_events_dropped", what, self.dropped.clone());
    }

    /// Puts an event into the queue, or drops it when there were too many or the queue is full; `source` is whose question
    /// brought it about.
    pub fn tell(&self, source: Option<IpAddr>, told: Told) {
        let (now, rates) = (Instant::now(), &*self.rates);
        let namespace = told.regarding.namespace.clone().unwrap_or_default();
        // The namespace first: all genuine questions come from one source, the API server, and what one namespace may not say must
        // take nothing from the others.
        let may = rates.namespace.take(namespace, now)
            && rates.source.take(source.map(|source| source.to_canonical()), now)
            && rates.all.take(now);
        if !may || self.queue.try_send(told).is_err() {
            self.dropped.inc();
        }
    }
}

/// Whom to tell of a pod: who made it, else itself.
pub fn regarding(pod: &ObjectMeta, namespace: &str) -> ObjectReference {
    let owner = pod.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let namespace = Some(namespace.to_owned());
    match owner {
        Some(owner) => ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            uid: Some(owner.uid.clone()),
            namespace,
            ..ObjectReference::default()
        },
        None => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.name.clone().or_else(|| pod.generate_name.clone()),
            namespace,
            ..ObjectReference::default()
        },
    }
}

/// Publishes what comes out of the queue; ends with it.
pub async fn publish(client: Client, mut queue: mpsc::Receiver<Told>) {
    let instance = std::env::var("HOSTNAME").ok();
    let recorder = Recorder::new(client, Reporter { controller: REPORTER.to_owned(), instance });
    while let Some(told) = queue.recv().await {
        let event = Event {
            type_: if told.is_warning { EventType::Warning } else { EventType::Normal },
            reason: if told.cause == INJECTED { "Injected" } else { "NotInjected" }.to_owned(),
            note: Some(shortened(&told.note)),
            action: told.cause.to_owned(),
            secondary: None,
        };
        let published = tokio::time::timeout(PATIENCE, recorder.publish(&event, &told.regarding)).await;
        if let Ok(Err(error)) = published {
            let error = controller_runtime::kubernetes::describe(&error);
            tracing::warn!(error, note = told.note, "cannot publish an event");
        }
    }
}

/// To what the API server takes.
fn shortened(note: &str) -> String {
    let end = note.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LONGEST_NOTE).last();
    note[..end.unwrap_or(0)].to_owned()
}

/// The cause of events about pods that have their proxy.
pub const INJECTED: &str = "injected";
/// Of one namespace: what its people will read.
const EACH_A_SECOND: f64 = 1.0;
const EACH_AT_ONCE: f64 = 25.0;
const MOST_A_SECOND: f64 = 10.0;
const MOST_AT_ONCE: f64 = 200.0;
const REPORTER: &str = "meshctl.io/mesh-injector";
const LONGEST_QUEUE: usize = 256;
const LONGEST_NOTE: usize = 1023;
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_holds_nobody_up() {
        let (events, mut queue) = Events::queue();
        let told = |namespace: &str| Told {
            regarding: regarding(&ObjectMeta::default(), namespace),
            is_warning: true,
            cause: "port_conflict",
            note: "é".repeat(1000),
        };
        let source = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        for _ in 0..100 {
            events.tell(source(1), told("shop"));
        }
        assert!((25..30).contains(&queue.len()), "{}", queue.len());
        let before = queue.len();
        events.tell(source(1), told("blog"));
        assert_eq!(queue.len(), before + 1, "another namespace's");
        // Whoever invents namespaces leaves the others half.
        for namespace in 0..2 * LONGEST_QUEUE {
            events.tell(source(3), told(&namespace.to_string()));
        }
        let before = queue.len();
        assert!((120..140).contains(&before), "{before}");
        events.tell(source(2), told("news"));
        assert_eq!(queue.len(), before + 1);
        for namespace in 0..2 * LONGEST_QUEUE {
            events.tell(source(namespace.to_le_bytes()[0]), told(&namespace.to_string()));
        }
        assert!(queue.len() < LONGEST_QUEUE && events.dropped.get() > 300);
        let note = shortened(&queue.try_recv().unwrap().note);
        assert_eq!(note.len(), 1022);
    }
}
