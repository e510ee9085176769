//! The stage: the bridge, the process namespace and the pods that run on it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::location::State;

use super::directory::Directory;
use super::network::Node;
use super::pod::{PodEvent, PodSpec};

/// What runs.
#[derive(Debug)]
pub(super) struct Stage {
    node: Node,
    program: PathBuf,
    logs: PathBuf,
    init: Child,
    pods: Vec<Child>,
    state: State,
    events: mpsc::Receiver<(String, PodEvent)>,
    speaker: mpsc::Sender<(String, PodEvent)>,
}

impl Stage {
    /// Makes the bridge, and the process namespace's first process. `program` is this one.
    pub(super) async fn new(directory: &Directory, program: &Path) -> anyhow::Result<Self> {
        // First of all: whatever is started next must die with it.
        let init = Command::new(program)
            .arg("demo-init")
            .stdin(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let (speaker, events) = mpsc::channel(64);
        let state = State {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_ms: crate::now_ms(),
            ready: false,
            pods: Vec::new(),
            manifest_problems: None,
        };
        let logs = directory.make("logs", None)?;
        Ok(Self {
            node: Node::create().await?,
            program: program.to_owned(),
            logs,
            init,
            pods: Vec::new(),
            state,
            events,
            speaker,
        })
    }

    /// Starts a pod and gives it its link. It goes on by itself; [`Stage::next_event`] tells how.
    pub(super) async fn start(&mut self, spec: &PodSpec) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.logs.join(format!("{}.pod.log", spec.name)))?;
        let mut child = Command::new(&self.program)
            .arg("demo-pod")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C is for the demo alone to hear.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().context("the pod ended at once")?;
        let mut input = child.stdin.take().context("the pod has no standard input")?;
        let mut output = BufReader::new(child.stdout.take().context("the pod has no standard output")?).lines();
        self.pods.push(child);
        let description = serde_json::to_string(spec)?;
        timeout(LINK_WITHIN, self.link(&description, pid, &mut input, &mut output))
            .await
            .unwrap_or_else(|_| bail!("no network namespace after {LINK_WITHIN:?}"))
            .with_context(|| format!("pod {} cannot be started", spec.name))?;
        if let Some(pod) = self.state.pods.iter_mut().find(|pod| pod.name == spec.name) {
            pod.pid = pid;
        }
        let (name, speaker) = (spec.name.clone(), self.speaker.clone());
        tokio::spawn(async move {
            let _open = input;
            while let Ok(Some(line)) = output.next_line().await {
                let event = serde_json::from_str(&line).unwrap_or(PodEvent::Failed(line));
                if speaker.send((name.clone(), event)).await.is_err() {
                    return;
                }
            }
            speaker.send((name, PodEvent::Failed("it ended".to_owned()))).await.ok();
        });
        Ok(())
    }

    async fn link(
        &self,
        description: &str,
        pid: u32,
        input: &mut ChildStdin,
        output: &mut Lines<BufReader<ChildStdout>>,
    ) -> anyhow::Result<()> {
        input.write_all(format!("{description}\n").as_bytes()).await?;
        let line = output.next_line().await?.context("it ended without a word; see its log")?;
        match serde_json::from_str(&line)? {
            PodEvent::Namespace => {}
            PodEvent::Failed(why) => bail!(why),
            other => bail!("it said {other:?} before it had a network namespace"),
        }
        self.node.attach(self.pods.len(), pid).await?;
        Ok(input.write_all(b"go\n").await?)
    }

    /// What a pod has to say next; process ids are noted in the state.
    pub(super) async fn next_event(&mut self) -> (String, PodEvent) {
        let (name, event) = self.events.recv().await.expect("the stage holds a sender itself");
        if let PodEvent::Started { role, pid } = &event
            && let Some(pod) = self.state.pods.iter_mut().find(|pod| pod.name == name)
            && let Some(pid) = outer_pid(pod.pid, *pid)
        {
            pod.processes.insert(role.clone(), pid);
        }
        (name, event)
    }

    /// Waits until all of `pods` have started their application.
    pub(super) async fn wait_for_apps(&mut self, pods: &[&str]) -> anyhow::Result<()> {
        let mut waiting: Vec<&str> = pods.to_vec();
        while !waiting.is_empty() {
            match self.next_event().await {
                (name, PodEvent::Started { role, .. }) if role == "app" => waiting.retain(|pod| *pod != name),
                (name, PodEvent::Failed(why)) => bail!("pod {name}: {why}"),
                (name, PodEvent::Ended { role, how }) => bail!("pod {name}: its {role} ended ({how})"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits for `condition`; fails when a pod fails first, or after `limit`.
    pub(super) async fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !condition() {
            if Instant::now() - start > limit {
                bail!("{what} after {limit:?}; see the logs in {}", self.logs.display());
            }
            tokio::select! {
                event = self.next_event() => match event {
                    (name, PodEvent::Failed(why)) => bail!("pod {name}: {why}"),
                    (name, PodEvent::Ended { role, how }) => bail!("pod {name}: its {role} ended ({how})"),
                    _ => {}
                },
                () = sleep(Duration::from_millis(20)) => {}
            }
        }
        Ok(())
    }

    /// What runs, for the state file.
    pub(super) fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Ends everything, and waits until it is gone.
    pub(super) async fn end(mut self) {
        self.init.start_kill().ok();
        // The first process can end only after all others, and those that are our children only when we have heard of it.
        for pod in &mut self.pods {
            pod.wait().await.ok();
        }
        self.init.wait().await.ok();
    }
}

/// The process id, as this process counts them, of the child of `parent` that counts itself as `inner`.
fn outer_pid(parent: u32, inner: u32) -> Option<u32> {
    let matches = |status: &str| {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let last = |text: &str| text.split_whitespace().last()?.parse::<u32>().ok();
        field("PPid").and_then(last) == Some(parent) && field("NSpid").and_then(last) == Some(inner)
    };
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(process.path().join("status")).ok()?;
        matches(&status).then_some(pid)
    })
}

const LINK_WITHIN: Duration = Duration::from_secs(10);
