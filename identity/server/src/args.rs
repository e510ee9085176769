//! The command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Parser;
use controller_runtime::duration;
use controller_runtime::kubernetes;
use controller_runtime::logs::LogArgs;
use controller_runtime::shutdown::Shutdown;
use identity::{
    DEFAULT_LEAF_LIFETIME, JOIN_TOKEN_LIFETIME, LEAF_LIFETIMES, SpiffeId, TokenSigner, TokenVerifier, TrustDomain,
};
use proto::names;

use crate::authenticate::Authenticator;
use crate::server::{Config, Place, Server};
use crate::token_review::TokenReviewer;

/// The mesh's certificate authority
#[derive(Debug, Parser)]
#[command(name = "mesh-identity", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write a join token, with which a workload outside Kubernetes gets its first certificate
    Token(TokenArgs),
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// Directory of the issuer: tls.crt, tls.key and, for an intermediate, ca.crt; made when missing, watched for changes.
    /// Without it the program works on Kubernetes: the issuer is the Secret mesh-issuer, made when missing, tokens are
    /// those of ServiceAccounts, and the trust bundle is written into the ConfigMap mesh-trust-bundle of every namespace
    #[arg(long, value_name = "DIRECTORY")]
    issuer_dir: Option<PathBuf>,
    /// Public key of join tokens (PEM), or a directory with the key pair, made when missing [default: the issuer's]
    #[arg(long, value_name = "PATH", requires = "issuer_dir")]
    token_key: Option<PathBuf>,
    /// Trust domain; certificates for others are refused
    #[arg(long, default_value = names::TRUST_DOMAIN, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// Address of the identity service (gRPC over TLS)
    #[arg(long, default_value_t = any_address(names::IDENTITY_PORT), value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Address of /live, /ready and /metrics
    #[arg(long, default_value_t = any_address(names::CONTROL_HEALTH_PORT), value_name = "ADDRESS")]
    health_listen: SocketAddr,
    /// Life of workload certificates, such as 24h, 90m or 20s
    #[arg(long, default_value = "24h", value_parser = parse_leaf_lifetime, value_name = "DURATION")]
    leaf_lifetime: Duration,
    /// File the trust bundle is written to whenever it changes
    #[arg(long, value_name = "FILE", requires = "issuer_dir")]
    bundle_out: Option<PathBuf>,
    /// How long a new root is published before anything is signed with it [default: 10s, on Kubernetes 2m: longer than a
    /// kubelet takes to show pods a changed ConfigMap]
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    rotation_delay: Option<Duration>,
    /// Pods that may share an address, where the cluster's network hides them behind a node's or a gateway's: each address
    /// has so many times what one may have of connections and certificates (1 to 65535)
    #[arg(long, default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    #[arg(conflicts_with = "issuer_dir")]
    pods_per_address: u16,
    /// Namespace of the control plane
    #[arg(long, default_value = names::SYSTEM_NAMESPACE, value_name = "NAME")]
    system_namespace: String,
    /// Name of this replica, different from all others [default: the host's name, which is the pod's]
    #[arg(long, value_name = "NAME", conflicts_with = "issuer_dir")]
    replica: Option<String>,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, clap::Args)]
struct TokenArgs {
    /// Directory with the key pair of join tokens, as mesh-identity's --issuer-dir; made when missing
    #[arg(long, value_name = "DIRECTORY")]
    issuer_dir: PathBuf,
    /// SPIFFE id the token stands for: spiffe://<trust-domain>/ns/<namespace>/sa/<service account>
    #[arg(long, value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// File to write (readable by its owner only); - for standard output
    #[arg(long, default_value = "-", value_name = "FILE")]
    out: PathBuf,
    /// How long the token can be used
    #[arg(long, default_value = "10m", value_parser = duration::parse, value_name = "DURATION")]
    lifetime: Duration,
}

impl Args {
    /// Does what the command line says; returns when it is done, or on SIGTERM.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Some(Command::Token(token)) => token.write(),
            None => self.serve.run(),
        }
    }
}

impl ServeArgs {
    fn run(self) -> anyhow::Result<()> {
        self.log.start()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let shutdown = Shutdown::on_signals()?;
            let config = self.config().await?;
            let server = tokio::select! {
                server = Server::bind(config) => server?,
                () = shutdown.clone().requested() => return Ok(()),
            };
            server.run(shutdown).await
        })
    }

    async fn config(self) -> anyhow::Result<Config> {
        let id = SpiffeId::new(&self.trust_domain, &self.system_namespace, names::IDENTITY_ACCOUNT)
            .context("--trust-domain and --system-namespace make no SPIFFE id")?;
        let (place, authenticator, delay) = match self.issuer_dir {
            Some(issuer) => {
                let authenticator = join_tokens(self.token_key.as_deref().unwrap_or(&issuer))?;
                (Place::Directory { issuer, bundle_file: self.bundle_out }, authenticator, DIRECTORY_DELAY)
            }
            None => {
                let client = kubernetes::connect(names::IDENTITY_ACCOUNT, env!("CARGO_PKG_VERSION"))
                    .await
                    .context("--issuer-dir is not given, so this is Kubernetes")?;
                let authenticator =
                    Authenticator::TokenReview(TokenReviewer::new(client.clone(), self.trust_domain.clone()));
                let replica = self.replica.map_or_else(host_name, Ok)?;
                (Place::Kubernetes { client, replica }, authenticator, KUBERNETES_DELAY)
            }
        };
        Ok(Config {
            id,
            authenticator,
            place,
            trust_domain: self.trust_domain,
            listen: self.listen,
            health_listen: self.health_listen,
            leaf_lifetime: self.leaf_lifetime,
            pods_per_address: self.pods_per_address.into(),
            rotation_delay: self.rotation_delay.unwrap_or(delay),
        })
    }
}

impl TokenArgs {
    fn write(&self) -> anyhow::Result<()> {
        let signer = TokenSigner::load_or_create(&self.issuer_dir, names::TOKEN_AUDIENCE)?;
        let token = signer.sign_for(&self.id, self.lifetime, SystemTime::now())?;
        if self.out == Path::new("-") {
            println!("{token}");
            return Ok(());
        }
        identity::write_private(&self.out, token.as_bytes(), 0o600)
            .with_context(|| format!("cannot write the token to {}", self.out.display()))
    }
}

fn join_tokens(path: &Path) -> anyhow::Result<Authenticator> {
    let verifier = if path.is_file() {
        TokenVerifier::load(path, names::TOKEN_AUDIENCE)?
    } else {
        TokenSigner::load_or_create(path, names::TOKEN_AUDIENCE)?.verifier()?
    };
    Ok(Authenticator::JoinToken(verifier))
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("--replica is not given")?;
    Ok(name.trim().to_owned())
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))
}

fn parse_leaf_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration::parse(text)?;
    if !LEAF_LIFETIMES.contains(&lifetime) {
        return Err("a certificate lives for 5s to 8760h".to_owned());
    }
    Ok(lifetime)
}

const DIRECTORY_DELAY: Duration = Duration::from_secs(10);
const KUBERNETES_DELAY: Duration = Duration::from_secs(120);
const _: () = assert!(DEFAULT_LEAF_LIFETIME.as_secs() == 24 * 3600 && JOIN_TOKEN_LIFETIME.as_secs() == 10 * 60);

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        let parse = |words: &[&str]| Args::try_parse_from([&["mesh-identity"], words].concat());
        assert!(parse(&["--issuer-dir", "/x", "--leaf-lifetime", "20s"]).is_ok());
        assert!(parse(&["--rotation-delay", "2m", "--replica", "mesh-identity-0"]).is_ok());
        assert!(parse(&["token", "--issuer-dir", "/x", "--id", "spiffe://td/ns/a/sa/b", "--out", "/y"]).is_ok());
        for wrong in [
            &["--issuer-dir", "/x", "--leaf-lifetime", "20"][..],
            &["--issuer-dir", "/x", "--leaf-lifetime", "1s"],
            &["--issuer-dir", "/x", "--trust-domain", "Cluster.Local"],
            &["token", "--issuer-dir", "/x", "--id", "spiffe://td/workload"],
            &["token", "--issuer-dir", "/x"],
            &["--bundle-out", "/x"],
            &["--token-key", "/x"],
            &["--issuer-dir", "/x", "--replica", "a"],
            &["--pods-per-address", "0"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
