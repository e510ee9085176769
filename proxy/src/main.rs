//! The sidecar. See [`proxy`] for the life of a connection.

use std::process::ExitCode;

use proto::{Bootstrap, names};
use proxy::args::Command;

fn main() -> ExitCode {
    match command().map(act) {
        Ok(code) => code,
        Err(error) => refuse(&error, USAGE),
    }
}

fn command() -> anyhow::Result<Command> {
    let args: Vec<_> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let command = Command::parse(args.clone(), None)?;
    match std::env::var(names::BOOTSTRAP_VARIABLE) {
        Ok(json) if matches!(command, Command::Init { .. }) => {
            Ok(Command::parse(args, Some(&Bootstrap::parse(&json)?))?)
        }
        _ => Ok(command),
    }
}

fn act(command: Command) -> ExitCode {
    match command {
        Command::Init { rules, dry_run: true } => print!("{rules}"),
        Command::Init { rules, dry_run: false } => {
            if let Err(error) = proxy::redirect::apply(&rules) {
                return refuse(&error, FAILURE);
            }
        }
        Command::Version => println!("mesh-proxy {}", env!("CARGO_PKG_VERSION")),
        Command::Help(text) => print!("{text}"),
        Command::Run | Command::Wait | Command::Drain => return refuse(&"this build cannot do that yet", FAILURE),
    }
    ExitCode::SUCCESS
}

fn refuse(error: &impl std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("mesh-proxy: {error}");
    ExitCode::from(code)
}

const FAILURE: u8 = 1;
const USAGE: u8 = 2;
