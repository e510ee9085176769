//! The Kubernetes that `integration-tests/cluster` starts, used as its users use it: `kubectl`, `meshctl`, manifests.
//!
//! A test needs it running, with the images of the release build in it (`integration-tests/run cluster` sees to both).

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::mesh::{eventually, programs};
use crate::traffic::load::LoadReport;

pub mod looks;

/// The running cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
    meshctl: PathBuf,
}

impl Cluster {
    /// The cluster of this tree, or the one that `KUBECONFIG` leads to.
    pub fn running() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let kubeconfig = match std::env::var_os("KUBECONFIG") {
            Some(path) => PathBuf::from(path),
            None => {
                let output = Command::new(root.join("integration-tests/cluster")).arg("kubeconfig").output()?;
                PathBuf::from(text(&output).context("start it: integration-tests/cluster up --nodes 2")?.trim())
            }
        };
        let cache = std::env::var_os("MESH_KUBERNETES_CACHE").map_or(root.join("target/kubernetes"), PathBuf::from);
        Ok(Self {
            kubeconfig,
            kubectl: cache.join("kubectl"),
            helm: cache.join("helm"),
            meshctl: programs()?.join("meshctl"),
        })
    }

    /// Standard output of `kubectl`, which has to succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        text(&self.command(&self.kubectl, arguments).output()?)
            .with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Standard output of `helm`, which has to succeed.
    pub fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        text(&self.command(&self.helm, arguments).output()?).with_context(|| format!("helm {}", arguments.join(" ")))
    }

    /// Standard output of `meshctl`, which has to succeed.
    pub fn meshctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        text(&self.try_meshctl(arguments)?).with_context(|| format!("meshctl {}", arguments.join(" ")))
    }

    /// What `meshctl` says, whether it succeeds or not.
    pub fn try_meshctl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(&self.meshctl, arguments).output()?)
    }

    /// Runs a line as a user of this cluster would type it.
    pub fn shell(&self, line: &str) -> anyhow::Result<String> {
        let folders =
            [&self.kubectl, &self.meshctl].map(|program| program.parent().unwrap_or(Path::new("/")).to_owned());
        let own = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&own)))?;
        text(&self.command(Path::new("bash"), &["-c", line]).env("PATH", path).output()?)
            .with_context(|| line.to_owned())
    }

    /// A new namespace, gone with its handle. Each test has names of its own, so that none waits for another's end.
    pub fn namespace(&self, name: &str) -> anyhow::Result<Namespace> {
        // Of an earlier run.
        self.kubectl(&["delete", "namespace", name, "--ignore-not-found"])?;
        self.kubectl(&["create", "namespace", name])?;
        Ok(Namespace { cluster: self.clone(), name: name.to_owned() })
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command
    }
}

/// A namespace of a test.
#[derive(Debug)]
pub struct Namespace {
    /// Where it is.
    pub cluster: Cluster,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// Standard output of `kubectl --namespace <this>`, which has to succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), manifests)?;
        self.kubectl(&["apply", "--server-side", "--filename", &file.path().to_string_lossy()])?;
        Ok(())
    }

    /// Waits until every Deployment and StatefulSet is rolled out.
    pub fn rolled_out(&self) -> anyhow::Result<()> {
        for workload in self.kubectl(&["get", "deployments,statefulsets", "--output", "name"])?.lines() {
            let rollout = self.kubectl(&["rollout", "status", workload, "--timeout=90s"]);
            rollout.with_context(|| self.kubectl(&["get", "pods,events"]).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Starts a Job that sends requests at a fixed rate for some seconds, and waits until it has begun.
    pub fn start_load(&self, job: &str, service: &str, rate: u32, seconds: u32) -> anyhow::Result<()> {
        self.start_job(
            job,
            &format!("[load, --target, '{service}', --host, '{service}', --rate={rate}, --seconds={seconds}]"),
        )
    }

    /// Starts a Job of the test program with these arguments, and waits until it has begun.
    pub fn start_job(&self, job: &str, arguments: &str) -> anyhow::Result<()> {
        self.apply(&job_manifest(job, arguments))?;
        let pod = format!("job/{job}");
        let running = || {
            let active = self.kubectl(&["get", &pod, "--output", "jsonpath={.status.ready}"]);
            active.is_ok_and(|ready| ready == "1")
        };
        eventually(Duration::from_secs(60), running).with_context(|| {
            format!("{pod} does not start: {}", self.kubectl(&["get", "pods,events"]).unwrap_or_default())
        })
    }

    /// Waits for the end of such a Job; its report.
    pub fn report(&self, job: &str) -> anyhow::Result<LoadReport> {
        let pod = format!("job/{job}");
        self.kubectl(&["wait", "--for=condition=complete", &pod, "--timeout=120s"]).with_context(|| {
            self.kubectl(&["describe", "pods", "--selector", &format!("job-name={job}")]).unwrap_or_default()
        })?;
        let output = self.kubectl(&["logs", &pod, "--container", "app"])?;
        serde_json::from_str(output.lines().last().unwrap_or_default()).with_context(|| output.clone())
    }

    /// Restarts a workload as its owner would, and waits until that is done.
    pub fn restart(&self, workload: &str) -> anyhow::Result<()> {
        self.kubectl(&["rollout", "restart", workload])?;
        self.kubectl(&["rollout", "status", workload, "--timeout=120s"])?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A failed test leaves its namespace for a look at it; the next run deletes it.
        if !std::thread::panicking() {
            let _ = self.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        }
    }
}

/// A Job of the test program that may not fail.
pub fn job_manifest(name: &str, arguments: &str) -> String {
    format!(
        "
apiVersion: batch/v1
kind: Job
metadata: {{ name: {name} }}
spec:
  backoffLimit: 0
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      restartPolicy: Never
      containers:
        - {{ name: app, image: \"{TRAFFIC}\", args: {arguments}, resources: {SHARE} }}
"
    )
}

/// A container of the test program: its arguments as items of a YAML list, and what else is to be said of it.
pub fn container(name: &str, arguments: &str, more: &str) -> String {
    format!("{{ name: {name}, image: \"{TRAFFIC}\", args: [{arguments}], resources: {SMALL_SHARE}, {more} }}")
}

/// A Deployment of one pod: its annotations as items of a YAML map, its containers, and what else is to be said of the pod.
pub fn deployment_manifest(name: &str, annotations: &str, containers: &[String], more: &str) -> String {
    let containers = containers.join(", ");
    format!(
        "
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }}, annotations: {{ {annotations} }} }}
    spec: {{ containers: [{containers}], {more} }}
"
    )
}

/// A Service of the pods of an application: its ports as items of a YAML list, and what else is to be said of it.
pub fn service_manifest(name: &str, app: &str, ports: &str, more: &str) -> String {
    let head = format!("---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\n");
    format!("\n{head}spec: {{ selector: {{ app: {app} }}, ports: [{ports}], {more} }}\n")
}

/// A Deployment of servers and its Service, port 80.
pub fn server_manifest(name: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  selector: {{ app: {name} }}
  ports: [{{ name: http, port: 80, targetPort: 8080 }}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      containers:
        - name: app
          image: \"{TRAFFIC}\"
          args: [serve, --listen, \"0.0.0.0:8080\", --name, $(POD)]
          env: [{{ name: POD, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}]
          resources: {SHARE}
          readinessProbe: {{ httpGet: {{ port: 8080, path: \"/?size=1\" }}, periodSeconds: 1, timeoutSeconds: 5 }}
"
    )
}

/// Standard output of a command that succeeded.
fn text(output: &Output) -> anyhow::Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{}: {stdout}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(stdout.into_owned())
}

/// The image of the clients and servers of the tests.
pub const TRAFFIC: &str = concat!("meshctl.io/test-traffic:", env!("CARGO_PKG_VERSION"));
/// A share of the processor, so that a busy machine starves proxies and applications alike.
const SHARE: &str = "{ requests: { cpu: 100m } }";
/// The same where a test has many pods: they must find room.
const SMALL_SHARE: &str = "{ requests: { cpu: 10m } }";
