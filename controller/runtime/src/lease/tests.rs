//! The decision alone, then whole candidates against a lease in memory, with the clock paused.

use std::sync::Arc;

use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::shutdown::ShutdownTrigger;

/// What the API server keeps of one lease, with its check of resource versions.
#[derive(Default)]
struct Store {
    lease: Option<Lease>,
    version: u64,
    unreachable: bool,
    /// How long what was written waits for its answer.
    answers_after: Duration,
}

#[derive(Clone, Default)]
struct FakeServer(Arc<Mutex<Store>>);

impl FakeServer {
    fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |request: http::Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                if server.0.lock().unreachable {
                    std::future::pending::<()>().await;
                }
                let (code, answer) = server.answer(&head.method, &body);
                let answers_after = server.0.lock().answers_after;
                if head.method != http::Method::GET {
                    sleep(answers_after).await;
                }
                let body = Body::from(serde_json::to_vec(&answer)?);
                Ok::<_, tower::BoxError>(http::Response::builder().status(code).body(body)?)
            }
        };
        Client::new(tower::service_fn(answer), "mesh-system")
    }

    fn answer(&self, method: &http::Method, body: &[u8]) -> (u16, Value) {
        let mut store = self.0.lock();
        let failure = |code: u16| (code, json!({"kind": "Status", "status": "Failure", "code": code, "message": "no"}));
        if method == http::Method::GET {
            return store.lease.as_ref().map_or(failure(404), |lease| (200, json!(lease)));
        }
        let mut lease: Lease = serde_json::from_slice(body).unwrap();
        let expected = store.lease.as_ref().map(|lease| lease.metadata.resource_version.clone());
        let allowed = match expected {
            None => method == http::Method::POST,
            Some(version) => method == http::Method::PUT && version == lease.metadata.resource_version,
        };
        if !allowed {
            return failure(409);
        }
        store.version += 1;
        lease.metadata.resource_version = Some(store.version.to_string());
        store.lease = Some(lease.clone());
        (200, json!(lease))
    }

    fn holder(&self) -> Option<String> {
        self.0.lock().lease.as_ref().and_then(|lease| holder(lease).map(str::to_owned))
    }

    fn candidate(&self, name: &str) -> Candidate {
        let config = LeaseConfig {
            namespace: "mesh-system".to_owned(),
            name: "mesh-identity".to_owned(),
            holder: name.to_owned(),
        };
        let (election, leading) = Election::new(self.client(), config);
        let (stop, shutdown) = Shutdown::pair();
        Candidate { leading, stop, task: tokio::spawn(election.run(shutdown)) }
    }
}

struct Candidate {
    leading: watch::Receiver<bool>,
    stop: ShutdownTrigger,
    task: tokio::task::JoinHandle<()>,
}

impl Candidate {
    async fn until(&mut self, leads: bool) -> Duration {
        let started = Instant::now();
        let changed = self.leading.wait_for(|leading| *leading == leads);
        timeout(Duration::from_secs(120), changed).await.expect("it takes no two minutes").unwrap();
        Instant::now() - started
    }
}

fn lease(holder: &str, seconds: Option<i32>) -> Lease {
    let spec =
        LeaseSpec { holder_identity: Some(holder.to_owned()), lease_duration_seconds: seconds, ..LeaseSpec::default() };
    Lease { metadata: ObjectMeta::default(), spec: Some(spec) }
}

#[tokio::test(start_paused = true)]
async fn decisions() {
    let since = Instant::now();
    let seen = |holder, seconds| Some(Seen { lease: lease(holder, seconds), since });
    let at = |seconds| since + Duration::from_secs(seconds);
    assert_eq!(decide(None, "a", since), Step::Create);
    assert_eq!(decide(seen("a", Some(15)).as_ref(), "a", at(1000)), Step::Renew);
    assert_eq!(decide(seen("b", Some(15)).as_ref(), "a", at(14)), Step::Wait);
    assert_eq!(decide(seen("b", Some(15)).as_ref(), "a", at(15)), Step::Take);
    assert_eq!(decide(seen("", Some(15)).as_ref(), "a", since), Step::Take);
    assert_eq!(decide(seen("b", None).as_ref(), "a", at(14)), Step::Wait);
    assert_eq!(decide(seen("b", Some(i32::MAX)).as_ref(), "a", at(300)), Step::Take);
    assert_eq!(decide(seen("b", Some(-1)).as_ref(), "a", since), Step::Take);
    let empty = Seen { lease: Lease::default(), since };
    assert_eq!(decide(Some(&empty), "a", since), Step::Take);
}

#[tokio::test(start_paused = true)]
async fn one_of_two_leads_and_gives_it_back() {
    let server = FakeServer::default();
    let mut first = server.candidate("first");
    first.until(true).await;
    let mut second = server.candidate("second");
    sleep(Duration::from_secs(300)).await;
    assert!(*first.leading.borrow() && !*second.leading.borrow());
    first.stop.stop();
    assert!(second.until(true).await <= RETRY_EVERY);
    first.task.await.unwrap();
    assert!(!*first.leading.borrow());
    assert_eq!(server.holder().as_deref(), Some("second"));
    let transitions = server.0.lock().lease.as_ref().and_then(|lease| lease.spec.as_ref()?.lease_transitions);
    assert_eq!(transitions, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_given_back_whatever_was_being_written() {
    // The last answer is waited for, or it comes too late for that; at the first write, and at a renewal.
    for (seconds, renews) in [(1, false), (3, false), (1, true), (3, true)] {
        let server = FakeServer::default();
        let mut first = server.candidate("first");
        if renews {
            first.until(true).await;
        }
        let before = {
            let mut store = server.0.lock();
            store.answers_after = Duration::from_secs(seconds);
            store.version
        };
        while server.0.lock().version == before {
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(server.holder().as_deref(), Some("first"));
        first.stop.stop();
        first.task.await.unwrap();
        assert_eq!(server.holder(), None, "an answer after {seconds} s, renewed: {renews}");
        assert!(!*first.leading.borrow());
    }
}

#[tokio::test(start_paused = true)]
async fn who_vanishes_is_replaced_after_the_leases_end() {
    let server = FakeServer::default();
    let mut first = server.candidate("first");
    first.until(true).await;
    first.task.abort();
    let mut second = server.candidate("second");
    let waited = second.until(true).await;
    assert!((Duration::from_secs(15)..=Duration::from_secs(17)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_leading_before_anybody_else_starts() {
    let server = FakeServer::default();
    let mut only = server.candidate("only");
    only.until(true).await;
    server.0.lock().unreachable = true;
    let led = only.until(false).await;
    assert!(led <= LEADS_FOR, "{led:?}");
    server.0.lock().unreachable = false;
    only.until(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_written_or_deleted_by_others_is_looked_at_again() {
    let server = FakeServer::default();
    let mut only = server.candidate("only");
    only.until(true).await;
    let stolen = |store: &mut Store| {
        store.version += 1;
        let mut lease = lease("thief", Some(15));
        lease.metadata.resource_version = Some(store.version.to_string());
        store.lease = Some(lease);
    };
    stolen(&mut server.0.lock());
    only.until(false).await;
    assert_eq!(server.holder().as_deref(), Some("thief"));
    server.0.lock().lease = None;
    only.until(true).await;
    assert_eq!(server.holder().as_deref(), Some("only"));
}
