//! The rules as data: what [`super::Rules`] means, chain by chain, in one address family.
//!
//! Both the text for people and the bytes for the kernel are made from this, so a dry run shows what would be written.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::Rules;

/// An address family of nftables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

/// Everything in our table of one family.
#[derive(Debug)]
pub(super) struct Ruleset {
    /// The family the table is in.
    pub(super) family: Family,
    /// The chains, each with its rules in order.
    pub(super) chains: [Chain; 3],
}

/// A base chain: where it hooks in, and its rules.
#[derive(Debug)]
pub(super) struct Chain {
    /// Its name in the table.
    pub(super) name: &'static str,
    /// `nat` or `filter`.
    pub(super) kind: &'static str,
    /// The name of the hook.
    pub(super) hook: Hook,
    /// Lower runs earlier.
    pub(super) priority: i32,
    /// The rules, in order.
    pub(super) rules: Vec<Rule>,
}

/// Where in the kernel's path a chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// A packet came in.
    Prerouting,
    /// A packet of this machine (this namespace) goes out.
    Output,
}

/// All matches hold: the verdict.
#[derive(Debug)]
pub(super) struct Rule {
    /// What a packet must be.
    pub(super) matches: Vec<Match>,
    /// What becomes of it then.
    pub(super) verdict: Verdict,
    /// Why, for whoever lists the rules.
    pub(super) comment: &'static str,
}

/// One condition on a packet.
#[derive(Debug)]
pub(super) enum Match {
    /// Came over loopback.
    FromLoopback,
    /// Did not come over loopback.
    NotFromLoopback,
    /// Is routed over loopback.
    ToLoopback,
    /// Sent by a socket of this user.
    Uid(u32),
    /// Carries this mark.
    Mark(u32),
    /// TCP.
    Tcp,
    /// TCP, first packet of a connection.
    TcpSyn,
    /// TCP destination port. Follows [`Match::Tcp`].
    Ports(RangeInclusive<u16>),
    /// Destination address.
    Subnet(IpNet),
}

/// What becomes of a packet.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Left alone.
    Return,
    /// Dropped.
    Drop,
    /// Sent to this port here.
    Redirect(u16),
}

impl Ruleset {
    /// Translates the rules for one family.
    pub(super) fn new(family: Family, rules: &Rules) -> Self {
        Self { family, chains: [guard(rules), inbound(rules), outbound(family, rules)] }
    }
}

fn guard(rules: &Rules) -> Chain {
    let shut = [rules.admin_port, rules.outbound_port, rules.inbound_port].map(|port| Rule {
        matches: vec![Match::NotFromLoopback, Match::Tcp, Match::Ports(port..=port)],
        verdict: Verdict::Drop,
        comment: "for this pod only",
    });
    Chain { name: "guard", kind: "filter", hook: Hook::Prerouting, priority: BEFORE_NAT, rules: shut.into() }
}

fn inbound(rules: &Rules) -> Chain {
    let mut list = vec![
        Rule { matches: vec![Match::FromLoopback], verdict: Verdict::Return, comment: "within the pod" },
        leave(&(rules.health_port..=rules.health_port), "health and metrics"),
    ];
    list.extend(rules.skip_inbound_ports.iter().map(|ports| leave(ports, "skipped inbound port")));
    list.push(redirect(rules.inbound_port));
    Chain { name: "inbound", kind: "nat", hook: Hook::Prerouting, priority: NAT, rules: list }
}

fn outbound(family: Family, rules: &Rules) -> Chain {
    let own = [rules.uid.map(Match::Uid), rules.mark.map(Match::Mark)];
    let mut list: Vec<_> = own
        .into_iter()
        .flatten()
        .map(|own| Rule { matches: vec![own], verdict: Verdict::Return, comment: "the proxy's own" })
        .collect();
    list.push(Rule { matches: vec![Match::ToLoopback], verdict: Verdict::Return, comment: "within the pod" });
    list.extend(rules.skip_outbound_ports.iter().map(|ports| leave(ports, "skipped outbound port")));
    list.extend(rules.skip_outbound_subnets.iter().filter(|subnet| family.holds(subnet)).map(|subnet| Rule {
        matches: vec![Match::Subnet(*subnet)],
        verdict: Verdict::Return,
        comment: "skipped outbound subnet",
    }));
    list.push(redirect(rules.outbound_port));
    Chain { name: "outbound", kind: "nat", hook: Hook::Output, priority: NAT, rules: list }
}

fn leave(ports: &RangeInclusive<u16>, comment: &'static str) -> Rule {
    Rule { matches: vec![Match::Tcp, Match::Ports(ports.clone())], verdict: Verdict::Return, comment }
}

fn redirect(port: u16) -> Rule {
    Rule { matches: vec![Match::Tcp, Match::TcpSyn], verdict: Verdict::Redirect(port), comment: "new connections" }
}

impl Family {
    fn holds(self, subnet: &IpNet) -> bool {
        matches!((self, subnet), (Self::Ip, IpNet::V4(_)) | (Self::Ip6, IpNet::V6(_)))
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        })
    }
}

/// As a file for `nft -f` that replaces the table.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.family;
        writeln!(f, "table {family} {TABLE}\ndelete table {family} {TABLE}\ntable {family} {TABLE} {{")?;
        for chain in &self.chains {
            writeln!(f, "\tchain {} {{", chain.name)?;
            writeln!(f, "\t\ttype {} hook {} priority {}; policy accept;", chain.kind, chain.hook, chain.priority)?;
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        match self.verdict {
            Verdict::Return => f.write_str("return")?,
            Verdict::Drop => f.write_str("drop")?,
            Verdict::Redirect(port) => write!(f, "redirect to :{port}")?,
        }
        write!(f, " comment \"{}\"", self.comment)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromLoopback => f.write_str("iif lo"),
            Self::NotFromLoopback => f.write_str("iif != lo"),
            Self::ToLoopback => f.write_str("oif lo"),
            Self::Uid(uid) => write!(f, "meta skuid {uid}"),
            Self::Mark(mark) => write!(f, "meta mark {mark:#x}"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::TcpSyn => f.write_str("tcp flags & (fin | syn | rst | ack) == syn"),
            Self::Ports(ports) if ports.start() == ports.end() => write!(f, "tcp dport {}", ports.start()),
            Self::Ports(ports) => write!(f, "tcp dport {}-{}", ports.start(), ports.end()),
            Self::Subnet(subnet) => match subnet.network() {
                IpAddr::V4(network) => write!(f, "ip daddr {network}/{}", subnet.prefix_len()),
                IpAddr::V6(network) => write!(f, "ip6 daddr {network}/{}", subnet.prefix_len()),
            },
        }
    }
}

/// The name of our table in each family.
pub(super) const TABLE: &str = "mesh";
/// nftables' `dstnat`.
const NAT: i32 = -100;
/// nftables' `mangle`: before addresses are rewritten.
const BEFORE_NAT: i32 = -150;
