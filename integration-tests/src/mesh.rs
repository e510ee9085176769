//! A whole mesh for a test: identity, controllers and pods, every program a process of its own, every pod in a network
//! namespace of its own with the real redirect rules.
//!
//! Everything lies in one directory, laid out like a demo's, so that `meshctl --demo-dir` works on it. Everything ends with the
//! [`Mesh`], and with the test process, whatever kills it. All of it is synchronous: a thread's end would end the processes it
//! started, so the thread that makes a mesh keeps it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use proto::bootstrap::{Bootstrap, Ports, Upstream, Workload, spiffe_id};
use proto::names;

pub mod admin;
pub mod manifests;
pub mod network;
pub mod process;

pub use manifests::{Service, ServicePort};
pub use process::{Process, Signal, User};

use network::{Namespace, Node};

/// What differs from test to test.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Life of workload certificates, as `mesh-identity` reads it.
    pub leaf_lifetime: &'static str,
    /// Controllers, each with a directory of manifests of its own.
    pub controllers: usize,
    /// Worker threads of every proxy.
    pub workers: usize,
    /// Ports on which applications listen on loopback alone.
    pub loopback_ports: &'static [u16],
}

impl Default for Settings {
    fn default() -> Self {
        Self { leaf_lifetime: "24h", controllers: 1, workers: 1, loopback_ports: &[] }
    }
}

/// A running mesh.
#[derive(Debug)]
pub struct Mesh {
    directory: tempfile::TempDir,
    node: Node,
    settings: Settings,
    /// The certificate authority, while it runs.
    pub identity: Option<Process>,
    /// The controllers that run, by number.
    pub controllers: Vec<Option<Process>>,
    pods: usize,
}

/// One pod: a network namespace, a proxy unless it is outside the mesh, and what the test starts in it.
#[derive(Debug)]
pub struct Pod {
    /// Pod name.
    pub name: String,
    /// IPv4, then IPv6.
    pub addresses: [IpAddr; 2],
    namespace: Namespace,
    directory: PathBuf,
    bootstrap: Bootstrap,
    /// The sidecar, while it runs.
    pub proxy: Option<Process>,
}

impl Mesh {
    /// Starts identity and controllers, and returns when they are ready.
    pub fn start(settings: Settings) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("mesh-test-").tempdir()?;
        let path = directory.path();
        process::open_to_all(path)?;
        for name in ["bin", "issuer", "controllers", "proxies", "logs"] {
            fs::create_dir(path.join(name))?;
        }
        // Copies, because proxies run as another user, who may not enter the directory of the build.
        for name in [IDENTITY, CONTROLLER, PROXY, MESHCTL, TRAFFIC] {
            let program = programs()?.join(name);
            fs::copy(&program, path.join("bin").join(name)).with_context(|| {
                format!("{} is missing: cargo build --release -p integration-tests and all programs", program.display())
            })?;
        }
        let node = Node::create()?;
        let controllers = (0..settings.controllers).map(|_| None).collect();
        let mut mesh = Self { directory, node, settings, identity: None, controllers, pods: 0 };
        mesh.start_identity()?;
        for number in 0..mesh.controllers.len() {
            fs::create_dir(mesh.manifests(number))?;
            mesh.start_controller(number)?;
        }
        Ok(mesh)
    }

    /// The directory of everything, for `meshctl --demo-dir`.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where a controller reads its manifests.
    pub fn manifests(&self, controller: usize) -> PathBuf {
        self.path().join("controllers").join(controller.to_string())
    }

    /// Starts the certificate authority and waits until it is ready.
    pub fn start_identity(&mut self) -> anyhow::Result<()> {
        let path = |name: &str| self.path().join(name).display().to_string();
        let listen = format!("{}:{}", network::GATEWAY, names::IDENTITY_PORT);
        let health = format!("{}:{}", network::GATEWAY, IDENTITY_HEALTH_PORT);
        let arguments = [
            "--issuer-dir",
            &path("issuer"),
            "--listen",
            &listen,
            "--health-listen",
            &health,
            "--leaf-lifetime",
            self.settings.leaf_lifetime,
            "--bundle-out",
            &path("bundle.pem"),
        ];
        let mut process = self.control_program(IDENTITY, IDENTITY, &arguments)?;
        self.wait_ready(IDENTITY_HEALTH_PORT, &mut process)?;
        self.identity = Some(process);
        Ok(())
    }

    /// Starts a controller and waits until it is ready.
    pub fn start_controller(&mut self, number: usize) -> anyhow::Result<()> {
        let token = self.token(names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT, "controller.token")?;
        let offset = u16::try_from(number)?;
        let listen = format!("{}:{}", network::GATEWAY, names::CONTROLLER_PORT + CONTROLLER_STEP * offset);
        let health_port = CONTROLLER_HEALTH_PORT + CONTROLLER_STEP * offset;
        let health = format!("{}:{health_port}", network::GATEWAY);
        let directory = self.manifests(number).display().to_string();
        let identity = format!("{}:{}", network::GATEWAY, names::IDENTITY_PORT);
        let state = self.path().join("controllers").join(format!("{number}-state"));
        fs::create_dir_all(&state)?;
        let state = state.display().to_string();
        let arguments = [
            "--directory",
            &directory,
            "--listen",
            &listen,
            "--health-listen",
            &health,
            "--identity",
            &identity,
            "--token-file",
            &token.display().to_string(),
            "--bundle-file",
            &self.path().join("bundle.pem").display().to_string(),
            "--state-dir",
            &state,
        ];
        let name = format!("{CONTROLLER}-{number}");
        let mut process = self.control_program(CONTROLLER, &name, &arguments)?;
        self.wait_ready(health_port, &mut process)?;
        self.controllers[number] = Some(process);
        Ok(())
    }

    /// Sum of a metric's series at a controller.
    pub fn controller_metric(&self, number: usize, name: &str) -> anyhow::Result<f64> {
        let port = CONTROLLER_HEALTH_PORT + CONTROLLER_STEP * u16::try_from(number)?;
        let url = format!("http://{}:{port}/metrics", network::GATEWAY);
        Ok(admin::sum(&self.node.namespace().run("curl", &["-sf", &url])?, name, &[]))
    }

    /// Makes a pod in the mesh: writes its workload for every controller, starts its proxy, waits until that is ready.
    pub fn pod(&mut self, name: &str, app: &str) -> anyhow::Result<Pod> {
        let mut pod = self.bare_pod(name, app)?;
        for controller in 0..self.controllers.len() {
            manifests::write_workload(&self.manifests(controller), name, app, &pod.addresses)?;
        }
        pod.run(PROXY, User::Root, &["init"], "init")?.succeeded()?;
        pod.start_proxy()?;
        Ok(pod)
    }

    /// Makes a pod without proxy or rules, and unknown to the controllers.
    pub fn bare_pod(&mut self, name: &str, app: &str) -> anyhow::Result<Pod> {
        self.pods += 1;
        let addresses = network::pod_addresses(u8::try_from(self.pods)?);
        let namespace = self.node.pod(self.pods, &addresses)?;
        let directory = self.path().join("proxies").join(name);
        fs::create_dir_all(directory.join("state"))?;
        let token_file = self.token(NAMESPACE, app, &format!("{name}.token"))?;
        process::give(&token_file, names::PROXY_UID)?;
        for path in [directory.clone(), directory.join("state")] {
            process::give(&path, names::PROXY_UID)?;
        }
        let bootstrap = self.bootstrap(name, app, &addresses, token_file, &directory);
        Ok(Pod { name: name.to_owned(), addresses, namespace, directory, bootstrap, proxy: None })
    }

    /// Writes a Service for every controller.
    pub fn service(&self, service: &Service<'_>) -> anyhow::Result<()> {
        (0..self.controllers.len()).try_for_each(|number| service.write(&self.manifests(number)))
    }

    /// Standard output of `meshctl` on this mesh; its exit code has to be 0.
    pub fn meshctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let directory = self.path().display().to_string();
        crate::lint::run(self.path(), &self.program(MESHCTL), &[arguments, &["--demo-dir", &directory]].concat())
    }

    /// A join token in a file.
    pub fn token(&self, namespace: &str, account: &str, file: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join(file);
        let id = spiffe_id(names::TRUST_DOMAIN, namespace, account);
        let issuer = self.path().join("issuer").display().to_string();
        let out = path.display().to_string();
        // For longer than any test runs: proxies come back for renewals.
        let arguments = ["token", "--issuer-dir", &issuer, "--id", &id, "--out", &out, "--lifetime", "1h"];
        crate::lint::run(self.path(), &self.program(IDENTITY), &arguments)?;
        Ok(path)
    }

    fn control_program(&self, program: &str, name: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        let log = self.path().join("logs").join(format!("{name}.log"));
        Process::start(self.node.namespace(), User::Root, &self.program(program), arguments, &[], &log)
    }

    fn wait_ready(&self, port: u16, process: &mut Process) -> anyhow::Result<()> {
        let url = format!("http://{}:{port}/ready", network::GATEWAY);
        let ready = || self.node.namespace().run("curl", &["-sfo", "/dev/null", &url]).is_ok();
        let waited = eventually(Duration::from_secs(20), || ready() || !process.is_running());
        if waited.is_err() || !process.is_running() {
            bail!("not ready: {}", process.output()?);
        }
        Ok(())
    }

    fn program(&self, name: &str) -> String {
        self.path().join("bin").join(name).display().to_string()
    }

    fn bootstrap(
        &self,
        name: &str,
        app: &str,
        addresses: &[IpAddr],
        token_file: PathBuf,
        directory: &Path,
    ) -> Bootstrap {
        let system = |port: u16| format!("{}:{port}", network::GATEWAY);
        let id = |account| spiffe_id(names::TRUST_DOMAIN, names::SYSTEM_NAMESPACE, account);
        let controllers = 0..u16::try_from(self.controllers.len()).expect("a handful of controllers");
        Bootstrap {
            trust_domain: names::TRUST_DOMAIN.to_owned(),
            workload: Workload {
                name: name.to_owned(),
                namespace: NAMESPACE.to_owned(),
                service_account: app.to_owned(),
                addresses: addresses.to_vec(),
                owner: name.to_owned(),
                app: app.to_owned(),
                version: "v1".to_owned(),
                cluster: String::new(),
            },
            identity: Upstream { addresses: vec![system(names::IDENTITY_PORT)], id: id(names::IDENTITY_ACCOUNT) },
            controller: Upstream {
                addresses: controllers.map(|n| system(names::CONTROLLER_PORT + CONTROLLER_STEP * n)).collect(),
                id: id(names::CONTROLLER_ACCOUNT),
            },
            token_file,
            bundle_file: Some(self.path().join("bundle.pem")),
            bundle: None,
            state_directory: Some(directory.join("state")),
            admin_socket: Some(directory.join("admin.sock")),
            ports: Ports::default(),
            socket_mark: None,
            loopback_ports: self.settings.loopback_ports.to_vec(),
            workers: self.settings.workers,
            max_head_bytes: 128 * 1024,
            log: "info".to_owned(),
            drain_delay_ms: 2000,
            probes: BTreeMap::new(),
        }
    }
}

impl Pod {
    /// Starts the proxy and waits until it can serve.
    pub fn start_proxy(&mut self) -> anyhow::Result<()> {
        let mut proxy = self.run(PROXY, User::Proxy, &[], "proxy")?;
        let ready = || self.admin("/ready").is_ok();
        let waited = eventually(Duration::from_secs(20), || ready() || !proxy.is_running());
        if waited.is_err() || !proxy.is_running() {
            bail!("the proxy of {} does not become ready:\n{}", self.name, proxy.output()?);
        }
        self.proxy = Some(proxy);
        Ok(())
    }

    /// Starts one of the mesh's programs, or `traffic`, in this pod.
    pub fn run(&self, program: &str, user: User, arguments: &[&str], log: &str) -> anyhow::Result<Process> {
        let program = self.directory.join("../../bin").join(program).canonicalize()?;
        let environment = [(names::BOOTSTRAP_VARIABLE, self.bootstrap.to_json())];
        let log = self.directory.join(format!("{log}.log"));
        Process::start(&self.namespace, user, &program.display().to_string(), arguments, &environment, &log)
    }

    /// Starts a server or client of `traffic` in this pod; its output goes to a log of that name.
    pub fn traffic(&self, log: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        self.run(TRAFFIC, User::Root, arguments, log)
    }

    /// Starts `traffic serve` on port 8080 under the pod's own name, and waits until it listens.
    pub fn serve(&self) -> anyhow::Result<Process> {
        let server = self.traffic("serve", &["serve", "--listen", "[::]:8080", "--name", &self.name])?;
        server.wait_for_output("listening on", Duration::from_secs(10))?;
        Ok(server)
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs any command in this pod to its end; its standard output.
    pub fn command(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.namespace.run(program, arguments)
    }

    /// A path that stands for the pod's network namespace.
    pub fn net(&self) -> String {
        self.namespace.path()
    }

    /// What the proxy's admin answers to a GET.
    pub fn admin(&self, path: &str) -> anyhow::Result<String> {
        admin::get(&self.directory.join("admin.sock"), path)
    }

    /// The same, as one of [`proto::admin`]'s types.
    pub fn admin_json<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(serde_json::from_str(&self.admin(path)?)?)
    }

    /// Sum of a metric's series whose labels contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        Ok(admin::sum(&self.admin("/metrics")?, name, labels))
    }

    /// What a process of this pod has written so far.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(format!("{name}.log"))).unwrap_or_default()
    }
}

/// Polls until the condition holds, or fails when it has not in time.
pub fn eventually(within: Duration, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !condition() {
        ensure!(Instant::now().duration_since(start) < within, "not within {within:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Directory of the programs under test: `MESH_PROGRAMS`, or the release build of this tree.
pub fn programs() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // target/<triple>/debug/deps/mesh-0123: beside `debug`.
    let built = own.ancestors().nth(3).context("this test is in no target directory")?.join("release");
    let chosen = std::env::var_os("MESH_PROGRAMS").map_or(built, PathBuf::from);
    chosen.canonicalize().with_context(|| format!("{}: cargo build --release", chosen.display()))
}

/// Namespace of every workload of a test.
pub const NAMESPACE: &str = "test";
/// Address of the Services of a test: 10.96.0.N.
pub const fn service_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, number)
}

/// The sidecar.
pub const PROXY: &str = "mesh-proxy";
const IDENTITY: &str = "mesh-identity";
const CONTROLLER: &str = "mesh-controller";
const MESHCTL: &str = "meshctl";
const TRAFFIC: &str = "traffic";
const IDENTITY_HEALTH_PORT: u16 = 9091;
const CONTROLLER_HEALTH_PORT: u16 = 9092;
const CONTROLLER_STEP: u16 = 10;
