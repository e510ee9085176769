//! Writing status to an API server of which some answers never come.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response};
use kube::client::Body;
use parking_lot::Mutex;

use super::*;
use crate::progress::Progress;
use crate::serve::session::tests::{facts, mesh};

/// An API server with two routes, that never answers a write to one called `stuck`, nor a first one to `unlucky` well;
/// what is written.
#[derive(Clone)]
struct Server {
    routes: [&'static str; 2],
    written: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn of(routes: [&'static str; 2]) -> Self {
        Self { routes, written: Arc::default() }
    }

    /// Keeps status in a world that does not change, unless `hub` does.
    fn keep(&self, hub: &Hub) -> tokio::task::JoinHandle<()> {
        assert!(hub.publish(facts(&[1]), Progress::of("services", 1), Instant::now()));
        let (client, worlds) = (self.client(), hub.worlds());
        tokio::spawn(async move { keep_routes(&client, worlds, &Metrics::default()).await })
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default());
                let text = match path.as_str() {
                    _ if request.method() == Method::PATCH => {
                        let name = path.split('/').rev().nth(1).unwrap().to_owned();
                        server.written.lock().push(name.clone());
                        let first = server.written.lock().iter().filter(|other| **other == name).count() == 1;
                        match name.as_str() {
                            "stuck" => return std::future::pending().await,
                            "unlucky" if first => {
                                let body = Body::from(UNAVAILABLE.as_bytes().to_vec());
                                return Ok(Response::builder().status(503).body(body).unwrap());
                            }
                            // Ends after the other has failed.
                            _ => sleep(Duration::from_millis(50)).await,
                        }
                        route(&name, 2).to_string()
                    }
                    _ if query.contains("watch=") => return std::future::pending().await,
                    "/apis" => GROUPS.to_owned(),
                    "/apis/gateway.networking.k8s.io/v1" => RESOURCES.to_owned(),
                    _ => json!({
                        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRouteList", "metadata": { "resourceVersion": "9" },
                        "items": server.routes.map(|name| route(name, 1)),
                    })
                    .to_string(),
                };
                Ok::<_, Infallible>(Response::new(Body::from(text.into_bytes())))
            }
        });
        Client::new(service, "default")
    }

    /// How often that route was written, once it is so often.
    async fn written(&self, name: &str, times: usize) {
        while self.written.lock().iter().filter(|written| *written == name).count() < times {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn route(name: &str, version: u64) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": "shop", "generation": 1, "resourceVersion": version.to_string() },
        "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": "web" }], "rules": [] },
    })
}

#[tokio::test(start_paused = true)]
async fn a_write_that_never_ends_holds_up_no_other() {
    let server = Server::of(["stuck", "good"]);
    let hub = Hub::new(mesh(), Instant::now());
    let keeping = server.keep(&hub);
    server.written("stuck", 1).await;
    server.written("good", 1).await;
    let first = Instant::now();
    // It is given up and tried again, but not with every change of the world.
    for position in 2..100 {
        hub.publish(facts(&[1]), Progress::of("services", position), Instant::now());
        sleep(Duration::from_millis(100)).await;
    }
    server.written("stuck", 2).await;
    assert!(Instant::now() - first >= PATIENCE + RETRY - Duration::from_secs(1), "{:?}", Instant::now() - first);
    // Each of the others at most once for each second's look: the answers here never take in what was written.
    let good = server.written.lock().iter().filter(|name| *name == "good").count();
    assert!((2..=14).contains(&good), "{good}");
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_is_tried_again_though_nothing_else_happens() {
    let server = Server::of(["unlucky", "good"]);
    let hub = Hub::new(mesh(), Instant::now());
    let keeping = server.keep(&hub);
    server.written("unlucky", 1).await;
    server.written("good", 1).await;
    let first = Instant::now();
    timeout(Duration::from_secs(60), server.written("unlucky", 2)).await.unwrap();
    assert!(Instant::now() - first >= RETRY - Duration::from_secs(1), "{:?}", Instant::now() - first);
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn what_changes_does_not_wait_for_what_failed() {
    let hub = Hub::new(mesh(), Instant::now());
    assert!(hub.publish(facts(&[1]), Progress::of("services", 1), Instant::now()));
    let mut routes = Routes::new(&Server::of(["a", "b"]).client(), &Metrics::default());
    let object = |name: &str| serde_json::from_value::<DynamicObject>(route(name, 1)).unwrap();
    let name = |name: &str| ("shop".to_owned(), name.to_owned());
    let start = Instant::now();
    routes.take(Event::InitApply(object("a")));
    assert_eq!(routes.next_look(), None);
    routes.take(Event::InitDone);
    assert_eq!(routes.next_look(), Some(start));

    // A write that panics counts as one that failed.
    routes.waiting.clear();
    let write = routes.writes.spawn(async { panic!("as a test") });
    routes.under_way.insert(write.id(), name("a"));
    let ended = routes.writes.join_next_with_id().await.unwrap();
    routes.ended(ended);
    assert!(routes.under_way.is_empty());
    assert_eq!(routes.next_look(), Some(start + RETRY));
    // Whatever else changes in the world, it waits; its own change does not.
    routes.wait_all();
    routes.look(&hub.worlds());
    assert_eq!(routes.next_look(), Some(start + RETRY));
    routes.take(Event::Apply(object("b")));
    assert_eq!(routes.next_look(), Some(start + COALESCE));
    routes.waiting.remove(&name("b"));
    routes.take(Event::Apply(object("a")));
    assert_eq!(routes.next_look(), Some(start + COALESCE));
}

const UNAVAILABLE: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"wait","reason":"ServiceUnavailable","code":503}"#;
const GROUPS: &str = r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"gateway.networking.k8s.io",
    "versions":[{"groupVersion":"gateway.networking.k8s.io/v1","version":"v1"}]}]}"#;
const RESOURCES: &str = r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"gateway.networking.k8s.io/v1",
    "resources":[{"name":"httproutes","singularName":"httproute","namespaced":true,"kind":"HTTPRoute","verbs":["list"]}]}"#;
