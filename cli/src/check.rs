//! `meshctl check`: is the mesh well? One line per check, with a hint beside each that fails.
//!
//! What is asked ([`gather`]) is kept apart from what is made of it ([`judge`]).

use std::time::Duration;

use anyhow::bail;
use proto::admin::{DiscoveryStatus, Failure, IdentityStatus, Info};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::args::CheckArgs;
use crate::output::{self, Format};
use crate::table;
use crate::transport::{self, Answer, Pod, Transport, TransportError};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Works, and somebody should look.
    Warning,
    /// Does not work.
    Failed,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// How it came out.
    pub outcome: Outcome,
    /// What was checked, and what was found.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst of the lines.
    pub outcome: Outcome,
    /// All lines.
    pub checks: Vec<Line>,
}

/// What all proxies said.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// All pods.
    pub pods: Vec<Pod>,
    /// `/info` of every proxy.
    pub info: Vec<Answer<Info>>,
    /// `/identity` of every proxy.
    pub identity: Vec<Answer<IdentityStatus>>,
    /// `/discovery` of every proxy.
    pub discovery: Vec<Answer<DiscoveryStatus>>,
    /// `/failures` of every proxy.
    pub failures: Vec<Answer<Vec<Failure>>>,
    /// What is wrong with the objects the mesh follows, where that is known.
    pub problems: Option<Vec<String>>,
}

/// Runs the command. With `--wait`, a mesh that is not there yet is waited for as well: `find` looks for it anew.
pub async fn run<T: Transport>(
    find: impl Fn() -> anyhow::Result<T>,
    args: &CheckArgs,
    format: Format,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + args.wait.unwrap_or_default();
    let report = loop {
        let report = match find() {
            Ok(transport) => {
                gather(&transport).await.map(|answers| judge(&answers, crate::now_ms())).map_err(Into::into)
            }
            Err(error) => Err(error),
        };
        let well = report.as_ref().is_ok_and(|report| report.outcome != Outcome::Failed);
        if well || Instant::now() >= deadline {
            break report?;
        }
        sleep(Duration::from_millis(500)).await;
    };
    output::print(&match format {
        Format::Json => output::json(&report),
        Format::Table => report.render(),
    })?;
    if report.outcome == Outcome::Failed {
        bail!("{} failed", many(report.count(Outcome::Failed), "check"));
    }
    Ok(())
}

/// Asks every proxy everything.
pub async fn gather(transport: &impl Transport) -> Result<Answers, TransportError> {
    let (pods, problems) = (transport.pods().await?, transport.problems().await?);
    let proxies: Vec<String> = pods.iter().filter(|pod| pod.meshed).map(|pod| pod.name.clone()).collect();
    let (info, identity, discovery, failures) = tokio::join!(
        transport::ask_json(transport, &proxies, "/info"),
        transport::ask_json(transport, &proxies, "/identity"),
        transport::ask_json(transport, &proxies, "/discovery"),
        transport::ask_json(transport, &proxies, "/failures"),
    );
    Ok(Answers { pods, info, identity, discovery, failures, problems })
}

/// What the answers mean at a moment, in milliseconds since 1970.
pub fn judge(answers: &Answers, now_ms: u64) -> Report {
    let mut checks = Vec::new();
    proxies(answers, &mut checks);
    certificates(&answers.identity, now_ms, &mut checks);
    one_bundle(&answers.identity, &mut checks);
    discovery(&answers.discovery, &mut checks);
    manifests(answers.problems.as_deref(), &mut checks);
    recent_failures(&answers.failures, now_ms, &mut checks);
    let outcome = checks.iter().map(|line| line.outcome).max().unwrap_or(Outcome::Failed);
    Report { outcome, checks }
}

fn proxies(answers: &Answers, checks: &mut Vec<Line>) {
    if answers.info.is_empty() {
        let hint = "start a demo with: meshctl demo";
        checks.push(Line::failed("there is no proxy in this mesh".to_owned(), hint));
        return;
    }
    let own = env!("CARGO_PKG_VERSION");
    let mut well = 0;
    for Answer { proxy, result } in &answers.info {
        match result {
            Err(error) => checks.push(Line::failed(format!("proxy {proxy} {error}"), "meshctl proxy-status")),
            Ok(info) if !info.ready => {
                let text = format!("proxy {proxy} is not ready: no certificate or no configuration yet");
                checks.push(Line::failed(text, &format!("meshctl identity {proxy}; meshctl proxy-status {proxy}")));
            }
            Ok(info) if info.draining => {
                checks.push(Line::warning(format!("proxy {proxy} is draining"), "wait for its pod to end"));
            }
            Ok(info) if info.version != own => {
                let text = format!("proxy {proxy} has version {}, this meshctl {own}", info.version);
                checks.push(Line::warning(text, "meshctl version"));
            }
            Ok(_) => well += 1,
        }
    }
    if well == answers.info.len() {
        checks.push(Line::passed(format!("{well} of {well} proxies answer and are ready")));
    }
    let outside = answers.pods.iter().filter(|pod| !pod.meshed && pod.namespace != proto::names::SYSTEM_NAMESPACE);
    for pod in outside {
        checks.push(Line::warning(format!("pod {} has no proxy", pod.name), "start the demo without --no-mesh"));
    }
}

fn certificates(answers: &[Answer<IdentityStatus>], now_ms: u64, checks: &mut Vec<Line>) {
    let mut soonest = u64::MAX;
    let mut well = 0;
    let known: Vec<_> =
        answers.iter().filter_map(|answer| Some((&answer.proxy, answer.result.as_ref().ok()?))).collect();
    for (proxy, status) in &known {
        let hint = format!("meshctl identity {proxy}");
        let why = status.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        if status.not_after_ms == 0 {
            checks.push(Line::failed(format!("proxy {proxy} has no certificate{why}"), &hint));
        } else if status.not_after_ms <= now_ms {
            let ago = table::span(now_ms - status.not_after_ms);
            checks.push(Line::failed(format!("certificate of {proxy} expired {ago} ago{why}"), &hint));
        } else if status.last_error.is_some() {
            let left = table::span(status.not_after_ms - now_ms);
            checks.push(Line::warning(
                format!("certificate of {proxy} ends in {left} and could not be renewed{why}"),
                &hint,
            ));
        } else {
            well += 1;
            soonest = soonest.min(status.not_after_ms - now_ms);
        }
    }
    if well > 0 && well == known.len() {
        checks.push(Line::passed(format!("{well} certificates are valid, the first ends in {}", table::span(soonest))));
    }
}

fn one_bundle(answers: &[Answer<IdentityStatus>], checks: &mut Vec<Line>) {
    let mut bundles: Vec<&str> =
        answers.iter().filter_map(|answer| Some(answer.result.as_ref().ok()?.bundle.as_str())).collect();
    bundles.sort_unstable();
    bundles.dedup();
    match bundles.len() {
        0 => {}
        1 => checks.push(Line::passed("all proxies trust the same anchors".to_owned())),
        more => checks.push(Line::warning(
            format!("proxies trust {more} different sets of anchors; fine while anchors are being rotated"),
            "meshctl identity",
        )),
    }
}

fn discovery(answers: &[Answer<DiscoveryStatus>], checks: &mut Vec<Line>) {
    let known: Vec<_> =
        answers.iter().filter_map(|answer| Some((&answer.proxy, answer.result.as_ref().ok()?))).collect();
    let mut oldest = 0;
    let mut well = 0;
    for (proxy, status) in &known {
        let hint = format!("meshctl proxy-status {proxy}");
        let age = table::span(status.age_ms);
        let rejected = status.subscriptions.iter().find_map(|key| Some((&key.key, key.rejected.as_ref()?)));
        if let Some((key, reason)) = rejected {
            checks.push(Line::failed(format!("proxy {proxy} rejected a new version of {key}: {reason}"), &hint));
        } else if status.age_ms >= STALE_MS {
            checks
                .push(Line::warning(format!("picture of {proxy} is {age} old; it works on with what it knows"), &hint));
        } else if !status.connected {
            let why = status.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            checks.push(Line::warning(format!("proxy {proxy} is not connected to a controller{why}"), &hint));
        } else {
            well += 1;
            oldest = oldest.max(status.age_ms);
        }
    }
    if well > 0 && well == known.len() {
        checks.push(Line::passed(format!(
            "{well} proxies are connected to a controller, the oldest picture is {} old",
            table::span(oldest)
        )));
    }
}

fn manifests(problems: Option<&[String]>, checks: &mut Vec<Line>) {
    let Some(problems) = problems else { return };
    for problem in problems {
        checks.push(Line::warning(format!("manifest {problem}"), "correct the file; it is read again at once"));
    }
    if problems.is_empty() {
        checks.push(Line::passed("all manifests are in force".to_owned()));
    }
}

fn recent_failures(answers: &[Answer<Vec<Failure>>], now_ms: u64, checks: &mut Vec<Line>) {
    let known: Vec<_> =
        answers.iter().filter_map(|answer| Some((&answer.proxy, answer.result.as_ref().ok()?))).collect();
    if known.is_empty() {
        return;
    }
    let recent = |failure: &&Failure| {
        failure.at_ms + RECENT_MS >= now_ms && failure.reason != proto::Reason::ClientClosed.as_str()
    };
    let before = checks.len();
    for (proxy, failures) in known {
        let mut recent = failures.iter().filter(recent);
        let Some(last) = recent.next() else { continue };
        let sentence = last.reason.parse::<proto::Reason>().map_or("", proto::Reason::sentence);
        let detail = if last.detail.is_empty() { String::new() } else { format!(" ({})", last.detail) };
        let count = 1 + recent.count();
        // A proxy keeps only so many: where all are recent, others may have been pushed out.
        let most = if count >= proto::admin::FAILURES_KEPT { "at least " } else { "" };
        let text = format!(
            "{most}{} at proxy {proxy} in the last minute, the last {} from {} to {}: {sentence}{detail}",
            many(count, "failure"),
            last.reason,
            last.source,
            last.destination
        );
        checks.push(Line::warning(text, "meshctl edges"));
    }
    if checks.len() == before {
        checks.push(Line::passed("no proxy caused a failure in the last minute".to_owned()));
    }
}

impl Line {
    fn passed(text: String) -> Self {
        Self { outcome: Outcome::Passed, text, hint: None }
    }

    fn warning(text: String, hint: &str) -> Self {
        Self { outcome: Outcome::Warning, text, hint: Some(hint.to_owned()) }
    }

    fn failed(text: String, hint: &str) -> Self {
        Self { outcome: Outcome::Failed, text, hint: Some(hint.to_owned()) }
    }
}

impl Report {
    /// How many checks came out like this.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|line| line.outcome == outcome).count()
    }

    /// The lines, and below them what they amount to.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for Line { outcome, text: line, hint } in &self.checks {
            let mark = match outcome {
                Outcome::Passed => '√',
                Outcome::Warning => '‼',
                Outcome::Failed => '×',
            };
            let line: String = line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
            text.push_str(&format!("{mark} {line}\n"));
            if let Some(hint) = hint {
                text.push_str(&format!("    try: {hint}\n"));
            }
        }
        text.push_str(&match self.outcome {
            Outcome::Passed => "\nall is well\n".to_owned(),
            Outcome::Warning => format!("\nworks, with {}\n", many(self.count(Outcome::Warning), "warning")),
            Outcome::Failed => format!("\nfailed: {}\n", many(self.count(Outcome::Failed), "check")),
        });
        text
    }
}

fn many(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// Three missed heartbeats.
const STALE_MS: u64 = 3 * proto::names::HEARTBEAT_SECONDS * 1000;
const RECENT_MS: u64 = 60_000;

#[cfg(test)]
mod tests;
