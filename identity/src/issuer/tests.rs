//! An issuer, its files, and what it refuses to sign; also the authority other tests get their certificates from.

use super::*;
use crate::certificate::LeafCertificate;

/// A whole second in 2033, so that expiry is computed and not waited for.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&"cluster.local".parse().unwrap(), "shop", account).unwrap()
}

pub(crate) fn issuer() -> Issuer {
    Issuer::create(&"cluster.local".parse().unwrap(), now()).unwrap().0
}

pub(crate) fn leaf(issuer: &Issuer, account: &str) -> LeafCertificate {
    leaf_at(issuer, account, now())
}

pub(crate) fn leaf_at(issuer: &Issuer, account: &str, now: SystemTime) -> LeafCertificate {
    let request = KeyAndRequest::new(&id(account)).unwrap();
    let issued = issuer.issue(request.csr(), &id(account), DEFAULT_LEAF_LIFETIME, now).unwrap();
    request.complete(issued.chain).unwrap()
}

#[test]
fn a_leaf_of_a_day() {
    let leaf = leaf(&issuer(), "cart");
    assert_eq!(leaf.id(), &id("cart"));
    assert_eq!(leaf.not_after(), now() + DEFAULT_LEAF_LIFETIME);
    assert_eq!(leaf.not_before(), now() - CLOCK_SKEW);
    assert!(leaf.valid_at(now()) && !leaf.valid_at(leaf.not_after()));
}

impl Issuer {
    /// A certificate with any names, as a broken or hostile authority would sign it.
    pub(crate) fn sign_names(&self, names: &[&str], now: SystemTime) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_before = now.into();
        params.not_after = (now + DEFAULT_LEAF_LIFETIME).into();
        params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
        params.signed_by(&KeyPair::generate().unwrap(), &self.signer).unwrap().der().clone()
    }
}

/// A root's bundle, and an issuer that is an intermediate under it.
pub(crate) fn intermediate() -> (TrustBundle, Issuer) {
    let (root, files) = authority(&["root", "middle"]);
    let issuer = Issuer::from_pem(&files, now()).unwrap();
    (root, issuer)
}

/// A chain of authorities, and the files of the last one.
fn authority(names: &[&str]) -> (TrustBundle, IssuerFiles) {
    let mut above: Option<rcgen::Issuer<'static, KeyPair>> = None;
    let (mut chain, mut pem_key) = (Vec::new(), String::new());
    for name in names {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = (now() - CLOCK_SKEW).into();
        params.not_after = (now() + ROOT_LIFETIME / 10).into();
        params.distinguished_name.push(DnType::CommonName, *name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = match &above {
            Some(above) => params.signed_by(&key, above).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        chain.insert(0, certificate.der().clone());
        pem_key = key.serialize_pem();
        above = Some(rcgen::Issuer::new(params, key));
    }
    let root = TrustBundle::from_certificates(vec![chain.pop().unwrap()]).unwrap();
    let certificate = chain.iter().map(|der| certificate_pem(der)).collect();
    let files = IssuerFiles { certificate, key: pem_key, anchors: Some(root.to_pem()) };
    (root, files)
}

#[test]
fn made_once_and_loaded_after() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("issuer");
    let trust_domain = "cluster.local".parse().unwrap();
    let made = Issuer::load_or_create(&path, &trust_domain, now()).unwrap();
    let loaded = Issuer::load_or_create(&path, &trust_domain, now()).unwrap();
    assert_eq!(made.bundle(), loaded.bundle());
    assert_eq!(made.not_after(), now() + ROOT_LIFETIME);
    assert_eq!(loaded.not_after(), made.not_after());
    std::fs::remove_file(path.join(KEY_FILE)).unwrap();
    assert!(matches!(Issuer::load_or_create(&path, &trust_domain, now()), Err(IssuerError::File { .. })));
}

#[test]
fn files_that_do_not_fit_are_found_at_once() {
    let (_, files) = authority(&["root", "middle", "lower"]);
    Issuer::from_pem(&files, now()).unwrap();
    let (_, other) = authority(&["root", "middle", "lower"]);
    let mixed = IssuerFiles { key: other.key.clone(), ..files.clone() };
    assert!(matches!(Issuer::from_pem(&mixed, now()), Err(IssuerError::Refused(PeerRefused::UnknownAuthority))));
    let mixed = IssuerFiles { anchors: other.anchors, ..files.clone() };
    assert!(matches!(Issuer::from_pem(&mixed, now()), Err(IssuerError::Refused(PeerRefused::UnknownAuthority))));
    let rootless = IssuerFiles { anchors: None, ..files.clone() };
    assert!(matches!(Issuer::from_pem(&rootless, now()), Err(IssuerError::NoAnchor)));
    let empty = IssuerFiles { certificate: String::new(), ..files.clone() };
    assert!(matches!(Issuer::from_pem(&empty, now()), Err(IssuerError::Certificate)));
    let keyless = IssuerFiles { key: "none".into(), ..files };
    assert!(matches!(Issuer::from_pem(&keyless, now()), Err(IssuerError::Key(_))));
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let issuer = issuer();
    let key = KeyAndRequest::new(&id("cart")).unwrap();
    let late = issuer.not_after() - Duration::from_secs(3600);
    let issued = issuer.issue(key.csr(), &id("cart"), DEFAULT_LEAF_LIFETIME, late).unwrap();
    assert_eq!(issued.not_after, issuer.not_after());
    let after = issuer.not_after() + Duration::from_secs(7);
    let error = issuer.issue(key.csr(), &id("cart"), DEFAULT_LEAF_LIFETIME, after).unwrap_err();
    assert_eq!(error, IssueError::IssuerExpired { since: Duration::from_secs(7) });
    let before = now() - Duration::from_secs(3600);
    let error = issuer.issue(key.csr(), &id("cart"), DEFAULT_LEAF_LIFETIME, before).unwrap_err();
    assert_eq!(error, IssueError::IssuerNotYetValid);
}

#[test]
fn lives_of_seconds_leave_time_to_renew() {
    let issuer = issuer();
    let request = KeyAndRequest::new(&id("cart")).unwrap();
    let issued = issuer.issue(request.csr(), &id("cart"), Duration::from_secs(20), now()).unwrap();
    let leaf = request.complete(issued.chain).unwrap();
    assert_eq!(leaf.not_after(), now() + Duration::from_secs(20));
    assert!(leaf.renew_at(now(), 0.0) > now() + Duration::from_secs(5));
    assert!(leaf.renew_at(now(), 1.0) < now() + Duration::from_secs(13));
}

#[test]
fn requests_for_others_or_with_other_names_are_refused() {
    let issuer = issuer();
    let refuse = |request: &[u8]| match issuer.issue(request, &id("cart"), DEFAULT_LEAF_LIFETIME, now()).unwrap_err() {
        IssueError::Request(invalid) => invalid,
        other => panic!("{other}"),
    };
    let other = KeyAndRequest::new(&id("web")).unwrap();
    let error = refuse(other.csr());
    assert_eq!(error, InvalidRequest::OtherIdentity { asked: id("web").to_string(), allowed: id("cart") });
    let cart = || SanType::URI(id("cart").as_str().try_into().unwrap());
    let dns = || SanType::DnsName("web.shop".try_into().unwrap());
    for names in [vec![], vec![dns()], vec![cart(), dns()], vec![cart(), cart()]] {
        assert_eq!(refuse(&request_with(names, &KeyPair::generate().unwrap())), InvalidRequest::Names);
    }
}

#[test]
fn requests_of_any_modern_key_and_no_other() {
    let issuer = issuer();
    let ask = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = request_with(vec![SanType::URI(id("cart").as_str().try_into().unwrap())], &key);
        issuer.issue(&request, &id("cart"), DEFAULT_LEAF_LIFETIME, now())
    };
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let issued = ask(algorithm).unwrap();
        verify_chain(&issued.chain, issuer.bundle(), PeerRole::Client, now()).unwrap();
    }
    for algorithm in [&rcgen::PKCS_ECDSA_P521_SHA512, &rcgen::PKCS_RSA_SHA256] {
        assert_eq!(ask(algorithm).unwrap_err(), IssueError::Request(InvalidRequest::Key));
    }
}

#[test]
fn broken_requests_are_refused() {
    let issuer = issuer();
    let good = KeyAndRequest::new(&id("cart")).unwrap().csr().to_vec();
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let trailing = [good.as_slice(), b"x"].concat();
    let large = vec![0x30; 20_000];
    for (request, error) in [
        (forged.as_slice(), InvalidRequest::Signature),
        (&trailing, InvalidRequest::Malformed),
        (&large, InvalidRequest::Malformed),
        (b"", InvalidRequest::Malformed),
        (&good[..good.len() / 2], InvalidRequest::Malformed),
    ] {
        let refused = issuer.issue(request, &id("cart"), DEFAULT_LEAF_LIFETIME, now()).unwrap_err();
        assert_eq!(refused, IssueError::Request(error));
    }
}

#[test]
fn nothing_but_the_key_is_taken_from_a_request() {
    let issuer = issuer();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.subject_alt_names = vec![SanType::URI(id("cart").as_str().try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let request = params.serialize_request(&key).unwrap().der().to_vec();
    let issued = issuer.issue(&request, &id("cart"), DEFAULT_LEAF_LIFETIME, now()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    assert!(!leaf.is_ca());
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
}

fn request_with(names: Vec<SanType>, key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn dns_names_are_the_callers_and_pass_a_check_by_host_name() {
    let (bundle, issuer) = intermediate();
    let request = KeyAndRequest::new(&id("cart")).unwrap();
    let names = ["cart.shop.svc".to_owned(), "cart.shop.svc.cluster.local".to_owned()];
    let sign = |names: &[String]| issuer.issue_named(request.csr(), &id("cart"), names, DEFAULT_LEAF_LIFETIME, now());
    let chain = sign(&names).unwrap().chain;
    let (peer, _) = verify_chain(&chain, &bundle, PeerRole::Server, now()).unwrap();
    assert_eq!(peer.id, id("cart"));
    // As a TLS client that knows DNS names only: the chain for server use, then the name.
    let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
    let time = rustls_pki_types::UnixTime::since_unix_epoch(now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let usage = webpki::KeyUsage::server_auth();
    let all = webpki::ALL_VERIFICATION_ALGS;
    leaf.verify_for_usage(all, bundle.anchors(), &chain[1..], time, usage, None, None).unwrap();
    let valid_for = |name: &str| leaf.verify_is_valid_for_subject_name(&name.try_into().unwrap()).is_ok();
    assert!(names.iter().all(|name| valid_for(name)));
    assert!(!valid_for("cart.other.svc") && !valid_for("shop"));
    assert!(sign(&["not a name\u{e9}".to_owned()]).is_err());
}

#[test]
fn dns_names_in_a_request_are_refused() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![
        SanType::URI(id("cart").as_str().try_into().unwrap()),
        SanType::DnsName("mesh-injector.mesh-system.svc".try_into().unwrap()),
    ];
    let request = params.serialize_request(&key).unwrap();
    let error = issuer().issue(request.der(), &id("cart"), DEFAULT_LEAF_LIFETIME, now()).unwrap_err();
    assert_eq!(error, IssueError::Request(InvalidRequest::Names));
}
