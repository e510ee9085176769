//! mesh-injector: who is injected, what a meshed pod looks like, and the program that makes it so.
//!
//! ```text
//!   API server ── AdmissionReview ──► serve ──► webhook ──► review      question and answer
//!                                                  │
//!                             pods ────────────────┼──► inject ──► decision, settings, config
//!                             namespaces ──────────┴──► mirror
//!   beside it: namespaces (a copy, and repairs), ca_bundle, api_servers, events, metrics
//! ```
//!
//! [`inject`](mod@inject), [`decision`], [`settings`], [`config`] and [`mirror`] are pure, so that the webhook and the
//! command line can't disagree. The program keeps nothing: any number of replicas do the same.

pub mod api_servers;
pub mod args;
pub mod ca_bundle;
pub mod config;
pub mod decision;
pub mod events;
pub mod inject;
pub mod metrics;
pub mod mirror;
pub mod namespaces;
pub mod quantity;
pub mod quoted;
pub mod review;
pub mod run;
pub mod serve;
pub mod settings;
pub mod webhook;

pub use config::Config;
pub use decision::{Decision, Skipped, decide};
pub use inject::{Injection, Outcome, inject, pod_security};
pub use settings::Settings;
