//! Writing status to an API server of which some answers never come.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response};
use kube::client::Body;
use parking_lot::Mutex;

use super::*;
use crate::progress::Progress;
use crate::serve::session::tests::{facts, mesh};

/// An API server with routes, that never answers a write to one called `stuck`; what is written.
#[derive(Clone, Default)]
struct Server {
    written: Arc<Mutex<Vec<String>>>,
}

impl Server {
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
                        if name == "stuck" {
                            return std::future::pending().await;
                        }
                        route(&name, 2).to_string()
                    }
                    _ if query.contains("watch=") => return std::future::pending().await,
                    "/apis" => GROUPS.to_owned(),
                    "/apis/gateway.networking.k8s.io/v1" => RESOURCES.to_owned(),
                    _ => json!({
                        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRouteList", "metadata": { "resourceVersion": "9" },
                        "items": [route("stuck", 1), route("good", 1)],
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
    let server = Server::default();
    let hub = Hub::new(mesh(), Instant::now());
    assert!(hub.publish(facts(&[1]), Progress::of("services", 1), Instant::now()));
    let (client, worlds, metrics) = (server.client(), hub.worlds(), Metrics::default());
    let keeping = tokio::spawn(async move { keep_routes(&client, worlds, &metrics).await });
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

const GROUPS: &str = r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"gateway.networking.k8s.io",
    "versions":[{"groupVersion":"gateway.networking.k8s.io/v1","version":"v1"}]}]}"#;
const RESOURCES: &str = r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"gateway.networking.k8s.io/v1",
    "resources":[{"name":"httproutes","singularName":"httproute","namespaced":true,"kind":"HTTPRoute","verbs":["list"]}]}"#;
