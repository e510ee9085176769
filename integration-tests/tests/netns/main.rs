//! Pods with the real redirect rules, and in them clients and servers as users have them. Each test has a mesh of its own. Needs
//! root, the release build, and the Debian packages that `integration-tests/run netns` installs.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all tests")]

mod capture;
mod databases;
mod grpc;
mod http;
mod large;
mod opaque;
mod own_tls;
mod pair;
mod silence;
mod websocket;
