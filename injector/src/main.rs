//! mesh-injector. See [`injector`] for what it does.

use std::process::ExitCode;

use clap::Parser;
use controller_runtime::shutdown::Shutdown;
use injector::args::Args;

fn main() -> ExitCode {
    match serve(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-injector: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Args) -> anyhow::Result<()> {
    args.logs.start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { injector::run::run(args, Shutdown::on_signals()?).await });
    runtime.shutdown_background();
    outcome
}
