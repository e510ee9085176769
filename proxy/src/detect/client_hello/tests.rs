//! Hellos of a real TLS client, cut and broken.

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// What a real client sends.
fn real(name: &str, alpn: &[&str]) -> Vec<u8> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same handshake message, in records of at most `size` bytes.
fn in_records_of(size: usize, bytes: &[u8]) -> Vec<u8> {
    let pieces = bytes[5..].chunks(size).map(|piece| {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        [&bytes[..3], &length, piece].concat()
    });
    pieces.collect::<Vec<_>>().concat()
}

#[test]
fn reads_names_of_a_real_client() {
    let parsed = parse(&real("Cart.Shop.svc.cluster.local", &["mesh/h2", "mesh/h1"]));
    let Parsed::Hello(hello) = parsed else { panic!("{parsed:?}") };
    assert_eq!(hello.server_name.as_deref(), Some("cart.shop.svc.cluster.local"));
    assert_eq!(hello.alpn, [b"mesh/h2".to_vec(), b"mesh/h1".to_vec()]);
    assert!(hello.offers(b"mesh/h1") && !hello.offers(b"mesh/tcp"));
}

#[test]
fn an_address_has_no_server_name() {
    assert_eq!(parse(&real("10.0.0.1", &[])), Parsed::Hello(ClientHello::default()));
}

#[test]
fn waits_for_the_last_byte_however_it_is_cut() {
    let bytes = real("a.b", &["mesh/tcp"]);
    let whole = parse(&bytes);
    for cut in [bytes.clone(), in_records_of(1, &bytes), in_records_of(7, &bytes), in_records_of(700, &bytes)] {
        for end in 0..cut.len() {
            assert_eq!(parse(&cut[..end]), Parsed::NeedMore, "{end} of {}", cut.len());
        }
        assert_eq!(parse(&cut), whole);
        // What follows belongs to others.
        assert_eq!(parse(&[&cut[..], &[0xff; 100]].concat()), whole);
    }
}

#[test]
fn other_protocols_are_told_by_the_first_byte_that_differs() {
    for (bytes, why) in [
        (&b"G"[..], "HTTP"),
        (&[22, 2], "SSL 2"),
        (&[21, 3, 3, 0, 2, 1, 0], "an alert"),
        (&[22, 3, 1, 0, 0], "an empty record"),
        (&[22, 3, 1, 0x40, 1], "a record over the limit"),
        (&[22, 3, 1, 0, 4, 2], "a ServerHello"),
        (&[22, 3, 1, 0, 4, 1, 1, 0, 0], "a message over the limit"),
        (&[22, 3, 1, 0, 5, 1, 0, 0, 1, 3], "too short to be one"),
    ] {
        assert_eq!(parse(bytes), Parsed::NotTls, "{why}");
    }
}

#[test]
fn lists_that_lie_about_their_length_are_refused() {
    let bytes = real("a.b", &["mesh/tcp"]);
    let at = bytes.windows(8).position(|window| window == b"mesh/tcp").unwrap();
    for length_at in [at - 1, at - 2, at - 4] {
        let mut lying = bytes.clone();
        lying[length_at] = lying[length_at].wrapping_add(1);
        assert_eq!(parse(&lying), Parsed::NotTls, "byte {length_at}");
    }
}

#[test]
fn names_that_are_not_host_names_are_not_kept() {
    let mut odd = real("abc.de", &[]);
    let at = odd.windows(6).position(|window| window == b"abc.de").unwrap();
    odd[at + 1] = b'\n';
    assert_eq!(parse(&odd), Parsed::Hello(ClientHello::default()));
}

#[test]
fn changed_bytes_never_panic() {
    let bytes = real("a.b", &["mesh/tcp"]);
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            parse(&changed);
        }
    }
}
