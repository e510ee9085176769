//! One watch against an API server that answers by a script.

use std::collections::VecDeque;
use std::convert::Infallible;

use crd::model::Metadata;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use k8s_openapi::api::core::v1 as core;
use kube::client::Body;
use kube::core::PartialObjectMeta;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::hub::Hub;
use crate::kubernetes::inventory::Inventory;
use crate::metrics::Metrics;
use crate::progress::Progress;

/// What is sent, and when it ends: a watch is silent for as long as its sender is kept.
type Answer = mpsc::UnboundedReceiver<Result<Frame<Bytes>, Infallible>>;
type Line = mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>;

/// The API server: answers in the order they were given, whatever is asked, and remembers what was.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<VecDeque<(u16, Answer)>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            server.asked.lock().push(request.uri().query().unwrap_or_default().to_owned());
            let answer = server.answers.lock().pop_front();
            async move {
                let Some((status, body)) = answer else { return std::future::pending().await };
                let body = StreamBody::new(UnboundedReceiverStream::new(body));
                Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// An answer that goes on until the returned line is dropped.
    fn answer(&self, status: u16, text: &str) -> Line {
        let (line, body) = mpsc::unbounded_channel();
        say(&line, text);
        self.answers.lock().push_back((status, body));
        line
    }

    fn list(&self, names: &[&str], version: u64, next: &str) {
        let items: Vec<String> = names.iter().map(|name| object(name, version)).collect();
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"List","metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{}]}}"#,
            items.join(",")
        );
        self.answer(200, &text);
    }

    async fn asked(&self, number: usize) -> String {
        loop {
            if let Some(asked) = self.asked.lock().get(number).cloned() {
                return asked;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn say(line: &Line, text: &str) {
    line.send(Ok(Frame::data(Bytes::from(text.to_owned())))).unwrap();
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}{}"#, "\n")
}

fn object(name: &str, version: u64) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}"#)
}

fn bookmark(version: u64) -> String {
    event(
        "BOOKMARK",
        &format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"resourceVersion":"{version}"}}}}"#),
    )
}

/// A namespace called `bad` can't be used.
fn convert(object: &PartialObjectMeta<core::Namespace>) -> Converted {
    let name = object.metadata.name.clone().unwrap_or_default();
    if name == "bad" {
        return Err("is bad".to_owned());
    }
    Ok(Some(Object::Namespace(crd::Namespace { metadata: Metadata { name, ..Metadata::default() } })))
}

struct Running {
    server: Server,
    shared: Shared,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(server: Server) -> Self {
        let mesh = crate::serve::session::tests::mesh();
        let inventory = Inventory::new(Instant::now());
        let hub = Hub::new(mesh, Instant::now());
        let shared = Shared {
            inventory: Arc::new(Mutex::new(inventory)),
            changed: Arc::default(),
            hub,
            metrics: Metrics::default(),
        };
        shared.inventory.lock().register("namespaces");
        let watch = Watch::required("namespaces", Api::all(server.client()), Selection::default(), convert);
        let task = tokio::spawn(watch.run(shared.clone()));
        Self { server, shared, task }
    }

    /// Waits for a position, then says which objects there are.
    async fn at(&self, position: u64) -> Vec<String> {
        while self.shared.inventory.lock().position("namespaces") != Some(position) {
            sleep(Duration::from_millis(5)).await;
        }
        let mut inventory = self.shared.inventory.lock();
        let objects = inventory.take_news().map(|news| news.objects).unwrap_or_default();
        let mut names: Vec<String> = objects.iter().map(|object| object.id().name).collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn pages_then_events_then_bookmarks() {
    let server = Server::default();
    server.list(&["a"], 10, "more");
    server.list(&["b", "bad"], 10, "");
    let events = server.answer(200, &event("ADDED", &object("c", 11)));
    let running = Running::start(server);
    assert_eq!(running.at(11).await, ["a", "b", "c"]);
    say(&events, &event("DELETED", &object("a", 12)));
    assert_eq!(running.at(12).await, ["b", "c"]);
    say(&events, &bookmark(20));
    assert!(running.at(20).await.is_empty(), "nothing new");
    let asked = running.server.asked(1).await;
    assert!(asked.contains("limit=500") && asked.contains("continue=more"), "{asked}");
    // The API server ends the watch: it goes on where it was.
    running.server.answer(200, &event("ADDED", &object("d", 21)));
    drop(events);
    assert_eq!(running.at(21).await, ["b", "c", "d"]);
    assert!(running.server.asked(3).await.contains("resourceVersion=20"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_continued_is_listed_anew() {
    let gone = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}"#;
    for (status, text) in
        [(200, event("ERROR", gone)), (410, gone.to_owned()), (404, "404 page not found\n".to_owned())]
    {
        let server = Server::default();
        server.list(&["a"], 10, "");
        server.answer(status, &text);
        server.list(&["b"], 30, "");
        let running = Running::start(server);
        assert_eq!(running.at(30).await, ["b"], "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_dead() {
    let server = Server::default();
    server.list(&["a"], 10, "");
    let silent = server.answer(200, "");
    server.list(&["b"], 30, "");
    let running = Running::start(server);
    running.at(10).await;
    let heard = running.shared.inventory.lock().oldest_heard();
    assert_eq!(running.at(30).await, ["b"]);
    let silence = Instant::now() - heard;
    assert!((Duration::from_secs(20)..Duration::from_secs(30)).contains(&silence), "{silence:?}");
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn an_error_costs_neither_the_picture_nor_the_place() {
    let server = Server::default();
    server.list(&["a"], 10, "");
    let overloaded = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"wait","reason":"TooManyRequests","code":429}"#;
    server.answer(429, overloaded);
    let events = server.answer(200, &event("ADDED", &object("c", 11)));
    let running = Running::start(server);
    assert_eq!(running.at(11).await, ["a", "c"]);
    assert!(running.server.asked(2).await.contains("resourceVersion=10"));
    drop(events);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_has_seen_more_makes_it_look() {
    let server = Server::default();
    server.list(&["a"], 10, "");
    let mut lines = vec![server.answer(200, "")];
    for version in [40, 50] {
        server.list(&["a"], version, "");
        lines.push(server.answer(200, ""));
    }
    let running = Running::start(server);
    running.at(10).await;
    running.shared.hub.want(&Progress::of("namespaces", 10));
    running.shared.hub.want(&Progress::of("pods", 99));
    sleep(BETWEEN_LISTS).await;
    assert_eq!(running.server.asked.lock().len(), 2, "it is not behind");
    running.shared.hub.want(&Progress::of("namespaces", 40));
    assert!(running.at(40).await.is_empty(), "nothing new, but known to hold");
    // Nobody can have seen what a later list has not: it is looked for once.
    running.shared.hub.want(&Progress::of("namespaces", 1000));
    running.at(50).await;
    running.server.asked(5).await;
    sleep(2 * BETWEEN_LISTS).await;
    assert_eq!(running.server.asked.lock().len(), 6);
    drop(lines);
}
