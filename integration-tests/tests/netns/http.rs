//! HTTP with clients as users have them.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use integration_tests::mesh::Settings;

use super::pair::{PYTHON, Pair, curl, said, service};

#[test]
fn curl_through_both_proxies_in_both_families() {
    let (pair, _server) = Pair::http(None);
    for url in pair.urls() {
        for version in ["--http1.1", "--http1.0", "--http2-prior-knowledge"] {
            let response = curl(&pair.client, &[version, &url]);
            assert!(response.contains("x-served-by: server"), "{version} {url}: {response}");
        }
    }
    for (pod, reporter) in [(&pair.client, "source"), (&pair.server, "destination")] {
        let reporter = format!("reporter=\"{reporter}\"");
        let labels = [&*reporter, "connection_security_policy=\"mutual_tls\"", "response_code=\"200\""];
        let counted = |labels: &[&str]| pod.metric("istio_requests_total", labels).unwrap();
        assert_eq!(counted(&labels), 6.0, "{}:\n{}", pod.name, pod.admin("/metrics").unwrap());
        assert_eq!(counted(&[]), 6.0, "other requests in {}", pod.name);
    }
}

/// What HTTP/1.1 has besides plain requests, each seen by the client as if nobody stood between.
#[test]
fn the_ways_of_http_1_1_pass() {
    let (pair, _server) = Pair::http(None);
    let [url, _] = pair.urls();
    let quiet = ["curl", "-sS", "--fail", "--max-time", "20", "-o", "/dev/null"];
    let told = |format: &str, more: &[&str]| said(&pair.client, &[&quiet[..], &["-w", format], more].concat());
    // Two requests on one connection, and one that ends it.
    assert_eq!(told("%{num_connects} ", &[&url, "-o", "/dev/null", &url]), "1 0 ");
    assert_eq!(told("%{num_connects} ", &["-H", "connection: close", &url, "-o", "/dev/null", &url]), "1 1 ");
    // A length without a body, and the connection usable afterwards.
    let large = format!("{url}/?size=100000");
    assert_eq!(told("%{num_connects} %{size_download} ", &["-I", &large, "-o", "/dev/null", &large]), "1 0 0 0 ");
    let head = said(&pair.client, &["curl", "-sSI", "--max-time", "20", &large]);
    assert!(head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("content-length: 100000"), "{head}");
    // A body of unknown length.
    std::fs::write(pair.file("body"), "x".repeat(50_000)).unwrap();
    let body = format!("@{}", pair.file("body").display());
    let chunked = ["-X", "POST", "-H", "transfer-encoding: chunked", "-H", "expect:", "--data-binary", &body, &url];
    assert_eq!(told("%{size_download}", &chunked), "50000");
}

/// A server that asks for the body before it answers, and a client that waits until it is asked.
#[test]
fn a_body_is_sent_when_the_server_says_so() {
    let pair = Pair::new(8000, None);
    let _server = pair.serve(&[PYTHON, "-c", ASKING], 8000);
    std::fs::write(pair.file("body"), "x".repeat(50_000)).unwrap();
    let body = format!("@{}", pair.file("body").display());
    // With nothing to wait for, curl would send it after a second all the same.
    let words =
        ["curl", "-vsS", "--fail", "--max-time", "20", "--expect100-timeout", "15", "-H", "expect: 100-continue"];
    for url in pair.urls() {
        let script = ["sh", "-c", "exec \"$@\" 2>&1", "sh"];
        let talk = said(&pair.client, &[&script[..], &words, &["--data-binary", &body, &url]].concat());
        assert!(talk.contains("HTTP/1.1 100 Continue") && talk.contains("got 50000"), "{talk}");
        let refused = said(
            &pair.client,
            &[&script[..], &words[..2], &words[3..], &["--data-binary", &body, &format!("{url}/no")]].concat(),
        );
        assert!(!refused.contains("100 Continue") && refused.contains("HTTP/1.1 417"), "{refused}");
    }
}

const ASKING: &str = r#"
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import socket

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_expect_100(self):
        if self.path == "/no":
            self.send_error(417)
            return False
        return super().handle_expect_100()

    def do_POST(self):
        text = b"got %d" % len(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6

Server(("::", 8000), Handler).serve_forever()
"#;

#[test]
fn wrk_sees_no_error() {
    let (pair, _server) = Pair::http(None);
    let report = said(&pair.client, &["wrk", "-t1", "-c20", "-d3s", &pair.urls()[0]]);
    let requests = report.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<u64>().ok());
    assert!(requests.unwrap() > 1000, "{report}");
    assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
}

#[test]
fn h2load_sees_no_error() {
    let (pair, _server) = Pair::http(Some("kubernetes.io/h2c"));
    let report = said(&pair.client, &["h2load", "-n5000", "-c4", "-m20", &pair.urls()[0]]);
    assert!(report.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
    assert!(report.contains("status codes: 5000 2xx"), "{report}");
}

#[test]
fn headers_of_64_kilobytes_pass() {
    let (pair, _server) = Pair::http(None);
    let headers: Vec<_> = (0..64).map(|number| format!("x-large-{number}: {}\n", "a".repeat(1010))).collect();
    // curl's own library for HTTP/2 sends a little less.
    for (version, count) in [("--http1.1", 64), ("--http2-prior-knowledge", 60)] {
        std::fs::write(pair.file("headers"), headers[..count].concat()).unwrap();
        let file = format!("@{}", pair.file("headers").display());
        for url in pair.urls() {
            let response = curl(&pair.client, &[version, "-H", &file, &url]);
            assert!(response.contains("x-served-by: server"), "{version}: {response}");
        }
    }
}

#[test]
fn a_service_may_pick_its_own_caller() {
    let (pair, _server) = Pair::http(None);
    for url in pair.urls() {
        let response = curl(&pair.server, &[&url]);
        assert!(response.contains("x-served-by: server"), "{response}");
    }
    let counted = || pair.server.metric("istio_requests_total", &["reporter=\"destination\""]).unwrap();
    assert_eq!(counted(), 2.0, "{}", pair.server.admin("/metrics").unwrap());
    // A program that dials its own pod's address does not leave the pod, and is left alone.
    for addr in pair.direct(8080) {
        assert!(curl(&pair.server, &[&format!("http://{addr}")]).contains("x-served-by: server"));
    }
    assert_eq!(counted(), 2.0);
}

/// Where the workload says so. Another port on loopback stays what it was: nobody else's business.
#[test]
fn an_application_on_loopback_alone_is_reached_on_ports_that_are_named() {
    let settings = Settings { loopback_ports: &[8080], ..Settings::default() };
    let pair = Pair::with(settings, 8080, None);
    let mut servers = Vec::new();
    for (number, listen) in ["127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "[::1]:8081"].into_iter().enumerate() {
        let log = format!("serve-{number}");
        let server = pair.server.traffic(&log, &["serve", "--listen", listen, "--name", "loopback"]).unwrap();
        server.wait_for_output("listening on", Duration::from_secs(10)).unwrap();
        servers.push(server);
    }
    for url in pair.urls().into_iter().chain(pair.direct(8080).map(|addr| format!("http://{addr}"))) {
        let response = curl(&pair.client, &[&url]);
        assert!(response.contains("x-served-by: loopback"), "{url}: {response}");
    }
    for addr in pair.direct(8081) {
        let response = said(&pair.client, &["curl", "-si", "--max-time", "10", &format!("http://{addr}")]);
        assert!(response.starts_with("HTTP/1.1 503") && response.contains("app_refused"), "{addr}: {response}");
    }
}

#[test]
fn a_pods_address_can_be_dialled() {
    let (pair, _server) = Pair::http(None);
    for addr in pair.direct(8080) {
        let response = curl(&pair.client, &[&format!("http://{addr}")]);
        assert!(response.contains("x-served-by: server"), "{response}");
    }
    for pod in [&pair.client, &pair.server] {
        assert_eq!(Pair::encrypted(pod, "istio_requests_total"), 2.0, "{}", pod.admin("/metrics").unwrap());
    }
}

#[test]
fn the_unmeshed_reach_the_meshed_and_the_other_way_round() {
    let (mut pair, _server) = Pair::http(None);
    let plain = pair.mesh.bare_pod("plain", "plain").unwrap();
    let _plain_server = plain.serve().unwrap();
    let addr = plain.addresses[0];
    let workload = format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: ExternalWorkload\nmetadata:\n  name: plain\n  namespace: {}\n  \
         labels: {{app: plain}}\nspec:\n  addresses: [\"{addr}\"]\n",
        integration_tests::mesh::NAMESPACE
    );
    integration_tests::mesh::manifests::write(&pair.mesh.manifests(0), "workload-plain", &workload).unwrap();
    let [plain_service, _] = service(&pair.mesh, "plain", 2, 8080, None);

    pair.wait_for_objects(5);

    let inward = curl(&plain, &[&format!("http://{}", pair.direct(8080)[0])]);
    assert!(inward.contains("x-served-by: server"), "{inward}");
    let outward = curl(&pair.client, &[&format!("http://{plain_service}")]);
    assert!(outward.contains("x-served-by: plain"), "{outward}");
    let labels = ["connection_security_policy=\"none\"", "reporter=\"destination\""];
    let plaintext = pair.server.metric("istio_requests_total", &labels).unwrap();
    assert_eq!(plaintext, 1.0, "{}", pair.server.admin("/metrics").unwrap());
}

#[test]
fn the_proxys_ports_are_shut_to_others() {
    let (pair, _server) = Pair::http(None);
    for port in [15000, 15001, 15006] {
        for addr in pair.direct(port) {
            let url = format!("http://{addr}");
            // By the client's proxy, as its app's connections go; and past it, with the exit code for a connection that times out.
            let past = "curl -sm2 \"$0\"; test $? = 28";
            said(&pair.client, &["sh", "-c", "! curl -sfm5 \"$0\"", &url]);
            said(&pair.client, &["setpriv", "--reuid", "2102", "--clear-groups", "sh", "-c", past, &url]);
        }
    }
}

/// The rules bring the pod whatever comes to its link address, whomever it is for.
#[test]
fn a_neighbour_that_takes_the_pod_for_a_router_gets_nowhere() {
    let (pair, _server) = Pair::http(None);
    let on_loopback = pair.server.namespace().enter(|| TcpListener::bind("127.0.0.77:6379")).unwrap().unwrap();
    on_loopback.set_nonblocking(true).unwrap();
    let server = pair.server.addresses[0];
    let routes = format!(
        "route del local 127.0.0.0/8 dev lo table local\nroute add 127.0.0.77/32 via {server}\n\
         route add 203.0.113.9/32 via {server}\n"
    );
    pair.client.namespace().ip(&routes).unwrap();
    said(&pair.client, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"]);
    for addr in ["127.0.0.77:6379", "203.0.113.9:80"] {
        // Past the neighbour's own proxy; the pod's resets the connection, sometimes before curl knows that it has one.
        let past = "curl -vsm5 \"$0\" 2>&1 | grep -i 'reset by peer'";
        let url = format!("http://{addr}/");
        said(&pair.client, &["setpriv", "--reuid", "2102", "--clear-groups", "sh", "-c", past, &url]);
        let failures = pair.server.admin("/failures").unwrap();
        assert!(failures.contains(&format!("{addr} is not an address of this workload")), "{failures}");
    }
    assert_eq!(on_loopback.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}
