//! A SPIFFE id that is accepted is made of its parts and of nothing else, so no two texts are one identity.
#![no_main]

use identity::{SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert!(text.len() <= 2048 && text.is_ascii());
    assert_eq!(id.as_str(), text);
    for part in [id.namespace(), id.service_account()] {
        assert!(!part.is_empty() && part != "." && part != ".." && !part.contains(['/', '%', '?', '#', ':', '@']));
    }
    let trust_domain: TrustDomain = id.trust_domain().parse().expect("a part of a valid id is valid");
    let made = SpiffeId::new(&trust_domain, id.namespace(), id.service_account()).expect("so are they together");
    assert_eq!(made, id);
});
