//! TCP whose protocol is nobody's business.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Instant;

use super::pair::{Pair, dial};

#[test]
fn each_end_of_stream_is_passed_on_by_itself() {
    let pair = Pair::new(7000, None);
    let listener = pair.listen(7000);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut question = String::new();
            // To the end of the client's half; the answer follows on the other.
            stream.read_to_string(&mut question).unwrap();
            stream.write_all(question.to_uppercase().as_bytes()).unwrap();
        }
    });
    for addr in pair.service.into_iter().chain(pair.direct(7000)) {
        let mut stream = dial(&pair.client, addr);
        stream.write_all(b"\x01half closed").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{addr}: {error}"));
        assert_eq!(answer, "\x01HALF CLOSED", "{addr}");
    }
    for pod in [&pair.client, &pair.server] {
        let carried = Pair::encrypted(pod, "istio_tcp_connections_opened_total");
        assert_eq!(carried, 4.0, "{}", pod.admin("/metrics").unwrap());
    }
}

/// The server speaks first, on a port about which nothing is known: the first time, and once the mesh has learned it.
#[test]
fn a_greeting_comes_within_150_milliseconds() {
    let pair = Pair::new(7000, None);
    let listener = pair.listen(7000);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(b"220 hello\r\n").unwrap();
            // Until the client goes.
            stream.read_to_end(&mut Vec::new()).ok();
        }
    });
    for (at, addr) in [pair.service[0], pair.service[0], pair.service[1]].into_iter().enumerate() {
        let start = Instant::now();
        let mut stream = dial(&pair.client, addr);
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).unwrap();
        let took = start.elapsed();
        assert_eq!(&greeting, b"220 hello\r\n");
        assert!(took.as_millis() <= 150, "connection {at} waited {took:?} for its greeting");
    }
}
