//! The command tree: what can be typed, and the help that teaches it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::install::Way;
use crate::install::preflight;
use crate::kubernetes::ClusterArgs;

mod examples;
mod outputs;

/// Everything that can be typed.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, about = "Install a service mesh, look at it, and try one out", after_help = examples::EXAMPLES)]
#[command(arg_required_else_help = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to print; each command's help says what it has
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    #[arg(hide_possible_values = true, help_heading = EVERYWHERE)]
    pub output: Option<Output>,
    /// Look at the demo that runs in this directory, at no cluster [default: one that runs is found]
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

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install the mesh into a cluster, go on with an interrupted installation, or change its values
    #[command(after_help = examples::INSTALL_EXAMPLES)]
    Install(InstallArgs),
    /// Bring an installed mesh to this version, with the values it was installed with
    #[command(after_help = examples::UPGRADE_EXAMPLES)]
    Upgrade(UpgradeArgs),
    /// Take the mesh out of a cluster
    #[command(after_help = examples::UNINSTALL_EXAMPLES)]
    Uninstall(UninstallArgs),
    /// Annotate manifests so that their pods get a proxy: files or standard input to standard output
    #[command(after_help = examples::INJECT_EXAMPLES)]
    Inject(InjectArgs),
    /// Take that annotation out of manifests again: files or standard input to standard output
    #[command(after_help = examples::UNINJECT_EXAMPLES)]
    Uninject(ManifestArgs),
    /// Is the mesh well? One line per check, with a hint beside each that fails
    #[command(after_help = examples::CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// What is wrong, or without effect, in manifests or in a cluster: routes, Services, annotations, the mesh's own kinds
    #[command(after_help = crate::analyze::EXAMPLES)]
    Analyze(crate::analyze::AnalyzeArgs),
    /// How every workload does: success rate, requests per second, latency, share of mutual TLS
    #[command(after_help = examples::STAT_EXAMPLES)]
    Stat(StatArgs),
    /// Who calls whom, how it goes, and which identities both ends showed
    #[command(after_help = examples::EDGES_EXAMPLES)]
    Edges(EdgesArgs),
    /// Certificate of every proxy: identity, expiry, renewals, trust anchors
    #[command(after_help = examples::IDENTITY_EXAMPLES)]
    Identity(ProxyArgs),
    /// How current every proxy's picture of the mesh is, and what it rejected
    #[command(name = "proxy-status", after_help = examples::PROXY_STATUS_EXAMPLES)]
    ProxyStatus(ProxyStatusArgs),
    /// Version of this program, of the cluster, of the control plane and of every proxy that answers
    #[command(after_help = examples::VERSION_EXAMPLES)]
    Version(VersionArgs),
    /// What a reason in Proxy-Status, in a proxy's log or in mesh_failures_total means, and what to look at
    #[command(after_help = crate::explain::EXAMPLES)]
    Explain(crate::explain::ExplainArgs),
    /// Run a whole mesh on this machine: no Kubernetes, no registry, nothing to install
    #[command(after_help = examples::DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Print the completion script of a shell
    #[command(after_help = examples::COMPLETION_EXAMPLES)]
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

impl ValuesArgs {
    /// Whether nothing is asked for beside the chart's own.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.set.is_empty() && self.set_string.is_empty() && !self.ha
    }
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

/// Manifests to rewrite.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ManifestArgs {
    /// A manifest, a directory of them with all below it (*.yaml, *.yml, *.json, but nothing hidden), or - for standard
    /// input [default: -]
    #[arg(value_name = "FILE|DIR|-")]
    pub files: Vec<String>,
    /// The same, as kubectl takes it; may be given several times
    #[arg(short, long, value_name = "FILE|DIR|-")]
    pub filename: Vec<String>,
}

impl ManifestArgs {
    /// What to read.
    pub fn names(&self) -> Vec<String> {
        let named: Vec<String> = self.files.iter().chain(&self.filename).cloned().collect();
        if named.is_empty() { vec!["-".to_owned()] } else { named }
    }
}

/// `inject`.
#[derive(Debug, ClapArgs)]
pub struct InjectArgs {
    /// What.
    #[command(flatten)]
    pub manifests: ManifestArgs,
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
    /// Even while pods have a proxy: they work on until their certificates end
    #[arg(long)]
    pub force: bool,
    /// Delete the CRDs of meshctl.io as well, and with them every object of their kinds
    #[arg(long)]
    pub crds: bool,
    /// How long to wait for pods and the namespace to end (90s, 5m)
    #[arg(long, value_parser = duration, default_value = "5m", value_name = "TIME")]
    pub timeout: Duration,
}

/// `check`.
#[derive(Debug, ClapArgs)]
pub struct CheckArgs {
    /// Before installing: is this cluster ready for a mesh?
    #[arg(long, conflicts_with = "proxy")]
    pub pre: bool,
    /// Ask every proxy as well: version, certificate, age of its picture
    #[arg(long)]
    pub proxy: bool,
    /// Only this namespace and its pods, for whoever may see no other [default: everything; where that is not allowed, the
    /// namespace of the kubeconfig's context]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "pre")]
    pub namespace: Option<String>,
    /// Ask again until no check fails and nothing is under way any more, at most this long (30s, 2m)
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub wait: Option<Duration>,
    /// What is to be installed, with --pre. The last: its heading goes on to whatever stands behind it.
    #[command(flatten, next_help_heading = "With --pre: what is to be installed")]
    pub values: ValuesArgs,
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
    /// Go on until Ctrl-C: a table, or with -o json a document, for each window
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
    /// Only edges with such an end: deploy, sts, ds, job, cronjob, pod, svc (as the called) or ns, alone or with names, as in
    /// deploy/web
    #[arg(value_name = "KIND[/NAME]")]
    pub target: Vec<String>,
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
    /// Only this proxy (POD, or NAMESPACE/POD), or those of a workload, as in deploy/web [default: all]
    pub proxy: Option<String>,
    /// Which namespaces.
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// `proxy-status`.
#[derive(Debug, ClapArgs)]
pub struct ProxyStatusArgs {
    /// Only this proxy (POD, or NAMESPACE/POD), or those of a workload, as in deploy/web, with everything they subscribe to
    /// [default: all]
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

/// Heading of the flags that most commands have.
const EVERYWHERE: &str = "Output, and where to look";

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((args.output, args.demo_dir.as_deref()), (Some(Output::Json), Some(std::path::Path::new("/x"))));
        assert!(Args::try_parse_from(["meshctl", "-o", "json", "check", "--wait", "5s"]).is_ok());
        assert!(Args::try_parse_from(["meshctl", "demo", "--keep-open"]).is_err());
        let args = Args::try_parse_from(["meshctl", "check", "--context", "kind-a"]).unwrap();
        assert_eq!(args.cluster.context.as_deref(), Some("kind-a"));
        assert!(Args::try_parse_from(["meshctl", "check", "--context", "a", "--demo-dir", "/x"]).is_err());
    }
}
