//! What reading and writing one HTTP/1 request head costs: our codec, beside what hyper's does per message (httparse into an
//! `http::HeaderMap`, and out again), and beside httparse alone. Nanoseconds per request, the best of five rounds.
//!
//! `codec [requests]`, a million by default. Only ratios inside one run mean anything.

use std::hint::black_box;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use proxy::http::h1::buffer::Buffer;
use proxy::http::h1::write::{self, Connection};
use proxy::http::h1::{Limits, parse};

fn main() {
    let requests: u32 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    println!("{} bytes, {requests} requests", REQUEST.len());
    report("ours: read and write", requests, ours);
    report("httparse, HeaderMap, write", requests, header_map);
    report("httparse alone", requests, httparse_alone);
}

fn report(name: &str, requests: u32, work: fn(u32)) {
    work(requests / 10);
    let best = (0..5).map(|_| {
        let start = Instant::now();
        work(requests);
        start.elapsed().as_nanos() / u128::from(requests.max(1))
    });
    println!("{name:<28} {:>6} ns", best.min().unwrap_or_default());
}

fn ours(requests: u32) {
    let limits = Limits::default();
    let mut buffer = Buffer::default();
    let mut out = BytesMut::new();
    for _ in 0..requests {
        buffer.extend(black_box(REQUEST));
        let request = parse::request(&mut buffer, &limits).expect("valid").expect("whole");
        out.clear();
        write::request(&request.head, Connection::Default, &mut out);
        black_box(&out);
    }
}

fn header_map(requests: u32) {
    let mut out = BytesMut::new();
    for _ in 0..requests {
        let received = bytes::Bytes::copy_from_slice(black_box(REQUEST));
        let mut slots = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut slots);
        parsed.parse(&received).expect("valid");
        let method: Method = parsed.method.and_then(|method| method.parse().ok()).expect("valid");
        let uri: Uri = parsed.path.and_then(|path| path.parse().ok()).expect("valid");
        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).expect("valid");
            let value = HeaderValue::from_maybe_shared(received.slice_ref(field.value)).expect("valid");
            headers.append(name, value);
        }
        out.clear();
        out.put_slice(method.as_str().as_bytes());
        out.put_slice(b" ");
        out.put_slice(uri.path_and_query().expect("a path").as_str().as_bytes());
        out.put_slice(b" HTTP/1.1\r\n");
        for (name, value) in &headers {
            out.put_slice(name.as_str().as_bytes());
            out.put_slice(b": ");
            out.put_slice(value.as_bytes());
            out.put_slice(b"\r\n");
        }
        out.put_slice(b"\r\n");
        black_box(&out);
    }
}

fn httparse_alone(requests: u32) {
    for _ in 0..requests {
        let mut slots = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut slots);
        black_box(parsed.parse(black_box(REQUEST)).expect("valid"));
    }
}

const REQUEST: &[u8] = b"GET /api/v1/products/17?currency=EUR HTTP/1.1\r\n\
    Host: catalog.shop.svc.cluster.local:8080\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: application/json, text/plain, */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    X-Request-Id: 6f1c1f4e-2f0a-4a53-9f0c-0d6f4f8d2a11\r\n\
    Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\n\
    Connection: keep-alive\r\n\r\n";
