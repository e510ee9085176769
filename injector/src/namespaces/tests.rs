//! Repairs, and who may ask the API server how often.

use kube::client::Body;
use kube::runtime::reflector;
use serde_json::{Value, json};

use super::*;

fn event(name: &str, annotation: &str, label: Option<&str>) -> Event<PartialObjectMeta<Namespace>> {
    let mut object = json!({"metadata": {
        "name": name, "resourceVersion": "7", "annotations": {"meshctl.io/inject": annotation},
    }});
    if let Some(label) = label {
        object["metadata"]["labels"] = json!({"meshctl.io/inject": label});
        object["metadata"]["annotations"]["meshctl.io/inject-mirrored"] = label.into();
    }
    Event::Apply(serde_json::from_value(object).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_label_that_could_not_be_repaired_is_tried_again_until_it_can() {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let answer = move |request: axum::http::Request<Body>| {
        let mut asked = seen.lock();
        asked.push(request.uri().path().to_owned());
        let failing = asked.len() < 4;
        async move {
            let (code, answer) = match failing {
                true => (500, json!({"kind": "Status", "status": "Failure", "code": 500, "message": "no"})),
                false => (200, json!({"metadata": {"name": "shop"}})),
            };
            let answer = Body::from(serde_json::to_vec::<Value>(&answer)?);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                axum::http::Response::builder().status(code).body(answer)?,
            )
        }
    };
    let client = Client::new(tower::service_fn(answer), "mesh-system");
    let (known, mut writer) = reflector::store();
    let repairs = Repairs::default();
    writer.apply_watcher_event(&event("shop", "enabled", None));
    writer.apply_watcher_event(&event("blog", "enabled", Some("enabled")));
    let repairing = tokio::spawn(repairs.clone().run(client, known));
    let times = |count: usize| {
        let asked = Arc::clone(&asked);
        async move {
            while asked.lock().len() < count {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let start = Instant::now();
    times(4).await;
    assert!(Instant::now() - start >= Duration::from_secs(7), "1 s, 2 s and 4 s between");
    assert!(asked.lock().iter().all(|path| path == "/api/v1/namespaces/shop"), "{asked:?}");
    // Once the copy says that all is well, nobody is asked any more.
    writer.apply_watcher_event(&event("shop", "enabled", Some("enabled")));
    tokio::time::sleep(3 * SLOWEST).await;
    assert_eq!(asked.lock().len(), 4);
    // What comes later is repaired at once, whatever else waits.
    writer.apply_watcher_event(&event("news", "enabled", None));
    repairs.changed.notify_one();
    tokio::time::timeout(Duration::from_secs(1), times(5)).await.unwrap();
    repairing.abort();
}

/// Namespaces of an API server that knows none, or does not answer; with what it was asked.
fn nobodys(answers: bool) -> (Namespaces, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let answer = move |request: axum::http::Request<Body>| {
        seen.lock().push(request.uri().path().to_owned());
        async move {
            if !answers {
                std::future::pending::<()>().await;
            }
            let status = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
            let body = Body::from(serde_json::to_vec(&status)?);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(axum::http::Response::builder().status(404).body(body)?)
        }
    };
    let client = Client::new(tower::service_fn(answer), "mesh-system");
    (Namespaces::new(reflector::store().0, Some(client), Preferred::new(&["10.0.0.9/32".parse().unwrap()])), asked)
}

fn source(last: u8) -> Option<IpAddr> {
    Some(IpAddr::from([10, 0, 0, last]))
}

#[tokio::test(start_paused = true)]
async fn whoever_invents_namespaces_makes_the_api_server_work_little_and_keeps_nobody_from_asking() {
    let (namespaces, asked) = nobodys(true);
    for n in 0..5000 {
        namespaces.ask(&format!("a{n}"), source(1)).await.unwrap_err();
    }
    assert!((1000..1100).contains(&asked.lock().len()), "{}", asked.lock().len());
    asked.lock().clear();
    namespaces.ask("shop", source(2)).await.unwrap_err();
    assert_eq!(*asked.lock(), ["/api/v1/namespaces/shop"]);
    // For a second what was nobody's is not asked for again, unless the watch tells of it.
    for _ in 0..10 {
        let error = namespaces.ask("shop", source(3)).await.unwrap_err();
        assert!(error.contains("no namespace shop"), "{error}");
    }
    assert_eq!(asked.lock().len(), 1);
    tokio::time::advance(ABSENT_FOR).await;
    namespaces.ask("shop", source(3)).await.unwrap_err();
    assert_eq!(asked.lock().len(), 2);
    for name in ["shop/status", "../pods", "shop?watch=1", "Shop", "-a", "", &"a".repeat(64)] {
        let error = namespaces.ask(name, source(2)).await.unwrap_err();
        assert!(error.contains("no namespace's name"), "{error}");
    }
    assert_eq!(asked.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_slow_whoever_asks_most_gives_way() {
    let (namespaces, asked) = nobodys(false);
    let ask = |n: u8, name: String| {
        let namespaces = namespaces.clone();
        tokio::spawn(async move { namespaces.ask(&name, source(n)).await })
    };
    let greedy: Vec<_> = (0..40).map(|n| ask(1 + n % 2, format!("a{n}"))).collect();
    let turns = async || {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    };
    turns().await;
    assert_eq!(asked.lock().len(), MOST_ASKED);
    let other = ask(3, "shop".to_owned());
    turns().await;
    assert!(asked.lock().contains(&"/api/v1/namespaces/shop".to_owned()), "{asked:?}");
    assert!(other.await.unwrap().unwrap_err().contains("does not tell"));
    let mut gave_way = 0;
    for greedy in greedy {
        gave_way += usize::from(greedy.await.unwrap().unwrap_err() == TOO_MANY);
    }
    assert_eq!(gave_way, 1);
}

#[tokio::test(start_paused = true)]
async fn forged_questions_take_nothing_from_the_api_servers_own() {
    let (namespaces, asked) = nobodys(false);
    let ask = |n: u8, name: String| {
        let namespaces = namespaces.clone();
        tokio::spawn(async move { namespaces.ask(&name, source(n)).await })
    };
    let turns = async || {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    };
    // One question of each of many addresses is fewer than the API server asks alone.
    let forged: Vec<_> = (20..36).map(|n| ask(n, format!("a{n}"))).collect();
    turns().await;
    let own: Vec<_> = (0..MOST_ASKED / 2).map(|n| ask(9, format!("own{n}"))).collect();
    turns().await;
    let later: Vec<_> = (40..80).map(|n| ask(n, format!("a{n}"))).collect();
    turns().await;
    assert_eq!(asked.lock().iter().filter(|path| path.contains("/own")).count(), MOST_ASKED / 2);
    for own in own {
        let error = own.await.unwrap().unwrap_err();
        assert!(error.contains("does not tell"), "the API server's own had to give way: {error}");
    }
    for forged in forged.into_iter().chain(later) {
        forged.await.unwrap().unwrap_err();
    }
}
