//! mesh-controller: discovery.
//!
//! ```text
//!   directory ──► Picture ──► Facts ──┐                    ┌─► Session ─► stream to a proxy
//!   (files)       (last good   (what  ├─► World ─► Hub ─►──┼─► Session ─► stream to a proxy
//!                  of each)    was    │   values, made     └─► …
//!   Kubernetes ─► Inventory ─► read)──┤   once per key
//!   (watches)                         │
//!   trust bundle ─────────────────────┘
//! ```
//!
//! - [`kubernetes`]: a cluster's objects to facts, by watches that never go back and whose age is known.
//! - [`directory`]: manifests in a directory to facts; a broken file keeps its last good content.
//! - [`progress`]: how far facts had come; what makes replicas comparable.
//! - [`world`], [`hub`]: facts and the values made of them by `resolve`, and the newest of these for everybody to watch.
//! - [`serve`]: the discovery service. [`serve::session`] decides what one proxy is told and when, without sockets.
//! - [`check`]: the same reading for people, offline.
//!
//! Facts hold what was read and nothing computed; `resolve` is pure; a stream sends a value when its hash differs from
//! the one sent before. That is all there is to "incremental".
//!
//! What that costs, as `world/cost.rs` measures it on a busy machine: with 20,000 pods, 1,000 Services and 1,000 proxies
//! that subscribe to 23 keys each, a change takes one core 25 ms for the facts, and 80 ms until every proxy has been
//! looked at (3,000 values made, encoded and hashed). Both grow with the cluster, not with the change; a second, within
//! which it has to be in force, is long enough. Changes that arrive meanwhile are taken together, so that many of them
//! take no longer than one, and cost a core or two for as long as they come.
//!
//! No value is carried over from one world to the next. It would save about half of that, and whatever a value depends on
//! (a Service's slices, their pods, its namespace, its routes and their backends, nodes, who else claims an address) would
//! be written a second time beside `resolve`, where the first thing forgotten is a value that is silently stale.

pub mod args;
pub mod check;
pub mod directory;
pub mod hub;
pub mod kubernetes;
pub mod metrics;
pub mod progress;
pub mod run;
pub mod serve;
pub mod world;

#[cfg(test)]
mod simulation;
