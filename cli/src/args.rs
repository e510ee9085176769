//! The command tree: what can be typed, and the help that teaches it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::install::Way;
use crate::install::preflight;
use crate::kubernetes::ClusterArgs;
use crate::output::Format;

/// Everything that can be typed.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, about = "Install a service mesh, look at it, and try one out", after_help = EXAMPLES)]
#[command(arg_required_else_help = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to print: table for people, json for programs; with stat also wide, a table with errors per second; with install and
    /// upgrade also yaml, the objects, and nothing is done
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    #[arg(hide_possible_values = true, help_heading = EVERYWHERE)]
    pub output: Output,
    /// Directory of a running demo [default: found by itself]
    #[arg(long, visible_alias = "directory", global = true, value_name = "DIR", env = "MESHCTL_DEMO_DIR")]
    #[arg(hide_env_values = true, help_heading = EVERYWHERE)]
    pub demo_dir: Option<PathBuf>,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What `-o` chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns.
    Table,
    /// More columns.
    Wide,
    /// One JSON document.
    Json,
    /// Kubernetes objects, and nothing is done.
    Yaml,
}

impl Args {
    /// The format of a command that answers in tables.
    pub fn format(&self) -> anyhow::Result<Format> {
        match self.output {
            Output::Table => Ok(Format::Table),
            Output::Wide if matches!(self.command, Command::Stat(_)) => Ok(Format::Table),
            Output::Wide => anyhow::bail!("-o wide is for stat"),
            Output::Json => Ok(Format::Json),
            Output::Yaml => anyhow::bail!("-o yaml is for install and upgrade; use -o json"),
        }
    }
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install the mesh into a cluster, go on with an interrupted installation, or change its values
    #[command(after_help = INSTALL_EXAMPLES)]
    Install(InstallArgs),
    /// Bring an installed mesh to this version, with the values it was installed with
    #[command(after_help = UPGRADE_EXAMPLES)]
    Upgrade(UpgradeArgs),
    /// Take the mesh out of a cluster
    #[command(after_help = UNINSTALL_EXAMPLES)]
    Uninstall(UninstallArgs),
    /// Annotate manifests so that their pods get a proxy: standard input to standard output
    #[command(after_help = INJECT_EXAMPLES)]
    Inject(InjectArgs),
    /// Take that annotation out of manifests again: standard input to standard output
    #[command(after_help = UNINJECT_EXAMPLES)]
    Uninject,
    /// Is the mesh well? One line per check, with a hint beside each that fails
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// What is wrong, or without effect, in manifests or in a cluster: routes, Services, annotations, the mesh's own kinds
    #[command(after_help = crate::analyze::EXAMPLES)]
    Analyze(crate::analyze::AnalyzeArgs),
    /// Success rate, requests per second, latency and mTLS share of every workload
    #[command(after_help = STAT_EXAMPLES)]
    Stat(StatArgs),
    /// Who calls whom, how it goes, and which identities both ends showed
    #[command(after_help = EDGES_EXAMPLES)]
    Edges(EdgesArgs),
    /// Certificate of every proxy: identity, expiry, renewals, trust anchors
    #[command(after_help = IDENTITY_EXAMPLES)]
    Identity(ProxyArgs),
    /// How current every proxy's picture of the mesh is, and what it rejected
    #[command(name = "proxy-status", after_help = PROXY_STATUS_EXAMPLES)]
    ProxyStatus(ProxyStatusArgs),
    /// Version of this program, of the cluster, of the control plane and of every proxy that answers
    #[command(after_help = VERSION_EXAMPLES)]
    Version(VersionArgs),
    /// What a reason in Proxy-Status, in a proxy's log or in mesh_failures_total means, and what to look at
    #[command(after_help = crate::explain::EXAMPLES)]
    Explain(crate::explain::ExplainArgs),
    /// Run a whole mesh on this machine: no Kubernetes, no registry, nothing to install
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Print the completion script of a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// Shells with a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// Values of the chart.
#[derive(Debug, Default, ClapArgs)]
pub struct ValuesArgs {
    /// File of values, laid over the chart's; give it several times, the last wins (- for standard input)
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub values: Vec<PathBuf>,
    /// A value, as Helm reads it: a.b=1, a[0]=x, a={x,y}; laid over the files
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The same, and the value is text whatever it looks like
    #[arg(long, value_name = "KEY=TEXT")]
    pub set_string: Vec<String>,
    /// Several replicas of everything, kept apart and evicted one at a time
    #[arg(long)]
    pub ha: bool,
}

/// `install`.
#[derive(Debug, ClapArgs)]
pub struct InstallArgs {
    /// Version of Kubernetes that -o yaml is for, as for helm template: no cluster is asked [default: v1.34.0]
    #[arg(long, value_name = "VERSION", value_parser = kube_version)]
    pub kube_version: Option<String>,
    /// Values.
    #[command(flatten)]
    pub values: ValuesArgs,
    /// How.
    #[command(flatten)]
    pub way: Way,
}

/// `upgrade`.
#[derive(Debug, ClapArgs)]
pub struct UpgradeArgs {
    /// Only say what would change, and whether running proxies go on working
    #[arg(long)]
    pub plan: bool,
    /// Forget the values of the last installation
    #[arg(long)]
    pub reset_values: bool,
    /// Values.
    #[command(flatten)]
    pub values: ValuesArgs,
    /// How.
    #[command(flatten)]
    pub way: Way,
}

/// `inject`.
#[derive(Debug, ClapArgs)]
pub struct InjectArgs {
    /// Annotate them against a proxy, whatever their namespace says
    #[arg(long)]
    pub disable: bool,
    /// Put the proxy itself in, here and now: for a cluster that allows no webhook, or to see what it would do
    #[arg(long, conflicts_with = "disable")]
    pub manual: bool,
    /// With --manual: the chart's own settings instead of those of the mesh that is installed
    #[arg(long, requires = "manual")]
    pub ignore_cluster: bool,
}

/// `uninstall`.
#[derive(Debug, ClapArgs)]
pub struct UninstallArgs {
    /// Even while pods have a proxy
    #[arg(long)]
    pub force: bool,
    /// Delete the CRDs of meshctl.io as well, and with them every object of their kinds
    #[arg(long)]
    pub crds: bool,
    /// How long to wait for the namespace to end (90s, 5m)
    #[arg(long, value_parser = duration, default_value = "5m", value_name = "TIME")]
    pub timeout: Duration,
}

/// `check`.
#[derive(Debug, ClapArgs)]
pub struct CheckArgs {
    /// Before installing: is this cluster ready for a mesh?
    #[arg(long, conflicts_with = "proxy")]
    pub pre: bool,
    /// What is to be installed, with --pre.
    #[command(flatten)]
    pub values: ValuesArgs,
    /// Ask every proxy as well: version, certificate, age of its picture
    #[arg(long)]
    pub proxy: bool,
    /// Only this namespace and its pods, for whoever may see no other [default: everything; where that is not allowed, the
    /// namespace of the kubeconfig's context]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "pre")]
    pub namespace: Option<String>,
    /// Ask again until every check passes, at most this long (30s, 2m)
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub wait: Option<Duration>,
}

/// Which namespaces are looked at.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ScopeArgs {
    /// Namespace to look at [default: that of the kubeconfig's context; in a demo all]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Look at all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

/// `stat`.
#[derive(Debug, Default, ClapArgs)]
pub struct StatArgs {
    /// What to show: deploy, sts, ds, job, cronjob, pod, svc or ns, alone or with names, as in deploy/web [default: all
    /// workloads]
    #[arg(value_name = "KIND[/NAME]")]
    pub target: Vec<String>,
    /// Which namespaces.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Rows are the called, and only what this one sends them counts
    #[arg(long, value_name = "KIND/NAME", conflicts_with = "to")]
    pub from: Option<String>,
    /// Namespace of --from [default: the one looked at]
    #[arg(long, value_name = "NAMESPACE", requires = "from")]
    pub from_namespace: Option<String>,
    /// Rows are the callers, and only what they send to this one counts
    #[arg(long, value_name = "KIND/NAME")]
    pub to: Option<String>,
    /// Namespace of --to [default: the one looked at]
    #[arg(long, value_name = "NAMESPACE", requires = "to")]
    pub to_namespace: Option<String>,
    /// Add what the proxies take: CPU, memory, time added to a request
    #[arg(long)]
    pub proxy: bool,
    /// Go on until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// What a row stands for: workload, pod, service, namespace, or version (a Service, and the version behind it)
    #[arg(long, value_enum, default_value_t = crate::stat::By::Workload, conflicts_with = "target")]
    #[arg(hide_possible_values = true)]
    pub by: crate::stat::By,
    /// Time between the two looks that rates are made from (500ms, 2s, 1m)
    #[arg(long, value_parser = window, default_value = "2s", value_name = "TIME")]
    pub window: Duration,
}

/// `edges`.
#[derive(Debug, ClapArgs)]
pub struct EdgesArgs {
    /// Which namespaces: edges with an end in there.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Time between the two looks that rates are made from (500ms, 2s, 1m)
    #[arg(long, value_parser = window, default_value = "2s", value_name = "TIME")]
    pub window: Duration,
}

/// `identity`.
#[derive(Debug, ClapArgs)]
pub struct ProxyArgs {
    /// Only this proxy, or those of a workload, as in deploy/web
    pub proxy: Option<String>,
    /// Which namespaces.
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// `proxy-status`.
#[derive(Debug, ClapArgs)]
pub struct ProxyStatusArgs {
    /// Only this proxy, or those of a workload, with everything they subscribe to
    pub proxy: Option<String>,
    /// Which namespaces.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Age from which a proxy's picture counts as stale [default: 15s in a demo, 45s in a cluster]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub stale_after: Option<Duration>,
}

/// `version`.
#[derive(Debug, ClapArgs)]
pub struct VersionArgs {
    /// Only this program, ask no proxy
    #[arg(long)]
    pub client: bool,
}

/// `demo`.
#[derive(Debug, ClapArgs)]
pub struct DemoArgs {
    /// Run 10 seconds of traffic, print check, stat and edges, and end with 0 only if all of it is right
    #[arg(long, conflicts_with = "for")]
    pub once: bool,
    /// End by itself after this long (30s, 10m) [default: on Ctrl-C]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub r#for: Option<Duration>,
    /// Requests per second that enter the shop, 1 to 5000
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub rps: u32,
    /// With --once: stay up afterwards, until Ctrl-C
    #[arg(long, requires = "once")]
    pub keep_open: bool,
    /// Without proxies and rules, to see what the mesh adds (with --once this fails: no edge is mTLS).
    #[arg(long, hide = true)]
    pub no_mesh: bool,
    /// Use a user namespace even as root.
    #[arg(long, hide = true)]
    pub user_namespace: bool,
}

/// Reads `500ms`, `2s`, `1m`, `1h`, or a bare number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a time; write 500ms, 2s or 1m"))?;
    let milliseconds = match &text[digits.len()..] {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    let year = 366 * 24 * 3_600_000;
    milliseconds
        .filter(|milliseconds| *milliseconds <= year)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not a time; write 500ms, 2s or 1m"))
}

/// Reads `1.29`, `v1.29` or `v1.29.3` as the API server writes it.
fn kube_version(text: &str) -> Result<String, String> {
    let numbers: Option<Vec<u32>> = text.trim_start_matches('v').split('.').map(|number| number.parse().ok()).collect();
    if let Some([major, minor, ..]) = numbers.as_deref()
        && let Some(needed) = preflight::needs_newer((*major, *minor))
    {
        return Err(needed);
    }
    match numbers.as_deref() {
        Some([major, minor]) => Ok(format!("v{major}.{minor}.0")),
        Some([major, minor, patch]) => Ok(format!("v{major}.{minor}.{patch}")),
        _ => Err(format!("{text:?} is no version of Kubernetes; write v1.29 or v1.29.3")),
    }
}

fn window(text: &str) -> Result<Duration, String> {
    let window = duration(text)?;
    if (Duration::from_millis(100)..=Duration::from_secs(600)).contains(&window) {
        return Ok(window);
    }
    Err("a window is 100ms to 10m long".to_owned())
}

/// Heading of the flags that every command has.
const EVERYWHERE: &str = "Every command";
const EXAMPLES: &str = "\
Examples:
  meshctl demo                 run a whole mesh here and watch it
  meshctl install              install the mesh into a Kubernetes cluster
  meshctl check                is everything well?
  meshctl stat                 figures of every workload
  meshctl edges -o json        who calls whom, for a program

Exit codes: 0 all is well, 1 something is not (the message says what to do), 2 the command line \
makes no sense.";

const INSTALL_EXAMPLES: &str = "\
Examples:
  meshctl install
  meshctl install --ha
  meshctl install --set image.registry=registry.example.com/mesh --set proxy.logLevel=warn
  meshctl install -f values.yaml
  meshctl install -o yaml | less        what would be applied; no cluster is asked

Renders the same charts as Helm (charts/mesh-crds, charts/mesh; charts/mesh/values.yaml lists the values) and applies them \
to the namespace mesh-system. Run it again after an interruption, or with other values: the values \
given are all there are (upgrade keeps the last ones). While one runs, another is refused. What Helm \
installed is left to Helm.";

const INJECT_EXAMPLES: &str = "\
Examples:
  kubectl get deploy -o yaml | meshctl inject | kubectl apply -f -
  meshctl inject < app.yaml > meshed.yaml
  meshctl inject --disable < batch.yaml | kubectl apply -f -
  meshctl inject --manual < app.yaml | kubectl apply -f -
  meshctl inject --manual --ignore-cluster < app.yaml | diff app.yaml -

Sets the annotation meshctl.io/inject on what pods are made from (Deployment, StatefulSet, DaemonSet, Job, CronJob, \
Pod, Namespace …, in YAML or JSON, many documents or a List). The proxy itself is put in by the \
cluster when the pod is made; with --manual it is put in here, by the same rules and with the settings of the installed mesh, and \
keeps its version until the manifest is made anew. Documents that change lose their comments, the others stay as they are.";

const UNINJECT_EXAMPLES: &str = "\
Examples:
  kubectl get deploy -o yaml | meshctl uninject | kubectl apply -f -
  meshctl uninject < meshed.yaml > app.yaml

From then on the namespace decides. A proxy that inject --manual put in stays: make the manifest anew without it.";

const UPGRADE_EXAMPLES: &str = "\
Examples:
  meshctl upgrade --plan
  meshctl upgrade
  meshctl upgrade --set controller.replicas=3   and keep all other values

Running proxies keep their version until their pods are restarted; those of the same and the \
minor version before go on working.";

const UNINSTALL_EXAMPLES: &str = "\
Examples:
  meshctl uninstall
  meshctl uninstall --crds     the kinds of meshctl.io and all objects of theirs as well
  meshctl uninstall --force    even while pods have a proxy: they work until their certificates end

Refuses while pods have a proxy, because they lose their certificate authority, and says when each \
certificate ends. Labels that the mesh wrote on namespaces go; annotations stay: they are their owners' words. \
The namespace mesh-system goes if meshctl install made it and nothing of anybody else's is in it.";

const CHECK_EXAMPLES: &str = "\
Examples:
  meshctl check --pre          can a mesh be installed here?
  meshctl check --pre --ha     the same for meshctl install --ha; -f and --set as there
  meshctl check                is the installed one well?
  meshctl check --proxy        its proxies too
  meshctl check -n shop        one namespace of yours, with no rights elsewhere
  meshctl check --wait 1m      until all is well, for a script
  meshctl check -o json

Exit codes: 0 when nothing failed (warnings are no failure), 1 otherwise.";

const STAT_EXAMPLES: &str = "\
Examples:
  meshctl stat                 per workload, as its own proxy saw it
  meshctl stat deploy -n shop
  meshctl stat deploy/web --to svc/cart
  meshctl stat svc -A
  meshctl stat pod --proxy     what each proxy takes
  meshctl stat --by version    how a canary does beside the stable version
  meshctl stat --window 10s    calmer figures
  meshctl stat -o wide         errors per second as well

MESHED is proxies that answered out of pods known. SUCCESS is the share of requests that did not fail: failures are 5xx, \
requests without an answer, and the gRPC statuses that are the server's doing (UNKNOWN, DEADLINE_EXCEEDED, \
RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS). A 4xx is the client's doing and counts as a success; -o wide \
and -o json show 4xx and failures per second. MTLS is the share of requests that came by mutual TLS. Behind an HTTPRoute, the \
Service of a request is the backend it was sent to. CPU and MEMORY are the sum of the row's proxies; \
ADDED is the time that requests spent in the proxies of their callers rather than behind them.";

const EDGES_EXAMPLES: &str = "\
Examples:
  meshctl edges
  meshctl edges -n shop
  meshctl edges -A --window 10s
  meshctl edges -o json

Figures are those of the calling proxy where it is known; identities are from the certificates \
both ends showed.";

const IDENTITY_EXAMPLES: &str = "\
Examples:
  meshctl identity
  meshctl identity -n shop
  meshctl identity deploy/web -n shop
  meshctl identity -A -o json

EXPIRES IN is what is left of the certificate in force, RENEWS IN when the proxy asks for the next one.";

const PROXY_STATUS_EXAMPLES: &str = "\
Examples:
  meshctl proxy-status
  meshctl proxy-status -A            of all namespaces
  meshctl proxy-status deploy/web    with every key they subscribe to
  meshctl proxy-status --stale-after 5s

AGE is how long ago the sources behind a proxy's picture were last known to be live.";

const VERSION_EXAMPLES: &str = "\
Examples:
  meshctl version
  meshctl version --client     this program only; nothing is asked

Proxies go on working with a control plane of their own or the next minor version: meshctl upgrade --plan says so beforehand.";

const DEMO_EXAMPLES: &str = "\
Examples:
  meshctl demo                 until Ctrl-C; look around from another terminal with meshctl stat
  meshctl demo --once          a test: 10 seconds of traffic, then a verdict
  meshctl demo --rps 500

Runs identity, controller and a shop of five services, each pod in a network namespace of its own \
with its proxy. Needs Linux, and root or unprivileged user namespaces. Nothing of this machine's \
network is touched, and everything is gone when it ends.";

const COMPLETION_EXAMPLES: &str = "\
Examples:
  source <(meshctl completion bash)
  meshctl completion zsh > \"${fpath[1]}/_meshctl\"
  meshctl completion fish > ~/.config/fish/completions/meshctl.fish";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [("500ms", 500), ("2s", 2000), ("3", 3000), ("1m", 60_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "s", "2 s", "-1s", "2d", "99999999999999999999s", "99999999999999999h", "é"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(window("50ms").is_err() && window("11m").is_err() && window("2s").is_ok());
    }

    #[test]
    fn versions_of_kubernetes() {
        for (text, expected) in [("1.29", Some("v1.29.0")), ("v1.30.4", Some("v1.30.4")), ("1", None), ("v1.x", None)] {
            assert_eq!(kube_version(text).ok().as_deref(), expected, "{text}");
        }
        for text in ["1.28", "v1.28.15", "0.99"] {
            assert_eq!(kube_version(text), Err("the mesh needs 1.29 or newer (native sidecars)".to_owned()), "{text}");
        }
    }

    #[test]
    fn flags_go_before_or_after_the_command() {
        let args = Args::try_parse_from(["meshctl", "stat", "-o", "json", "--demo-dir", "/x"]).unwrap();
        assert_eq!((args.output, args.demo_dir.as_deref()), (Output::Json, Some(std::path::Path::new("/x"))));
        assert!(Args::try_parse_from(["meshctl", "-o", "json", "check", "--wait", "5s"]).is_ok());
        assert!(Args::try_parse_from(["meshctl", "demo", "--keep-open"]).is_err());
        let args = Args::try_parse_from(["meshctl", "check", "--context", "kind-a"]).unwrap();
        assert_eq!(args.cluster.context.as_deref(), Some("kind-a"));
        assert!(Args::try_parse_from(["meshctl", "check", "--context", "a", "--demo-dir", "/x"]).is_err());
    }
}
