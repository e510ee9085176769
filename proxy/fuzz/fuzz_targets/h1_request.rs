//! Any bytes as a request: no panic, and what is forwarded reads as the same request again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proxy::http::h1::body::Body;
use proxy::http::h1::buffer::Buffer;
use proxy::http::h1::write::{self, Connection};
use proxy::http::h1::{Limits, parse};

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    let mut buffer = Buffer::default();
    buffer.extend(data);
    let Ok(Some(request)) = parse::request(&mut buffer, &limits) else { return };
    let _ = Body::new(request.framing).relay(buffer.data());
    let connection = if request.tunnel.is_some() { Connection::Upgrade } else { Connection::Default };
    let mut out = BytesMut::new();
    write::request(&request.head, connection, &mut out);
    let mut again = Buffer::default();
    again.extend(&out);
    let reread = parse::request(&mut again, &limits).expect("what is forwarded is valid").expect("and whole");
    assert_eq!((reread.framing, reread.version), (request.framing, request.version));
    assert_eq!(reread.head.path_and_query(), request.head.path_and_query());
    assert_eq!(reread.head.authority(), request.head.authority());
    assert!(again.is_empty(), "one head became two");
});
