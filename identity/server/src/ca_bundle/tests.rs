//! When it is written and when not, and by whom.

use identity::{Issuer, TrustDomain};
use kube::client::Body;
use tokio::sync::mpsc;

use super::*;

fn configuration() -> Value {
    json!({
        "metadata": {"name": "mesh-injector", "resourceVersion": "7"},
        "webhooks": [
            {"name": "pods.meshctl.io", "clientConfig": {"caBundle": "UEVN"}, "admissionReviewVersions": ["v1"], "sideEffects": "None"},
            {"name": "namespaces.meshctl.io", "clientConfig": {}, "admissionReviewVersions": ["v1"], "sideEffects": "None"},
        ],
    })
}

#[test]
fn it_is_written_once_a_second_at_most() {
    let (mut pace, start) = (Pace::default(), Instant::now());
    assert!(pace.may_write(start));
    pace.wrote(Written::Something, start);
    assert_eq!(pace.again, None);
    // Somebody has reset it: it is written again when the second is over, though nothing more happens.
    assert!(!pace.may_write(start + QUIET / 10));
    assert_eq!(pace.again, Some(start + QUIET));
    assert!(pace.may_write(start + QUIET));
    pace.wrote(Written::Nothing, start + QUIET);
    assert!(pace.again.is_none() && pace.may_write(start + QUIET));
    pace.wrote(Written::Failed, start + QUIET);
    assert_eq!(pace.again, Some(start + QUIET + AGAIN));
    assert!(!pace.may_write(start + QUIET), "who refuses is not asked at every event either");
}

#[test]
fn only_what_differs_is_written() {
    let mut object: MutatingWebhookConfiguration = serde_json::from_value(configuration()).unwrap();
    assert_eq!(
        patch(&object, "PEM").unwrap(),
        json!({
            "metadata": {"resourceVersion": "7"},
            "webhooks": [{"name": "namespaces.meshctl.io", "clientConfig": {"caBundle": "UEVN"}}],
        })
    );
    object.webhooks.as_mut().unwrap()[1].client_config.ca_bundle = Some(ByteString(b"PEM".to_vec()));
    assert_eq!(patch(&object, "PEM"), None);
}

/// An API server that knows our configuration, refuses `refusals` patches and tells of each.
fn api_server(mut refusals: usize) -> (Client, mpsc::UnboundedReceiver<Value>) {
    let (patches, told) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let patches = patches.clone();
        let is_patch = request.method() == http::Method::PATCH;
        let refused = is_patch && refusals > 0;
        refusals -= usize::from(refused);
        async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            if query.contains("watch=true") {
                std::future::pending::<()>().await;
            }
            let (code, answer) = match (is_patch, refused) {
                (false, _) => {
                    assert!(query.contains("fieldSelector=metadata.name%3Dmesh-injector"), "{query}");
                    let list = json!({"metadata": {"resourceVersion": "7"}, "items": [configuration()]});
                    (200, list)
                }
                (true, true) => (403, json!({"kind": "Status", "status": "Failure", "code": 403, "message": "no"})),
                (true, false) => (200, configuration()),
            };
            if is_patch {
                patches.send(serde_json::from_slice(&request.into_body().collect_bytes().await?)?)?;
            }
            Ok::<_, tower::BoxError>(
                http::Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()))?,
            )
        }
    });
    (Client::new(service, "mesh-system"), told)
}

#[tokio::test(start_paused = true)]
async fn the_leader_alone_writes_and_tries_again() {
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    let (issuer, _) = Issuer::create(&trust_domain, std::time::SystemTime::now()).unwrap();
    let (client, mut patches) = api_server(2);
    let (_wanted, wanted) = watch::channel(Some(Arc::new(Published::from(issuer.bundle().clone()))));
    let (lead, leading) = watch::channel(false);
    let (readiness, metrics) = (Readiness::new(), Metrics::default());
    let bundle = CaBundle { client, wanted, leading, readiness, metrics: metrics.clone() };
    let task = tokio::spawn(bundle.run());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(patches.is_empty(), "another replica's business");
    lead.send_replace(true);
    let expected = ByteString(issuer.bundle().to_pem().into_bytes());
    for _ in 0..3 {
        let patch = patches.recv().await.unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let webhooks = patch["webhooks"].as_array().unwrap();
        assert_eq!(webhooks.len(), 2);
        assert!(webhooks.iter().all(|webhook| webhook["clientConfig"]["caBundle"] == json!(expected)), "{patch}");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(patches.is_empty() && !task.is_finished());
    assert_eq!(metrics.ca_bundle_failures(), 2);
}
