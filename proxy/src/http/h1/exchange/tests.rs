//! Exchanges over loopback sockets: the client and the server are plain sockets the test drives by hand.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

/// The two ends of one TCP connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

type Outcome = Result<(Finished, Connection<TcpStream>), ExchangeError>;

/// The client's end, the server's end, and the exchange of one request between them.
async fn start() -> (TcpStream, TcpStream, JoinHandle<Outcome>) {
    let (client, near_client) = pair().await;
    let (near_server, server) = pair().await;
    let task = tokio::spawn(async move {
        let mut client = Connection::new(near_client);
        let mut server = Connection::new(near_server);
        let limits = Limits::default();
        let request = client.read_request(&limits).await.unwrap().unwrap();
        let (exchange, response) = Exchange::send(&mut client, &mut server, &request, &limits).await?;
        let finished = exchange.finish(&mut client, &mut server, response, false).await?;
        Ok((finished, client))
    });
    (client, server, task)
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Reads until exactly this has come.
async fn expect(stream: &mut TcpStream, text: &str) {
    let mut read = vec![0; text.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8(read).unwrap(), text);
}

#[tokio::test]
async fn a_request_and_a_response_pass_unchanged() {
    let (mut client, mut server, task) = start().await;
    let request = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    send(&mut client, request).await;
    expect(&mut server, request).await;
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n";
    send(&mut server, response).await;
    expect(&mut client, response).await;
    let (finished, _) = task.await.unwrap().unwrap();
    assert!(finished.client_persistent && finished.server_persistent && !finished.tunnel);
    assert_eq!(finished.request_bytes, 3);
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it() {
    let (mut client, mut server, task) = start().await;
    let head = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    send(&mut client, head).await;
    expect(&mut server, head).await;
    send(&mut server, "HTTP/1.1 100 Continue\r\n\r\n").await;
    expect(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    send(&mut client, "abc").await;
    expect(&mut server, "abc").await;
    send(&mut server, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    expect(&mut client, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    assert!(task.await.unwrap().unwrap().0.client_persistent);
}

#[tokio::test]
async fn a_refusal_instead_of_100_ends_the_connection() {
    let (mut client, mut server, task) = start().await;
    send(&mut client, "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    send(&mut server, "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n").await;
    expect(&mut client, "HTTP/1.1 417 No\r\nContent-Length: 0\r\nconnection: close\r\n\r\n").await;
    drop(client);
    let (finished, _) = task.await.unwrap().unwrap();
    assert!(!finished.client_persistent && !finished.server_persistent);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (mut client, mut server, task) = start().await;
    send(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await;
    expect(&mut server, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await;
    let response = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    send(&mut server, response).await;
    expect(&mut client, response).await;
    // The server reads on, so both connections stay good.
    send(&mut client, "def").await;
    expect(&mut server, "def").await;
    let (finished, _) = task.await.unwrap().unwrap();
    assert!(finished.client_persistent && finished.server_persistent);
}

#[tokio::test]
async fn an_early_answer_of_a_server_that_closes_arrives() {
    let (mut client, mut server, task) = start().await;
    send(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc").await;
    let response = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    let mut head = [0; 20];
    server.read_exact(&mut head).await.unwrap();
    send(&mut server, response).await;
    expect(&mut client, response).await;
    server.shutdown().await.unwrap();
    // The connection ends in order, with no reset and no other byte.
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    drop(client);
    assert!(!task.await.unwrap().unwrap().0.client_persistent);
}

#[tokio::test]
async fn http_10_gets_content_without_chunks() {
    let (mut client, mut server, task) = start().await;
    send(&mut client, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    expect(&mut server, "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    send(&mut server, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        .await;
    expect(&mut client, "HTTP/1.1 200 OK\r\n\r\nabcde").await;
    let (finished, near_client) = task.await.unwrap().unwrap();
    assert!(!finished.client_persistent && finished.server_persistent);
    drop(near_client);
}

#[tokio::test]
async fn a_dead_server_is_replayable_until_it_answers() {
    for (request, answer, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", true),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "", true),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabc", "", false),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200", false),
    ] {
        let (mut client, mut server, task) = start().await;
        send(&mut client, request).await;
        expect(&mut server, request).await;
        send(&mut server, answer).await;
        drop(server);
        let error = task.await.unwrap().unwrap_err();
        assert!(
            matches!(error, ExchangeError::ServerClosed { replayable, .. } if replayable == expected),
            "{request} {answer}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_cut_off_response_is_an_error() {
    let (mut client, mut server, task) = start().await;
    send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await;
    drop(server);
    assert!(matches!(task.await.unwrap(), Err(ExchangeError::ServerClosed { replayable: false, .. })));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_exchange() {
    let (mut client, mut server, task) = start().await;
    send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    expect(&mut server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    drop(client);
    assert!(matches!(task.await.unwrap(), Err(ExchangeError::ClientClosed)));
}

#[tokio::test]
async fn a_client_may_close_its_half_if_it_said_so() {
    let (mut client, mut server, task) = start().await;
    send(&mut client, "GET / HTTP/1.0\r\n\r\n").await;
    client.shutdown().await.unwrap();
    expect(&mut server, "GET / HTTP/1.0\r\n\r\n").await;
    send(&mut server, "HTTP/1.0 200 OK\r\n\r\nhello").await;
    drop(server);
    expect(&mut client, "HTTP/1.1 200 OK\r\n\r\nhello").await;
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_upgrade_leaves_two_byte_pipes() {
    let (mut client, mut server, task) = start().await;
    send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    expect(&mut server, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nconnection: upgrade\r\n\r\n").await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    send(&mut server, answer).await;
    expect(&mut client, answer).await;
    let (finished, _) = task.await.unwrap().unwrap();
    assert!(finished.tunnel && !finished.client_persistent && !finished.server_persistent);
}

#[tokio::test]
async fn large_bodies_flow_both_ways_at_once() {
    let (mut client, mut server, task) = start().await;
    let size = 3_000_000;
    send(&mut client, &format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await;
    send(&mut server, &format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")).await;
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let data = vec![7; size];
    let mut received = Vec::new();
    let mut uploaded = Vec::new();
    let (one, two, three, four) = tokio::join!(
        client_write.write_all(&data),
        server_write.write_all(&data),
        async {
            let mut client_read = (&mut client_read).take(size as u64);
            client_read.read_to_end(&mut received).await
        },
        async {
            let mut server_read = (&mut server_read).take(size as u64);
            server_read.read_to_end(&mut uploaded).await
        }
    );
    one.and(two).unwrap();
    three.and(four).unwrap();
    let (finished, _) = task.await.unwrap().unwrap();
    assert_eq!((finished.request_bytes, finished.response_bytes), (size as u64, size as u64));
}
