//! mesh-controller. See [`controller`] for how facts become answers.

use std::process::ExitCode;

use clap::Parser;
use controller::args::{Cli, Command, ServeArgs};
use controller_runtime::shutdown::Shutdown;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Check { directory }) => match controller::check::check(&directory) {
            Ok(report) => {
                println!("{report}");
                return if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
            Err(error) => Err(error.into()),
        },
        None => serve(cli.serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    args.logs.start()?;
    // One thread serves thousands of streams; reading files has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { controller::run::run(args, Shutdown::on_signals()?).await });
    // A read of a hanging file system must not hold up the end.
    runtime.shutdown_background();
    outcome
}
