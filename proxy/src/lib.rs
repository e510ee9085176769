//! The sidecar.
//!
//! # The life of a connection
//!
//! ```text
//!  app ── redirect ──► 15001                                        15006 ◄── redirect ── anybody
//!                        │ worker: accept, bounds                     │
//!                        ▼                                            ▼
//!                     outbound ── control: what is this address?   inbound ── control: what is this port?
//!                        │ detect: which protocol?                    │ detect: mesh TLS, own TLS, plaintext?
//!            ┌───────────┴──────────┐                                 │ tls: who is it? preface
//!            ▼                      ▼                     ┌───────────┴──────────┐
//!      outbound::http         outbound::tcp         inbound::http          inbound::tcp
//!       per request            per connection        1:1 to the app         1:1 to the app
//!            └───────────┬──────────┘                     └───────────┬──────────┘
//!                     balance: which endpoint?                        ▼
//!                     upstream: plain, mesh TLS, or                  app, on the pod's own address
//!                        │      ourselves, in process
//!                        └──────────────► the endpoint's inbound
//! ```
//!
//! A connection is accepted by one worker and stays there: a worker is a thread with a single-threaded runtime, its own
//! pools and its own view of how endpoints do ([`worker`]). Discovery, certificates, metrics and admin have a thread of
//! their own; workers read what it publishes and never wait for it, but for the first answer about a destination.
//!
//! Around this: [`args`] are the commands, [`app`] starts and stops everything, [`redirect`] writes the rules (`init`),
//! [`control`] keeps certificate and picture current, [`http`] holds both codecs and the `Head` they share, [`telemetry`]
//! the metrics and the failure ring, [`drain`] the end.
//!
//! Every failure is an [`Error`] with a [`proto::Reason`]: the word that the response, the log, the metric and the
//! failure ring share.

pub mod admin;
pub mod app;
pub mod args;
pub mod balance;
pub mod config;
pub mod control;
pub mod detect;
pub mod drain;
pub mod error;
pub mod http;
pub mod inbound;
pub mod net;
pub mod outbound;
pub mod race;
pub mod redirect;
pub mod stream;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod worker;

pub use app::App;
pub use config::Config;
pub use error::{Error, Fault};

#[cfg(test)]
mod testbed;
