//! Plaintext that comes in, with nothing that sets the kubelet's requests apart from anybody's.

use tokio::io::AsyncWriteExt as _;
use tokio::task::LocalSet;

use super::*;
use crate::testbed::{inbound_of, issuer, listen, metrics, proxy, put_inbound};

#[tokio::test]
async fn no_plaintext_gets_past_strict_by_looking_like_a_probe() {
    let run = async {
        let (app, address) = listen("127.0.0.1").await;
        let worker = proxy(&issuer(), "web", "127.0.0.1");
        put_inbound(&worker, address.port(), Protocol::Http1, MutualTls::Strict);
        let mut stream = TcpStream::connect(inbound_of(&worker, address).await).await.unwrap();
        let probe = b"GET /ready HTTP/1.1\r\nhost: a\r\nuser-agent: kube-probe/1.34\r\nconnection: close\r\n\r\n";
        stream.write_all(probe).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("plaintext_refused"), "{answer}");
        let dialled = timeout(Duration::from_millis(50), app.accept()).await;
        assert!(dialled.is_err(), "the application heard of it");
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_client_that_asks_like_a_probe_keeps_its_connection_and_is_counted() {
    let run = async {
        let (app, address) = listen("127.0.0.1").await;
        let worker = proxy(&issuer(), "web", "127.0.0.1");
        put_inbound(&worker, address.port(), Protocol::Http1, MutualTls::Permissive);
        tokio::task::spawn_local(async move {
            let (mut stream, _) = app.accept().await.unwrap();
            let mut buffer = [0; 4096];
            while let Ok(1..) = stream.read(&mut buffer).await {
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
        });
        let mut client = TcpStream::connect(inbound_of(&worker, address).await).await.unwrap();
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nuser-agent: kube-probe/1.34\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(client.read_u8().await.unwrap());
            }
            assert!(answer.starts_with(b"HTTP/1.1 204"));
        }
        assert!(metrics(&worker).contains("response_code=\"204\""), "these are requests");
    };
    LocalSet::new().run_until(run).await;
}
