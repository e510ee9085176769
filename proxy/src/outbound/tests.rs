//! Bytes from one application to another, through both proxies.

use std::future::Future;

use policy::{Endpoint, MutualTls};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::control::Known;
use crate::stream::Stream;
use crate::testbed::{
    call, certify, endpoint, failures, inbound_of, issuer, listen, metrics, proxy, put_inbound, put_service,
    silent_address, spiffe_id,
};
use crate::tls::MeshProtocol;
use crate::upstream;

/// Two workloads, a Service of the second one, and its application's socket.
struct Pair {
    client: Rc<Worker>,
    server: Rc<Worker>,
    app: TcpListener,
    service: SocketAddr,
    endpoint: Endpoint,
}

impl Pair {
    async fn new(protocol: Protocol) -> Self {
        let issuer = issuer();
        let (client, server) = (proxy(&issuer, "cart", "10.0.0.1"), proxy(&issuer, "web", "10.0.0.2"));
        let (app, address) = listen("127.0.0.1").await;
        put_inbound(&server, address.port(), protocol, MutualTls::Permissive);
        let endpoint = endpoint(inbound_of(&server, address).await, Some("web"));
        let service = "10.96.0.7:3306".parse().unwrap();
        put_service(&client, service, protocol, vec![endpoint.clone()]);
        Self { client, server, app, service, endpoint }
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    let bound = Duration::from_secs(20);
    LocalSet::new().run_until(async { timeout(bound, future).await.expect("the test hangs") }).await
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_half_closes_by_itself() {
    within(async {
        let pair = Pair::new(Protocol::Tcp).await;
        let mut client = call(&pair.client, pair.service).await;
        client.write_all(&vec![7; 1_000_000]).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut app, _) = pair.app.accept().await.unwrap();
        assert_eq!(read_all(&mut app).await.len(), 1_000_000);
        app.write_all(b"all of it").await.unwrap();
        drop(app);
        assert_eq!(read_all(&mut client).await, b"all of it");
        let text = metrics(&pair.client);
        assert!(text.contains("connection_security_policy=\"mutual_tls\""), "{text}");
        let received = text.lines().find(|line| line.starts_with("istio_tcp_received_bytes_total")).unwrap();
        assert!(received.ends_with(" 1000000") && received.contains(&spiffe_id("web")), "{received}");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_soon_and_remembered() {
    within(async {
        let pair = Pair::new(Protocol::Undeclared).await;
        for known in [false, true] {
            assert_eq!(pair.client.verdicts.borrow().is_server_first(pair.service, Instant::now()), known);
            let start = Instant::now();
            let mut client = call(&pair.client, pair.service).await;
            let (mut app, _) = pair.app.accept().await.unwrap();
            app.write_all(b"220 ready\r\n").await.unwrap();
            let mut greeting = [0; 11];
            client.read_exact(&mut greeting).await.unwrap();
            // 150 ms on an idle machine; this one may be busy.
            let waited = Instant::now() - start;
            assert!(waited < detect::PATIENCE, "{waited:?}");
            client.write_all(b"quit").await.unwrap();
            app.read_exact(&mut greeting[..4]).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_resets_a_silent_client_does_not_look_like_one_that_closes() {
    within(async {
        let pair = Pair::new(Protocol::Undeclared).await;
        let inbound = pair.endpoint.address;
        for meshed in [true, false] {
            let mut client = if meshed {
                call(&pair.client, pair.service).await
            } else {
                TcpStream::connect(inbound).await.unwrap()
            };
            let (app, _) = pair.app.accept().await.unwrap();
            // Until the proxy listens to both.
            assert!(timeout(SILENCE, client.read(&mut [0; 1])).await.is_err());
            reset_on_drop(&app);
            drop(app);
            assert!(client.read(&mut [0; 1]).await.is_err(), "an orderly end");
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_client_that_speaks_http_after_all_is_not_remembered() {
    within(async {
        let pair = Pair::new(Protocol::Undeclared).await;
        let mut client = call(&pair.client, pair.service).await;
        // What was dialled for the silent client, and is dropped when it speaks.
        let (mut probe, _) = pair.app.accept().await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        assert_eq!(probe.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let (mut app, _) = pair.app.accept().await.unwrap();
        let mut request = [0; 14];
        app.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"GET / HTTP/1.1");
        assert!(!pair.client.verdicts.borrow().is_server_first(pair.service, Instant::now()));
    })
    .await;
}

#[tokio::test]
async fn an_app_that_refuses_has_another_endpoint_tried() {
    within(async {
        let pair = Pair::new(Protocol::Tcp).await;
        let (gone, nobody) = listen("127.0.0.1").await;
        drop(gone);
        let (closed, unreachable) = listen("127.0.0.1").await;
        drop(closed);
        let dead = endpoint(inbound_of(&pair.server, nobody).await, Some("web"));
        let down = endpoint(unreachable, Some("web"));
        put_service(&pair.client, pair.service, Protocol::Tcp, vec![dead.clone(), down, pair.endpoint.clone()]);
        spawn_local(async move {
            loop {
                let (mut app, _) = pair.app.accept().await.unwrap();
                app.write_all(b"here").await.unwrap();
            }
        });
        for _ in 0..20 {
            let mut client = call(&pair.client, pair.service).await;
            assert_eq!(read_all(&mut client).await, b"here");
        }
        assert!(failures(&pair.client).is_empty());

        put_service(&pair.client, pair.service, Protocol::Tcp, vec![dead]);
        let mut client = call(&pair.client, pair.service).await;
        assert!(client.read(&mut [0; 1]).await.is_err(), "a reset, not an orderly end");
        assert_eq!(failures(&pair.client), ["app_refused"]);
        assert!(failures(&pair.server).iter().all(|reason| reason == "app_refused"));
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_costs_little() {
    within(async {
        let pair = Pair::new(Protocol::Tcp).await;
        let (_socket, _filling, silent) = silent_address().await;
        let endpoints = vec![endpoint(silent, Some("web")), pair.endpoint.clone()];
        put_service(&pair.client, pair.service, Protocol::Tcp, endpoints);
        spawn_local(async move {
            loop {
                let (mut app, _) = pair.app.accept().await.unwrap();
                app.write_all(b"here").await.unwrap();
            }
        });
        let start = Instant::now();
        for _ in 0..8 {
            let mut client = call(&pair.client, pair.service).await;
            assert_eq!(read_all(&mut client).await, b"here");
        }
        // One wait of 150 ms, then the other endpoint goes first.
        let waited = Instant::now() - start;
        assert!(waited < Duration::from_secs(1), "{waited:?}");
        assert!(failures(&pair.client).is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_is_somebody_else_is_refused() {
    within(async {
        let pair = Pair::new(Protocol::Tcp).await;
        let mut other = pair.endpoint.clone();
        other.identity = Some(spiffe_id("admin"));
        put_service(&pair.client, pair.service, Protocol::Tcp, vec![other]);
        let mut client = call(&pair.client, pair.service).await;
        assert!(client.read(&mut [0; 1]).await.is_err());
        assert_eq!(failures(&pair.client), ["tls_identity_mismatch"]);
        let text = metrics(&pair.client);
        assert!(text.lines().any(|line| line.contains("reason=\"wrong_id\"") && line.ends_with(" 1")), "{text}");
    })
    .await;
}

#[tokio::test]
async fn another_bundle_ends_connections_whose_peer_it_does_not_vouch_for() {
    within(async {
        let pair = Pair::new(Protocol::Tcp).await;
        let mut client = call(&pair.client, pair.service).await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        client.write_all(b"a").await.unwrap();
        app.read_exact(&mut [0; 1]).await.unwrap();
        let stranger = issuer();
        certify(&stranger, &pair.server.shared.mesh_tls, "web");
        pair.server.shared.mesh_tls.set_bundle(Arc::new(stranger.bundle().clone()));
        pair.server.shared.trust_changed.send_replace(());
        assert!(app.read(&mut [0; 1]).await.is_err());
        assert!(client.read(&mut [0; 1]).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_ticket_of_a_bundle_that_is_gone_is_refused_counted_and_told_with_who() {
    within(async {
        let pair = Pair::new(Protocol::Tcp).await;
        let mut client = call(&pair.client, pair.service).await;
        client.write_all(b"a").await.unwrap();
        let (mut app, _) = pair.app.accept().await.unwrap();
        app.read_exact(&mut [0; 1]).await.unwrap();
        // The client keeps the ticket it was given; the server's proxy trusts somebody else from now on.
        pair.server.shared.mesh_tls.set_bundle(Arc::new(issuer().bundle().clone()));
        let mut client = call(&pair.client, pair.service).await;
        assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        let text = metrics(&pair.server);
        let counted = |line: &str| {
            line.starts_with("mesh_tls_handshake_failures_total") && line.contains("reason=\"unknown_authority\"")
        };
        assert!(text.lines().any(|line| counted(line) && line.ends_with(" 1")), "{text}");
        let failure = &pair.server.shared.telemetry.failures.list()[0];
        assert_eq!((&*failure.reason, &*failure.source), ("tls_untrusted", "127.0.0.1"), "{failure:?}");
        assert!(timeout(Duration::from_millis(50), pair.app.accept()).await.is_err(), "the application hears nothing");
    })
    .await;
}

#[tokio::test]
async fn strict_refuses_plaintext_and_permissive_takes_it() {
    within(async {
        let pair = Pair::new(Protocol::Undeclared).await;
        let port = pair.app.local_addr().unwrap().port();
        let mut client = TcpStream::connect(pair.endpoint.address).await.unwrap();
        client.write_all(b"hello from outside").await.unwrap();
        let (mut app, _) = pair.app.accept().await.unwrap();
        app.read_exact(&mut [0; 18]).await.unwrap();
        put_inbound(&pair.server, port, Protocol::Undeclared, MutualTls::Strict);
        let mut client = TcpStream::connect(pair.endpoint.address).await.unwrap();
        client.write_all(b"hello from outside").await.unwrap();
        assert!(client.read(&mut [0; 1]).await.is_err());
        // The one that was open, and the new one.
        assert_eq!(failures(&pair.server), ["plaintext_refused"; 2]);
    })
    .await;
}

#[tokio::test]
async fn strict_ends_plaintext_that_is_open() {
    within(async {
        let worker = proxy(&issuer(), "web", "10.0.0.2");
        let (app, address) = listen("127.0.0.1").await;
        put_inbound(&worker, address.port(), Protocol::Undeclared, MutualTls::Permissive);
        let inbound = inbound_of(&worker, address).await;
        let mut open = Vec::new();
        for first in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PING\r\n", ""] {
            let mut client = TcpStream::connect(inbound).await.unwrap();
            client.write_all(first.as_bytes()).await.unwrap();
            let (mut app, _) = app.accept().await.unwrap();
            if first.is_empty() {
                app.write_all(b"220\r\n").await.unwrap();
                read_until(&mut client, "\r\n").await;
            } else {
                read_until(&mut app, "\r\n").await;
            }
            open.push((client, app));
        }
        // What says nothing new ends nothing.
        put_inbound(&worker, address.port(), Protocol::Undeclared, MutualTls::Permissive);
        open[2].1.write_all(b"still\r\n").await.unwrap();
        read_until(&mut open[2].0, "still\r\n").await;
        put_inbound(&worker, address.port(), Protocol::Undeclared, MutualTls::Strict);
        for (mut client, mut app) in open {
            assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
            assert!(matches!(app.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        }
        assert_eq!(failures(&worker), ["plaintext_refused"; 3]);
    })
    .await;
}

#[tokio::test]
async fn silence_gets_nobody_in_before_it_is_known_who_may_come() {
    within(async {
        let worker = proxy(&issuer(), "web", "10.0.0.2");
        worker.shared.discovery.put_inbound(Known::Waiting);
        let (app, address) = listen("127.0.0.1").await;
        let mut client = TcpStream::connect(inbound_of(&worker, address).await).await.unwrap();
        // Three times as long as a silent client is waited for.
        let dialled = timeout(3 * SILENCE, app.accept()).await;
        assert!(dialled.is_err(), "plaintext reached an application that may be strict");
        put_inbound(&worker, address.port(), Protocol::Undeclared, MutualTls::Permissive);
        let (mut app, _) = app.accept().await.unwrap();
        app.write_all(b"220").await.unwrap();
        client.read_exact(&mut [0; 3]).await.unwrap();
    })
    .await;
}

/// `mesh/tcp` to the workload, as a peer sends it that says so whatever it carries.
async fn lie(pair: &Pair) -> Stream {
    let name = ServerName::from(pair.endpoint.address.ip());
    let limit = Duration::from_secs(5);
    upstream::dial(&pair.client, &pair.endpoint, &name, MeshProtocol::Tcp, limit).await.unwrap()
}

async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).await.unwrap();
        assert!(count > 0, "{text}");
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    text
}

#[tokio::test]
async fn a_peer_that_calls_its_http_bytes_speaks_in_nobody_elses_name() {
    within(async {
        for protocol in [Protocol::Undeclared, Protocol::Http1] {
            let pair = Pair::new(protocol).await;
            let mut stream = lie(&pair).await;
            let forged = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: URI=spiffe://evil\r\n\r\n";
            stream.write_all(forged).await.unwrap();
            stream.flush().await.unwrap();
            let heard = async {
                loop {
                    let (mut app, _) = pair.app.accept().await.unwrap();
                    let mut first = [0; 1];
                    // The connection for bytes, which were none, ends.
                    if app.read(&mut first).await.unwrap() == 1 {
                        return read_until(&mut app, "\r\n\r\n").await;
                    }
                }
            };
            let request = heard.await;
            assert!(!request.contains("evil") && request.contains(&spiffe_id("cart")), "{request}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_only_some_applications_take_for_http_does_not_reach_one() {
    within(async {
        let odd = b"\r\n\r\nGET / HTTP/1.1\r\nX-Forwarded-Client-Cert: URI=spiffe://evil\r\n\r\n";
        let pair = Pair::new(Protocol::Http1).await;
        let mut stream = lie(&pair).await;
        stream.write_all(odd).await.unwrap();
        stream.flush().await.unwrap();
        assert!(read_until(&mut stream, "\n").await.starts_with("HTTP/1.1 400"));

        let (_, address) = (&pair.app, pair.app.local_addr().unwrap());
        let mut plain = TcpStream::connect(inbound_of(&pair.server, address).await).await.unwrap();
        plain.write_all(odd).await.unwrap();
        assert!(read_until(&mut plain, "\n").await.starts_with("HTTP/1.1 400"));
    })
    .await;
}

#[tokio::test]
async fn bytes_on_an_undeclared_port_go_through_whoever_begins() {
    within(async {
        let pair = Pair::new(Protocol::Undeclared).await;
        let mut stream = lie(&pair).await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        stream.write_all(b"PING\r\n").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(read_until(&mut app, "\n").await, "PING\r\n");
        app.write_all(b"PONG\r\n").await.unwrap();
        assert_eq!(read_until(&mut stream, "\n").await, "PONG\r\n");

        let mut stream = lie(&pair).await;
        let (mut app, _) = pair.app.accept().await.unwrap();
        app.write_all(b"220 here\r\n").await.unwrap();
        assert_eq!(read_until(&mut stream, "\n").await, "220 here\r\n");
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(read_until(&mut app, "\n").await, "GET / HTTP/1.1\r\n");
    })
    .await;
}

#[tokio::test]
async fn our_own_pod_is_served_in_process() {
    within(async {
        let issuer = issuer();
        let (app, address) = listen("127.0.0.1").await;
        let worker = proxy(&issuer, "web", "127.0.0.1");
        let service = "10.96.0.7:80".parse().unwrap();
        put_service(&worker, service, Protocol::Tcp, vec![endpoint(address, Some("web"))]);
        let mut client = call(&worker, service).await;
        client.write_all(b"to myself").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut app, _) = app.accept().await.unwrap();
        assert_eq!(read_all(&mut app).await, b"to myself");
        drop(app);
        assert_eq!(read_all(&mut client).await, b"");
    })
    .await;
}

#[tokio::test]
async fn a_workload_and_the_outside_world_are_reached_directly() {
    within(async {
        let pair = Pair::new(Protocol::Tcp).await;
        let workload = Known::Value(Arc::new(Outbound::Workload(pair.endpoint.clone())));
        pair.client.shared.discovery.put_outbound(pair.endpoint.address, workload);
        let (world, outside) = listen("127.0.0.1").await;
        pair.client.shared.discovery.put_outbound(outside, Known::Absent);
        for (address, listener) in [(pair.endpoint.address, &pair.app), (outside, &world)] {
            let mut client = call(&pair.client, address).await;
            client.write_all(b"hi").await.unwrap();
            let (mut app, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 2];
            app.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"hi");
        }
        let text = metrics(&pair.client);
        assert!(text.contains("PassthroughCluster"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn what_we_know_nothing_of_is_never_sent_in_plaintext() {
    within(async {
        let worker = proxy(&issuer(), "cart", "10.0.0.1");
        let gone: SocketAddr = "10.96.0.99:80".parse().unwrap();
        worker.shared.discovery.put_outbound(gone, Known::Absent);
        let own: SocketAddr = "10.0.0.1:15006".parse().unwrap();
        let unknown: SocketAddr = "10.96.0.98:80".parse().unwrap();
        for (address, reason) in [(gone, "no_endpoints"), (own, "connect_failed"), (unknown, "discovery_unavailable")] {
            let mut client = call(&worker, address).await;
            assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
            assert_eq!(failures(&worker)[0], reason);
        }
    })
    .await;
}

#[tokio::test]
async fn futures_stay_small() {
    let pair = within(Pair::new(Protocol::Tcp)).await;
    let (listener, address) = listen("127.0.0.1").await;
    let _client = TcpStream::connect(address).await.unwrap();
    let (tcp, from) = listener.accept().await.unwrap();
    let future = serve(&pair.client, tcp, pair.service);
    assert!(size_of_val(&future) < 2048, "{}", size_of_val(&future));
    drop(future);
    let _client = TcpStream::connect(address).await.unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let future = crate::inbound::serve(&pair.server, tcp, from, pair.service);
    assert!(size_of_val(&future) < 2048, "{}", size_of_val(&future));
}
