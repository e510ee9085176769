//! A client of HTTP that connects early and speaks late.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use super::pair::{Pair, curl, dial};

/// After five seconds of silence the request is routed as HTTP, and the next client is not taken for a speaker of bytes.
#[test]
fn five_silent_seconds_then_a_request() {
    let (pair, _server) = Pair::http(None);
    for _ in 0..2 {
        let mut stream = dial(&pair.client, pair.service[0]);
        // The silence is what is tested.
        thread::sleep(Duration::from_secs(5));
        stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-served-by: server"), "{answer}");
    }
    curl(&pair.client, &[&pair.urls()[0]]);
    let routed = ["reporter=\"source\"", "response_code=\"200\""];
    let routed = pair.client.metric("istio_requests_total", &routed).unwrap();
    assert_eq!(routed, 3.0, "{}", pair.client.admin("/metrics").unwrap());
}
