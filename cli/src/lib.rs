//! `meshctl`, the command line of the mesh.
//!
//! A command that looks at the mesh goes the same way every time:
//!
//! ```text
//! args ── location ── transport ── exposition / proto::admin ── traffic ── stat, edges … ── table or JSON
//!         where?      one trait     what the proxies said       figures     rows
//! ```
//!
//! - [`transport`] is the only way to a proxy: list them, GET a path of their admin. Over the unix sockets of a demo, or by
//!   port-forwarding into a cluster.
//! - [`exposition`] reads Prometheus text, [`traffic`] turns two scrapes into rates, success, quantiles and mTLS share.
//! - [`stat`], [`edges`], [`certificates`], [`proxy_status`], [`version`] and [`check`] are the commands: each gathers, decides
//!   with a pure function, and prints. [`target`] is what they let people name.
//! - [`analyze`] says what is wrong with manifests, or with what is in a cluster.
//! - [`kubernetes`] connects to a cluster, and holds the rule of what a command looks at: a demo or a cluster.
//! - [`charts`] renders the Helm charts, and [`install`] brings what they say into a cluster and out of it;
//!   [`inject`] puts the word for a proxy into manifests. [`input`] reads manifests for whoever is given some.
//! - [`usage`] tells what was typed wrongly from what is not as it should be: exit codes 2 and 1.
//! - [`demo`] runs a whole mesh on this machine, in network namespaces of its own.

pub mod analyze;
pub mod args;
pub mod certificates;
pub mod charts;
pub mod check;
pub mod demo;
pub mod edges;
pub mod explain;
pub mod exposition;
pub mod inject;
pub mod input;
pub mod install;
pub mod kubernetes;
pub mod location;
pub mod output;
pub mod progress;
pub mod proxy_status;
pub mod stat;
pub mod table;
pub mod target;
pub mod traffic;
pub mod transport;
pub mod usage;
pub mod version;

pub(crate) mod run;

pub use run::main;

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
