//! Rules as nfnetlink messages: one batch, which the kernel takes whole or not at all.
//!
//! The encoding is that of the kernel's `include/uapi/linux/netfilter/nf_tables.h`: attributes are (length, type, value) padded to four
//! bytes, and all integers in them are big-endian.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::RedirectError;
use super::ruleset::{Chain, Family, Hook, Match, Rule, Ruleset, TABLE, Verdict};

/// Removes our tables and makes them anew, in one transaction.
pub(super) fn replace(rulesets: &[Ruleset]) -> Result<(), RedirectError> {
    let mut batch = Batch::new();
    for ruleset in rulesets {
        batch.clear(ruleset.family);
        batch.table(ruleset.family);
        for chain in &ruleset.chains {
            batch.chain(ruleset.family, chain);
            for rule in &chain.rules {
                batch.rule(ruleset.family, chain, rule);
            }
        }
    }
    batch.commit()
}

/// Removes our tables, in one transaction.
pub(super) fn remove(families: &[Family]) -> Result<(), RedirectError> {
    let mut batch = Batch::new();
    for &family in families {
        batch.clear(family);
    }
    batch.commit()
}

/// The messages of one transaction. The sequence number of a message is its place in `steps`, which says what it was for.
struct Batch {
    bytes: Vec<u8>,
    steps: Vec<String>,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(16 * 1024), steps: Vec::new() };
        batch.message("open a transaction of nf_tables".into(), BATCH_BEGIN, REQUEST, [0, SUBSYSTEM], |_| {});
        batch
    }

    /// Making a table that exists is no error, removing one that does not is: so this makes, then removes.
    fn clear(&mut self, family: Family) {
        self.table(family);
        let step = format!("remove the table {family} {TABLE}");
        self.nftables(step, DELETE_TABLE, 0, family, |attributes| attributes.text(1, TABLE));
    }

    fn table(&mut self, family: Family) {
        let step = format!("make the table {family} {TABLE}");
        self.nftables(step, NEW_TABLE, CREATE, family, |attributes| attributes.text(TABLE_NAME, TABLE));
    }

    fn chain(&mut self, family: Family, chain: &Chain) {
        let step = format!("make the chain {} of type {} in the table {family} {TABLE}", chain.name, chain.kind);
        self.nftables(step, NEW_CHAIN, CREATE, family, |attributes| {
            attributes.text(CHAIN_TABLE, TABLE);
            attributes.text(CHAIN_NAME, chain.name);
            attributes.nest(CHAIN_HOOK, |hook| {
                hook.number(HOOK_NUMBER, hook_number(chain.hook));
                hook.bytes(HOOK_PRIORITY, &chain.priority.to_be_bytes());
            });
            attributes.text(CHAIN_TYPE, chain.kind);
            attributes.number(CHAIN_POLICY, VERDICT_ACCEPT);
        });
    }

    fn rule(&mut self, family: Family, chain: &Chain, rule: &Rule) {
        let step = format!("make the rule '{rule}' in the chain {family} {TABLE} {}", chain.name);
        self.nftables(step, NEW_RULE, CREATE | APPEND, family, |attributes| {
            attributes.text(RULE_TABLE, TABLE);
            attributes.text(RULE_CHAIN, chain.name);
            attributes.nest(RULE_EXPRESSIONS, |expressions| {
                for condition in &rule.matches {
                    expressions.condition(condition);
                }
                expressions.verdict(&rule.verdict);
            });
            attributes.bytes(RULE_USERDATA, &comment(rule.comment));
        });
    }

    fn nftables(
        &mut self,
        step: String,
        kind: u16,
        flags: u16,
        family: Family,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let family = match family {
            Family::Ip => libc::AF_INET,
            Family::Ip6 => libc::AF_INET6,
        };
        let family = u8::try_from(family).expect("AF_INET and AF_INET6 are small");
        self.message(step, SUBSYSTEM_KIND | kind, REQUEST | flags, [family, 0], fill);
    }

    /// One message: the netlink header, then the four bytes of `nfgenmsg` (family, version, resource), then attributes.
    fn message(
        &mut self,
        step: String,
        kind: u16,
        flags: u16,
        [family, resource]: [u8; 2],
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let sequence = u32::try_from(self.steps.len()).expect("fewer messages than rules may be skipped");
        self.steps.push(step);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0, 0, resource]);
        fill(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).expect("a message is a few hundred bytes");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sends the transaction and waits for the kernel's answer.
    ///
    /// Only the message before the end asks to be acknowledged, and the kernel reports in the order of the messages: so the first thing
    /// it says is either the first error or that all went well.
    fn commit(mut self) -> Result<(), RedirectError> {
        self.acknowledge_last();
        self.message("close the transaction".into(), BATCH_END, REQUEST, [0, SUBSYSTEM], |_| {});
        let answer = self.exchange().map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => RedirectError::NotPermitted,
            Some(libc::EPROTONOSUPPORT) => {
                RedirectError::Unsupported { missing: "speak to nf_tables over netlink".into(), source }
            }
            _ => RedirectError::Refused { step: "answer over netlink".into(), source },
        })?;
        if answer.errno == 0 {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(answer.errno);
        let step = usize::try_from(answer.sequence).ok().and_then(|at| self.steps.get(at)).cloned();
        let step = step.unwrap_or_else(|| "take the redirect rules".into());
        Err(match answer.errno {
            libc::EPERM => RedirectError::NotPermitted,
            // ENOENT is what a missing chain type or expression gives; everything else that a rule names is made in this transaction.
            libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::ENOENT => {
                RedirectError::Unsupported { missing: step, source }
            }
            _ => RedirectError::Refused { step, source },
        })
    }

    fn acknowledge_last(&mut self) {
        let mut at = 0;
        loop {
            let next = at + message_length(&self.bytes[at..]);
            if next == self.bytes.len() {
                break;
            }
            at = next;
        }
        let flags = u16::from_ne_bytes([self.bytes[at + 6], self.bytes[at + 7]]) | ACKNOWLEDGE;
        self.bytes[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn exchange(&self) -> io::Result<Answer> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        let options = socket2::SockRef::from(&socket);
        options.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        // A transaction is one message, and must fit whole.
        options.set_send_buffer_size(self.bytes.len().max(options.send_buffer_size()? / 2))?;
        socket.send_to(&self.bytes, &SocketAddr::new(0, 0), 0)?;
        loop {
            let (datagram, sender) = socket.recv_from_full()?;
            if sender.port_number() != 0 {
                continue; // not the kernel
            }
            if let Some(answer) = Answer::first(&datagram) {
                return Ok(answer);
            }
        }
    }
}

/// What the kernel said about one message.
struct Answer {
    sequence: u32,
    /// 0 is an acknowledgement.
    errno: i32,
}

impl Answer {
    fn first(datagram: &[u8]) -> Option<Self> {
        let (header, body) = datagram.split_at_checked(HEADER)?;
        if u16::from_ne_bytes([header[4], header[5]]) != ERROR {
            return None;
        }
        let negated = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        Some(Self { sequence, errno: negated.saturating_neg() })
    }
}

/// Where attributes are written to.
struct Attributes<'batch>(&'batch mut Vec<u8>);

impl Attributes<'_> {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("values are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat());
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Attributes(self.0));
        let length = u16::try_from(self.0.len() - start).expect("a rule is a few hundred bytes");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.nest(LIST_ELEMENT, |element| {
            element.text(EXPRESSION_NAME, name);
            element.nest(EXPRESSION_DATA, fill);
        });
    }

    fn condition(&mut self, condition: &Match) {
        match condition {
            Match::FromLoopback => self.meta(META_IIF, EQUAL, &LOOPBACK_INDEX.to_ne_bytes()),
            Match::NotFromLoopback => self.meta(META_IIF, NOT_EQUAL, &LOOPBACK_INDEX.to_ne_bytes()),
            Match::ToLoopback => self.meta(META_OIF, EQUAL, &LOOPBACK_INDEX.to_ne_bytes()),
            Match::Uid(uid) => self.meta(META_SKUID, EQUAL, &uid.to_ne_bytes()),
            Match::Mark(mark) => self.meta(META_MARK, EQUAL, &mark.to_ne_bytes()),
            Match::Tcp => self.meta(META_L4PROTO, EQUAL, &[TCP]),
            Match::TcpSyn => {
                self.payload(TRANSPORT, TCP_FLAGS_AT, 1);
                self.mask(&[FIN_SYN_RST_ACK]);
                self.compare(EQUAL, &[SYN]);
            }
            Match::Ports(ports) => {
                self.payload(TRANSPORT, TCP_DESTINATION_AT, 2);
                if ports.start() == ports.end() {
                    self.compare(EQUAL, &ports.start().to_be_bytes());
                } else {
                    self.compare(GREATER_OR_EQUAL, &ports.start().to_be_bytes());
                    self.compare(LESS_OR_EQUAL, &ports.end().to_be_bytes());
                }
            }
            Match::Subnet(subnet) => match (subnet.network(), subnet.netmask()) {
                (IpAddr::V4(network), IpAddr::V4(mask)) => {
                    self.payload(NETWORK, 16, 4);
                    self.mask(&mask.octets());
                    self.compare(EQUAL, &network.octets());
                }
                (IpAddr::V6(network), IpAddr::V6(mask)) => {
                    self.payload(NETWORK, 24, 16);
                    self.mask(&mask.octets());
                    self.compare(EQUAL, &network.octets());
                }
                _ => unreachable!("a network and its mask are of one family"),
            },
        }
    }

    fn verdict(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Return => self.immediate_verdict(VERDICT_RETURN),
            Verdict::Drop => self.immediate_verdict(VERDICT_DROP),
            Verdict::Redirect(port) => {
                self.expression("immediate", |expression| {
                    expression.number(1, REGISTER);
                    expression.nest(2, |data| data.bytes(DATA_VALUE, &port.to_be_bytes()));
                });
                self.expression("redir", |expression| expression.number(1, REGISTER));
            }
        }
    }

    fn immediate_verdict(&mut self, code: u32) {
        self.expression("immediate", |expression| {
            expression.number(1, REGISTER_VERDICT);
            expression.nest(2, |data| data.nest(DATA_VERDICT, |verdict| verdict.number(1, code)));
        });
    }

    fn meta(&mut self, key: u32, operator: u32, value: &[u8]) {
        self.expression("meta", |expression| {
            expression.number(1, REGISTER);
            expression.number(2, key);
        });
        self.compare(operator, value);
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |expression| {
            expression.number(1, REGISTER);
            expression.number(2, base);
            expression.number(3, offset);
            expression.number(4, length);
        });
    }

    fn mask(&mut self, mask: &[u8]) {
        let length = u32::try_from(mask.len()).expect("a mask is at most 16 bytes");
        self.expression("bitwise", |expression| {
            expression.number(1, REGISTER);
            expression.number(2, REGISTER);
            expression.number(3, length);
            expression.nest(4, |data| data.bytes(DATA_VALUE, mask));
            expression.nest(5, |data| data.bytes(DATA_VALUE, &vec![0; mask.len()]));
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |expression| {
            expression.number(1, REGISTER);
            expression.number(2, operator);
            expression.nest(3, |data| data.bytes(DATA_VALUE, value));
        });
    }
}

/// The form in which `nft` keeps a comment: type 0, length, text with its closing zero.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).expect("comments are short");
    [&[0, length], text.as_bytes(), b"\0"].concat()
}

fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    }
}

fn message_length(message: &[u8]) -> usize {
    let length = [message[0], message[1], message[2], message[3]];
    usize::try_from(u32::from_ne_bytes(length)).expect("a message fits in memory")
}

/// The kernel answers at once; this is for a kernel that loads modules on a loaded machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

// Netlink.
const HEADER: usize = 16;
const ERROR: u16 = 2;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;

// nfnetlink: its subsystem 10 is nftables; batches are framed by two messages of their own.
const SUBSYSTEM: u8 = 10;
const SUBSYSTEM_KIND: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

// Messages of nf_tables.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;

// Attributes of tables, chains and rules.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

// Expressions: registers, what can be loaded into one, how it is compared.
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const META_MARK: u32 = 3;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_SKUID: u32 = 10;
const META_L4PROTO: u32 = 16;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const LESS_OR_EQUAL: u32 = 3;
const GREATER_OR_EQUAL: u32 = 5;
const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
/// -5, as the kernel reads it.
const VERDICT_RETURN: u32 = 0xffff_fffb;

/// The kernel gives loopback this index in every namespace.
const LOOPBACK_INDEX: u32 = 1;

// TCP (RFC 9293, section 3.1).
const TCP: u8 = 6;
const TCP_DESTINATION_AT: u32 = 2;
const TCP_FLAGS_AT: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0b1_0111;
const SYN: u8 = 0b0_0010;
