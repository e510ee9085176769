//! Good and bad questions over real TLS and HTTP.

use std::net::SocketAddr;
use std::time::SystemTime;

use base64::Engine as _;
use controller_runtime::incoming::HandshakeMetrics;
use controller_runtime::shutdown::{Shutdown, ShutdownTrigger};
use identity::{Issuer, KeyAndRequest, MeshTls, SpiffeId};
use kube::core::PartialObjectMeta;
use kube::runtime::{reflector, watcher};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

const ID: &str = "spiffe://cluster.local/ns/mesh-system/sa/mesh-injector";

/// A webhook on a port, who knows the namespace `shop`, which is in the mesh.
struct Server {
    address: SocketAddr,
    client: MeshTls,
    metrics: Metrics,
    told: mpsc::Receiver<Told>,
    _shutdown: ShutdownTrigger,
}

async fn server() -> Server {
    server_with(Config::default()).await
}

async fn server_with(config: Config) -> Server {
    let issuer = Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap().0;
    let id: SpiffeId = ID.parse().unwrap();
    let key = KeyAndRequest::new(&id).unwrap();
    let issued = issuer.issue(key.csr(), &id, Duration::from_secs(3600), SystemTime::now()).unwrap();
    let client = MeshTls::new(Some(Arc::new(issuer.bundle().clone())));
    let tls = MeshTls::new(Some(Arc::new(issuer.bundle().clone())));
    tls.set_leaf(key.complete(issued.chain).unwrap());

    let (known, mut writer) = reflector::store();
    let shop: PartialObjectMeta<Namespace> = serde_json::from_value(json!({
        "metadata": {"name": "shop", "annotations": {"meshctl.io/inject": "enabled"}},
    }))
    .unwrap();
    writer.apply_watcher_event(&watcher::Event::Apply(shop));
    let (events, told) = Events::queue();
    let metrics = Metrics::default();
    let (_, config) = watch::channel(Arc::new(config));
    let (_, bundle) = watch::channel(Some("PEM".into()));
    let webhook = Webhook::new(
        Namespaces::new(known, None, Preferred::default()),
        config,
        bundle,
        events,
        metrics.clone(),
        Preferred::default(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::pair();
    let router = Arc::new(webhook).router();
    tokio::spawn(crate::serve::serve(
        listener,
        tls,
        HandshakeMetrics::default(),
        router,
        shutdown,
        Preferred::default(),
    ));
    Server { address, client, metrics, told, _shutdown: trigger }
}

impl Server {
    /// Status and body of the answer.
    async fn post(&self, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.dial("127.0.0.1:0").await;
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // An answer may come before all was read.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn dial(&self, source: &str) -> TlsStream<TcpStream> {
        let endpoint = self.client.endpoint(vec![ID.parse().unwrap()], &[b"http/1.1"]);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(source.parse().unwrap()).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        TlsConnector::from(endpoint.config()).connect("injector".try_into().unwrap(), stream).await.unwrap()
    }

    async fn review(&self, path: &str, request: Value) -> Value {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let (status, body) = self.post(path, review.to_string().as_bytes()).await;
        assert_eq!(status, 200, "{body}");
        let review: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&review["kind"], &review["apiVersion"]),
            (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
        );
        assert_eq!(review["response"]["uid"], "u-1");
        review["response"].clone()
    }
}

fn question(kind: &str, operation: &str, object: &Value) -> Value {
    json!({
        "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": kind}, "namespace": "shop",
        "operation": operation, "object": object, "dryRun": false, "ofTheFuture": 1,
    })
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-7-", "ownerReferences":
            [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7", "uid": "o", "controller": true}]},
        "spec": {"containers": [{"name": "web", "image": "web"}]},
    })
}

fn patched(mut object: Value, response: &Value) -> Value {
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = base64::engine::general_purpose::STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    json_patch::patch(&mut object, &patch).unwrap();
    object
}

#[tokio::test]
async fn pods_are_injected_once() {
    let mut server = server().await;
    let response = server.review("/mutate/pods", question("Pod", "CREATE", &pod())).await;
    assert_eq!((&response["allowed"], &response["auditAnnotations"]["outcome"]), (&json!(true), &json!("injected")));
    let meshed = patched(pod(), &response);
    assert_eq!(meshed["spec"]["initContainers"][1]["name"], "mesh-proxy");
    let again = server.review("/mutate/pods", question("Pod", "CREATE", &meshed)).await;
    assert_eq!((&again["allowed"], again.get("patch")), (&json!(true), None));
    assert_eq!(server.metrics.read("injected", "asked_for"), 1);
    assert_eq!(server.metrics.read("skipped", "already_injected"), 1);
    assert!(server.told.try_recv().is_err(), "nothing to tell");
}

#[tokio::test]
async fn who_gets_no_proxy_is_told_why_unless_it_is_a_dry_run() {
    let mut server = server().await;
    let mut pod = pod();
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15006}]);
    let mut dry = question("Pod", "CREATE", &pod);
    dry["dryRun"] = true.into();
    let response = server.review("/mutate/pods", dry).await;
    assert!(response["warnings"][0].as_str().unwrap().contains("port 15006"), "{response}");
    assert!(server.told.try_recv().is_err());
    let response = server.review("/mutate/pods", question("Pod", "CREATE", &pod)).await;
    assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
    let told = server.told.try_recv().unwrap();
    assert_eq!(
        (told.regarding.kind.as_deref(), told.cause, told.is_warning),
        (Some("ReplicaSet"), "port_conflict", true)
    );
    assert!(told.note.starts_with("web-7-*: not injected into the mesh: container web uses port 15006"), "{told:?}");
    assert_eq!(server.metrics.read("skipped", "port_conflict"), 1);
}

#[tokio::test]
async fn where_it_is_wanted_pods_that_cannot_be_injected_are_refused() {
    let mut server = server_with(Config { refuse_uninjectable: true, ..Config::default() }).await;
    let mut pod = pod();
    pod["spec"]["dnsPolicy"] = "Default".into();
    let response = server.review("/mutate/pods", question("Pod", "CREATE", &pod)).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(403)));
    assert!(response["status"]["message"].as_str().unwrap().contains("dnsPolicy Default"), "{response}");
    assert_eq!(server.told.try_recv().unwrap().cause, "no_cluster_dns");
    for (field, value) in [("hostNetwork", json!(true)), ("nodeName", json!("n"))] {
        let mut pod = self::pod();
        pod["spec"][field] = value;
        let response = server.review("/mutate/pods", question("Pod", "CREATE", &pod)).await;
        assert_eq!(response["allowed"], true, "{field}");
    }
}

#[tokio::test]
async fn bodies_that_never_come_keep_nobody_waiting() {
    let server = server().await;
    let mut silent = Vec::new();
    for source in 2..=5 {
        for _ in 0..MOST_QUESTIONS_EACH + 2 {
            let mut stream = server.dial(&format!("127.0.0.{source}:0")).await;
            stream.write_all(b"POST /mutate/pods HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
            silent.push(stream);
        }
    }
    let reviewing = server.review("/mutate/pods", question("Pod", "CREATE", &pod()));
    let response = tokio::time::timeout(PATIENCE / 2, reviewing).await.expect("kept out");
    assert_eq!(response["auditAnnotations"]["outcome"], "injected");
    // Whoever was first of those who hold most had to give way, and hears of it.
    let mut answer = [0; 12];
    silent[0].read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 429");
    assert_eq!(server.metrics.read("error", "overloaded"), 1);
}

#[tokio::test]
async fn what_is_no_question_gets_an_http_error() {
    let server = server().await;
    for (body, status, expected) in [
        (&b""[..], 400, "not an AdmissionReview"),
        (b"\xff{", 400, "not an AdmissionReview"),
        (b"[1]", 400, "not an AdmissionReview"),
        (br#"{"kind":"Pod","apiVersion":"v1"}"#, 400, "\"Pod\" of \"v1\""),
        (br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1"}"#, 400, "v1beta1"),
        (br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#, 400, "no request"),
        (br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{}}"#, 400, "uid"),
        (br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":7}"#, 400, "not an"),
        (&vec![b' '; 5 << 20], 413, "more than 3145728 bytes"),
    ] {
        let (found, text) = server.post("/mutate/pods", body).await;
        assert_eq!(found, status, "{text}");
        assert!(text.starts_with("mesh-injector: ") && text.contains(expected), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(server.post("/mutate/namespaces", deep.as_bytes()).await.0, 400);
    assert_eq!(server.post("/elsewhere", b"{}").await.0, 404);
    assert_eq!(server.metrics.read("error", "too_large"), 1);
}

#[tokio::test]
async fn odd_questions_get_an_answer_and_never_half_a_pod() {
    let server = server().await;
    let refused = |response: &Value| (response["allowed"] == false).then(|| response["status"]["code"].clone());
    for object in [Value::Null, json!("pod"), json!({"spec": {"containers": 7}}), json!([])] {
        let response = server.review("/mutate/pods", question("Pod", "CREATE", &object)).await;
        assert_eq!((refused(&response), response.get("patch")), (Some(json!(400)), None), "{object}");
    }
    for (kind, operation) in [("Service", "CREATE"), ("Pod", "DELETE"), ("Namespace", "CREATE")] {
        let response = server.review("/mutate/pods", question(kind, operation, &Value::Null)).await;
        assert_eq!((refused(&response), response.get("patch")), (None, None));
        assert!(response["warnings"][0].as_str().unwrap().contains(kind));
    }
    let mut nowhere = question("Pod", "CREATE", &pod());
    nowhere["namespace"] = "elsewhere".into();
    let response = server.review("/mutate/pods", nowhere.clone()).await;
    assert_eq!(refused(&response), Some(json!(503)));
    nowhere["namespace"] = "".into();
    assert_eq!(refused(&server.review("/mutate/pods", nowhere).await), Some(json!(503)));
}

#[tokio::test]
async fn a_namespaces_label_follows_its_annotation_in_the_same_request() {
    let server = server().await;
    let namespace = json!({"metadata": {"name": "blog", "annotations": {"meshctl.io/inject": "enabled"}}});
    let response = server.review("/mutate/namespaces", question("Namespace", "UPDATE", &namespace)).await;
    let labelled = patched(namespace, &response);
    assert_eq!(labelled["metadata"]["labels"]["meshctl.io/inject"], "enabled");
    let again = server.review("/mutate/namespaces", question("Namespace", "UPDATE", &labelled)).await;
    assert_eq!(again.get("patch"), None);
    let wrong = json!({"metadata": {"name": "blog", "annotations": {"meshctl.io/inject": "yes"}}});
    let response = server.review("/mutate/namespaces", question("Namespace", "CREATE", &wrong)).await;
    assert!(response["warnings"][0].as_str().unwrap().contains("neither enabled nor disabled"));
    for object in [Value::Null, json!({"metadata": 7})] {
        let response = server.review("/mutate/namespaces", question("Namespace", "CREATE", &object)).await;
        assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
    }
}
