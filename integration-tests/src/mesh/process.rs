//! Processes of a test: each in a network namespace, with its output in a file, gone when its handle or the test goes.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use super::eventually;
use super::network::Namespace;

/// Whom a process runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Root, as applications and the control plane here.
    Root,
    /// The proxy's own user, whom the redirect rules leave alone.
    Proxy,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a network namespace; standard output and error go to `log`.
    pub fn start(
        namespace: &Namespace,
        user: User,
        program: &str,
        arguments: &[&str],
        environment: &[(&str, String)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let output = File::create(log).with_context(|| log.display().to_string())?;
        let mut command = Command::new("nsenter");
        // Each of these becomes the next by exec, so the process id stays the child's.
        command.arg(format!("--net={}", namespace.path())).args(["--", "setpriv", "--pdeathsig", "KILL"]);
        if user == User::Proxy {
            let id = proto::names::PROXY_UID.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        command.arg(program).args(arguments).envs(environment.iter().map(|(name, value)| (*name, value)));
        let child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Kills it without a word, and waits until it is gone.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM, waits for the end, and returns everything it wrote.
    pub fn stop(mut self) -> anyhow::Result<String> {
        self.signal(Signal::TERM)?;
        self.wait(Duration::from_secs(30))?;
        self.output()
    }

    /// Waits for the end by itself.
    pub fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        let mut status = None;
        eventually(within, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        })
        .with_context(|| format!("{} does not end", self.log.display()))?;
        status.context("ended without a status")
    }

    /// Waits for the end, which has to be exit status 0; everything it wrote.
    pub fn succeeded(mut self) -> anyhow::Result<String> {
        let status = self.wait(Duration::from_secs(60))?;
        let output = self.output()?;
        ensure!(status.success(), "{}: {status}: {output}", self.log.display());
        Ok(output)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Everything it wrote so far.
    pub fn output(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// Waits until it has written that.
    pub fn wait_for_output(&self, text: &str, within: Duration) -> anyhow::Result<()> {
        let has = || self.output().is_ok_and(|output| output.contains(text));
        eventually(within, has).with_context(|| format!("never wrote {text:?}: {}", self.output().unwrap_or_default()))
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most resident memory there has been, in bytes.
    pub fn peak_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets every user enter a directory.
pub fn open_to_all(path: &Path) -> anyhow::Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Makes a file or directory another user's.
pub fn give(path: &Path, user: u32) -> anyhow::Result<()> {
    Ok(chown(path, Some(user), Some(user))?)
}
