//! HTTP as an application is asked it, with TLS and without.

use std::time::{Duration, SystemTime};

use identity::{ClientCertificates, Issuer, KeyAndRequest, MeshTls, SpiffeId};
use proto::bootstrap::{Probe, ProbeCheck};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::tests::{bootstrap, probe, probe_of};
use super::*;

/// Answers one connection with `answer`, and returns what it was asked.
async fn https_app(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
    let issuer = Issuer::create(&"td".parse().unwrap(), SystemTime::now()).unwrap().0;
    let id: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
    let key = KeyAndRequest::new(&id).unwrap();
    let issued = issuer.issue(key.csr(), &id, Duration::from_secs(60), SystemTime::now()).unwrap();
    let tls = MeshTls::new(Some(Arc::new(issuer.bundle().clone())));
    tls.set_leaf(key.complete(issued.chain).unwrap());
    let acceptor = TlsAcceptor::from(tls.server_config(ClientCertificates::None, &[b"http/1.1"]));
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut asked).await.unwrap();
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8(asked).unwrap()
    });
    (port, asked)
}

fn get(path: &str, headers: &[(&str, &str)]) -> HttpGet {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HttpGet { path: path.to_owned(), headers }
}

fn https(path: &str, headers: &[(&str, &str)]) -> ProbeCheck {
    ProbeCheck::Https(get(path, headers))
}

#[tokio::test]
async fn https_is_asked_as_the_kubelet_asks() {
    let (port, asked) =
        https_app("HTTP/1.1 302 Found\r\nlocation: https://web.example/\r\ncontent-length: 0\r\n\r\n").await;
    let answer = probe(port, https("/live?deep=1", &[("Host", "web.example"), ("X-Probe", "1")])).await.unwrap();
    assert_eq!(answer.status, StatusCode::FOUND, "elsewhere: the kubelet leaves it at that");
    let asked = asked.await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /live?deep=1 http/1.1\r\n"), "{asked}");
    for line in ["host: web.example\r\n", "x-probe: 1\r\n", "user-agent: kube-probe/1.34\r\n", "accept: */*\r\n"] {
        assert!(asked.contains(line), "{line} in {asked}");
    }
    let (port, _asked) = https_app("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(probe(port, https("/", &[])).await.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(probe(port, https("/", &[("a b", "c")])).await.is_err());
}

/// Answers each connection with the next answer, and returns what it was asked.
async fn http_app(listener: TcpListener, answers: Vec<String>) -> Vec<String> {
    let mut all = Vec::new();
    for answer in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut asked).await.unwrap();
        }
        // Whoever has read enough does not wait for the rest.
        let _ = stream.write_all(answer.as_bytes()).await;
        all.push(String::from_utf8(asked).unwrap());
    }
    all
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn http_answers_as_the_app_does_and_redirects_are_followed_where_the_kubelet_would() {
    let (first, port) = listener().await;
    let (second, other) = listener().await;
    let found = |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    let long = "x".repeat(LARGEST_BODY + 7);
    let last = format!("HTTP/1.1 418 No\r\ncontent-length: {}\r\n\r\n{long}", long.len());
    let first = tokio::spawn(http_app(first, vec![found("../b?q=2"), found(&format!("//127.0.0.9:{other}/c"))]));
    let second = tokio::spawn(http_app(second, vec![last]));
    let check = ProbeCheck::Http(get("/a/x/y?q=1#z", &[("host", "web.example"), ("accept", "")]));
    let answer = probe(port, check).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.len()), (418, LARGEST_BODY));
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert!(first[0].starts_with("GET /a/x/y?q=1 HTTP/1.1\r\n"), "{first:?}");
    assert!(first[1].starts_with("GET /a/b?q=2 HTTP/1.1\r\n"), "{first:?}");
    assert!(
        first.iter().all(|asked| asked.contains("host: web.example\r\n") && !asked.contains("accept")),
        "{first:?}"
    );
    // Another host's name would be a lie there.
    assert!(second[0].starts_with("GET /c HTTP/1.1\r\n"), "{second:?}");
    assert!(second[0].contains(&format!("host: 127.0.0.9:{other}\r\n")), "{second:?}");

    let (app, port) = listener().await;
    let app = tokio::spawn(http_app(app, vec![found("/"); MOST_REQUESTS]));
    let error = probe(port, ProbeCheck::Http(get("/", &[]))).await.unwrap_err();
    assert!(error.ends_with("redirects more than 10 times"), "{error}");
    assert_eq!(app.await.unwrap().len(), MOST_REQUESTS);

    // Half an answer is none.
    let (app, port) = listener().await;
    tokio::spawn(http_app(app, vec!["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_owned()]));
    assert!(probe(port, ProbeCheck::Http(get("/", &[]))).await.unwrap_err().contains("does not answer HTTP"));
}

#[test]
fn references_are_resolved_and_lead_nowhere_else() {
    let own: IpAddr = "10.0.0.1".parse().unwrap();
    let target = Target::new(false, 80, &get("/a/b?q=1", &[]));
    let at = |is_secure, port, path: &str, keeps_host| Target { is_secure, port, path: path.to_owned(), keeps_host };
    for (location, expected) in [
        ("/c", at(false, 80, "/c", true)),
        ("c?r=2#f", at(false, 80, "/a/c?r=2", true)),
        ("?r=2", at(false, 80, "/a/b?r=2", true)),
        ("../../../c/./", at(false, 80, "/c/", true)),
        ("a b\u{e9}", at(false, 80, "/a/a%20b%C3%A9", true)),
        ("/c?next=http://evil//", at(false, 80, "/c?next=http://evil//", true)),
        ("https://10.0.0.1", at(true, 443, "/", false)),
        ("HTTP://10.0.0.1:81?q", at(false, 81, "/?q", false)),
    ] {
        assert_eq!(target.resolve(own, location), Some(expected), "{location}");
    }
    for elsewhere in
        ["http://10.0.0.2/", "//evil.example/", "ftp://10.0.0.1/", "http://a@10.0.0.1/", "http://", "mailto:a"]
    {
        assert_eq!(target.resolve(own, elsewhere), None, "{elsewhere}");
    }
    let own = "fd00::1".parse().unwrap();
    assert_eq!(target.resolve(own, "http://[fd00::1]/c"), Some(at(false, 80, "/c", false)));
}

#[tokio::test]
async fn plaintext_and_silence_are_no_https() {
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = https("/", &[]);
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        listener
    });
    let error = probe(port, check.clone()).await.unwrap_err();
    assert!(error.contains("does not speak TLS"), "{error}");
    let _listening = answering.await.unwrap();
    let error = probe_of(&bootstrap(&[]), Probe { port, timeout_ms: 50, check }).await.unwrap_err();
    assert!(error.ends_with("did not answer within 50ms"), "{error}");
}
