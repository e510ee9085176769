//! One pod of the demo, run by the hidden command `demo-pod`: a process that makes a network namespace, waits for its link,
//! writes the redirect rules, and keeps the proxy and the application running, as a kubelet would.
//!
//! The demo speaks to it over standard input (one line with the [`PodSpec`], one with `go` when the link is there) and hears
//! [`PodEvent`]s, one JSON line each, on standard output.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use crate::transport::unix_socket;

use super::{namespaces, network};

/// What a pod runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodSpec {
    /// Pod name.
    pub(super) name: String,
    /// IPv4, then IPv6.
    pub(super) addresses: Vec<IpAddr>,
    /// Commands that have to end well before anything else starts.
    pub(super) init: Vec<ProcessSpec>,
    /// The proxy and its admin socket; the application starts when it is ready.
    pub(super) proxy: Option<(ProcessSpec, PathBuf)>,
    /// What the pod is there for.
    pub(super) app: ProcessSpec,
}

/// One process of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessSpec {
    /// Path of the program.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) args: Vec<String>,
    /// Added to its environment.
    pub(super) env: BTreeMap<String, String>,
    /// User and group to run as; the pod's own where there is none.
    pub(super) user: Option<u32>,
    /// Where its output goes, appended.
    pub(super) log: PathBuf,
}

/// What a pod says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PodEvent {
    /// The network namespace is there, and wants a link.
    Namespace,
    /// A process was started; the id is that of the demo's process namespace.
    Started {
        /// `proxy` or `app`.
        role: String,
        /// Process id in the demo's process namespace.
        pid: u32,
    },
    /// A process ended that should not have; it is started again.
    Ended {
        /// `proxy` or `app`.
        role: String,
        /// How it ended, and its last words.
        how: String,
    },
    /// The pod cannot run.
    Failed(String),
}

/// Runs the pod this process was started for, until SIGTERM.
pub(super) fn run() -> ExitCode {
    match pod() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&PodEvent::Failed(format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn pod() -> anyhow::Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let mut line = || lines.next().context("the demo is gone")?.context("the demo cannot be heard");
    let spec: PodSpec = serde_json::from_str(&line()?).context("the pod's description is malformed")?;
    namespaces::enter_pod()?;
    say(&PodEvent::Namespace);
    anyhow::ensure!(line()? == "go", "the demo gave no link");
    drop(lines);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        network::configure_pod(&spec.addresses).await?;
        for command in &spec.init {
            run_once(command).await?;
        }
        keep_running(&spec).await
    })
}

/// Starts proxy, then application, and starts again what ends. Applications are told to end before their proxy.
async fn keep_running(spec: &PodSpec) -> anyhow::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let mut proxy = match &spec.proxy {
        Some((process, socket)) => {
            let mut proxy = Process::start("proxy", process)?;
            tokio::select! {
                ready = wait_until_ready(&mut proxy, socket) => ready?,
                _ = stop.recv() => return Ok(()),
            }
            Some(proxy)
        }
        None => None,
    };
    let mut app = Process::start("app", &spec.app)?;
    tokio::select! {
        failed = app.keep() => return failed,
        failed = keep_optional(&mut proxy) => return failed,
        _ = stop.recv() => {}
    }
    app.end(&mut stop).await;
    if let Some(mut proxy) = proxy {
        proxy.end(&mut stop).await;
    }
    Ok(())
}

async fn keep_optional(process: &mut Option<Process<'_>>) -> anyhow::Result<()> {
    match process {
        Some(process) => process.keep().await,
        None => std::future::pending().await,
    }
}

async fn wait_until_ready(proxy: &mut Process<'_>, socket: &std::path::Path) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        if let Some(status) = proxy.child.try_wait()? {
            bail!("the proxy ended ({status}){}", last_words(proxy.spec));
        }
        let ready = unix_socket::get(socket, "/ready").await;
        match ready {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() - start > READY_WITHIN => {
                bail!("the proxy is not ready after {READY_WITHIN:?}: {error}{}", last_words(proxy.spec))
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

struct Process<'a> {
    role: &'static str,
    spec: &'a ProcessSpec,
    child: Child,
}

impl<'a> Process<'a> {
    fn start(role: &'static str, spec: &'a ProcessSpec) -> anyhow::Result<Self> {
        let child = command(spec)?.spawn().with_context(|| format!("{} cannot be started", spec.program.display()))?;
        say(&PodEvent::Started { role: role.to_owned(), pid: child.id().unwrap_or(0) });
        Ok(Self { role, spec, child })
    }

    /// Starts the process again whenever it ends, at once the first time, more patiently when it goes on.
    async fn keep(&mut self) -> anyhow::Result<()> {
        let mut patience = FIRST_PATIENCE;
        loop {
            let started = Instant::now();
            let status = self.child.wait().await?;
            let how = format!("{status}{}", last_words(self.spec));
            say(&PodEvent::Ended { role: self.role.to_owned(), how });
            patience = if Instant::now() - started > LONGEST_PATIENCE { FIRST_PATIENCE } else { patience };
            sleep(patience).await;
            patience = (patience * 2).min(LONGEST_PATIENCE);
            *self = Self::start(self.role, self.spec)?;
        }
    }

    /// Asks the process to end, and makes it end when it takes too long or a second signal asks for haste.
    async fn end(&mut self, haste: &mut Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        tokio::select! {
            ended = timeout(END_WITHIN, self.child.wait()) => if ended.is_ok() { return },
            _ = haste.recv() => {}
        }
        self.child.kill().await.ok();
    }
}

async fn run_once(spec: &ProcessSpec) -> anyhow::Result<()> {
    let status = timeout(READY_WITHIN, command(spec)?.status()).await;
    match status.context("took too long").and_then(|status| Ok(status?)) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("{} failed ({status}){}", words(spec), last_words(spec)),
        Err(error) => bail!("{} failed: {error:#}", words(spec)),
    }
}

fn command(spec: &ProcessSpec) -> anyhow::Result<Command> {
    let log = OpenOptions::new().create(true).append(true).open(&spec.log);
    let log = log.with_context(|| format!("{} cannot be written", spec.log.display()))?;
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).envs(&spec.env).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    if let Some(user) = spec.user {
        command.uid(user).gid(user);
    }
    Ok(command)
}

fn words(spec: &ProcessSpec) -> String {
    let name = spec.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::iter::once(name).chain(spec.args.iter().take(1).cloned()).collect::<Vec<_>>().join(" ")
}

/// The last line of the log: most often why a program ended. Of a panic, what stands above its stack.
fn last_words(spec: &ProcessSpec) -> String {
    let text = std::fs::read(&spec.log).unwrap_or_default();
    let end = &text[text.len().saturating_sub(4096)..];
    let text = String::from_utf8_lossy(end);
    let text = text.split_once("\nstack backtrace:").map_or(&*text, |(above, _)| above);
    text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {line}")).unwrap_or_default()
}

fn say(event: &PodEvent) {
    let line = serde_json::to_string(event).expect("events are plain data");
    // When nobody listens any more the demo is gone, and so is this process in a moment.
    writeln!(std::io::stdout().lock(), "{line}").ok();
}

const READY_WITHIN: Duration = Duration::from_secs(30);
const END_WITHIN: Duration = Duration::from_secs(5);
const FIRST_PATIENCE: Duration = Duration::from_millis(100);
const LONGEST_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: PathBuf) -> ProcessSpec {
        let args = vec!["-c".to_owned(), script.to_owned()];
        ProcessSpec { program: "/bin/sh".into(), args, env: BTreeMap::new(), user: None, log }
    }

    #[tokio::test]
    async fn a_failing_command_is_reported_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        run_once(&shell("echo fine", log.clone())).await.unwrap();
        let error = run_once(&shell("echo no such table >&2; exit 3", log)).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with(": no such table"), "{error}");
    }

    #[tokio::test]
    async fn a_process_that_ends_is_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let marks = directory.path().join("marks");
        let script = format!("echo x >> {}", marks.display());
        let spec = shell(&script, directory.path().join("log"));
        let mut process = Process::start("app", &spec).unwrap();
        tokio::select! {
            failed = process.keep() => panic!("{failed:?}"),
            () = async { while std::fs::read(&marks).unwrap_or_default().len() < 4 { sleep(Duration::from_millis(5)).await } } => {}
        }
    }
}
