//! The mesh on a real Kubernetes, used as README says. Needs `integration-tests/cluster up --nodes 2` and `load`
//! (`integration-tests/run cluster` sees to both).
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all tests")]

mod account;
mod analyze;
mod away;
mod capture;
mod charts;
mod cli;
mod first_steps;
mod identity;
mod injection;
mod install;
mod nothing_fails;
mod plain;
mod pods;
mod policies;
mod probes;
mod prometheus;
mod replicas;
mod rotation;
mod routes;
mod sample;
mod services;
mod shop;
mod source;
mod wall;
mod watches;
