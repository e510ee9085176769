//! HTTP/1 from one application to another, through both proxies.

use std::future::Future;
use std::sync::Arc;

use policy::route::{Filter, HeaderEdits, Match, PathMatch};
use policy::{Backend, Endpoints, MutualTls, Protocol, Routes, Rule, Service, ServicePort};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::control::Known;
use crate::drain::Phase;
use crate::testbed::{
    call, certify, endpoint, failures, inbound_of, issuer, listen, metrics, proxy, put_inbound, put_service, spiffe_id,
};

/// Two workloads, a Service of the second one, and its application's socket.
struct Pair {
    client: Rc<Worker>,
    server: Rc<Worker>,
    app: TcpListener,
    service: SocketAddr,
    endpoint: Endpoint,
}

impl Pair {
    async fn new() -> Self {
        let issuer = issuer();
        let (client, server) = (proxy(&issuer, "cart", "10.0.0.1"), proxy(&issuer, "web", "10.0.0.2"));
        let (app, address) = listen("127.0.0.1").await;
        put_inbound(&server, address.port(), Protocol::Http1, MutualTls::Permissive);
        let endpoint = endpoint(inbound_of(&server, address).await, Some("web"));
        let service = "10.96.0.7:80".parse().unwrap();
        put_service(&client, service, Protocol::Http1, vec![endpoint.clone()]);
        Self { client, server, app, service, endpoint }
    }

    fn put_rules(&self, rules: Vec<Rule>) {
        let id = ServicePort::new("shop", "web", 80);
        let service =
            Service { id: id.clone(), protocol: Protocol::Http1, routes: Routes { rules }, default_backend: Some(id) };
        let value = Known::Value(Arc::new(Outbound::Service(service)));
        self.client.shared.discovery.put_outbound(self.service, value);
    }
}

fn rule(matches: Match, service: Option<&str>) -> Rule {
    Rule {
        route: "shop/route".to_owned(),
        matches,
        filters: Vec::new(),
        backends: vec![Backend {
            service: service.map(|name| ServicePort::new("shop", name, 80)),
            weight: 1,
            filters: Vec::new(),
        }],
        request_timeout_ms: None,
        backend_timeout_ms: None,
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    let bound = Duration::from_secs(20);
    LocalSet::new().run_until(async { tokio::time::timeout(bound, future).await.expect("the test hangs") }).await
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// A request that arrives and is answered; the application's connection it came on.
async fn one_exchange(pair: &Pair, client: &mut TcpStream) -> TcpStream {
    send(client, GET).await;
    let (mut app, _) = pair.app.accept().await.unwrap();
    read(&mut app, 0).await;
    send(&mut app, OK).await;
    assert_eq!(read(client, 2).await, OK);
    app
}

/// Reads up to the end of a head that is followed by `body` bytes.
async fn read(stream: &mut TcpStream, body: usize) -> String {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n")
            && bytes.len() >= end + 4 + body
        {
            return String::from_utf8(bytes).unwrap();
        }
        let count = stream.read_buf(&mut bytes).await.unwrap();
        assert!(count > 0, "ended after {}", String::from_utf8_lossy(&bytes));
    }
}

/// Reads a response of the mesh, whose body is one line.
async fn read_error(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !(text.contains("\r\n\r\n") && text.ends_with("\n") && !text.ends_with("\r\n")) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        text.push(char::from(byte[0]));
    }
    text
}

const GET: &str = "GET /a?b HTTP/1.1\r\nHost: web\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn requests_reach_the_application_with_the_callers_identity_and_nobody_elses() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, "GET /a?b HTTP/1.1\r\nHost: web\r\nX-Forwarded-Client-Cert: URI=spiffe://evil\r\n\r\n").await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        let identity = format!("x-forwarded-client-cert: By={};URI={}", spiffe_id("web"), spiffe_id("cart"));
        assert_eq!(read(&mut app, 0).await, format!("GET /a?b HTTP/1.1\r\nHost: web\r\n{identity}\r\n\r\n"));
        send(&mut app, OK).await;
        assert_eq!(read(&mut client, 2).await, OK);
        // The same three connections carry the next one, with a body.
        send(&mut client, "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .await;
        let request = read(&mut app, 13).await;
        assert!(request.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{request}");
        send(&mut app, "HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(read(&mut client, 0).await, "HTTP/1.1 204 No Content\r\n\r\n");
        for worker in [&pair.client, &pair.server] {
            let text = metrics(worker);
            let line =
                |code: &str| text.lines().find(|line| line.starts_with("istio_requests_total") && line.contains(code));
            let line = line("response_code=\"200\"").unwrap_or_else(|| panic!("{text}"));
            assert!(line.ends_with(" 1") && line.contains("mutual_tls") && line.contains(&spiffe_id("cart")), "{line}");
        }
    })
    .await;
}

#[tokio::test]
async fn routes_choose_edit_and_answer() {
    within(async {
        let pair = Pair::new().await;
        let mut to_web = rule(Match { path: PathMatch::Prefix("/a".to_owned()), ..Match::default() }, Some("web"));
        let pairs = |name: &str| vec![(name.to_owned(), "1".to_owned())];
        to_web.filters = vec![
            Filter::RequestHeaders(HeaderEdits { set: pairs("x-request"), ..HeaderEdits::default() }),
            Filter::ResponseHeaders(HeaderEdits { add: pairs("x-response"), ..HeaderEdits::default() }),
        ];
        let nowhere = rule(Match { path: PathMatch::Exact("/nowhere".to_owned()), ..Match::default() }, None);
        let empty = rule(Match { path: PathMatch::Exact("/empty".to_owned()), ..Match::default() }, Some("empty"));
        let none = Known::Value(Arc::new(Endpoints::default()));
        pair.client.shared.discovery.put_endpoints(&ServicePort::new("shop", "empty", 80), none);
        pair.put_rules(vec![to_web, nowhere, empty]);
        let mut client = call(&pair.client, pair.service).await;
        for (path, status, reason) in
            [("/b", "404", "no_route"), ("/nowhere", "500", "backend_unresolved"), ("/empty", "503", "no_endpoints")]
        {
            send(&mut client, &format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
            let response = read_error(&mut client).await;
            assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{response}");
            assert!(response.contains(&format!("details=\"{reason}\"")), "{response}");
            assert_eq!(failures(&pair.client)[0], reason);
        }
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, GET).await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        assert!(read(&mut app, 0).await.contains("\r\nx-request: 1\r\n"));
        send(&mut app, OK).await;
        assert_eq!(read(&mut client, 2).await, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx-response: 1\r\n\r\nok");
        assert!(metrics(&pair.client).contains("mesh_route=\"shop/route\""));
    })
    .await;
}

#[tokio::test]
async fn what_never_reached_an_application_goes_to_another_endpoint() {
    within(async {
        let pair = Pair::new().await;
        // One that refuses, one whose application is gone, one that works: whichever comes first.
        let (gone, address) = listen("127.0.0.1").await;
        drop(gone);
        let issuer_of_nobody = endpoint(address, Some("web"));
        let (no_app, no_app_address) = listen("127.0.0.1").await;
        drop(no_app);
        let refusing = endpoint(inbound_of(&pair.server, no_app_address).await, Some("web"));
        let all = vec![issuer_of_nobody, refusing, pair.endpoint.clone()];
        put_service(&pair.client, pair.service, Protocol::Http1, all);
        let app = async {
            loop {
                let (mut app, _) = pair.app.accept().await.unwrap();
                spawn_local(async move {
                    loop {
                        read(&mut app, 2).await;
                        send(&mut app, OK).await;
                    }
                });
            }
        };
        let calls = async {
            for _ in 0..10 {
                let mut client = call(&pair.client, pair.service).await;
                send(&mut client, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
                    .await;
                let response = read(&mut client, 2).await;
                assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            }
        };
        tokio::select! {
            () = app => {}
            () = calls => {}
        }
        let text = metrics(&pair.client);
        let trips = text.lines().find_map(|line| line.strip_prefix("mesh_breaker_trips_total "));
        let trips: u64 = trips.unwrap().parse().unwrap();
        assert!((1..=6).contains(&trips), "two of three are set aside, not once a call: {trips}");
        let retried =
            |line: &str| line.starts_with("mesh_retries_total{outcome=\"succeeded\"}") && !line.ends_with(" 0");
        assert!(text.lines().any(retried), "{text}");
    })
    .await;
}

#[tokio::test]
async fn an_application_that_is_gone_is_named() {
    within(async {
        let pair = Pair::new().await;
        let address = pair.app.local_addr().unwrap();
        drop(pair.app);
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, GET).await;
        let response = read(&mut client, 8).await;
        assert!(response.starts_with("HTTP/1.1 503") && response.contains("details=\"app_refused\""), "{response}");
        assert_eq!(failures(&pair.client), ["app_refused"]);
        assert_eq!(failures(&pair.server), ["app_refused"], "{address}");
    })
    .await;
}

#[tokio::test]
async fn an_application_that_closed_its_idle_connection_is_dialled_again() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        for _ in 0..3 {
            send(&mut client, GET).await;
            let (mut app, _) = pair.app.accept().await.unwrap();
            read(&mut app, 0).await;
            // Says nothing of closing, as a server that is stopped.
            send(&mut app, OK).await;
            drop(app);
            assert_eq!(read(&mut client, 2).await, OK);
        }
        assert!(failures(&pair.client).is_empty() && failures(&pair.server).is_empty());
    })
    .await;
}

#[tokio::test]
async fn smuggling_is_refused_and_the_connection_closed() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        )
        .await;
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 400") && response.contains("details=\"request_invalid\""), "{response}");
        assert_eq!(failures(&pair.client), ["request_invalid"]);
    })
    .await;
}

#[tokio::test]
async fn a_websocket_passes_both_proxies() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        let request = read(&mut app, 0).await;
        assert!(
            request.contains("\r\nUpgrade: websocket\r\n") && request.contains("\r\nconnection: upgrade\r\n"),
            "{request}"
        );
        send(&mut app, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
            .await;
        assert!(read(&mut client, 5).await.ends_with("\r\n\r\nfirst"));
        for (from, to) in [(&mut client, &mut app)] {
            send(from, "ping").await;
            let mut bytes = [0; 4];
            to.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"ping");
        }
        drop(client);
        assert_eq!(app.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_passes_both_proxies_where_the_application_agrees() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n").await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        assert!(read(&mut app, 0).await.starts_with("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n"));
        send(&mut app, "HTTP/1.1 200 Connection established\r\n\r\n\x00first").await;
        assert!(read(&mut client, 6).await.ends_with("\r\n\r\n\x00first"));
        send(&mut client, "GET /not-for-us HTTP/1.1\n").await;
        let mut bytes = [0; 25];
        app.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"GET /not-for-us HTTP/1.1\n");
        client.shutdown().await.unwrap();
        assert_eq!(app.read(&mut [0; 1]).await.unwrap(), 0);
        send(&mut app, "and more").await;
        drop(app);
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "and more");

        // One that is refused leaves a connection for requests.
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n").await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        read(&mut app, 0).await;
        send(&mut app, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        assert!(read(&mut client, 0).await.starts_with("HTTP/1.1 403 "));
        send(&mut client, GET).await;
        assert!(read(&mut app, 0).await.starts_with("GET /a?b "));
    })
    .await;
}

#[tokio::test]
async fn a_route_timeout_answers_504() {
    within(async {
        let pair = Pair::new().await;
        let mut slow = rule(Match::default(), Some("web"));
        slow.request_timeout_ms = Some(50);
        pair.put_rules(vec![slow]);
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, GET).await;
        let response = read(&mut client, 8).await;
        assert!(response.starts_with("HTTP/1.1 504") && response.contains("request_timeout"), "{response}");
    })
    .await;
}

#[tokio::test]
async fn draining_tells_clients_to_go() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        pair.server.shared.drain.advance(Phase::Announcing);
        send(&mut client, GET).await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        read(&mut app, 0).await;
        send(&mut app, OK).await;
        // Between the proxies only: the application's own connection goes on.
        assert_eq!(read(&mut client, 2).await, OK);
        let _app = one_exchange(&pair, &mut client).await;
    })
    .await;
}

#[tokio::test]
async fn plaintext_to_a_strict_workload_is_told_why() {
    within(async {
        let pair = Pair::new().await;
        let app = pair.app.local_addr().unwrap();
        put_inbound(&pair.server, app.port(), Protocol::Http1, MutualTls::Strict);
        let mut client = TcpStream::connect(pair.endpoint.address).await.unwrap();
        send(&mut client, GET).await;
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 403") && response.contains("plaintext_refused"), "{response}");
    })
    .await;
}

#[tokio::test]
async fn heads_of_64_kib_pass_and_larger_than_the_limit_do_not() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        let large = format!("GET / HTTP/1.1\r\nHost: web\r\nCookie: {}\r\n\r\n", "c".repeat(64 * 1024));
        let (sent, app) = tokio::join!(client.write_all(large.as_bytes()), pair.app.accept());
        sent.unwrap();
        let mut app = app.unwrap().0;
        assert!(read(&mut app, 0).await.len() > 64 * 1024);
        send(&mut app, OK).await;
        assert_eq!(read(&mut client, 2).await, OK);
        let bomb = format!("GET / HTTP/1.1\r\nHost: web\r\nCookie: {}\r\n\r\n", "c".repeat(140 * 1024));
        send(&mut client, &bomb).await;
        let response = read_error(&mut client).await;
        assert!(response.starts_with("HTTP/1.1 431") && response.contains("head_too_large"), "{response}");
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_holds_little() {
    within(async {
        let pair = Pair::new().await;
        let (listener, address) = listen("127.0.0.1").await;
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let outbound = Arc::new(Outbound::Foreign);
        let destination = Destination { address, outbound };
        let future = serve(&pair.client, Prefixed::new(Vec::new(), near.unwrap()), &destination);
        let size = size_of_val(&future);
        assert!(size <= 5 * 1024, "{size} bytes per connection");
        drop((future, far));
    })
    .await;
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_arrives_whole_or_visibly_broken() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, GET).await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        read(&mut app, 0).await;
        send(&mut app, "HTTP/1.0 200 OK\r\n\r\nall of it").await;
        drop(app);
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("\r\n\r\nall of it"), "{response}");
        assert!(failures(&pair.client).is_empty() && failures(&pair.server).is_empty());
    })
    .await;
}

#[tokio::test]
async fn nobody_passes_for_somebody_else_by_another_spelling() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, "GET / HTTP/1.1\r\nHost: web\r\nX_Forwarded-Client_Cert: URI=spiffe://evil\r\n\r\n").await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        let request = read(&mut app, 0).await;
        assert!(!request.contains("evil") && request.contains(&spiffe_id("cart")), "{request}");
    })
    .await;
}

#[tokio::test]
async fn idle_connections_to_a_peer_that_is_not_trusted_any_more_are_not_used() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        let mut app = one_exchange(&pair, &mut client).await;
        let stranger = issuer();
        certify(&stranger, &pair.client.shared.mesh_tls, "cart");
        pair.client.shared.mesh_tls.set_bundle(Arc::new(stranger.bundle().clone()));
        pair.client.shared.trust_changed.send_replace(());
        send(&mut client, GET).await;
        let response = read(&mut client, 8).await;
        assert!(response.starts_with("HTTP/1.1 50"), "{response}");
        assert!(matches!(app.read(&mut [0; 1]).await, Ok(0) | Err(_)), "sent to a stranger");
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_ends_closes_idle_connections_in_order() {
    within(async {
        let pair = Pair::new().await;
        let mut client = call(&pair.client, pair.service).await;
        let mut app = one_exchange(&pair, &mut client).await;
        pair.server.shared.drain.advance(Phase::Closing);
        assert_eq!(app.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(failures(&pair.server).is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_refused_tunnel_leaves_no_connection_to_smuggle_in() {
    within(async {
        let pair = Pair::new().await;
        let connect = "CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, connect).await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        assert!(read(&mut app, 0).await.starts_with("CONNECT"));
        send(&mut app, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n").await;
        let mut by_app = String::new();
        client.read_to_string(&mut by_app).await.unwrap();
        put_service(&pair.client, pair.service, Protocol::Undeclared, Vec::new());
        let mut client = call(&pair.client, pair.service).await;
        send(&mut client, connect).await;
        let mut by_mesh = String::new();
        client.read_to_string(&mut by_mesh).await.unwrap();
        for (answers, status) in [(by_app, "HTTP/1.1 405"), (by_mesh, "HTTP/1.1 503")] {
            assert!(answers.starts_with(status) && answers.contains("connection: close"), "{answers}");
            assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
        }
    })
    .await;
}
