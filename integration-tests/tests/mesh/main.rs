//! The mesh as processes: identity, controllers and proxies, killed, stopped, restarted and fed with nonsense while
//! traffic flows. Needs root, and the release build (`integration-tests/run mesh` sees to both).
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all tests")]

mod bad_http;
mod bad_input;
mod certificates;
mod cli;
mod control_plane;
mod demo;
mod endpoints;
mod overload;
mod readme;
mod renewal;
mod routes;
mod scale;
mod shop;
