//! `mesh-identity`: the certificate authority, and the small command that writes join tokens.

use std::process::ExitCode;

use clap::Parser;
use identity_server::args::Args;

fn main() -> ExitCode {
    match Args::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-identity: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without those it has told itself.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
