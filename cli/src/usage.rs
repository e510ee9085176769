//! Exit codes: which failures are the command line's own, and which say how things are.
//!
//! 0 when all is as it should be; 1 when something is not, or could not be done; 2 when what was typed makes no sense, wherever
//! that is found: by the parser, by what flags say together, or in a file or value that they name.

use std::process::ExitCode;

use crate::charts::{ChartError, ValuesError};
use crate::kubernetes::ConnectError;
use crate::stat::QuestionError;

/// What was typed makes no sense: the sentence says what to type instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The code that a command which failed ends with.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if is_usage(error) { USAGE } else { FAILURE })
}

/// Whether typing something else would mend it.
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<UsageError>().is_some()
        || error.downcast_ref::<QuestionError>().is_some_and(QuestionError::is_usage)
        || error.downcast_ref::<ConnectError>().is_some_and(ConnectError::is_usage)
        || error.downcast_ref::<ValuesError>().is_some()
        // The charts are this program's own: what does not render, or is refused, was given to them.
        || error.downcast_ref::<ChartError>().is_some()
}

/// A usage error as any command returns it.
pub fn usage(sentence: impl Into<String>) -> anyhow::Error {
    UsageError(sentence.into()).into()
}

const FAILURE: u8 = 1;
/// What clap ends with as well.
pub const USAGE: u8 = 2;
