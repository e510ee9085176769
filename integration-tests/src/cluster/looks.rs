//! What a test sees of pods and nodes beside what a user asks for: metrics, a node's network, programs inside pods.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use proto::names;
use serde_json::Value;

use super::{Cluster, Namespace, text};
use crate::mesh::{admin, eventually};
use crate::traffic::load::LoadReport;

impl Cluster {
    /// A command in a node's network, ready to be started.
    pub fn on_node(&self, node: &str, words: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster"));
        command.args(["exec", node]).args(words).stdin(Stdio::null());
        command
    }

    /// What `meshctl -o json` says.
    pub fn meshctl_json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let said = self.meshctl(&[arguments, &["--output=json"]].concat())?;
        serde_json::from_str(&said).context(said)
    }
}

/// Whether a pod was given a proxy.
pub fn has_proxy(pod: &Value) -> bool {
    pod["spec"]["initContainers"].to_string().contains("mesh-proxy")
}

impl Namespace {
    /// A list of objects as JSON.
    pub fn list(&self, kinds: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let listing = self.kubectl(&["get", kinds, &format!("--selector={selector}"), "--output=json"])?;
        match serde_json::from_str::<Value>(&listing)?["items"].take() {
            Value::Array(items) => Ok(items),
            other => anyhow::bail!("not a list: {other}"),
        }
    }

    /// Addresses of the pods of an application that stay.
    pub fn addresses(&self, app: &str) -> anyhow::Result<Vec<IpAddr>> {
        let pods = self.list("pods", &format!("app={app}"))?;
        let staying = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let addresses = staying.filter_map(|pod| pod["status"]["podIP"].as_str()).map(str::parse);
        let addresses: Vec<IpAddr> = addresses.collect::<Result<_, _>>()?;
        ensure!(!addresses.is_empty(), "{app} has no pods");
        Ok(addresses)
    }

    /// Metrics of all proxies of an application, one after the other.
    pub fn metrics(&self, app: &str) -> anyhow::Result<String> {
        let addresses = self.addresses(app)?;
        addresses.into_iter().map(|address| get((address, names::HEALTH_PORT).into(), "/metrics")).collect()
    }

    /// Sum of a metric over all proxies of an application, over series that have all of these labels.
    pub fn sum(&self, app: &str, metric: &str, labels: &[&str]) -> anyhow::Result<f64> {
        Ok(admin::sum(&self.metrics(app)?, metric, labels))
    }

    /// Runs the test program in the container `app` of a Deployment's pod; its output. It has to succeed.
    pub fn run_in(&self, app: &str, words: &[&str]) -> anyhow::Result<String> {
        let deployment = format!("deployment/{app}");
        let program = ["exec", &deployment, "--container=app", "--", "/traffic"];
        self.kubectl(&[&program, words].concat())
    }

    /// Sends ten requests a second from the container `app` of a Deployment's pod.
    pub fn send_from(&self, app: &str, target: &str, seconds: u32) -> anyhow::Result<LoadReport> {
        let seconds = format!("--seconds={seconds}");
        let output = self.run_in(app, &["load", "--rate=10", &seconds, "--target", target])?;
        serde_json::from_str(output.trim()).context(output)
    }

    /// Waits until a field of an object, given in JSONPath, is as wanted.
    pub fn wait_for(&self, object: &str, path: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let output = format!("--output=jsonpath={path}");
        let mut seen = String::new();
        let arrived = eventually(Duration::from_secs(60), || {
            seen = self.kubectl(&["get", object, &output]).unwrap_or_else(|error| format!("{error:#}"));
            wanted(&seen)
        });
        arrived.with_context(|| {
            format!("{object} {path} is {seen:?}\n{}", self.kubectl(&["get", "pods,events"]).unwrap_or_default())
        })
    }
}

/// Body of the answer to a GET, which has to be 200.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    Ok(body.to_owned())
}

/// What a command wrote; it has to succeed.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    text(&command.output()?)
}

const PATIENCE: Duration = Duration::from_secs(5);
