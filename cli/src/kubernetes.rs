//! The way to a Kubernetes cluster: which one, with whose credentials, and in one sentence why not.
//!
//! The rule, the same for every command. One that looks at a mesh (`check`, `stat` …) looks at
//!
//! 1. the demo in `--demo-dir`, where one is named (naming a cluster as well is refused);
//! 2. the cluster of `--kubeconfig` and `--context`, where one of them is given;
//! 3. the demo of this user on this machine, where one is running ([`crate::location`]);
//! 4. else the cluster that kubectl would use: `KUBECONFIG`, `~/.kube/config`, or from within a pod its own cluster.
//!
//! Commands that change a cluster (`install`, `upgrade`, `uninstall`) begin with 2 and never look for a demo.

#[cfg(test)]
pub(crate) mod fake;
mod kubeconfig;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tokio::time::timeout;

use crate::location::{self, LocationError};

/// Which cluster, as global flags.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ClusterArgs {
    /// File that says how to reach the cluster [default: as kubectl: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "demo_dir", help_heading = HEADING)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use [default: its current one]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "demo_dir", help_heading = HEADING)]
    pub context: Option<String>,
}

/// Where a mesh is looked at.
#[derive(Debug)]
pub enum Place {
    /// A demo: the one named, which may not run yet, or one that was found running.
    Demo,
    /// A cluster.
    Kubernetes {
        /// Why it is not a demo, where nobody named a cluster either.
        no_demo: Option<LocationError>,
    },
}

/// Where to look; see the module for the rule.
pub fn place(demo_dir: Option<&Path>, cluster: &ClusterArgs) -> Place {
    if demo_dir.is_some() {
        return Place::Demo;
    }
    if cluster.kubeconfig.is_some() || cluster.context.is_some() {
        return Place::Kubernetes { no_demo: None };
    }
    match location::find(None) {
        Ok(_) => Place::Demo,
        Err(no_demo) => Place::Kubernetes { no_demo: Some(no_demo) },
    }
}

/// A cluster that answered.
#[derive(Clone)]
pub struct Cluster {
    /// Speaks to its API server.
    pub client: Client,
    /// Its address, for messages.
    pub server: String,
    /// Namespace of the context, `default` where it names none.
    pub namespace: String,
    /// What its API server says about itself.
    pub version: Info,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server).field("version", &self.version.git_version).finish()
    }
}

impl Cluster {
    /// Major and minor version of the API server; a provider's suffix (`29+`) does not count.
    pub fn minor_version(&self) -> Option<(u32, u32)> {
        let number = |text: &str| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        };
        Some((number(&self.version.major)?, number(&self.version.minor)?))
    }
}

/// Why there is no way to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing says where it is.
    #[error("no Kubernetes cluster is configured; name a kubeconfig with --kubeconfig or in KUBECONFIG")]
    NotConfigured,
    /// Neither demo nor cluster.
    #[error("{0}; nor is a Kubernetes cluster configured (with --kubeconfig or KUBECONFIG)")]
    NoMesh(LocationError),
    /// What says so cannot be used.
    #[error("the kubeconfig cannot be used: {0}; correct it, or name another with --kubeconfig or in KUBECONFIG")]
    Unusable(String),
    /// It is in order, and gives no way to log in.
    #[error("the kubeconfig's credentials cannot be had: {0}; log in again, or choose other ones with --context")]
    Credentials(String),
    /// Nobody answers.
    #[error("the API server {server} cannot be reached ({problem}); is it up, and is this the right --context?")]
    Unreachable {
        /// Address.
        server: String,
        /// What happened.
        problem: String,
    },
    /// It does not know us.
    #[error(
        "the API server {0} does not accept your credentials (401); log in again, or choose other ones with --context"
    )]
    Unauthorised(String),
    /// It answers something else than a version.
    #[error("{server} does not answer as a Kubernetes API server does: {problem}")]
    Odd {
        /// Address.
        server: String,
        /// What it answered.
        problem: String,
    },
}

impl ConnectError {
    /// Another kubeconfig, or another context of it, would mend it: nobody was asked yet.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Unusable(_))
    }
}

/// Connects, and asks the API server for its version so that what is wrong is said here and not by the first command.
pub async fn connect(args: &ClusterArgs) -> Result<Cluster, ConnectError> {
    let mut config = configuration(args).await?;
    config.connect_timeout = Some(ANSWER);
    // An API server that falls silent must not hang a command.
    config.read_timeout = Some(SILENCE);
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| ConnectError::Unusable(root_cause(&error)))?;
    let unreachable = |problem| ConnectError::Unreachable { server: server.clone(), problem };
    let version = match timeout(ANSWER, client.apiserver_version()).await {
        Err(_) => return Err(unreachable(format!("no answer within {} s", ANSWER.as_secs()))),
        Ok(Ok(version)) => version,
        Ok(Err(kube::Error::Api(status))) if status.code == 401 => return Err(ConnectError::Unauthorised(server)),
        Ok(Err(kube::Error::Auth(error))) => return Err(ConnectError::Credentials(root_cause(&error))),
        Ok(Err(kube::Error::Api(status))) => {
            let problem = format!("{} {}", status.code, one_line(&status.message));
            return Err(ConnectError::Odd { server, problem });
        }
        Ok(Err(kube::Error::SerdeError(error))) => {
            return Err(ConnectError::Odd { server, problem: error.to_string() });
        }
        Ok(Err(error)) => return Err(unreachable(root_cause(&error))),
    };
    Ok(Cluster { client, server, namespace, version })
}

/// Connects where [`place`] said Kubernetes.
pub async fn connect_there(args: &ClusterArgs, no_demo: Option<LocationError>) -> Result<Cluster, ConnectError> {
    match (connect(args).await, no_demo) {
        (Err(ConnectError::NotConfigured), Some(no_demo)) => Err(ConnectError::NoMesh(no_demo)),
        (result, _) => result,
    }
}

async fn configuration(args: &ClusterArgs) -> Result<Config, ConnectError> {
    let listed: Vec<PathBuf> = std::env::var_os("KUBECONFIG")
        .map(|list| std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect())
        .unwrap_or_default();
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Some(kubeconfig::read(path)?),
        None if !listed.is_empty() => Some(kubeconfig::merged(&listed)?),
        None => match usual_kubeconfig().filter(|path| path.is_file()) {
            Some(path) => Some(kubeconfig::read(&path)?),
            None => None,
        },
    };
    match kubeconfig {
        Some(kubeconfig) => {
            let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            config.map_err(|error| ConnectError::Unusable(one_line(&kubeconfig::describe(&error))))
        }
        // A service account has one context only.
        None if args.context.is_some() => Err(ConnectError::NotConfigured),
        None => Config::incluster().map_err(|_| ConnectError::NotConfigured),
    }
}

fn usual_kubeconfig() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".kube/config"))
}

/// What an API server's refusal, or none, means in one sentence.
pub fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            "the API server does not accept your credentials (401); log in again".to_owned()
        }
        kube::Error::Api(status) if status.message.is_empty() => {
            format!("the API server answered {} {}", status.code, one_line(&status.reason))
        }
        // The API server's own sentence names user, verb and resource.
        kube::Error::Api(status) => one_line(&status.message),
        other => format!("the API server cannot be reached ({})", root_cause(other)),
    }
}

/// Whether an object, or a whole kind, is not there.
pub fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The innermost error: "connection refused" rather than which layer heard of it first.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    one_line(&error.to_string())
}

fn one_line(text: &str) -> String {
    crate::table::one_line(text.trim())
}

const HEADING: &str = "Cluster";
const ANSWER: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn connect_to(kubeconfig: &str, context: Option<&str>) -> Result<Cluster, ConnectError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), kubeconfig).unwrap();
        let args = ClusterArgs { kubeconfig: Some(file.path().to_owned()), context: context.map(str::to_owned) };
        connect(&args).await
    }

    fn kubeconfig(server: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: a, clusters: [{{name: c, cluster: {{server: '{server}'}}}}], \
             users: [{{name: u, user: {{}}}}], contexts: [{{name: a, context: {{cluster: c, user: u, namespace: shop}}}}]}}"
        )
    }

    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let _request = connection.read(&mut [0; 4096]).await;
                let head = "content-type: application/json\r\nconnection: close\r\n\r\n";
                let (status, body) = answer.split_once('\n').unwrap_or((answer, ""));
                connection.write_all(format!("HTTP/1.1 {status}\r\n{head}{body}").as_bytes()).await.ok();
            }
        });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_cluster_that_answers() {
        let version = r#"200 OK
{"major":"1","minor":"29+","gitVersion":"v1.29.3-gke.1","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#;
        let cluster = connect_to(&kubeconfig(&server(version).await), None).await.unwrap();
        assert_eq!(cluster.minor_version(), Some((1, 29)));
        assert_eq!(cluster.namespace, "shop");
    }

    #[tokio::test]
    async fn every_failure_is_one_sentence() {
        let refused = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        let unauthorised = server("401 Unauthorized\n{\"kind\":\"Status\",\"status\":\"Failure\",\"code\":401}").await;
        let cases = [
            (connect_to(&kubeconfig(&refused), None).await, "refused"),
            (connect_to(&kubeconfig(&unauthorised), None).await, "does not accept your credentials"),
            (connect_to(&kubeconfig(&server("200 OK\n<html>").await), None).await, "does not answer as a Kubernetes"),
            (connect_to(&kubeconfig(&refused), Some("other")).await, "no context \"other\""),
            (connect_to("a: [", None).await, "cannot be used"),
            (connect_to(&kubeconfig(""), None).await, "cannot be used"),
        ];
        for (result, expected) in cases {
            let text = result.unwrap_err().to_string();
            assert!(text.contains(expected) && !text.contains('\n'), "{text}");
        }
        let missing = ClusterArgs { kubeconfig: Some("/does/not/exist".into()), context: None };
        let text = connect(&missing).await.unwrap_err().to_string();
        assert!(text.contains("/does/not/exist cannot be read"), "{text}");
    }

    #[test]
    fn a_named_cluster_is_not_a_demo() {
        let named = ClusterArgs { context: Some("a".into()), ..ClusterArgs::default() };
        assert!(matches!(place(None, &named), Place::Kubernetes { no_demo: None }));
        assert!(matches!(place(Some(Path::new("/x")), &ClusterArgs::default()), Place::Demo));
    }
}
