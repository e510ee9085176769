//! Clients whose certificate is not good enough: refused, counted by reason, logged with who they are, and the application hears
//! nothing of them.

use std::path::Path;
use std::time::Duration;

use integration_tests::mesh::{Settings, eventually};
use proto::names::metric;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType, date_time_ymd};

use super::shop::Shop;

/// What a client shows, and the reason it is refused for.
struct Bad {
    name: &'static str,
    reason: &'static str,
    /// Signed by the mesh's own authority, or by one that calls itself the same.
    own_authority: bool,
    spiffe_id: Option<&'static str>,
    last_year: i32,
}

#[test]
fn bad_client_certificates_are_refused_counted_and_logged() {
    let mut shop = Shop::open(Settings::default(), 1);
    let client = shop.mesh.bare_pod("outsider", "outsider").unwrap();
    let id = Some("spiffe://cluster.local/ns/test/sa/client");
    let cases = [
        Bad { name: "foreign", reason: "unknown_authority", own_authority: false, spiffe_id: id, last_year: 2100 },
        Bad { name: "expired", reason: "expired", own_authority: true, spiffe_id: id, last_year: 2020 },
        Bad { name: "nameless", reason: "no_spiffe_id", own_authority: true, spiffe_id: None, last_year: 2100 },
    ];
    let directory = shop.mesh.path().to_owned();
    let target = format!("{}:8080", shop.backends[0].pod.addresses[0]);
    let server = &shop.backends[0].pod;
    for bad in &cases {
        write_certificate(&directory, bad);
        let (certificate, key) = (path(&directory, bad.name, "pem"), path(&directory, bad.name, "key"));
        connect(&client, &target, &["-cert", &certificate, "-key", &key]);
        counted(server, bad.reason);
    }
    connect(&client, &target, &[]);
    counted(server, "no_certificate");
    let log = server.log("proxy");
    assert!(log.contains(&client.addresses[0].to_string()), "who it was is logged: {log}");
    // Only the request that opened the shop got through.
    let answered = server.metric(metric::REQUESTS, &["reporter=\"destination\""]).unwrap();
    let asked = shop.client.metric(metric::REQUESTS, &["reporter=\"source\"", "response_code=\"200\""]).unwrap();
    assert!((answered - asked).abs() < f64::EPSILON, "{answered} requests were served, {asked} made");
}

fn connect(client: &integration_tests::mesh::Pod, target: &str, certificate: &[&str]) {
    let request = "printf 'GET / HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n' | timeout 5 openssl s_client -quiet -alpn mesh/h1 -servername web.test \
                   -connect";
    let command = format!("{request} {target} {} 2>&1 || true", certificate.join(" "));
    let output = client.command("sh", &["-c", &command]).unwrap();
    assert!(!output.contains("HTTP/1.1 200"), "{output}");
}

fn counted(server: &integration_tests::mesh::Pod, reason: &str) {
    let label = format!("reason=\"{reason}\"");
    let once = || (server.metric(metric::TLS_FAILURES, &[&label]).unwrap() - 1.0).abs() < f64::EPSILON;
    eventually(Duration::from_secs(5), once).unwrap_or_else(|_| {
        let metrics = server.admin("/metrics").unwrap();
        let lines: Vec<_> = metrics.lines().filter(|line| line.starts_with(metric::TLS_FAILURES)).collect();
        panic!("not counted as {reason}: {lines:#?}\n{}", server.log("proxy"));
    });
}

fn write_certificate(directory: &Path, bad: &Bad) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(bad.last_year, 1, 1);
    params.distinguished_name.push(DnType::CommonName, bad.name);
    params.subject_alt_names = match bad.spiffe_id {
        Some(id) => vec![SanType::URI(id.try_into().unwrap())],
        None => vec![SanType::DnsName("web.test".try_into().unwrap())],
    };
    let read = |name: &str| std::fs::read_to_string(directory.join("issuer").join(name)).unwrap();
    let own = KeyPair::from_pem(&read("tls.key")).unwrap();
    let signer = if bad.own_authority { own } else { KeyPair::generate().unwrap() };
    let issuer = Issuer::from_ca_cert_pem(&read("tls.crt"), signer).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(path(directory, bad.name, "pem"), certificate.pem()).unwrap();
    std::fs::write(path(directory, bad.name, "key"), key.serialize_pem()).unwrap();
}

fn path(directory: &Path, name: &str, extension: &str) -> String {
    directory.join(format!("{name}.{extension}")).display().to_string()
}
