//! The sidecar. See [`proxy`] for the life of a connection.

use std::process::ExitCode;
use std::time::Duration;

use proto::bootstrap::Ports;
use proto::{Bootstrap, names};
use proxy::args::Command;
use proxy::{App, Config, admin, app, telemetry};

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
    let done = match command {
        Command::Run => run(),
        Command::Init { rules, dry_run: true } => {
            print!("{rules}");
            Ok(())
        }
        Command::Init { rules, dry_run: false } => proxy::redirect::apply(&rules).map_err(Into::into),
        Command::Wait => wait(),
        Command::Drain => ports().and_then(|ports| Ok(admin::client::drain(ports.admin)?)),
        Command::Version => {
            println!("mesh-proxy {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Help(text) => {
            print!("{text}");
            Ok(())
        }
    };
    done.map_or_else(|error| refuse(&error, FAILURE), |()| ExitCode::SUCCESS)
}

fn run() -> anyhow::Result<()> {
    let config = Config::from_env()?;
    let log = telemetry::log::init(&config.bootstrap.log)?;
    // Blocking threads do nothing but ask for names.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(BLOCKING_STACK)
        .build()?;
    let outcome = runtime.block_on(async {
        let shutdown = app::terminated()?;
        App::build(config, log)?.run(shutdown).await
    });
    // A name that nobody answers for must not hold up the end.
    runtime.shutdown_background();
    Ok(outcome?)
}

fn wait() -> anyhow::Result<()> {
    Ok(admin::client::wait(ports()?.health, WAIT, |reason| eprintln!("mesh-proxy: not ready: {reason}"))?)
}

/// Of the proxy in this pod.
fn ports() -> anyhow::Result<Ports> {
    match std::env::var(names::BOOTSTRAP_VARIABLE) {
        Ok(json) => Ok(Bootstrap::parse(&json)?.ports),
        Err(_) => Ok(Ports::default()),
    }
}

fn refuse(error: &impl std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("mesh-proxy: {error}");
    ExitCode::from(code)
}

/// Longer than a control plane takes to come back; the kubelet then says why the pod does not start.
const WAIT: Duration = Duration::from_secs(120);
const BLOCKING_STACK: usize = 512 * 1024;
const FAILURE: u8 = 1;
const USAGE: u8 = 2;
