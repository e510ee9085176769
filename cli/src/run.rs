//! From arguments to an exit code.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use proto::admin::Info;
use serde::Serialize;

use crate::args::{Args, Command, Shell};
use crate::kubernetes::{self, ConnectError, Place};
use crate::location::LocationError;
use crate::output::{self, Format};
use crate::table::Table;
use crate::transport::unix_socket::UnixSockets;
use crate::transport::{self, Transport as _};
use crate::{certificates, check, demo, edges, location, proxy_status, stat};

/// Runs the program: 0 when all is well, 1 when something is not, 2 when the command line makes no sense.
pub fn main() -> ExitCode {
    if let Some(code) = demo_part() {
        return code;
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are "errors" too, and go to standard output with code 0.
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let result = match &args.command {
        Command::Demo(demo) => demo::run(demo, args.demo_dir.as_deref()),
        Command::Completion { shell } => completion(*shell),
        Command::Version(version) if version.client => client_version(args.output),
        _ => runtime().and_then(|runtime| runtime.block_on(ask(&args))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshctl: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

/// The processes of a demo are this program too. Nobody types their commands, so neither help nor completion has them.
fn demo_part() -> Option<ExitCode> {
    match std::env::args_os().nth(1)?.to_str()? {
        // One pod: makes its network namespace, waits for its link, runs its processes.
        "demo-pod" => Some(demo::pod()),
        // First process of the demo's process namespace: when it ends, everything in there ends.
        "demo-init" => Some(demo::init()),
        // One application of the shop.
        "demo-app" => Some(demo::app()),
        _ => None,
    }
}

/// A runtime for one thread: everything here waits, nothing computes.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn ask(args: &Args) -> anyhow::Result<()> {
    match kubernetes::place(args.demo_dir.as_deref(), &args.cluster) {
        Place::Demo => ask_demo(args).await,
        Place::Kubernetes { no_demo } => ask_cluster(args, no_demo).await,
    }
}

/// The same commands on a cluster.
async fn ask_cluster(args: &Args, no_demo: Option<LocationError>) -> anyhow::Result<()> {
    let named = no_demo.is_none();
    match (&args.command, kubernetes::connect_there(&args.cluster, no_demo).await) {
        // Without a mesh there is still a version to tell, but not silently where one was named.
        (Command::Version(_), Err(ConnectError::NoMesh(_))) if !named => all_versions(None, args.output).await,
        // A demo that is about to start is waited for.
        (Command::Check(check), Err(ConnectError::NoMesh(_))) if check.wait.is_some() => {
            check::run(|| demo(args), check, args.output).await
        }
        (_, Err(error)) => Err(error.into()),
        (_, Ok(_)) => anyhow::bail!("this version looks at demos only; start one with: meshctl demo"),
    }
}

fn demo(args: &Args) -> anyhow::Result<UnixSockets> {
    Ok(UnixSockets::new(&location::find(args.demo_dir.as_deref())?))
}

async fn ask_demo(args: &Args) -> anyhow::Result<()> {
    if let Command::Check(check) = &args.command {
        return check::run(|| demo(args), check, args.output).await;
    }
    let transport = demo(args)?;
    match &args.command {
        Command::Stat(stat) => stat::run(&transport, stat, args.output).await,
        Command::Edges(edges) => edges::run(&transport, edges, args.output).await,
        Command::Identity(proxies) => certificates::run(&transport, proxies, args.output).await,
        Command::ProxyStatus(status) => proxy_status::run(&transport, status, args.output).await,
        Command::Version(_) => all_versions(Some(&transport), args.output).await,
        Command::Check(_) | Command::Demo(_) | Command::Completion { .. } => unreachable!("these were run before"),
    }
}

#[derive(Debug, Serialize)]
struct Versions {
    meshctl: &'static str,
    proxies: Vec<ProxyVersion>,
}

#[derive(Debug, Serialize)]
struct ProxyVersion {
    proxy: String,
    version: Option<String>,
    error: Option<String>,
}

fn client_version(format: Format) -> anyhow::Result<()> {
    print_versions(&Versions { meshctl: OWN, proxies: Vec::new() }, format)
}

async fn all_versions(transport: Option<&UnixSockets>, format: Format) -> anyhow::Result<()> {
    let mut versions = Versions { meshctl: OWN, proxies: Vec::new() };
    if let Some(transport) = transport {
        let pods = transport.pods().await?;
        let names: Vec<String> = pods.into_iter().filter(|pod| pod.meshed).map(|pod| pod.name).collect();
        for answer in transport::ask_json::<Info>(transport, &names, "/info").await {
            let (version, error) = match answer.result {
                Ok(info) => (Some(info.version), None),
                Err(error) => (None, Some(error.to_string())),
            };
            versions.proxies.push(ProxyVersion { proxy: answer.proxy, version, error });
        }
    }
    print_versions(&versions, format)
}

fn print_versions(versions: &Versions, format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return output::print(&output::json(versions));
    }
    let mut text = format!("meshctl {}\n", versions.meshctl);
    if !versions.proxies.is_empty() {
        let mut table = Table::new(&["PROXY", "VERSION"]);
        for ProxyVersion { proxy, version, error } in &versions.proxies {
            table.row(vec![proxy.clone(), version.clone().or_else(|| error.clone()).unwrap_or_default()]);
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    output::print(&text)
}

fn completion(shell: Shell) -> anyhow::Result<()> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "meshctl", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

const OWN: &str = env!("CARGO_PKG_VERSION");
const FAILURE: u8 = 1;
const USAGE: u8 = 2;
