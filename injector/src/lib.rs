//! mesh-injector: who is injected, and what a meshed pod looks like.
//!
//! [`decision`], [`settings`] and [`config`] are pure, so that the webhook and the command line can't disagree.

pub mod config;
pub mod decision;
pub mod quantity;
pub mod settings;

pub use config::Config;
pub use decision::{Decision, Skipped, decide};
pub use settings::Settings;
