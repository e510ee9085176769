//! The command line of mesh-controller.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use controller_runtime::duration;
use controller_runtime::logs::LogArgs;
use identity::TrustDomain;
use ipnet::IpNet;
use proto::names;

/// Serves discovery: tells every proxy what it must know, and nothing else.
#[derive(Debug, Parser)]
#[command(name = "mesh-controller", version, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What else it can do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Serving.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What the controller does besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read a directory of manifests as the controller would, say what is wrong with file and line, and exit.
    Check {
        /// The directory.
        directory: PathBuf,
    },
}

/// How discovery is served.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Directory with the mesh's manifests (*.yaml, *.yml, *.json): Namespace, Service, HTTPRoute, ExternalWorkload.
    /// Changes take effect within a second; `mesh-controller check DIRECTORY` says beforehand whether they would
    /// [default: what the Kubernetes API has, by KUBECONFIG or the pod's service account].
    #[arg(long, env = "MESH_DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// Where proxies connect to, with mesh TLS.
    #[arg(long, default_value_t = any_address(names::CONTROLLER_PORT), value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Where /live, /ready and /metrics are, in plain HTTP.
    #[arg(long, default_value_t = any_address(names::CONTROL_HEALTH_PORT), value_name = "ADDRESS:PORT")]
    pub health_listen: SocketAddr,
    /// Trust domain of the mesh; only proxies of it are served.
    #[arg(long, default_value = names::TRUST_DOMAIN)]
    pub trust_domain: TrustDomain,
    /// Name of the cluster, for labels of metrics.
    #[arg(long, default_value = "")]
    pub cluster: String,
    /// Networks of workloads and Services: a destination in one of them is never assumed to be outside the mesh because
    /// no answer came. Give it once per network.
    #[arg(
        long = "cluster-network",
        value_name = "CIDR",
        default_values = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
    )]
    pub cluster_networks: Vec<IpNet>,
    /// Where mesh-identity is; give it several times to have them tried in turn.
    #[arg(long, default_value = "mesh-identity:8444", value_name = "HOST:PORT")]
    pub identity: Vec<String>,
    /// File with the token that proves to mesh-identity who we are; read anew for every certificate.
    // Required, but not for subcommands.
    #[arg(long, value_name = "FILE", required = true)]
    pub token_file: Option<PathBuf>,
    /// File with the trust bundle (PEM); followed as it changes, and handed on to proxies [default: the ConfigMap
    /// mesh-trust-bundle in mesh-system, through the Kubernetes API].
    #[arg(long, value_name = "FILE")]
    pub bundle_file: Option<PathBuf>,
    /// Directory for our key and certificate, so that a restart needs nobody.
    #[arg(long, value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,
    /// Name of this replica, as proxies and meshctl show it [default: host name and port].
    #[arg(long)]
    pub replica: Option<String>,
    /// Streams at once; further proxies are sent to another replica.
    #[arg(long, default_value_t = 20_000, value_name = "NUMBER")]
    pub max_streams: usize,
    /// New streams per second; twice as many may come at once.
    #[arg(long, default_value_t = 500, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub streams_per_second: u32,
    /// Pods that may share an address, where the cluster's network hides them behind a node's or a gateway's: each address
    /// has so many times what one may have of connections, streams and subscriptions (1 to 65535). Not with --directory.
    #[arg(long, default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    pub pods_per_address: u16,
    /// Mean life of a stream, as in 90s, 30m or 2h; each lives between half of it and one and a half.
    #[arg(long, default_value = "30m", value_name = "DURATION", value_parser = parse_stream_life)]
    pub stream_life: Duration,
    /// Logs.
    #[command(flatten)]
    pub logs: LogArgs,
}

/// Of both families: which one pods are reached by first is the cluster's business.
fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

fn parse_stream_life(text: &str) -> Result<Duration, String> {
    let life = duration::parse(text)?;
    if life.is_zero() { Err("a stream lives for 1s or longer".to_owned()) } else { Ok(life) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_subcommands() {
        let line = ["mesh-controller", "--directory", "d", "--token-file", "t", "--bundle-file", "b"];
        let serve = Cli::try_parse_from(line).unwrap().serve;
        assert_eq!(serve.listen, "[::]:8443".parse().unwrap());
        assert_eq!(serve.health_listen, "[::]:9090".parse().unwrap());
        assert_eq!(serve.cluster_networks.len(), 5);
        let cli = Cli::try_parse_from(["mesh-controller", "check", "d"]).unwrap();
        assert!(cli.command.is_some());
        let message = Cli::try_parse_from(["mesh-controller"]).unwrap_err().to_string();
        assert!(message.contains("--token-file"), "{message}");
        let cluster = Cli::try_parse_from(["mesh-controller", "--token-file", "t"]).unwrap().serve;
        assert!(cluster.directory.is_none() && cluster.bundle_file.is_none());
        let bad = [&line[..], &["--cluster-network", "10.0.0.0"]].concat();
        assert!(Cli::try_parse_from(bad).unwrap_err().to_string().contains("--cluster-network"));
    }
}
