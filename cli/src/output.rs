//! How answers are printed: tables for people, JSON for programs.

use clap::ValueEnum;
use serde::Serialize;

/// What `-o` chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    Table,
    /// One JSON document.
    Json,
}

/// The JSON document of an answer, indented, with a line end.
pub fn json(answer: &impl Serialize) -> String {
    let mut text =
        serde_json::to_string_pretty(answer).expect("answers are structs, lists, strings and finite numbers");
    text.push('\n');
    text
}

/// Writes to standard output. A reader that has gone away (`meshctl stat | head -1`) is no failure.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
