//! An app with TLS of its own: the mesh carries it, and leaves it alone.

use super::pair::{Pair, curl, said};

#[test]
fn the_apps_own_tls_is_end_to_end() {
    let pair = Pair::new(8443, None);
    let [key, certificate] = ["key.pem", "cert.pem"].map(|name| pair.file(name).display().to_string());
    let options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=app.test";
    let mut words = vec!["openssl", "req"];
    words.extend(options.split(' '));
    words.extend(["-addext", "subjectAltName=DNS:app.test", "-keyout", &key, "-out", &certificate]);
    said(&pair.server, &words);
    let serve = ["openssl", "s_server", "-www", "-accept", "8443", "-key", &key, "-cert", &certificate];
    let _server = pair.serve(&serve, 8443);
    for addr in pair.service.into_iter().chain(pair.direct(8443)) {
        let (ip, port) = (addr.ip(), addr.port());
        let resolve = format!("app.test:{port}:{ip}");
        let url = format!("https://app.test:{port}/");
        let response = curl(&pair.client, &["--cacert", &certificate, "--resolve", &resolve, &url]);
        assert!(response.contains("s_server"), "{addr}: {response}");
    }
    let carried = Pair::encrypted(&pair.server, "istio_tcp_connections_opened_total");
    assert_eq!(carried, 4.0, "{}", pair.server.admin("/metrics").unwrap());
}
