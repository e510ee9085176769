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

/// A workload of the mesh that lies about everything it may say of itself: it stays who its certificate says it is.
#[test]
fn a_peer_that_lies_gains_nothing() {
    let mut shop = Shop::open(Settings::default(), 1);
    let client = shop.mesh.bare_pod("liar", "liar").unwrap();
    let directory = shop.mesh.path().to_owned();
    let liar = "spiffe://cluster.local/ns/test/sa/liar";
    write_certificate(
        &directory,
        &Bad { name: "liar", reason: "", own_authority: true, spiffe_id: Some(liar), last_year: 2100 },
    );
    let server = &shop.backends[0].pod;
    let target = format!("{}:8080", server.addresses[0]);
    let say = |alpn: &str, bytes: &[u8]| {
        let file = directory.join("lies");
        std::fs::write(&file, bytes).unwrap();
        let [certificate, key] = ["pem", "key"].map(|extension| path(&directory, "liar", extension));
        let command = format!(
            "timeout 5 openssl s_client -quiet -alpn {alpn} -servername payments.shop -cert {certificate} -key {key} \
             -connect {target} <{} 2>&1 | tr -cd '[:print:]\\n'",
            file.display()
        );
        client.command("sh", &["-c", &command]).unwrap()
    };
    let preface = preface(&["payments", "admin", "v0", "other-cluster"]);
    let request =
        b"GET / HTTP/1.1\r\nHost: web\r\nX-Forwarded-Client-Cert: URI=spiffe://evil\r\nConnection: close\r\n\r\n";
    let of_liar = [&*format!("source_principal=\"{liar}\""), "source_workload_namespace=\"test\""];
    let served = || server.metric(metric::REQUESTS, &of_liar).unwrap();
    let failures = || server.metric(metric::FAILURES, &["reason=\"protocol_error\""]).unwrap();
    // Workload, app and Service: labels and a hint. What is called is told by the port.
    let answer = say("mesh/h1", &[&preface[..], request].concat());
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    eventually(Duration::from_secs(5), || (served() - 1.0).abs() < f64::EPSILON).unwrap();
    // HTTP that is called bytes is read as HTTP.
    let answer = say("mesh/tcp", &[&preface[..], request].concat());
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    eventually(Duration::from_secs(5), || (served() - 2.0).abs() < f64::EPSILON).unwrap();
    // HTTP/1 that is called HTTP/2, a preface without end, and one that is none.
    let broken = [
        ("mesh/h2", [&preface[..], request].concat()),
        ("mesh/h1", [b"\xff\xff", &request[..]].concat()),
        ("mesh/h1", [b"\x00\x04\x0a\x7fab", &request[..]].concat()),
    ];
    for (number, (alpn, bytes)) in broken.iter().enumerate() {
        let answer = say(alpn, bytes);
        assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
        let refused = || (failures() - number as f64 - 1.0).abs() < f64::EPSILON;
        eventually(Duration::from_secs(10), refused).unwrap_or_else(|_| panic!("{number}: {}", server.log("proxy")));
    }
    let metrics = server.admin("/metrics").unwrap();
    let lines: Vec<_> = metrics.lines().filter(|line| line.contains("source_workload=\"payments\"")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(liar)), "{lines:#?}");
    assert!(!metrics.contains("payments.shop") && !metrics.contains("evil"), "{metrics}");
    assert!((served() - 2.0).abs() < f64::EPSILON);
    let log = server.log("proxy");
    assert!(log.contains(&client.addresses[0].to_string()) || log.contains(liar), "who it was is logged: {log}");
}

/// What a client's proxy says of itself, behind its length: `mesh.v1.Preface`.
fn preface(fields: &[&str]) -> Vec<u8> {
    let message: Vec<u8> =
        (1..).zip(fields).flat_map(|(number, text)| framed(&[number << 3 | 2], text.as_bytes())).collect();
    framed(&[0], &message)
}

/// A tag, a length of one byte, and as many bytes.
fn framed(tag: &[u8], bytes: &[u8]) -> Vec<u8> {
    [tag, &[u8::try_from(bytes.len()).unwrap()], bytes].concat()
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
