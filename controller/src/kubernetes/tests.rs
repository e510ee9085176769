//! What the API server is asked for.

use std::collections::BTreeMap;
use std::convert::Infallible;

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;

/// How a kind is asked for: whether by metadata alone, and the fields it is chosen by.
type Asked = (bool, Option<String>);

/// Every kind that is read costs memory for each of its objects, in every replica, and a right in the chart: whoever makes
/// a watch wider changes this test.
#[tokio::test(start_paused = true)]
async fn watches_stay_narrow() {
    let (lists, watches) = asked().await;
    let running = "status.phase!=Succeeded,status.phase!=Failed";
    let expected: BTreeMap<String, Asked> = [
        ("/api/v1/namespaces", (true, None)),
        ("/api/v1/nodes", (true, None)),
        ("/api/v1/pods", (false, Some(running.to_owned()))),
        ("/api/v1/services", (false, None)),
        ("/apis/discovery.k8s.io/v1/endpointslices", (false, None)),
        ("/apis/gateway.networking.k8s.io/v1/httproutes", (false, None)),
        ("/apis/meshctl.io/v1alpha1/externalworkloads", (false, None)),
    ]
    .map(|(path, asked)| (path.to_owned(), asked))
    .into();
    assert_eq!(lists, expected);
    assert_eq!(watches, expected);
}

/// The lists and watches that everything begins with, by path.
async fn asked() -> (BTreeMap<String, Asked>, BTreeMap<String, Asked>) {
    let asked: Arc<Mutex<Vec<Request<()>>>> = Arc::default();
    let server = asked.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (parts, _) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let is_watch = parts.uri.query().unwrap_or_default().contains("watch=true");
        server.lock().push(Request::from_parts(parts, ()));
        async move {
            let answer = match path.as_str() {
                _ if is_watch => return std::future::pending().await,
                "/apis" => {
                    json!({ "groups": [group("gateway.networking.k8s.io", "v1"), group("meshctl.io", "v1alpha1")] })
                }
                "/apis/gateway.networking.k8s.io/v1" => resources("httproutes"),
                "/apis/meshctl.io/v1alpha1" => resources("externalworkloads"),
                _ => json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "5" }, "items": [] }),
            };
            Ok::<_, Infallible>(Response::new(Body::from(answer.to_string().into_bytes())))
        }
    });
    let hub = Hub::new(crate::serve::session::tests::mesh(), Instant::now());
    let (client, readiness) = (Client::new(service, "default"), Readiness::default());
    let following = tokio::spawn(follow(client, hub, readiness, Metrics::default()));
    sleep(Duration::from_secs(1)).await;
    following.abort();
    let asked = std::mem::take(&mut *asked.lock());
    let of = |watches: bool| {
        let wanted = asked.iter().filter(|request| {
            let parameters = request.uri().query().unwrap_or_default();
            if watches { parameters.contains("watch=true") } else { parameters.contains("limit=") }
        });
        wanted.map(|request| (request.uri().path().to_owned(), how(request))).collect()
    };
    (of(false), of(true))
}

fn how(request: &Request<()>) -> Asked {
    let accept = request.headers().get("accept").map(|value| value.to_str().unwrap()).unwrap_or_default();
    let mut parameters = request.uri().query().unwrap_or_default().split('&');
    let fields = parameters.find_map(|parameter| parameter.strip_prefix("fieldSelector="));
    let fields = fields.map(|fields| fields.replace("%21", "!").replace("%3D", "=").replace("%2C", ","));
    (accept.contains("as=PartialObjectMetadata"), fields)
}

fn group(name: &str, version: &str) -> serde_json::Value {
    let version = json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    json!({ "name": name, "versions": [version] })
}

fn resources(plural: &str) -> serde_json::Value {
    let resource = json!({ "name": plural, "singularName": "", "namespaced": true, "kind": "Any", "verbs": ["list"] });
    json!({ "groupVersion": "any", "resources": [resource] })
}
