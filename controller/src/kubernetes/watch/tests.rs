//! One watch against an API server that answers by a script.

use std::collections::VecDeque;
use std::convert::Infallible;

use crd::model::Metadata;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use k8s_openapi::api::core::v1 as core;
use kube::client::Body;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::hub::Hub;
use crate::kubernetes::inventory::Inventory;
use crate::kubernetes::readable::Readable;
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
        let asked = async {
            loop {
                if let Some(asked) = self.asked.lock().get(number).cloned() {
                    return asked;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(3600), asked).await.expect("as much is never asked")
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
fn convert(object: &Readable<core::Namespace>) -> Converted {
    object.read()?;
    let name = object.name_any();
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
        shared.hub.publish(crate::serve::session::tests::facts(&[]), Progress::of("namespaces", 1), Instant::now());
        let watch = Watch::required("namespaces", Api::all(server.client()), Selection::default(), convert);
        let task = tokio::spawn(watch.run(shared.clone()));
        Self { server, shared, task }
    }

    /// How often the watch was begun anew for that reason.
    fn restarts(&self, reason: &'static str) -> u64 {
        self.shared.metrics.watch_restarts.get_or_create(&RestartLabels { watch: "namespaces", reason }).get()
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
    server.list(&["a", "b"], 40, "");
    lines.push(server.answer(200, ""));
    let running = Running::start(server);
    running.at(10).await;
    running.shared.hub.want(&Progress::of("namespaces", 10));
    running.shared.hub.want(&Progress::of("pods", 99));
    sleep(BETWEEN_LISTS).await;
    assert_eq!(running.server.asked.lock().len(), 2, "it is not behind");
    running.shared.hub.want(&Progress::of("namespaces", 40));
    let behind = Instant::now();
    assert_eq!(running.at(40).await, ["a", "b"]);
    assert!(Instant::now() - behind < BETWEEN_LISTS);
    drop(lines);
}

#[tokio::test(start_paused = true)]
async fn forged_marks_cost_little_and_hide_no_true_one() {
    let server = Server::default();
    let mut position = 10;
    server.list(&["a"], position, "");
    let mut lines = Vec::new();
    for _ in 0..12 {
        position += 1;
        // The watch is well: what proxies say is made up.
        lines.push(server.answer(200, &bookmark(position)));
        server.list(&["a"], position, "");
    }
    let running = Running::start(server);
    let started = Instant::now();
    while Instant::now() - started < Duration::from_secs(3600) {
        // Each watch here is silent after its bookmark and ends as silent: such lists are none of a proxy's doing.
        running.shared.hub.want(&Progress::of("namespaces", u64::MAX));
        let own = running.shared.inventory.lock().position("namespaces").unwrap_or(0);
        running.shared.hub.want(&Progress::of("namespaces", own + 1));
        sleep(Duration::from_millis(700)).await;
        if running.restarts("behind") == 3 {
            break;
        }
    }
    assert!(
        Instant::now() - started > Duration::from_secs(30),
        "each later than the one before: {:?}",
        Instant::now() - started
    );
    // A true one is heard all the same: a list that brings something makes the next come soon.
    let server = running.server.clone();
    server.answers.lock().clear();
    position += 50;
    server.list(&["a", "b"], position, "");
    lines.push(server.answer(200, ""));
    running.shared.hub.want(&Progress::of("namespaces", position));
    assert_eq!(running.at(position).await, ["a", "b"]);
    drop(lines);
}

#[tokio::test(start_paused = true)]
async fn storage_that_went_back_is_listed_anew() {
    let old = event("MODIFIED", &object("a", 7));
    for older in [bookmark(8), old] {
        let server = Server::default();
        server.list(&["a"], 10, "");
        let line = server.answer(200, &older);
        server.list(&["b"], 8, "");
        let running = Running::start(server);
        while running.shared.inventory.lock().position("namespaces") != Some(8) {
            sleep(Duration::from_millis(5)).await;
        }
        let news = running.shared.inventory.lock().take_news().unwrap();
        assert!(news.begun_anew);
        assert_eq!(running.restarts(WENT_BACK), 1);
        drop(line);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_brings_nothing_proves_nothing() {
    // An API server whose storage was put back sends neither events nor bookmarks to those who have seen more.
    let server = Server::default();
    server.list(&["a"], 10, "");
    let nothing = server.answer(200, "");
    server.list(&["a"], 8, "");
    server.list(&["b"], 8, "");
    let running = Running::start(server);
    running.server.asked(1).await;
    sleep(Duration::from_secs(20)).await;
    drop(nothing);
    while running.shared.inventory.lock().position("namespaces") != Some(8) {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(running.server.asked(2).await.ends_with("limit=50"));
    assert!(running.shared.inventory.lock().take_news().unwrap().begun_anew);

    // Nor do opened watches make what is known young, where the storage does not answer.
    let server = Server::default();
    server.list(&["a"], 10, "");
    let no_storage = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"etcdserver: request timed out","code":500}"#;
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.push(server.answer(200, ""));
        server.answer(500, no_storage);
    }
    let running = Running::start(server);
    running.at(10).await;
    let heard = running.shared.inventory.lock().oldest_heard();
    for (watch, line) in lines.into_iter().enumerate() {
        running.server.asked(1 + 2 * watch).await;
        sleep(Duration::from_secs(20)).await;
        drop(line);
    }
    running.server.asked(6).await;
    assert_eq!(running.shared.inventory.lock().oldest_heard(), heard);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_kind_is_as_far_as_the_storage() {
    let server = Server::default();
    server.list(&["a"], 10, "");
    let lines = [server.answer(200, ""), {
        server.list(&["a"], 30, "");
        server.answer(200, "")
    }];
    server.list(&["a"], 40, "more");
    let last = server.answer(200, "");
    let running = Running::start(server);
    running.at(10).await;
    for (watch, line) in lines.into_iter().enumerate() {
        running.server.asked(1 + 2 * watch).await;
        sleep(Duration::from_secs(20)).await;
        drop(line);
    }
    assert!(running.at(30).await.is_empty(), "known to hold, and nothing new");
    assert!(running.server.asked(3).await.contains("resourceVersion=30"));
    // A part of a large kind says that the storage is there, and no more.
    assert!(running.server.asked(5).await.contains("resourceVersion=30"));
    let inventory = running.shared.inventory.lock();
    assert!(Instant::now() - inventory.oldest_heard() < Duration::from_secs(1));
    assert_eq!(inventory.position("namespaces"), Some(30));
    drop(last);
}

#[tokio::test(start_paused = true)]
async fn a_sick_api_server_is_not_asked_all_day() {
    let gone = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}"#;
    let asked_in_a_minute = async |fill: &dyn Fn(&Server)| {
        let server = Server::default();
        fill(&server);
        let running = Running::start(server);
        sleep(Duration::from_secs(60)).await;
        running.server.asked.lock().len()
    };
    // Watches that end at once.
    let ending = |server: &Server| {
        server.list(&["a"], 10, "");
        for position in 11..1000 {
            server.answer(200, &bookmark(position));
        }
    };
    let asked = asked_in_a_minute(&ending).await;
    assert!((15..50).contains(&asked), "{asked} watches");
    // Lists that work, and watches that don't.
    let expired = |server: &Server| {
        for _ in 0..500 {
            server.list(&["a"], 10, "");
            server.answer(410, gone);
        }
    };
    let asked = asked_in_a_minute(&expired).await;
    assert!((10..32).contains(&asked), "{asked} lists and watches");
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_to_fail_is_no_better_for_it() {
    let server = Server::default();
    server.list(&["a"], 10, "");
    // Whatever else is asked is never answered.
    let running = Running::start(server);
    sleep(Duration::from_secs(600)).await;
    let asked = running.server.asked.lock().len();
    assert!((60..95).contains(&asked), "{asked}: pauses grow beside the 5 s that each question waits");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_stands_still_is_stale() {
    // The storage has version 30 of a large kind. What the API server remembers stays at 10, be it that it says so.
    for says in [String::new(), bookmark(10)] {
        let server = Server::default();
        server.list(&["a"], 10, "");
        let first = server.answer(200, &says);
        server.list(&["b"], 30, "more");
        let second = server.answer(200, &says);
        server.list(&["b"], 50, "");
        let last = server.answer(200, "");
        let running = Running::start(server);
        running.at(10).await;
        let start = Instant::now();
        for (asked, line) in [(1, first), (3, second)] {
            running.server.asked(asked).await;
            sleep(Duration::from_secs(20)).await;
            assert_eq!(running.restarts(STANDS_STILL), 0);
            drop(line);
        }
        assert_eq!(running.at(50).await, ["b"], "{says:?}");
        assert_eq!(running.restarts(STANDS_STILL), 1);
        assert!(Instant::now() - start < Duration::from_secs(42));
        assert!(running.server.asked(2).await.ends_with("limit=50"));
        drop(last);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_was_busy_and_is_quiet_is_no_older_than_a_watch() {
    let server = Server::default();
    server.list(&["a"], 10, "");
    let first = server.answer(200, &event("MODIFIED", &object("a", 11)));
    server.list(&["a"], 30, "more");
    let second = server.answer(200, "");
    let running = Running::start(server);
    running.at(11).await;
    sleep(Duration::from_secs(20)).await;
    drop(first);
    running.server.asked(3).await;
    let age = Instant::now() - running.shared.inventory.lock().oldest_heard();
    assert!(age < Duration::from_secs(1), "{age:?}: with the next watch it would be 40 s");
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_comes_as_far_as_the_storage_goes_on() {
    let server = Server::default();
    server.list(&["a"], 10, "");
    let mut lines = Vec::new();
    // It speaks all the time; the storage is read once a minute all the same.
    for watch in 0..4 {
        lines.push(server.answer(200, ""));
        if watch == 2 {
            server.list(&["a"], 23, "more");
        }
    }
    let last = server.answer(200, "");
    let running = Running::start(server);
    for (position, (asked, line)) in (20..).zip([1, 2, 3, 5].into_iter().zip(lines)) {
        running.server.asked(asked).await;
        sleep(Duration::from_secs(19)).await;
        say(&line, &event("MODIFIED", &object("a", position)));
        sleep(Duration::from_secs(1)).await;
        drop(line);
    }
    running.server.asked(6).await;
    let asked = running.server.asked.lock().clone();
    let reads: Vec<usize> = (0..asked.len())
        .filter(|index| asked[*index].contains("limit=50&") || asked[*index].ends_with("limit=50"))
        .collect();
    assert_eq!(reads, [4], "{asked:?}");
    assert_eq!(running.restarts(STANDS_STILL), 0);
    drop(last);
}

#[test]
fn forged_marks_put_off_no_list_for_long() {
    let now = Instant::now();
    let mut place = Place::nowhere(now);
    for _ in 0..100 {
        place.behind = true;
        place.take(Listed { version: "10".to_owned(), changed: false }, now);
    }
    assert!(place.between_lists <= Duration::from_secs(60), "{:?}", place.between_lists);
}

#[tokio::test(start_paused = true)]
async fn one_object_that_cannot_be_read_takes_no_other_with_it() {
    let server = Server::default();
    let broken = r#"{"metadata":{"name":"odd","resourceVersion":"9","labels":[]}}"#;
    server.answer(
        200,
        &format!(
            r#"{{"apiVersion":"v1","kind":"List","metadata":{{"resourceVersion":"10"}},"items":[{},{broken}]}}"#,
            object("a", 9)
        ),
    );
    let events = server.answer(200, "");
    let running = Running::start(server);
    assert_eq!(running.at(10).await, ["a"]);
    let unusable = || running.shared.inventory.lock().all_unusable().next().unwrap();
    let (watch, number, first) = unusable();
    assert_eq!((watch, number), ("namespaces", 1));
    assert!(first.as_deref().unwrap().starts_with("namespaces /odd: cannot be read"), "{first:?}");
    say(&events, &event("ADDED", &broken.replace("\"odd\"", "\"odder\"").replace("\"9\"", "\"11\"")));
    running.at(11).await;
    assert_eq!(unusable().1, 2);
    say(&events, &event("MODIFIED", &object("odd", 12)));
    assert_eq!(running.at(12).await, ["a", "odd"]);
    say(&events, &event("DELETED", &broken.replace("\"odd\"", "\"odder\"").replace("\"9\"", "\"13\"")));
    running.at(13).await;
    assert_eq!(unusable().1, 0);
}
