//! The ClientHello parser never panics, and what it says of a beginning holds for the whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::detect::client_hello::{MAX_PROTOCOLS, Parsed, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    if let Parsed::Hello(hello) = &whole {
        assert!(hello.alpn.len() <= MAX_PROTOCOLS);
        assert!(hello.server_name.as_ref().is_none_or(|name| !name.is_empty() && name.len() <= 253));
    }
    for end in 0..bytes.len() {
        let beginning = parse(&bytes[..end]);
        assert!(beginning == Parsed::NeedMore || beginning == whole, "{end}: {beginning:?}, then {whole:?}");
    }
});
