//! HTTP/2 from one application to another, through both proxies.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::time::Duration;

use h2::{Reason as Code, SendStream, client, server};
use http::{HeaderMap, Request, Response};
use policy::{MutualTls, Protocol};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::testbed::{
    call, endpoint, failures, inbound_of, issuer, listen, metrics, proxy, put_inbound, put_service, silent_address,
    spiffe_id,
};

/// Two workloads, a Service of the second one, and its application's socket.
struct Pair {
    client: Rc<Worker>,
    server: Rc<Worker>,
    app: TcpListener,
    service: SocketAddr,
}

impl Pair {
    async fn new() -> Self {
        let issuer = issuer();
        let (client, server) = (proxy(&issuer, "cart", "10.0.0.1"), proxy(&issuer, "web", "10.0.0.2"));
        let (app, address) = listen("127.0.0.1").await;
        put_inbound(&server, address.port(), Protocol::Grpc, MutualTls::Permissive);
        let endpoint = endpoint(inbound_of(&server, address).await, Some("web"));
        let service = "10.96.0.7:80".parse().unwrap();
        put_service(&client, service, Protocol::Grpc, vec![endpoint]);
        Self { client, server, app, service }
    }

    /// The application's client.
    async fn connect(&self) -> client::SendRequest<Bytes> {
        let tcp = call(&self.client, self.service).await;
        tcp.set_nodelay(true).unwrap();
        let (sender, connection) = client::handshake(tcp).await.unwrap();
        spawn_local(connection);
        sender.ready().await.unwrap()
    }

    /// The next connection the application gets.
    async fn accept(&self) -> server::Connection<TcpStream, Bytes> {
        let (tcp, _) = self.app.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        server::handshake(tcp).await.unwrap()
    }

    /// An application that answers every stream with what it was sent, and trailers.
    fn echo(self: &Rc<Self>) {
        let pair = Rc::clone(self);
        spawn_local(async move {
            loop {
                let mut connection = pair.accept().await;
                spawn_local(async move {
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        spawn_local(echo(request, respond));
                    }
                });
            }
        });
    }
}

async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (parts, mut body) = request.into_parts();
    let response = Response::builder().header("x-caller", &parts.headers["x-forwarded-client-cert"]).body(()).unwrap();
    let mut stream = respond.send_response(response, false).unwrap();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        push(&mut stream, piece).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let _ = stream.send_trailers(trailers);
}

async fn push(stream: &mut SendStream<Bytes>, mut piece: Bytes) {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let Some(Ok(some)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        stream.send_data(piece.split_to(some.min(piece.len())), false).unwrap();
    }
}

fn grpc() -> Request<()> {
    let request = Request::post("http://web/pkg.Service/Method").header("content-type", "application/grpc");
    request.header("te", "trailers").header("x-forwarded-client-cert", "URI=spiffe://evil").body(()).unwrap()
}

async fn within<F: Future>(future: F) -> F::Output {
    let bound = Duration::from_secs(20);
    LocalSet::new().run_until(async { tokio::time::timeout(bound, future).await.expect("the test hangs") }).await
}

#[tokio::test]
async fn grpc_streams_both_ways_with_trailers() {
    within(async {
        let pair = Rc::new(Pair::new().await);
        pair.echo();
        let mut client = pair.connect().await;
        let (response, mut upload) = client.send_request(grpc(), false).unwrap();
        let response = response.await.unwrap();
        let identity = format!("By={};URI={}", spiffe_id("web"), spiffe_id("cart"));
        assert_eq!(response.headers()["x-caller"], identity.as_str());
        let mut body = response.into_body();
        for round in 0..100_u8 {
            push(&mut upload, Bytes::from(vec![round; 1000])).await;
            let mut got = 0;
            while got < 1000 {
                let piece = body.data().await.unwrap().unwrap();
                got += piece.len();
                body.flow_control().release_capacity(piece.len()).unwrap();
            }
        }
        upload.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        let counted =
            |text: &str| text.contains("grpc_response_status=\"0\"") && text.contains("request_protocol=\"grpc\"");
        while !counted(&metrics(&pair.client)) || !counted(&metrics(&pair.server)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_large_body_is_bounded_by_the_slower_side() {
    within(async {
        let pair = Rc::new(Pair::new().await);
        pair.echo();
        let mut client = pair.connect().await;
        let (response, mut upload) = client.send_request(grpc(), false).unwrap();
        let sending = async {
            for _ in 0..400 {
                push(&mut upload, Bytes::from(vec![1; 10_000])).await;
            }
            upload.send_data(Bytes::new(), true).unwrap();
        };
        let receiving = async {
            let mut body = response.await.unwrap().into_body();
            let mut total = 0;
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                total += piece.len();
                body.flow_control().release_capacity(piece.len()).unwrap();
            }
            total
        };
        assert_eq!(tokio::join!(sending, receiving).1, 4_000_000);
    })
    .await;
}

#[tokio::test]
async fn a_refused_stream_goes_again() {
    within(async {
        let pair = Pair::new().await;
        let mut client = pair.connect().await;
        let (response, mut upload) = client.send_request(grpc(), false).unwrap();
        upload.send_data(Bytes::from_static(b"hello"), true).unwrap();
        let app = async {
            let mut connection = pair.accept().await;
            // Open once, so that the next refusal meets a connection that is in use.
            let mut refused = 0;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if refused < 1 {
                    refused += 1;
                    respond.send_reset(Code::REFUSED_STREAM);
                } else {
                    spawn_local(echo(request, respond));
                }
            }
        };
        let call = async {
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "hello");
        };
        tokio::select! {
            () = app => panic!("the application's connection ended"),
            () = call => {}
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_goes_away_loses_nothing() {
    within(async {
        let pair = Rc::new(Pair::new().await);
        let app = Rc::clone(&pair);
        spawn_local(async move {
            // Each connection takes one stream, and says goodbye while it answers.
            loop {
                let mut connection = app.accept().await;
                spawn_local(async move {
                    let Some(Ok((request, respond))) = connection.accept().await else { return };
                    spawn_local(echo(request, respond));
                    connection.graceful_shutdown();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        spawn_local(echo(request, respond));
                    }
                });
            }
        });
        let client = pair.connect().await;
        for _ in 0..20 {
            let mut client = client.clone().ready().await.unwrap();
            let (response, mut upload) = client.send_request(grpc(), false).unwrap();
            upload.send_data(Bytes::from_static(b"hi"), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.headers().get("proxy-status"), None);
            let mut body = response.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "hi");
        }
        assert!(failures(&pair.client).is_empty() && failures(&pair.server).is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_cancels_is_heard_by_the_application() {
    within(async {
        let pair = Pair::new().await;
        let mut client = pair.connect().await;
        let (response, upload) = client.send_request(grpc(), false).unwrap();
        let mut connection = pair.accept().await;
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        drop((response, upload));
        tokio::select! {
            reset = poll_fn(|cx| respond.poll_reset(cx)) => assert_eq!(reset.unwrap(), Code::CANCEL),
            _ = connection.accept() => panic!("the connection ended"),
        }
        drop(request);
    })
    .await;
}

#[tokio::test]
async fn errors_are_told_in_grpcs_way() {
    within(async {
        let pair = Pair::new().await;
        let Pair { client: worker, app, service, .. } = &pair;
        let _ = (app, service);
        let mut client = pair.connect().await;
        put_service(worker, pair.service, Protocol::Grpc, Vec::new());
        let response = client.send_request(grpc(), true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert!(response.headers()["proxy-status"].to_str().unwrap().contains("no_endpoints"));
        let plain = Request::get("http://web/").body(()).unwrap();
        let mut client = client.ready().await.unwrap();
        assert_eq!(client.send_request(plain, true).unwrap().0.await.unwrap().status(), 503);
    })
    .await;
}

#[tokio::test]
async fn rapid_reset_ends_that_connection_alone() {
    within(async {
        let pair = Rc::new(Pair::new().await);
        pair.echo();
        let mut good = pair.connect().await;
        let mut bad = pair.connect().await;
        let ended = async {
            loop {
                bad = match bad.clone().ready().await {
                    Ok(ready) => ready,
                    Err(error) => return error,
                };
                for _ in 0..50 {
                    match bad.send_request(grpc(), true) {
                        Ok((_, mut stream)) => stream.send_reset(Code::CANCEL),
                        Err(error) => return error,
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        let error = ended.await;
        assert!(error.is_go_away() || error.is_io(), "{error}");
        let response = good.send_request(grpc(), true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(failures(&pair.client).contains(&"protocol_error".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_cancels_leaves_nothing_waiting_for_a_busy_application() {
    within(async {
        let issuer = issuer();
        let (client, server) = (proxy(&issuer, "cart", "10.0.0.1"), proxy(&issuer, "web", "10.0.0.2"));
        let (_socket, _filling, busy) = silent_address().await;
        put_inbound(&server, busy.port(), Protocol::Grpc, MutualTls::Permissive);
        let inbound = inbound_of(&server, busy).await;
        for (caller, to) in [(None, inbound), (Some(&client), busy)] {
            let worker = caller.unwrap_or(&server);
            let direction = if caller.is_some() { "outbound" } else { "inbound" };
            let in_flight = |count| format!("mesh_requests_in_flight{{direction=\"{direction}\"}} {count}\n");
            let tcp = match caller {
                None => TcpStream::connect(to).await.unwrap(),
                Some(worker) => {
                    let service = "10.96.0.7:80".parse().unwrap();
                    put_service(worker, service, Protocol::Grpc, vec![endpoint(to, None)]);
                    call(worker, service).await
                }
            };
            let (sender, connection) = client::handshake(tcp).await.unwrap();
            spawn_local(connection);
            let mut sender = sender.ready().await.unwrap();
            let streams: Vec<_> = (0..10).map(|_| sender.send_request(grpc(), true).unwrap()).collect();
            until(|| metrics(worker).contains(&in_flight(10))).await;
            drop(streams);
            // Long before the application would be given up.
            let gone = until(|| metrics(worker).contains(&in_flight(0)));
            tokio::time::timeout(Duration::from_secs(2), gone).await.expect("requests nobody waits for go on");
        }
    })
    .await;
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

/// A frame: length, type, flags, stream.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends bytes until the proxy ends the connection.
async fn flood(pair: &Pair, first: &[u8], then: &[u8]) {
    let mut tcp = call(&pair.client, pair.service).await;
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    tcp.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    tcp.write_all(first).await.unwrap();
    let mut sent = 0;
    while tcp.write_all(then).await.is_ok() {
        sent += then.len();
        assert!(sent < 64 * 1024 * 1024, "still open after {sent} bytes");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn floods_of_frames_end_that_connection_alone() {
    const HEADERS: u8 = 1;
    const CONTINUATION: u8 = 9;
    within(async {
        let pair = Rc::new(Pair::new().await);
        pair.echo();
        let mut good = pair.connect().await;
        // A literal field of 16,000 bytes; never END_HEADERS (CVE-2024-27316).
        let mut field = vec![0x00, 0x01, b'x', 0x7f, 0x81, 0x7c];
        field.extend(vec![b'a'; 16_000]);
        flood(&pair, &frame(HEADERS, 0, 1, &[]), &frame(CONTINUATION, 0, 1, &field)).await;
        // Empty ones.
        flood(&pair, &frame(HEADERS, 0, 1, &[]), &frame(CONTINUATION, 0, 1, &[]).repeat(100)).await;
        let response = good.send_request(grpc(), true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(failures(&pair.client).contains(&"protocol_error".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_header_bomb_is_refused_and_large_heads_pass() {
    within(async {
        let pair = Rc::new(Pair::new().await);
        pair.echo();
        let client = pair.connect().await;
        for (size, status) in [(64 * 1024, 200), (200 * 1024, 431)] {
            let mut request = grpc();
            // HPACK's table makes each of these one byte on the wire after the first.
            for _ in 0..size / 1024 {
                request.headers_mut().append("x-bomb", "b".repeat(1024 - 38).parse().unwrap());
            }
            let mut client = client.clone().ready().await.unwrap();
            let response = client.send_request(request, true).unwrap().0.await.unwrap();
            assert_eq!(response.status(), status, "{size}");
        }
    })
    .await;
}

/// Streams that stay open, all begun at once on a mesh without any connection yet.
#[tokio::test]
async fn streams_that_do_not_fit_on_a_connection_get_another() {
    const AT_ONCE: usize = 35;
    within(async {
        let pair = Rc::new(Pair::new().await);
        let (app, connections) = (Rc::clone(&pair), Rc::new(Cell::new(0)));
        let opened = Rc::clone(&connections);
        spawn_local(async move {
            loop {
                let (tcp, _) = app.app.accept().await.unwrap();
                opened.set(opened.get() + 1);
                let mut few = server::Builder::new();
                let mut connection = few.max_concurrent_streams(10).handshake::<_, Bytes>(tcp).await.unwrap();
                spawn_local(async move {
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        spawn_local(echo(request, respond));
                    }
                });
            }
        });
        let mut client = pair.connect().await;
        let mut open = Vec::new();
        for _ in 0..AT_ONCE {
            client = client.ready().await.unwrap();
            open.push(client.send_request(grpc(), false).unwrap());
        }
        let mut uploads = Vec::new();
        for (response, upload) in open {
            assert_eq!(response.await.unwrap().status(), 200);
            uploads.push(upload);
        }
        assert!((4..=5).contains(&connections.get()), "{} connections", connections.get());
    })
    .await;
}
