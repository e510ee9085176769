//! Network namespaces of a test: a node with a bridge, and pods on it. A namespace lives as long as the process that holds it, so
//! nothing is left behind, whatever ends the test.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace and the process that holds it.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
}

/// The namespace that stands for a node: its bridge joins the pods, and the control plane runs here.
#[derive(Debug)]
pub struct Node {
    namespace: Namespace,
}

impl Namespace {
    /// An empty network namespace.
    pub fn create() -> anyhow::Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "setpriv", "--pdeathsig", "KILL", "sh", "-c", "echo; exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let mut line = String::new();
        let output = holder.stdout.take().context("standard output was piped")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "\n", "a network namespace cannot be made; these tests need root");
        let namespace = Self { holder };
        namespace.run("ip", &["link", "set", "lo", "up"])?;
        let control = std::env::var("MESH_CONGESTION_CONTROL").unwrap_or_else(|_| CONGESTION_CONTROL.to_owned());
        let choose = format!("echo {control} > /proc/sys/net/ipv4/tcp_congestion_control");
        namespace.run("sh", &["-c", &choose]).context("choosing the congestion control of TCP")?;
        Ok(namespace)
    }

    /// A path that stands for it.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Runs a command in it to its end; its standard output. The exit status has to be 0.
    pub fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let net = format!("--net={}", self.path());
        crate::lint::run("/".as_ref(), "nsenter", &[&[net.as_str(), "--", program], arguments].concat())
    }

    /// Does something in it, on a thread of its own: sockets that are made there stay there.
    pub fn enter<T: Send>(&self, job: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let namespace = File::open(self.path())?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(job())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs lines of `ip` in it.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        let mut child = Command::new("nsenter")
            .args([&format!("--net={}", self.path()), "--", "ip", "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("standard input was piped")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Node {
    /// A node with its bridge.
    pub fn create() -> anyhow::Result<Self> {
        let namespace = Namespace::create()?;
        namespace.ip(&format!(
            "link add br0 address {BRIDGE_MAC} type bridge\naddr add {GATEWAY}/16 dev br0\naddr add {GATEWAY_V6}/64 dev br0 nodad\nlink set br0 up\n"
        ))?;
        Ok(Self { namespace })
    }

    /// Its own namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A pod on its bridge.
    pub fn pod(&self, number: usize, addresses: &[IpAddr; 2]) -> anyhow::Result<Namespace> {
        let pod = Namespace::create()?;
        let holder = pod.holder.id();
        self.namespace.ip(&format!(
            "link add pod{number} type veth peer name eth0 netns {holder}\nlink set pod{number} master br0\nlink set pod{number} up\n"
        ))?;
        let [v4, v6] = addresses;
        pod.ip(&format!(
            "addr add {v4}/16 dev eth0\naddr add {v6}/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via {GATEWAY}\nroute add ::/0 via {GATEWAY_V6}\n"
        ))?;
        Ok(pod)
    }
}

/// Addresses of a pod by its number.
pub fn pod_addresses(number: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 1, u16::from(number));
    [Ipv4Addr::new(10, 244, 1, number).into(), v6.into()]
}

/// Linux's default, whatever this machine prefers, so that figures mean the same everywhere (`MESH_CONGESTION_CONTROL` chooses another).
const CONGESTION_CONTROL: &str = "cubic";
/// Without one of its own a bridge takes the lowest of its ports', so that a pod that is added later may change it under everybody.
const BRIDGE_MAC: &str = "02:00:00:00:00:01";
/// The node, as pods see it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The same over IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);
