//! Network namespaces for tests: threads that live in one.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use rustix::thread::UnshareFlags;

use super::PATIENCE;

/// A thread with a network namespace of its own, which ends with it.
pub(super) struct Namespace {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    thread: i32,
}

/// Runs a test in a fresh pod: `10.1.0.1` and `fd01::1`, with `outside` (`10.1.0.2`, `10.1.0.3` and likewise) as its default route.
///
/// Whoever is not root becomes root of a user namespace first. That takes a process with one thread: the test runs itself again.
pub(super) fn in_pod(test: impl FnOnce(&Namespace) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        let name = thread::current().name().expect("the test harness names its threads").to_owned();
        let again = Command::new("unshare")
            .args(["--user", "--map-root-user"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .status();
        assert!(again.expect("unshare is installed").success(), "{name} failed in a user namespace");
        return;
    }
    let pod = Namespace::new();
    let outside = Namespace::new();
    let peer = outside.thread.to_string();
    pod.run(move || {
        ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &peer]);
        set_up(&["10.1.0.1/24", "fd01::1/64"]);
    });
    outside.run(|| set_up(&["10.1.0.2/24", "10.1.0.3/24", "fd01::2/64", "fd01::3/64"]));
    pod.run(move || {
        ip(&["route", "add", "default", "via", "10.1.0.2"]);
        ip(&["route", "add", "default", "via", "fd01::2"]);
        wait_for_ipv6("[fd01::2]:1");
        test(&outside);
    });
}

impl Namespace {
    fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (report, ready) = mpsc::channel();
        thread::spawn(move || {
            // Deprecated in favour of an unsafe one, for a flag (FILES) that is not used here.
            #[expect(deprecated)]
            rustix::thread::unshare(UnshareFlags::NEWNET).expect("root may make network namespaces");
            ip(&["link", "set", "lo", "up"]);
            report.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            for job in todo {
                job();
            }
        });
        Self { thread: ready.recv().unwrap(), jobs }
    }

    /// Does something inside, and passes on its panic.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (report, outcome) = mpsc::channel();
        let job = move || {
            let _ = report.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
        };
        self.jobs.send(Box::new(job)).unwrap();
        outcome.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(super) fn open(&self) -> OwnedFd {
        File::open(format!("/proc/self/task/{}/ns/net", self.thread)).unwrap().into()
    }

    /// Answers every connection to the port with what it is sent.
    pub(super) fn echo(&self, port: u16) {
        let listener = self.run(move || TcpListener::bind(("::", port)).unwrap());
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
    }

    pub(super) fn dial(&self, addr: &str) -> io::Result<TcpStream> {
        let addr = addr.parse().unwrap();
        self.run(move || TcpStream::connect_timeout(&addr, PATIENCE))
    }
}

fn set_up(addrs: &[&str]) {
    for addr in addrs {
        // Without "nodad" an IPv6 address is of no use for a second.
        let nodad = if addr.contains(':') { &["nodad"][..] } else { &[] };
        ip(&[&["addr", "add", addr, "dev", "eth0"], nodad].concat());
    }
    ip(&["link", "set", "eth0", "up"]);
}

/// The kernel takes up to a second to notice that the link is up, and lets no IPv6 through before.
fn wait_for_ipv6(shut: &str) {
    let refused = |_: &usize| {
        let outcome = TcpStream::connect_timeout(&shut.parse().unwrap(), PATIENCE / 5);
        outcome.unwrap_err().kind() == io::ErrorKind::ConnectionRefused
    };
    (0..100).find(refused).expect("IPv6 works between the namespaces");
}

fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).output().expect("ip is installed (Debian package iproute2)");
    assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}
