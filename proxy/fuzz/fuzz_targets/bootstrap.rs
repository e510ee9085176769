//! The bootstrap's strict JSON never panics, and what it accepts reads back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::Bootstrap;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(bootstrap) = Bootstrap::parse(text) else { return };
    assert!(!bootstrap.workload.addresses.is_empty());
    assert_eq!(Bootstrap::parse(&bootstrap.to_json()).expect("what was accepted is accepted again"), bootstrap);
});
