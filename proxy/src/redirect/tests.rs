//! The rules in real network namespaces: a pod and somebody outside, joined by a veth pair.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::net::orig_dst::OriginalDestination;
use namespace::in_pod;

mod namespace;

/// The pod's listeners, and where connections that leave or enter the pod end up.
struct Ends {
    outbound: Vec<TcpListener>,
    inbound: TcpListener,
}

impl Ends {
    fn listen() -> Self {
        let outbound = ["127.0.0.1:15001", "[::1]:15001"].map(|addr| TcpListener::bind(addr).unwrap());
        Self { outbound: outbound.into(), inbound: TcpListener::bind("[::]:15006").unwrap() }
    }

    /// Dials as the app and says where the proxy would have to go, or `None` if the connection went there by itself.
    fn dial(&self, addr: &str) -> Option<String> {
        let stream = TcpStream::connect_timeout(&addr.parse().unwrap(), PATIENCE);
        self.landing(&stream.unwrap_or_else(|error| panic!("{addr}: {error}")))
    }

    fn landing(&self, stream: &TcpStream) -> Option<String> {
        let local = stream.local_addr().unwrap();
        for listener in &self.outbound {
            listener.set_nonblocking(true).unwrap();
            if let Ok((accepted, peer)) = listener.accept() {
                assert_eq!(peer, local);
                return Some(OriginalDestination::of(&accepted).unwrap().to_string());
            }
        }
        None
    }
}

fn rules() -> Rules {
    Rules { uid: None, mark: Some(MARK), ..Rules::default() }
}

#[test]
fn outbound_connections_land_with_their_destination() {
    in_pod(|_| {
        apply(&rules()).unwrap();
        let ends = Ends::listen();
        for addr in ["10.96.0.7:80", "10.1.0.2:9000", "[fd96::7]:80", "[fd01::2]:9000"] {
            assert_eq!(ends.dial(addr).as_deref(), Some(addr));
        }
    });
}

#[test]
fn the_proxys_own_connections_are_left_alone() {
    in_pod(|outside| {
        outside.echo(9000);
        let uid = rustix::process::getuid().as_raw();
        for (own, rules) in [
            (true, Rules { uid: Some(uid), mark: None, ..Rules::default() }),
            (false, Rules { uid: Some(uid + 1), mark: None, ..Rules::default() }),
        ] {
            apply(&rules).unwrap();
            let ends = Ends::listen();
            for addr in ["10.1.0.2:9000", "[fd01::2]:9000"] {
                assert_eq!(ends.dial(addr).is_none(), own, "{addr}");
            }
        }
        apply(&rules()).unwrap();
        let ends = Ends::listen();
        for (addr, mark) in [("10.1.0.2:9000", MARK), ("[fd01::2]:9000", MARK), ("10.1.0.2:9000", MARK + 1)] {
            let addr: SocketAddr = addr.parse().unwrap();
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
            socket.set_mark(mark).unwrap();
            socket.connect(&addr.into()).unwrap();
            assert_eq!(ends.landing(&socket.into()).is_none(), mark == MARK, "{addr}");
        }
    });
}

#[test]
fn skipped_ports_and_subnets_are_left_alone() {
    in_pod(|outside| {
        for port in [5432, 9000, 9005, 9010, 9011] {
            outside.echo(port);
        }
        let skip_outbound_subnets =
            ["10.1.0.3/32", "fd01::3/128", "192.0.2.0/24"].map(|net| net.parse().unwrap()).into();
        let skip_outbound_ports = vec![5432..=5432, 9000..=9010];
        apply(&Rules { skip_outbound_ports, skip_outbound_subnets, ..rules() }).unwrap();
        let ends = Ends::listen();
        for addr in
            ["10.1.0.2:5432", "10.1.0.2:9000", "10.1.0.2:9005", "[fd01::2]:9010", "10.1.0.3:9011", "[fd01::3]:9011"]
        {
            assert_eq!(ends.dial(addr), None, "{addr}");
        }
        for addr in ["10.1.0.2:5433", "10.1.0.2:9011", "[fd01::2]:9011", "[fd01::2]:8999"] {
            assert_eq!(ends.dial(addr).as_deref(), Some(addr));
        }
    });
}

#[test]
fn loopback_and_the_pods_own_address_are_left_alone() {
    in_pod(|_| {
        apply(&rules()).unwrap();
        let ends = Ends::listen();
        let app = TcpListener::bind("[::]:8080").unwrap();
        for addr in ["127.0.0.1:8080", "[::1]:8080", "10.1.0.1:8080", "[fd01::1]:8080"] {
            assert_eq!(ends.dial(addr), None, "{addr}");
            app.accept().unwrap();
        }
        // The guard is for others: the app may well ask its own proxy.
        assert_eq!(ends.dial("127.0.0.1:15006"), None);
    });
}

#[test]
fn inbound_connections_land_with_their_destination() {
    in_pod(|outside| {
        apply(&Rules { skip_inbound_ports: vec![22..=22, 7000..=7001], ..rules() }).unwrap();
        let ends = Ends::listen();
        for addr in ["10.1.0.1:8080", "10.1.0.1:1", "[fd01::1]:8080"] {
            outside.dial(addr).unwrap();
            let (accepted, _) = ends.inbound.accept().unwrap();
            assert_eq!(OriginalDestination::of(&accepted).unwrap().to_string(), addr);
        }
        for port in [22, 7000, 7001, 15020] {
            let direct = TcpListener::bind(("::", port)).unwrap();
            for host in ["10.1.0.1", "[fd01::1]"] {
                outside.dial(&format!("{host}:{port}")).unwrap();
                direct.accept().unwrap();
            }
        }
    });
}

#[test]
fn the_pods_private_ports_are_shut_to_others() {
    in_pod(|outside| {
        apply(&rules()).unwrap();
        let listeners = [15000, 15001, 15006].map(|port| TcpListener::bind(("::", port)).unwrap());
        for port in [15000, 15001, 15006] {
            for host in ["10.1.0.1", "[fd01::1]"] {
                let error = outside.dial(&format!("{host}:{port}")).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{host}:{port}");
            }
        }
        for listener in listeners {
            listener.set_nonblocking(true).unwrap();
            assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    });
}

#[test]
fn open_connections_go_on() {
    in_pod(|outside| {
        outside.echo(9000);
        let mut streams =
            vec![TcpStream::connect("10.1.0.2:9000").unwrap(), TcpStream::connect("[fd01::2]:9000").unwrap()];
        apply(&rules()).unwrap();
        let ends = Ends::listen();
        let redirected = TcpStream::connect("10.96.0.7:80").unwrap();
        let (accepted, _) = ends.outbound[0].accept().unwrap();
        thread::spawn(move || io::copy(&mut accepted.try_clone().unwrap(), &mut &accepted));
        streams.push(redirected);
        for again in 0..2 {
            for (at, stream) in streams.iter_mut().enumerate() {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(b"hello").unwrap();
                let mut five = [0; 5];
                stream.read_exact(&mut five).unwrap_or_else(|error| panic!("stream {at}, {again}: {error}"));
                assert_eq!(&five, b"hello");
            }
            apply(&rules()).unwrap();
        }
    });
}

#[test]
fn a_second_time_changes_nothing_and_others_rules_are_left_alone() {
    in_pod(|outside| {
        outside.echo(9000);
        nft("add table ip other; add chain ip other keep; add table ip6 mesh-other");
        let before = list();
        remove().unwrap();
        assert_eq!(list(), before);
        apply(&rules()).unwrap();
        let once = list();
        assert_ne!(once, before);
        apply(&rules()).unwrap();
        assert_eq!(list(), once);
        remove().unwrap();
        assert_eq!(list(), before);
        assert_eq!(Ends::listen().dial("10.1.0.2:9000"), None);
    });
}

/// Two ways to the kernel, one of them not ours: what a dry run prints, read by `nft`, gives what we write.
#[test]
fn a_dry_run_says_what_would_be_written() {
    in_pod(|_| {
        let rules = Rules {
            uid: Some(2102),
            skip_inbound_ports: vec![22..=22, 7000..=7001],
            skip_outbound_ports: vec![5432..=5432],
            skip_outbound_subnets: ["10.0.0.0/8", "192.0.2.1/32", "0.0.0.0/0", "fd00::/8"]
                .map(|net| net.parse().unwrap())
                .into(),
            ..rules()
        };
        nft(&rules.to_string());
        let printed = list();
        remove().unwrap();
        apply(&rules).unwrap();
        assert_eq!(list(), printed);
        assert!(printed.contains("ip6 daddr fd00::/8"), "{printed}");
    });
}

#[test]
fn writes_into_another_namespace() {
    in_pod(|outside| {
        let before = list();
        let namespace = outside.open();
        apply_in(&namespace, &rules()).unwrap();
        assert_eq!(list(), before, "our own namespace was changed");
        assert!(outside.run(list).contains("redirect to :15001"));
        remove_in(&namespace).unwrap();
        assert_eq!(outside.run(list), before);
        let not_one = std::fs::File::open("/dev/null").unwrap();
        assert!(not_one.as_raw_fd() > 0);
        assert!(matches!(apply_in(&not_one, &rules()), Err(RedirectError::Namespace(_))));
    });
}

#[test]
fn all_or_nothing() {
    in_pod(|_| {
        apply(&rules()).unwrap();
        let before = list();
        let none = Rules { uid: None, mark: None, ..Rules::default() };
        assert!(matches!(apply(&none), Err(RedirectError::OwnTrafficUnknown)));
        let many = |count| Rules { skip_inbound_ports: vec![1..=1; count], ..rules() };
        assert!(matches!(apply(&many(Rules::MAX_SKIPPED + 1)), Err(RedirectError::TooManySkipped { .. })));
        assert_eq!(list(), before);
        apply(&many(Rules::MAX_SKIPPED)).unwrap();
    });
}

#[test]
fn a_missing_right_is_one_sentence() {
    in_pod(|_| {
        use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).unwrap();
        let error = apply(&rules()).unwrap_err();
        assert!(matches!(error, RedirectError::NotPermitted), "{error}");
        assert!(error.to_string().contains("add NET_ADMIN"), "{error}");
    });
}

fn nft(script: &str) {
    let done = Command::new("nft").arg(script).output().expect("nft is installed (Debian package nftables)");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn list() -> String {
    let done =
        Command::new("nft").args(["list", "ruleset"]).output().expect("nft is installed (Debian package nftables)");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

const MARK: u32 = 0x2102;
/// Long for a packet within one machine.
const PATIENCE: Duration = Duration::from_millis(500);
