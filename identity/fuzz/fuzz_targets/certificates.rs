//! Any bytes as a certificate request, a peer's chain, a bundle and a token: refused, never a panic, and never accepted.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use identity::{Issuer, MeshTls, SpiffeId, TokenSigner, TokenVerifier, TrustBundle};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;

struct Mesh {
    issuer: Issuer,
    tls: MeshTls,
    tokens: TokenVerifier,
    id: SpiffeId,
    now: SystemTime,
}

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let issuer = Issuer::create(&"cluster.local".parse().unwrap(), now).unwrap().0;
    let tls = MeshTls::new(Some(Arc::new(issuer.bundle().clone())));
    let tokens = TokenSigner::create("fuzz").unwrap().verifier().unwrap();
    Mesh { issuer, tls, tokens, id: "spiffe://cluster.local/ns/a/sa/b".parse().unwrap(), now }
});

fuzz_target!(|bytes: &[u8]| {
    // A genuine request can be found by chance as little as a key can.
    if let Ok(issued) = MESH.issuer.issue(bytes, &MESH.id, Duration::from_secs(60), MESH.now) {
        assert!(MESH.tls.verify_peer(&issued.chain, identity::PeerRole::Client, MESH.now).is_ok());
    }
    let (leaf, rest) = bytes.split_at(bytes.len() / 2);
    for chain in [vec![CertificateDer::from(bytes)], vec![leaf.into(), rest.into()]] {
        assert!(MESH.tls.verify_client(Some(&chain)).is_err());
    }
    if let Ok(bundle) = TrustBundle::from_pem(bytes) {
        let again = TrustBundle::from_pem(bundle.to_pem().as_bytes());
        assert_eq!(again.expect("what we publish can be read"), bundle);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(MESH.tokens.verify(text, MESH.now).is_err());
    }
});
