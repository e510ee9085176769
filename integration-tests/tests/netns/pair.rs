//! What most tests begin with: a client and a server in pods of their own, and a Service for the server.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use integration_tests::mesh::{Mesh, NAMESPACE, Pod, Process, Settings, User, eventually, manifests};

/// Two pods in one mesh.
pub(super) struct Pair {
    pub(super) client: Pod,
    pub(super) server: Pod,
    /// Port 80 of the Service `server`, IPv4 and IPv6.
    pub(super) service: [SocketAddr; 2],
    // After the pods, which are in it.
    pub(super) mesh: Mesh,
}

impl Pair {
    /// The Service leads to this port, whose protocol is `declared` or is not.
    pub(super) fn new(target: u16, declared: Option<&str>) -> Self {
        Self::with(Settings::default(), target, declared)
    }

    /// The same in a mesh that is not as usual.
    pub(super) fn with(settings: Settings, target: u16, declared: Option<&str>) -> Self {
        let mut mesh = Mesh::start(settings).unwrap();
        let service = service(&mesh, "server", 1, target, declared);
        let server = mesh.pod("server", "server").unwrap();
        let client = mesh.pod("client", "client").unwrap();
        let pair = Self { client, server, service, mesh };
        for pod in [&pair.client, &pair.server] {
            wait_for_ipv6(pod);
        }
        pair.wait_for_objects(3);
        pair
    }

    /// With a server of HTTP/1, HTTP/2 and gRPC in place.
    pub(super) fn http(declared: Option<&str>) -> (Self, Process) {
        let pair = Self::new(8080, declared);
        let process = pair.server.serve().unwrap();
        (pair, process)
    }

    /// The Service's URLs, of both families.
    pub(super) fn urls(&self) -> [String; 2] {
        self.service.map(|addr| format!("http://{addr}"))
    }

    /// The server's pod, dialled directly.
    pub(super) fn direct(&self, port: u16) -> [SocketAddr; 2] {
        self.server.addresses.map(|addr| (addr, port).into())
    }

    /// A file of the test's own.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.mesh.path().join(name)
    }

    /// Waits until the controller has read that many manifests. Before, a Service may pass for a stranger's address.
    pub(super) fn wait_for_objects(&self, count: usize) {
        let controller = self.mesh.controllers[0].as_ref().unwrap();
        controller.wait_for_output(&format!("facts in force objects={count} "), START).unwrap();
    }

    /// Starts a program in the server's pod, and returns when it listens on the port.
    pub(super) fn serve(&self, words: &[&str], port: u16) -> Process {
        let log = self.file(&format!("logs/server-{port}.log"));
        let started = Process::start(self.server.namespace(), User::Root, words[0], &words[1..], &[], &log);
        let mut process = started.unwrap();
        let addr = (Ipv4Addr::LOCALHOST, port).into();
        let listens = eventually(START, || !process.is_running() || try_dial(&self.server, addr).is_ok());
        assert!(listens.is_ok() && process.is_running(), "{words:?}: {}", process.output().unwrap());
        process
    }

    /// Listens in the server's pod, for a server that the test itself is.
    pub(super) fn listen(&self, port: u16) -> TcpListener {
        self.server.namespace().enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap().unwrap()
    }

    /// The certificate-backed part of a metric, in the client's or the server's pod.
    pub(super) fn encrypted(pod: &Pod, metric: &str) -> f64 {
        pod.metric(metric, &["connection_security_policy=\"mutual_tls\""]).unwrap()
    }
}

/// Writes a Service of both families, with port 80, for the pods of the app of the same name.
pub(super) fn service(mesh: &Mesh, name: &str, number: u8, target: u16, declared: Option<&str>) -> [SocketAddr; 2] {
    let v4 = Ipv4Addr::new(10, 96, 0, number);
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number.into());
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\nspec:\n  clusterIP: {v4}\n  \
         clusterIPs: [\"{v4}\", \"{v6}\"]\n  ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: RequireDualStack\n  \
         selector:\n    app: {name}\n  ports:\n    - port: 80\n      targetPort: {target}\n"
    );
    if let Some(declared) = declared {
        writeln!(text, "      appProtocol: {declared}").unwrap();
    }
    manifests::write(&mesh.manifests(0), &format!("service-{name}"), &text).unwrap();
    [IpAddr::V4(v4), IpAddr::V6(v6)].map(|addr| (addr, 80).into())
}

/// Runs a program in a pod to its end, which has to come within a minute and be a success.
pub(super) fn said(pod: &Pod, words: &[&str]) -> String {
    let said = pod.command("timeout", &[&["60"], words].concat());
    said.unwrap_or_else(|error| panic!("{words:?} in {}: {error:#}\n{}", pod.name, pod.log("proxy")))
}

/// Gets a URL, with more arguments for curl; the whole response.
pub(super) fn curl(pod: &Pod, arguments: &[&str]) -> String {
    said(pod, &[&["curl", "--silent", "--show-error", "--fail", "--include", "--max-time", "30"], arguments].concat())
}

/// Dials as a program of the pod.
pub(super) fn dial(pod: &Pod, addr: SocketAddr) -> TcpStream {
    let stream = try_dial(pod, addr).unwrap_or_else(|error| panic!("{addr}: {error}"));
    stream.set_read_timeout(Some(START)).unwrap();
    stream
}

fn try_dial(pod: &Pod, addr: SocketAddr) -> io::Result<TcpStream> {
    pod.namespace().enter(|| TcpStream::connect_timeout(&addr, Duration::from_secs(5))).unwrap()
}

/// The kernel takes up to a second to notice that a link is up, and lets no IPv6 through before. Past the proxy, to a closed port.
fn wait_for_ipv6(pod: &Pod) {
    let url = format!("http://[{}]:1", integration_tests::mesh::network::GATEWAY_V6);
    let past = ["--reuid", "2102", "--clear-groups", "sh", "-c", "curl -sm1 \"$0\"; test $? = 7", &url];
    eventually(START, || pod.command("setpriv", &past).is_ok()).unwrap();
}

/// Python with Debian's packages; another one may come first on the path.
pub(super) const PYTHON: &str = "/usr/bin/python3";
/// Long, for programs that start.
const START: Duration = Duration::from_secs(20);
