//! Any bytes as a response: no panic, and what is forwarded reads as the same response again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proxy::http::h1::body::Body;
use proxy::http::h1::buffer::Buffer;
use proxy::http::h1::parse::{self, Asked};
use proxy::http::h1::write::{self, Connection};
use proxy::http::h1::{Limits, Tunnel};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, stream)) = data.split_first() else { return };
    let tunnel = [None, Some(Tunnel::Connect), Some(Tunnel::Upgrade)][usize::from(choice % 3)];
    let asked = Asked { head: choice & 0x80 != 0, tunnel };
    let mut buffer = Buffer::default();
    buffer.extend(stream);
    let Ok(Some(response)) = parse::response(&mut buffer, &Limits::default(), asked) else { return };
    let _ = Body::new(response.framing).relay(buffer.data());
    let upgraded = response.tunnel && tunnel == Some(Tunnel::Upgrade);
    let connection = if upgraded { Connection::Upgrade } else { Connection::Default };
    let mut out = BytesMut::new();
    write::response(&response.head, connection, &mut out);
    let mut again = Buffer::default();
    again.extend(&out);
    let reread = parse::response(&mut again, &Limits::default(), asked).expect("valid").expect("whole");
    assert_eq!((reread.framing, reread.head.status()), (response.framing, response.head.status()));
    assert!(again.is_empty(), "one head became two");
});
