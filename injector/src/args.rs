//! The command line of mesh-injector.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use controller_runtime::logs::LogArgs;
use ipnet::IpNet;
use proto::names;

/// Gives pods that ask for it a proxy, before they start
#[derive(Debug, Clone, Parser)]
#[command(name = "mesh-injector", version)]
pub struct Args {
    /// The mesh's configuration (YAML); followed as it changes
    #[arg(long, default_value = names::CONFIG_FILE, value_name = "FILE")]
    pub config: PathBuf,
    /// Where the API server calls the webhooks, with TLS
    #[arg(long, default_value_t = any_address(names::INJECTOR_PORT), value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Where /live, /ready and /metrics are, in plain HTTP
    #[arg(long, default_value_t = any_address(names::CONTROL_HEALTH_PORT), value_name = "ADDRESS:PORT")]
    pub health_listen: SocketAddr,
    /// File with the token that proves to mesh-identity who we are; read anew for every certificate
    #[arg(long, default_value = "/var/run/mesh/token/token", value_name = "FILE")]
    pub token_file: PathBuf,
    /// File with the trust bundle (PEM), followed as it changes [default: ConfigMap mesh-trust-bundle, through the API]
    #[arg(long, value_name = "FILE")]
    pub bundle_file: Option<PathBuf>,
    /// Network (CIDR) from which API servers call, as our node sees it; may be given several times. Where all is full, who
    /// calls from there comes first, as do the addresses of the EndpointSlice kubernetes
    #[arg(long = "api-server-network", value_name = "CIDR")]
    pub api_server_networks: Vec<IpNet>,
    /// Logs.
    #[command(flatten)]
    pub logs: LogArgs,
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn everything_has_a_default() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["mesh-injector"]).unwrap();
        assert_eq!((args.listen.port(), args.health_listen.port()), (10250, 9090));
        let networks = ["--api-server-network=10.0.0.0/28", "--api-server-network=fd00::/64"];
        let args = Args::try_parse_from([&["mesh-injector"][..], &networks].concat()).unwrap();
        assert_eq!(args.api_server_networks.len(), 2);
    }
}
