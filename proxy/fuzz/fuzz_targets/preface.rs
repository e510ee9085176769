//! Protocol detection never panics, never waits for more than its limit, and what it says of a beginning holds for the whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::detect::preface::{MAX_UNSURE, Preface, classify};
use proxy::detect::{self, MAX_PREFIX};

fuzz_target!(|bytes: &[u8]| {
    let whole = classify(bytes);
    assert!(whole != Preface::NeedMore || bytes.len() < MAX_UNSURE);
    for end in 0..bytes.len() {
        let beginning = classify(&bytes[..end]);
        assert!(beginning == Preface::NeedMore || beginning == whole, "{end}: {beginning:?}, then {whole:?}");
    }
    assert!(detect::classify(bytes).is_some() || bytes.len() < MAX_PREFIX);
});
