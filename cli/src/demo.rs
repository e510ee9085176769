//! `meshctl demo`: a whole mesh on this machine.
//!
//! ```text
//! meshctl demo ──────────── its own network namespace: the bridge mesh0, 10.244.0.1
//!   ├ demo-init              first process of its own process namespace: its end ends everything below
//!   ├ demo-pod identity      a network namespace each, a veth pair to the bridge
//!   ├ demo-pod controller
//!   ├ demo-pod storefront ── mesh-proxy init, mesh-proxy, demo-app
//!   ├ …
//!   └ demo-pod traffic    ── mesh-proxy init, mesh-proxy, demo-app that drives the others
//! ```
//!
//! Namespaces are anonymous: they hang on the processes, so `kill -9` leaves nothing but a directory, and the next demo
//! removes that. Everything else is as in a cluster: real redirect rules, real tokens and certificates, discovery, admin.

use std::path::Path;
use std::process::ExitCode;

use crate::args::DemoArgs;

#[cfg(target_os = "linux")]
mod app;
#[cfg(target_os = "linux")]
mod control_plane;
#[cfg(target_os = "linux")]
mod directory;
#[cfg(target_os = "linux")]
mod live;
#[cfg(target_os = "linux")]
mod manifest_check;
#[cfg(target_os = "linux")]
mod manifests;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod pod;
#[cfg(target_os = "linux")]
mod programs;
#[cfg(target_os = "linux")]
mod session;
#[cfg(target_os = "linux")]
mod shop;
#[cfg(target_os = "linux")]
mod stage;
#[cfg(target_os = "linux")]
mod verdict;

/// Runs the demo until it is over.
#[cfg(target_os = "linux")]
pub fn run(args: &DemoArgs, named: Option<&Path>) -> anyhow::Result<()> {
    session::run(args, named)
}

/// Runs one pod.
#[cfg(target_os = "linux")]
pub fn pod() -> ExitCode {
    pod::run()
}

/// Runs the first process of the process namespace.
#[cfg(target_os = "linux")]
pub fn init() -> ExitCode {
    namespaces::init()
}

/// Runs one application.
#[cfg(target_os = "linux")]
pub fn app() -> ExitCode {
    app::run()
}

/// There are no network namespaces here.
#[cfg(not(target_os = "linux"))]
pub fn run(_: &DemoArgs, _: Option<&Path>) -> anyhow::Result<()> {
    anyhow::bail!(
        "the demo needs Linux (network namespaces, nftables): run it in a virtual machine or a privileged container"
    )
}

/// There are no network namespaces here.
#[cfg(not(target_os = "linux"))]
pub fn pod() -> ExitCode {
    ExitCode::FAILURE
}

/// There are no network namespaces here.
#[cfg(not(target_os = "linux"))]
pub fn init() -> ExitCode {
    ExitCode::FAILURE
}

/// There are no network namespaces here.
#[cfg(not(target_os = "linux"))]
pub fn app() -> ExitCode {
    ExitCode::FAILURE
}
