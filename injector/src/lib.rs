//! mesh-injector: who is injected.
//!
//! [`decision`] is pure, so that the webhook and the command line can't disagree about it.

pub mod decision;

pub use decision::{Decision, Skipped, decide};
