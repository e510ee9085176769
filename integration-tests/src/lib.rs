//! What the tests of the whole mesh share. Development only: nothing here ships.
//!
//! - [`capture`]: what a capture of the network shows.
//! - [`cluster`]: a user of a real Kubernetes.
//! - [`demo`]: a running `meshctl demo`.
//! - [`lint`]: the house rules that no compiler and no Clippy lint checks.
//! - [`mesh`]: a whole mesh of real programs in network namespaces.
//! - [`traffic`]: clients and servers for the tests, run inside pods by the `traffic` program.

pub mod capture;
pub mod cluster;
pub mod demo;
pub mod lint;
pub mod mesh;
pub mod traffic;
