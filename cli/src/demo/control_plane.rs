//! How identity and controller are started, and what they are asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use proto::bootstrap::{Upstream, spiffe_id};
use proto::names;
use tokio::process::Command;

use crate::location::MANIFESTS;

use super::directory::{Directory, own};
use super::pod::{PodSpec, ProcessSpec};
use super::programs::{CONTROLLER, IDENTITY, Programs};
use super::shop::pod_addresses;

/// What identity and controller share with everybody.
#[derive(Debug, Clone)]
pub(super) struct ControlPlane {
    /// The programs.
    pub(super) programs: Programs,
    /// User they run as; nobody in particular in a user namespace.
    pub(super) user: Option<u32>,
    /// The trust bundle, written by identity.
    pub(super) bundle: PathBuf,
    issuer: PathBuf,
    state: PathBuf,
    manifests: PathBuf,
    logs: PathBuf,
    token: PathBuf,
}

impl ControlPlane {
    /// Makes their directories.
    pub(super) fn new(directory: &Directory, programs: Programs, user: Option<u32>) -> anyhow::Result<Self> {
        let identity = directory.make(IDENTITY_POD, user)?;
        let controller = directory.make(CONTROLLER_POD, user)?;
        let issuer = directory.make("identity/issuer", user)?;
        let state = directory.make("controller/state", user)?;
        Ok(Self {
            programs,
            user,
            bundle: identity.join("bundle.pem"),
            issuer,
            state,
            manifests: directory.make(MANIFESTS, None)?,
            logs: directory.make("logs", None)?,
            token: controller.join("token"),
        })
    }

    /// The pod of the certificate authority.
    pub(super) fn identity(&self) -> PodSpec {
        let args = [("--issuer-dir", text(&self.issuer)), ("--bundle-out", text(&self.bundle))];
        self.pod(IDENTITY_POD, 2, IDENTITY, &args)
    }

    /// The pod of the controller.
    pub(super) fn controller(&self) -> PodSpec {
        let args = [
            ("--directory", text(&self.manifests)),
            ("--identity", upstream(IDENTITY_POD).addresses.remove(0)),
            ("--token-file", text(&self.token)),
            ("--bundle-file", text(&self.bundle)),
            ("--state-dir", text(&self.state)),
            ("--replica", CONTROLLER_POD.to_owned()),
            ("--cluster", CLUSTER.to_owned()),
        ];
        self.pod(CONTROLLER_POD, 3, CONTROLLER, &args)
    }

    /// Gives the controller the token for its own certificate.
    pub(super) async fn write_controller_token(&self) -> anyhow::Result<()> {
        let id = upstream(CONTROLLER_POD).id;
        self.write_token(&id, &self.token, self.user).await
    }

    /// Writes a join token for `id` into a file that `user` can read.
    pub(super) async fn write_token(&self, id: &str, file: &Path, user: Option<u32>) -> anyhow::Result<()> {
        // Readers take the file whenever they need it: they must never find it half written or not theirs.
        let unfinished = file.with_extension("unfinished");
        let output = Command::new(self.programs.path(IDENTITY))
            .args(["token", "--id", id, "--issuer-dir", &text(&self.issuer), "--out", &text(&unfinished)])
            .stdin(Stdio::null())
            .output()
            .await
            .context("mesh-identity cannot be started")?;
        if !output.status.success() {
            bail!("mesh-identity token failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        own(&unfinished, user)?;
        std::fs::rename(&unfinished, file).with_context(|| format!("{} cannot be written", file.display()))
    }

    fn pod(&self, name: &str, number: u8, program: &str, args: &[(&str, String)]) -> PodSpec {
        let args = args.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]).collect();
        let app = ProcessSpec {
            program: self.programs.path(program),
            args,
            env: BTreeMap::new(),
            user: self.user,
            log: self.logs.join(format!("{name}.log")),
        };
        PodSpec { name: name.to_owned(), addresses: pod_addresses(0, number), init: Vec::new(), proxy: None, app }
    }
}

/// Where a control-plane pod is found, and who it has to be.
pub(super) fn upstream(pod: &str) -> Upstream {
    let (number, port, account) = match pod {
        IDENTITY_POD => (2, names::IDENTITY_PORT, names::IDENTITY_ACCOUNT),
        _ => (3, names::CONTROLLER_PORT, names::CONTROLLER_ACCOUNT),
    };
    let address = std::net::SocketAddr::new(pod_addresses(0, number)[0], port);
    Upstream {
        addresses: vec![address.to_string()],
        id: spiffe_id(names::TRUST_DOMAIN, names::SYSTEM_NAMESPACE, account),
    }
}

/// Paths of the demo are made of what was checked or made here, so they are text.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Pod of the certificate authority.
pub(super) const IDENTITY_POD: &str = "identity";
/// Pod of the controller.
pub(super) const CONTROLLER_POD: &str = "controller";
/// Name of the cluster, in labels.
pub(super) const CLUSTER: &str = "demo";
