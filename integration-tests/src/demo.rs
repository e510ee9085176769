//! A running `meshctl demo`, for tests: started as a stranger starts it, watched through what it leaves on disk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, kill_process};
use serde_json::Value;

use crate::mesh::process::open_to_all;
use crate::mesh::{Signal, eventually, programs};

/// A demo that runs until it is ended, or this goes.
#[derive(Debug)]
pub struct Demo {
    child: Child,
    place: Place,
}

/// Where a demo may live: nothing is there yet, and all of it goes with this.
#[derive(Debug)]
pub struct Place(tempfile::TempDir);

impl Place {
    /// A place of its own for one test.
    pub fn new() -> anyhow::Result<Self> {
        let parent = tempfile::Builder::new().prefix("demo-").tempdir()?;
        open_to_all(parent.path())?;
        Ok(Self(parent))
    }

    /// The demo's directory, while it runs.
    pub fn directory(&self) -> PathBuf {
        self.0.path().join("demo")
    }

    /// Where the test may put something beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `meshctl` on it, to its end.
    pub fn meshctl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(arguments)?.output()?)
    }

    /// `meshctl` with these arguments, for this demo.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(programs()?.join("meshctl"));
        command.args(arguments).arg("--demo-dir").arg(self.directory()).stdin(Stdio::null());
        Ok(command)
    }
}

impl Demo {
    /// Starts `meshctl demo` with more arguments; its output goes to a file beside it.
    pub fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let place = Place::new()?;
        let log = File::create(place.beside("output"))?;
        let mut command = place.command(&[&["demo"], arguments].concat())?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { child, place })
    }

    /// Starts one and waits until everybody is there and `meshctl check` finds everything in order.
    pub fn up() -> anyhow::Result<Self> {
        let demo = Self::start(&[])?;
        let ready = || demo.state().is_ok_and(|state| state["ready"] == true);
        let well = || ready() && demo.place.meshctl(&["check"]).is_ok_and(|output| output.status.success());
        eventually(Duration::from_secs(30), well).with_context(|| demo.output())?;
        Ok(demo)
    }

    /// Where it lives.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Everything it printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.place.beside("output")).unwrap_or_default()
    }

    /// What it says about itself.
    pub fn state(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(self.place.directory().join("state.json"))?)?)
    }

    /// Every process it started.
    pub fn processes(&self) -> anyhow::Result<Vec<u64>> {
        let state = self.state()?;
        let pods = state["pods"].as_array().context("no pods")?;
        let of_pod = |pod: &Value| -> Vec<u64> {
            let processes = pod["processes"].as_object().into_iter().flat_map(|processes| processes.values());
            processes.chain([&pod["pid"]]).filter_map(Value::as_u64).collect()
        };
        Ok(pods.iter().flat_map(of_pod).collect())
    }

    /// The process that holds the network namespace in which the pods meet.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it without a word.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as Ctrl-C does.
    pub fn interrupt(&mut self) -> anyhow::Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        self.ended(Duration::from_secs(20))
    }

    /// Waits for its end.
    pub fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        let mut status = None;
        eventually(within, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        })?;
        status.context("ended without a status")
    }

    /// Waits until none of these processes is left.
    pub fn gone(processes: &[u64]) -> anyhow::Result<()> {
        ensure!(processes.len() > 14, "only {} processes were there", processes.len());
        let gone = || processes.iter().all(|id| !Path::new(&format!("/proc/{id}")).exists());
        eventually(Duration::from_secs(10), gone)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.kill();
    }
}
