//! From arguments to an exit code.

use std::process::ExitCode;

use serde_json::Value;

use crate::args::{Args, CheckArgs, Command, Output, ScopeArgs, Shell, StatArgs};
use crate::check::{Lines, Report};
use crate::inject::Wish;
use crate::kubernetes::{self, Cluster, ConnectError, Place};
use crate::location::LocationError;
use crate::output;
use crate::stat::{Question, QuestionError};
use crate::target::{Kind, Target};
use crate::transport::port_forward::PortForward;
use crate::transport::unix_socket::UnixSockets;
use crate::usage::{UsageError, usage};
use crate::{
    analyze, certificates, check, demo, edges, explain, inject, install, location, proxy_status, stat, usage, version,
};

/// Runs the program: 0 when all is well, 1 when something is not, 2 when the command line makes no sense.
pub fn main() -> ExitCode {
    if let Some(code) = demo_part() {
        return code;
    }
    let args = match Args::parse_from(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are "errors" too, and go to standard output with code 0.
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { usage::USAGE } else { 0 });
        }
    };
    match sensible(&args).and_then(|()| perform(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshctl: {error:#}");
            usage::exit_code(&error)
        }
    }
}

/// What flags say together, looked at before anybody is asked or anything done.
fn sensible(args: &Args) -> anyhow::Result<()> {
    args.check_output()?;
    match &args.command {
        Command::Install(install) if install.kube_version.is_some() && args.output != Some(Output::Yaml) => {
            Err(usage("--kube-version goes with -o yaml: an installation asks the cluster"))
        }
        Command::Check(check) if !check.pre && !check.values.is_empty() => {
            Err(usage("-f, --set, --set-string and --ha are for an installation to come: they go with --pre"))
        }
        Command::Check(check) if check.pre && args.demo_dir.is_some() => Err(usage(NO_DEMO)),
        Command::Stat(stat) => Ok(question(args, stat, None).map(drop)?),
        Command::Edges(edges) => Ok(edges::question(edges, None).map(drop)?),
        _ => Ok(()),
    }
}

fn perform(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Demo(demo) => demo::run(demo, args.demo_dir.as_deref()),
        Command::Inject(inject) if inject.manual => runtime()
            .and_then(|runtime| runtime.block_on(Box::pin(inject::manual::run(inject, &args.cluster, args.output)))),
        Command::Inject(inject) if inject.disable => inject::run(&inject.manifests, Wish::Disabled, args.output),
        Command::Inject(inject) => inject::run(&inject.manifests, Wish::Enabled, args.output),
        Command::Uninject(manifests) => inject::run(manifests, Wish::Nothing, args.output),
        Command::Completion { shell } => completion(*shell),
        Command::Analyze(analyze) if !analyze.filename.is_empty() => analyze::run_on_files(analyze, args.format()),
        Command::Explain(question) => explain::run(question, args.format()),
        Command::Version(version) if version.client => version::client(args.format()),
        _ => runtime().and_then(|runtime| runtime.block_on(ask(args))),
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
    match &args.command {
        Command::Install(install) => return Box::pin(install::run(install, &args.cluster, args.output)).await,
        Command::Upgrade(upgrade) => return Box::pin(install::upgrade::run(upgrade, &args.cluster, args.output)).await,
        Command::Uninstall(uninstall) => {
            return Box::pin(install::uninstall::run(uninstall, &args.cluster, args.output)).await;
        }
        _ => {}
    }
    if let Command::Check(check) = &args.command {
        let overrides = install::overrides(serde_json::Map::new().into(), &check.values)?;
        let look = async || Box::pin(check_once(args, check, &overrides)).await;
        return Box::pin(check::run(look, check.wait, args.format())).await;
    }
    match kubernetes::place(args.demo_dir.as_deref(), &args.cluster) {
        Place::Demo => ask_demo(args).await,
        Place::Kubernetes { no_demo } => ask_cluster(args, no_demo).await,
    }
}

/// One look at whatever is there now: a demo, or a cluster, that is about to start is waited for by looking again.
async fn check_once(args: &Args, check: &CheckArgs, overrides: &Value) -> anyhow::Result<Report> {
    let no_demo = match kubernetes::place(args.demo_dir.as_deref(), &args.cluster) {
        Place::Demo => {
            anyhow::ensure!(!check.pre, UsageError(NO_DEMO.to_owned()));
            let answers = check::proxies::gather(&demo(args)?).await?;
            return Ok(check::proxies::judge(&answers, crate::now_ms()));
        }
        Place::Kubernetes { no_demo } => no_demo,
    };
    let cluster = kubernetes::connect_there(&args.cluster, no_demo).await?;
    if check.pre {
        let desired = install::desired(overrides, &cluster.version.git_version)?;
        return Ok(check::before::judge(&Box::pin(check::fetch::before(&cluster, &desired)).await));
    }
    let mut bundle = None;
    let (mut sections, scope) = match &check.namespace {
        Some(namespace) => (check_namespace(&cluster, namespace, None).await, Some(namespace.clone())),
        None => {
            let facts = Box::pin(check::fetch::installed(&cluster)).await;
            match check::installed::not_everybodys(&facts) {
                Some(why) => {
                    (check_namespace(&cluster, &cluster.namespace, Some(&why)).await, Some(cluster.namespace.clone()))
                }
                None => {
                    bundle = facts.bundles.as_deref().ok().and_then(check::trust::current);
                    (check::installed::sections(&facts), None)
                }
            }
        }
    };
    if check.proxy {
        let answers = check::proxies::gather(&PortForward::new(cluster.client.clone(), scope)).await;
        let bundle = bundle.map(|bundle| bundle.fingerprint().to_string());
        let answers = answers.map(|answers| check::proxies::Answers { bundle, ..answers });
        sections.push(check::proxies::section(&answers, crate::now_ms()));
    }
    Ok(Report::new(sections))
}

async fn check_namespace(cluster: &Cluster, namespace: &str, why: Option<&str>) -> Vec<Lines> {
    let facts = Box::pin(check::fetch::of_namespace(cluster, namespace)).await;
    check::installed::sections_of_namespace(&facts, namespace, why)
}

fn demo(args: &Args) -> anyhow::Result<UnixSockets> {
    Ok(UnixSockets::new(&location::find(args.demo_dir.as_deref())?))
}

async fn ask_demo(args: &Args) -> anyhow::Result<()> {
    let transport = demo(args)?;
    match &args.command {
        Command::Analyze(analyze) => {
            analyze::run_on_demo(&location::find(args.demo_dir.as_deref())?, analyze, args.format())
        }
        Command::Stat(stat) => {
            let question = question(args, stat, stat.scope.namespace.as_deref())?;
            stat::run(&transport, &question, stat, args.format()).await
        }
        Command::Edges(edges) => edges::run(&transport, edges, edges.scope.namespace.as_deref(), args.format()).await,
        Command::Identity(proxies) => certificates::run(&transport, proxies, args.format()).await,
        Command::ProxyStatus(status) => proxy_status::run(&transport, status, args.format()).await,
        Command::Version(_) => version::demo(&transport, args.format()).await,
        _ => unreachable!("these were run before"),
    }
}

/// The same commands on a cluster.
async fn ask_cluster(args: &Args, no_demo: Option<LocationError>) -> anyhow::Result<()> {
    let cluster = match (&args.command, kubernetes::connect_there(&args.cluster, no_demo).await) {
        // Without a mesh there is still a version to tell, but not silently where one was named.
        (Command::Version(_), Err(ConnectError::NoMesh(_))) => return version::client(args.format()),
        (Command::Version(_), Err(error)) => {
            version::client(args.format())?;
            return Err(error.into());
        }
        (_, cluster) => cluster?,
    };
    let way = |namespace: Option<&str>| PortForward::new(cluster.client.clone(), namespace.map(str::to_owned));
    let usual = cluster.namespace.as_str();
    match &args.command {
        Command::Analyze(analyze) => {
            analyze::run_on_cluster(&cluster, namespace(&analyze.scope, None, usual), args.format()).await
        }
        Command::Stat(stat) => {
            let question = question(args, stat, namespace(&stat.scope, None, usual))?;
            let (callers, own) = (way(question.scope()), way(question.namespace.as_deref()));
            stat::run_where_allowed(&callers, &own, &question, stat, args.format()).await
        }
        Command::Edges(edges) => {
            let namespace = namespace(&edges.scope, None, usual);
            let question = edges::question(edges, namespace)?;
            // Namespaces are in no namespace.
            let namespace = if question.kind == Some(Kind::Namespace) { question.scope() } else { namespace };
            edges::run(&way(namespace), edges, namespace, args.format()).await
        }
        Command::Identity(proxies) => {
            let namespace = namespace(&proxies.scope, proxies.proxy.as_deref(), usual);
            certificates::run(&way(namespace), proxies, args.format()).await
        }
        Command::ProxyStatus(status) => {
            let namespace = namespace(&status.scope, status.proxy.as_deref(), usual);
            proxy_status::run(&way(namespace), status, args.format()).await
        }
        Command::Version(_) => version::cluster(&cluster, &way(None), args.format()).await,
        _ => unreachable!("these were run before"),
    }
}

fn question(args: &Args, stat: &StatArgs, namespace: Option<&str>) -> Result<Question, QuestionError> {
    Ok(Question { errors: args.output == Some(Output::Wide), ..Question::new(stat, namespace)? })
}

/// The namespace to look at, none for all: what the flags say, else that of a proxy named `namespace/pod`, else the usual one.
fn namespace<'n>(scope: &'n ScopeArgs, proxy: Option<&'n str>, usual: &'n str) -> Option<&'n str> {
    if scope.all_namespaces {
        return None;
    }
    let of_proxy = || {
        let (namespace, _) = proxy?.split_once('/')?;
        Target::parse_one(proxy?).is_err().then_some(namespace)
    };
    Some(scope.namespace.as_deref().or_else(of_proxy).unwrap_or(usual))
}

fn completion(shell: Shell) -> anyhow::Result<()> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::tree(), "meshctl", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

const NO_DEMO: &str = "a demo needs nothing installed; for --pre name a cluster with --context or --kubeconfig";
