//! Probes of the kubelet's that come in as plaintext.

use proto::bootstrap::HttpProbe;
use tokio::io::AsyncWriteExt as _;
use tokio::task::LocalSet;

use super::*;
use crate::testbed::{failures, inbound_of, issuer, listen, metrics, proxy_with_probes, put_inbound};

/// Everything that is answered to `bytes`.
async fn ask(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_probe_comes_in_where_nothing_else_does_and_nothing_comes_in_behind_it() {
    let run = async {
        let (app, address) = listen("127.0.0.1").await;
        let probe = HttpProbe { port: address.port(), target: "/ready?q=1".to_owned() };
        let worker = proxy_with_probes(&issuer(), "web", "127.0.0.1", vec![probe]);
        put_inbound(&worker, address.port(), Protocol::Http1, MutualTls::Strict);
        let asked = tokio::task::spawn_local(async move {
            let mut asked = String::new();
            let (mut stream, _) = app.accept().await.unwrap();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                asked += std::str::from_utf8(&buffer[..count]).unwrap();
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
            asked
        });
        let inbound = inbound_of(&worker, address).await;
        for other in ["GET /ready HTTP/1.1", "GET /ready?q=12 HTTP/1.1", "POST /ready?q=1 HTTP/1.1", "GET / HTTP/1.1"] {
            let answer = ask(inbound, &format!("{other}\r\nhost: a\r\nConnection: close\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 4"), "{other}: {answer}");
        }
        let lasting = ask(inbound, "GET /ready?q=1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(lasting.starts_with("HTTP/1.1 4"), "the kubelet asks once on each connection: {lasting}");
        let refused = failures(&worker).len();
        let twice =
            "GET /ready?q=1 HTTP/1.1\r\nhost: a\r\nConnection: close\r\n\r\nGET /secret HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = ask(inbound, twice).await;
        assert!(answer.starts_with("HTTP/1.1 204") && answer.matches("HTTP/1.1").count() == 1, "{answer}");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET /ready?q=1 HTTP/1.1\r\n") && !asked.contains("secret"), "{asked}");
        // The app is gone now: the kubelet is told so, and nobody else.
        assert!(ask(inbound, &twice[..twice.find("GET /secret").unwrap()]).await.starts_with("HTTP/1.1 503"));
        assert_eq!(failures(&worker).len(), refused);
        assert!(!metrics(&worker).contains("response_code=\"204\""), "probes are nobody's requests");
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_client_that_begins_with_a_probes_target_keeps_its_connection() {
    let run = async {
        let (app, address) = listen("127.0.0.1").await;
        let probe = HttpProbe { port: address.port(), target: "/".to_owned() };
        let worker = proxy_with_probes(&issuer(), "web", "127.0.0.1", vec![probe]);
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
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
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
