//! mesh-injector: who is injected, and what a meshed pod looks like.
//!
//! [`decision`], [`settings`], [`config`] and [`inject`](mod@inject) are pure, so that the webhook and the command line can't disagree.

pub mod config;
pub mod decision;
pub mod inject;
pub mod quantity;
pub mod settings;

pub use config::Config;
pub use decision::{Decision, Skipped, decide};
pub use inject::{Injection, Outcome, inject};
pub use settings::Settings;
