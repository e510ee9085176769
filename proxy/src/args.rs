//! The command line of `mesh-proxy`, read by hand: it is short, and the proxy stays small.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use proto::{Bootstrap, names};

use crate::redirect::Rules;

/// What `mesh-proxy` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Proxy connections until told to stop. The default.
    Run,
    /// Write the redirect rules, or with `dry_run` print them.
    Init {
        /// The rules.
        rules: Rules,
        /// Print, do not write.
        dry_run: bool,
    },
    /// Return when the proxy beside this command can serve.
    Wait,
    /// Start draining the proxy beside this command, and return.
    Drain,
    /// Print the version.
    Version,
    /// Print this text.
    Help(&'static str),
}

/// A command line that makes no sense. The message is one sentence that says what would.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct UsageError(String);

impl Command {
    /// Reads the arguments after the program's name. `bootstrap` is where `init` takes ports and mark from unless told otherwise.
    pub fn parse(args: impl IntoIterator<Item = String>, bootstrap: Option<&Bootstrap>) -> Result<Self, UsageError> {
        let mut args = args.into_iter();
        let Some(name) = args.next() else { return Ok(Self::Run) };
        let plain = match name.as_str() {
            "init" => return init(args, bootstrap),
            "run" => Self::Run,
            "wait" => Self::Wait,
            "drain" => Self::Drain,
            "version" | "--version" | "-V" => Self::Version,
            "help" | "--help" | "-h" => Self::Help(HELP),
            _ => {
                return Err(UsageError(format!(
                    "unknown command '{name}': mesh-proxy knows run, init, wait, drain, version and help"
                )));
            }
        };
        match args.next().as_deref() {
            None => Ok(plain),
            Some("--help" | "-h") => Ok(Self::Help(HELP)),
            Some(more) => Err(UsageError(format!(
                "'mesh-proxy {name}' takes no argument, and got '{more}': settings come from the variable {}",
                names::BOOTSTRAP_VARIABLE
            ))),
        }
    }
}

fn init(args: impl Iterator<Item = String>, bootstrap: Option<&Bootstrap>) -> Result<Command, UsageError> {
    let mut rules = bootstrap.map_or_else(Rules::default, rules_of);
    let mut dry_run = false;
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let (flag, joined) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        match flag {
            "--help" | "-h" => return Ok(Command::Help(INIT_HELP)),
            "--dry-run" if joined.is_none() => {
                dry_run = true;
                continue;
            }
            _ if !INIT_HELP.lines().any(|line| line.split_whitespace().next() == Some(flag)) => {
                return Err(UsageError(format!("unknown flag '{arg}': 'mesh-proxy init --help' lists what there is")));
            }
            _ => {}
        }
        let value = joined.or_else(|| args.next_if(|next| !next.starts_with("--")));
        let value =
            value.ok_or_else(|| UsageError(format!("{flag} needs a value: 'mesh-proxy init --help' shows which")))?;
        set(&mut rules, flag, &value)?;
    }
    Ok(Command::Init { rules, dry_run })
}

/// A flag that is not set here is not in the help either, or the other way round: a test compares them.
fn set(rules: &mut Rules, flag: &str, value: &str) -> Result<(), UsageError> {
    match flag {
        "--outbound-port" => rules.outbound_port = number(flag, value)?,
        "--inbound-port" => rules.inbound_port = number(flag, value)?,
        "--admin-port" => rules.admin_port = number(flag, value)?,
        "--health-port" => rules.health_port = number(flag, value)?,
        "--uid" => rules.uid = if value == "none" { None } else { Some(number(flag, value)?) },
        "--mark" => {
            rules.mark = Some(mark(value).ok_or_else(|| expected(flag, value, "a number such as 8450 or 0x2102"))?)
        }
        "--skip-inbound-ports" => rules.skip_inbound_ports = list(flag, value, ports, "ports such as 22,9000-9010")?,
        "--skip-outbound-ports" => rules.skip_outbound_ports = list(flag, value, ports, "ports such as 22,9000-9010")?,
        "--skip-outbound-subnets" => {
            rules.skip_outbound_subnets = list(flag, value, subnet, "subnets such as 10.0.0.0/8,fd00::/8")?;
        }
        _ => return Err(UsageError(format!("unknown flag '{flag}': 'mesh-proxy init --help' lists what there is"))),
    }
    Ok(())
}

fn rules_of(bootstrap: &Bootstrap) -> Rules {
    Rules {
        outbound_port: bootstrap.ports.outbound,
        inbound_port: bootstrap.ports.inbound,
        admin_port: bootstrap.ports.admin,
        health_port: bootstrap.ports.health,
        mark: bootstrap.socket_mark,
        ..Rules::default()
    }
}

fn number<N: FromStr + Default + PartialEq + Display>(flag: &str, value: &str) -> Result<N, UsageError> {
    match value.parse() {
        Ok(number) if flag == "--uid" || number != N::default() => Ok(number),
        _ => Err(expected(flag, value, if flag == "--uid" { "a user id" } else { "a port from 1 to 65535" })),
    }
}

fn mark(text: &str) -> Option<u32> {
    let mark = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    mark.ok().filter(|&mark| mark != 0)
}

fn list<T>(flag: &str, value: &str, item: fn(&str) -> Option<T>, what: &str) -> Result<Vec<T>, UsageError> {
    let items = value.split(',').map(str::trim).filter(|text| !text.is_empty());
    items.map(|text| item(text).ok_or_else(|| expected(flag, text, what))).collect()
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports: RangeInclusive<u16> = first.parse().ok()?..=last.parse().ok()?;
    (!ports.is_empty() && *ports.start() > 0).then_some(ports)
}

fn subnet(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

fn expected(flag: &str, value: &str, what: &str) -> UsageError {
    UsageError(format!("{flag} takes {what}, and got '{value}'"))
}

const HELP: &str = "\
mesh-proxy, the sidecar of the mesh

Usage: mesh-proxy [command]

  run      proxy the pod's connections (the default)
  init     write the redirect rules of the pod, and end ('mesh-proxy init --help')
  wait     end when the proxy in this pod has a certificate and its first configuration
  drain    let the proxy in this pod finish what it has begun, and end at once
  version  print the version

Settings come as JSON in the variable MESH_BOOTSTRAP, which the injector writes.
";

const INIT_HELP: &str = "\
Writes the nftables rules that send the TCP connections of this network namespace through the proxy,
for IPv4 and IPv6. Replaces what an earlier call wrote; leaves all other rules alone. Needs NET_ADMIN.

Usage: mesh-proxy init [flags]

  --outbound-port PORT           where connections of the app go (15001)
  --inbound-port PORT            where connections from outside go (15006)
  --admin-port PORT              shut to other pods (15000)
  --health-port PORT             never redirected (15020)
  --uid UID                      the proxy's user, whose connections are left alone (2102); 'none' for a mark alone
  --mark MARK                    the proxy's SO_MARK, likewise (none)
  --skip-inbound-ports PORTS     straight to the app, such as 22,9000-9010
  --skip-outbound-ports PORTS    straight from the app
  --skip-outbound-subnets NETS   straight from the app, such as 10.0.0.0/8,fd00::/8
  --dry-run                      print the rules in the language of nft, and write nothing

Ports and mark are taken from the variable MESH_BOOTSTRAP where it is set; flags go first.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, UsageError> {
        Command::parse(line.split_whitespace().map(str::to_owned), None)
    }

    #[test]
    fn commands() {
        assert_eq!(parse("").unwrap(), Command::Run);
        assert_eq!(parse("drain").unwrap(), Command::Drain);
        assert_eq!(parse("init --help").unwrap(), Command::Help(INIT_HELP));
        for (line, message) in [
            ("serve", "unknown command 'serve': mesh-proxy knows run, init, wait, drain, version and help"),
            (
                "wait long",
                "'mesh-proxy wait' takes no argument, and got 'long': settings come from the variable MESH_BOOTSTRAP",
            ),
            ("init --port 1", "unknown flag '--port': 'mesh-proxy init --help' lists what there is"),
            ("init --uid --dry-run", "--uid needs a value: 'mesh-proxy init --help' shows which"),
            ("init --dry-run=no", "unknown flag '--dry-run': 'mesh-proxy init --help' lists what there is"),
            ("init --inbound-port 0", "--inbound-port takes a port from 1 to 65535, and got '0'"),
            ("init --mark 0xg", "--mark takes a number such as 8450 or 0x2102, and got '0xg'"),
            ("init --skip-inbound-ports 9-1", "--skip-inbound-ports takes ports such as 22,9000-9010, and got '9-1'"),
            (
                "init --skip-outbound-subnets 10.0.0.0/33",
                "--skip-outbound-subnets takes subnets such as 10.0.0.0/8,fd00::/8, and got '10.0.0.0/33'",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn init_flags_become_rules() {
        let line = "init --inbound-port=7 --outbound-port 8 --uid none --mark 0x2102 --skip-inbound-ports 22,9000-9010 \
                    --skip-outbound-ports 5432 --skip-outbound-subnets 10.1.2.3/8,fd00::/8,192.0.2.1 --dry-run";
        let rules = Rules {
            inbound_port: 7,
            outbound_port: 8,
            uid: None,
            mark: Some(0x2102),
            skip_inbound_ports: vec![22..=22, 9000..=9010],
            skip_outbound_ports: vec![5432..=5432],
            skip_outbound_subnets: ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"].map(|net| net.parse().unwrap()).into(),
            ..Rules::default()
        };
        assert_eq!(parse(line).unwrap(), Command::Init { rules, dry_run: true });
    }

    #[test]
    fn every_flag_in_the_help_is_understood() {
        let flags = INIT_HELP.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
        let flags: Vec<_> =
            flags.map(|rest| rest.split_whitespace().next().unwrap()).filter(|flag| *flag != "dry-run").collect();
        assert_eq!(flags.len(), 9);
        for flag in flags {
            let value = if flag.ends_with("subnets") { "10.0.0.0/8" } else { "80" };
            assert!(parse(&format!("init --{flag} {value}")).is_ok(), "{flag}");
        }
    }

    #[test]
    fn the_bootstrap_gives_ports_and_mark() {
        let json = r#"{"workload": {"name": "a", "namespace": "b", "service_account": "c", "addresses": ["10.0.0.1"]},
            "identity": {"addresses": ["i:1"], "id": "spiffe://d/ns/e/sa/f"}, "controller": {"addresses": ["c:1"], "id": "spiffe://d/ns/e/sa/g"},
            "token_file": "/t", "ports": {"inbound": 7}, "socket_mark": 9}"#;
        let bootstrap = Bootstrap::parse(json).unwrap();
        let command = Command::parse(["init".into(), "--mark=5".into()], Some(&bootstrap)).unwrap();
        let Command::Init { rules, dry_run: false } = command else { panic!("{command:?}") };
        assert_eq!((rules.inbound_port, rules.outbound_port, rules.mark), (7, 15001, Some(5)));
    }
}
