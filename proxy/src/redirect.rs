//! The redirect rules of a pod: which TCP connections the kernel hands to the proxy instead of to the address that was dialled.
//!
//! The rules are written with nftables over netlink, as one atomic transaction that first removes our own two tables (`mesh` in the
//! families `ip` and `ip6`) and then makes them anew: applying twice changes nothing, and other tables are never touched.
//!
//! What the rules do, in the order in which a packet meets them:
//!
//! - **guard** (from outside): the ports that only the pod itself may use (outbound, inbound and admin) drop every packet that did not
//!   come over loopback. Redirected connections are not hit: at this point they still carry the port that was dialled.
//! - **inbound** (from outside): every new TCP connection goes to the inbound port, but for skipped ports and health and metrics.
//! - **outbound** (from the pod): every new TCP connection goes to the outbound port, but for the proxy's own (told by uid or by
//!   `SO_MARK`), skipped ports and subnets, and everything that is routed over loopback.
//!
//! *Loopback* means more than `127.0.0.1`: a program that dials its own pod's address is routed over `lo` as well, and is left alone, as
//! Istio, ztunnel and Linkerd do. Both ends are in the one pod, so there is nobody to authenticate and nothing crosses a wire. A Service
//! that picks its own caller is another matter: the Service address is not local, so the connection reaches the outbound port, and the
//! proxy hands it to its own inbound path in-process. Packets over `lo` never meet the inbound chain: the kernel settles address
//! translation once per connection, in the outbound hook.
//!
//! Only the first packet (SYN) of a connection is redirected. A connection that was open before the rules were written is unknown to
//! connection tracking and would otherwise be taken for a new one, and broken, by its next packet.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use ipnet::IpNet;
use proto::names;
use rustix::thread::LinkNameSpaceType;

use ruleset::{Family, Ruleset};

mod netlink;
mod ruleset;

/// What is redirected, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Where the pod's own new connections go.
    pub outbound_port: u16,
    /// Where new connections from outside go.
    pub inbound_port: u16,
    /// The admin port. It listens on loopback only; the rules keep it shut to others a second time.
    pub admin_port: u16,
    /// Health and metrics: reachable from outside, never redirected.
    pub health_port: u16,
    /// Connections of this user are the proxy's own and are left alone.
    pub uid: Option<u32>,
    /// Connections with this `SO_MARK` are the proxy's own and are left alone. For user namespaces, which often hold one uid.
    pub mark: Option<u32>,
    /// Ports on which connections from outside go straight to the app.
    pub skip_inbound_ports: Vec<RangeInclusive<u16>>,
    /// Ports to which the app's connections go straight.
    pub skip_outbound_ports: Vec<RangeInclusive<u16>>,
    /// Networks to which the app's connections go straight.
    pub skip_outbound_subnets: Vec<IpNet>,
}

/// Writes the rules into the calling thread's network namespace, replacing what an earlier call wrote, all at once or not at all.
pub fn apply(rules: &Rules) -> Result<(), RedirectError> {
    rules.check()?;
    let families = families();
    let rulesets: Vec<_> = families.iter().map(|&family| Ruleset::new(family, rules)).collect();
    netlink::replace(&rulesets)
}

/// Does what [`apply`] does in another network namespace, given as an open file of `/proc/<pid>/ns/net` or `/run/netns/<name>`.
pub fn apply_in(namespace: impl AsFd, rules: &Rules) -> Result<(), RedirectError> {
    inside(namespace, || apply(rules))
}

/// Removes our own tables from the calling thread's network namespace. Nothing to remove is no error.
///
/// Connections that are redirected at this time break: with its last chain, the kernel stops translating their addresses.
pub fn remove() -> Result<(), RedirectError> {
    netlink::remove(families())
}

/// Does what [`remove`] does in another network namespace.
pub fn remove_in(namespace: impl AsFd) -> Result<(), RedirectError> {
    inside(namespace, remove)
}

impl Rules {
    /// How many ports and subnets may be skipped in all. The rules go to the kernel as one message, whose size is limited.
    pub const MAX_SKIPPED: usize = 512;

    fn check(&self) -> Result<(), RedirectError> {
        if self.uid.is_none() && self.mark.is_none() {
            return Err(RedirectError::OwnTrafficUnknown);
        }
        let skipped = self.skip_inbound_ports.len() + self.skip_outbound_ports.len() + self.skip_outbound_subnets.len();
        if skipped > Self::MAX_SKIPPED {
            return Err(RedirectError::TooManySkipped { skipped });
        }
        Ok(())
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            outbound_port: names::OUTBOUND_PORT,
            inbound_port: names::INBOUND_PORT,
            admin_port: names::ADMIN_PORT,
            health_port: names::HEALTH_PORT,
            uid: Some(names::PROXY_UID),
            mark: None,
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_outbound_subnets: Vec::new(),
        }
    }
}

/// The rules in the language of `nft`, as `nft -f` would take them.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for family in [Family::Ip, Family::Ip6] {
            write!(f, "{}", Ruleset::new(family, self))?;
        }
        Ok(())
    }
}

/// Why the rules could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The kernel says EPERM.
    #[error(
        "writing redirect rules needs the NET_ADMIN capability in the pod's network namespace: add NET_ADMIN to the init container's securityContext.capabilities, or run as root"
    )]
    NotPermitted,
    /// The kernel has no nf_tables, or not the part of it that is named.
    #[error(
        "this kernel cannot {missing} ({source}): load the modules nf_tables, nft_chain_nat and nft_redir on the node"
    )]
    Unsupported {
        /// The step that failed, as "make …".
        missing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Neither a uid nor a mark was given: the proxy's connections would be redirected to itself, without end.
    #[error(
        "redirect rules need a uid or a mark that tells the proxy's own connections from the app's: give one of them"
    )]
    OwnTrafficUnknown,
    /// More than [`Rules::MAX_SKIPPED`] ports and subnets.
    #[error(
        "{skipped} ports and subnets are to be skipped, and at most {} can be: join them to ranges or larger subnets",
        Rules::MAX_SKIPPED
    )]
    TooManySkipped {
        /// How many were asked for.
        skipped: usize,
    },
    /// The namespace could not be entered.
    #[error(
        "cannot enter the network namespace ({0}): check that it still exists and that this process has CAP_SYS_ADMIN"
    )]
    Namespace(#[source] io::Error),
    /// Anything else the kernel or the socket said.
    #[error("the kernel refused to {step}: {source}")]
    Refused {
        /// The step that failed, as "make …".
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Enters the namespace in a thread of its own, since a thread that has left its namespace is of no use to anybody else.
fn inside(namespace: impl AsFd, act: impl FnOnce() -> Result<(), RedirectError> + Send) -> Result<(), RedirectError> {
    let namespace = namespace.as_fd();
    thread::scope(|scope| {
        let entered = scope.spawn(move || {
            rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
                .map_err(|errno| RedirectError::Namespace(errno.into()))?;
            act()
        });
        entered.join().expect("writing rules does not panic")
    })
}

/// Both families, or IPv4 alone on a kernel that was started without IPv6.
fn families() -> &'static [Family] {
    if Path::new("/proc/thread-self/net/if_inet6").exists() { &[Family::Ip, Family::Ip6] } else { &[Family::Ip] }
}

#[cfg(test)]
mod tests;
