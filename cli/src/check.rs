//! `meshctl check`: is the mesh well? One line per check, with a hint beside each that fails.
//!
//! What is asked is kept apart from what is made of it: everything is fetched first ([`fetch`], [`proxies::gather`]), and pure
//! functions over what was fetched decide.
//!
//! - [`before`]: can a mesh be installed here? (`--pre`)
//! - [`installed`]: is the installed one well, and is injected what should be?
//! - [`proxies`]: what the proxies say themselves; a demo has nothing else to check.

use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::output::{self, Format};
use crate::progress::Progress;
use crate::{table, usage};

pub mod before;
pub mod fetch;
pub mod injection;
pub mod installed;
pub mod proxies;
pub mod resources;
pub(crate) mod restart;
pub mod trust;
pub mod watches;

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
    /// What the check is called, for programs: the same whatever its outcome.
    pub name: &'static str,
    /// Lines of one section stand together; empty where there is one only.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub section: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was checked, and what was found.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Something is under way that ends by itself: worth waiting for.
    #[serde(skip)]
    pub passing: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst of the lines.
    pub outcome: Outcome,
    /// All lines.
    pub checks: Vec<Line>,
}

/// Lines of one section, as they are written.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    section: &'static str,
    lines: Vec<Line>,
}

/// Checks, with `wait` until there is nothing left to wait for, prints, and fails if a check does.
pub async fn run(
    look: impl AsyncFn() -> anyhow::Result<Report>,
    wait: Option<Duration>,
    format: Format,
) -> anyhow::Result<()> {
    let report = settled(look, wait.unwrap_or_default()).await?;
    output::print(&match format {
        Format::Json => output::json(&report),
        Format::Table => report.render(),
    })?;
    if report.outcome == Outcome::Failed {
        bail!("{} failed", many(report.count(Outcome::Failed), "check"));
    }
    Ok(())
}

/// Looks until all is well, `wait` is over, or what is left are warnings that stay: those of something under way are waited for,
/// and so is a mesh that cannot be reached yet. A restart that was asked for a moment ago shows in its pods a moment later, so
/// they have to stay for a while ([`patience`]).
async fn settled(look: impl AsyncFn() -> anyhow::Result<Report>, wait: Duration) -> anyhow::Result<Report> {
    let deadline = Instant::now() + wait;
    let mut unchanged_since = None;
    let mut progress = Progress::new();
    loop {
        let report = look().await;
        let now = Instant::now();
        let over = match &report {
            // What was typed does not get better by waiting.
            Err(error) => {
                unchanged_since = None;
                usage::is_usage(error)
            }
            Ok(report) if report.outcome == Outcome::Passed => true,
            Ok(report) if report.outcome == Outcome::Failed || report.checks.iter().any(|line| line.passing) => {
                unchanged_since = None;
                false
            }
            Ok(report) => now - *unchanged_since.get_or_insert(now) >= patience(report),
        };
        if over || now >= deadline {
            return report;
        }
        progress.wait(&waits_for(&report));
        sleep(Duration::from_millis(500)).await;
    }
}

/// How long nothing but lasting warnings is waited upon. Pods that are to be started anew may be just that, with nothing to see
/// before a new one is made: a busy cluster, a quota or a webhook holds that up.
fn patience(report: &Report) -> Duration {
    let outdated = |line: &Line| line.outcome == Outcome::Warning && OUTDATED.contains(&line.name);
    if report.checks.iter().any(outdated) { RESTARTS } else { STAYS }
}

/// What a wait is for: the first line that fails, else of what is under way.
fn waits_for(report: &anyhow::Result<Report>) -> String {
    let report = match report {
        Ok(report) => report,
        Err(error) => return format!("waiting: {error:#}"),
    };
    let worst = report.checks.iter().filter(|line| line.outcome == report.outcome);
    let line = worst.min_by_key(|line| line.outcome != Outcome::Failed && !line.passing);
    format!("waiting: {}", line.map(|line| line.text.as_str()).unwrap_or_default())
}

impl Lines {
    /// An empty section.
    pub fn new(section: &'static str) -> Self {
        Self { section, lines: Vec::new() }
    }

    /// As it should be.
    pub fn passed(&mut self, name: &'static str, text: impl Into<String>) {
        self.push(Outcome::Passed, name, text.into(), None);
    }

    /// Somebody should look.
    pub fn warning(&mut self, name: &'static str, text: impl Into<String>, hint: &str) {
        self.push(Outcome::Warning, name, text.into(), Some(hint.to_owned()));
    }

    /// Somebody should look if it stays: something is under way.
    pub fn passing(&mut self, name: &'static str, text: impl Into<String>, hint: &str) {
        self.warning(name, text, hint);
        self.lines.last_mut().expect("it was just put there").passing = true;
    }

    /// Does not work.
    pub fn failed(&mut self, name: &'static str, text: impl Into<String>, hint: &str) {
        self.push(Outcome::Failed, name, text.into(), Some(hint.to_owned()));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// None yet.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Proxies and objects of others are quoted here: they must not forge lines, or take over a terminal.
    fn push(&mut self, outcome: Outcome, name: &'static str, text: String, hint: Option<String>) {
        let (text, hint) = (table::printable(text), hint.map(table::printable));
        self.lines.push(Line { name, section: self.section, outcome, text, hint, passing: false });
    }
}

impl Report {
    /// Several sections as one answer. No line at all is a failure: nothing was checked.
    pub fn new(sections: impl IntoIterator<Item = Lines>) -> Self {
        let checks: Vec<Line> = sections.into_iter().flat_map(|section| section.lines).collect();
        let outcome = checks.iter().map(|line| line.outcome).max().unwrap_or(Outcome::Failed);
        Self { outcome, checks }
    }

    /// How many checks came out like this.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|line| line.outcome == outcome).count()
    }

    /// The lines, and below them what they amount to.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for Line { section: of, outcome, text: line, hint, .. } in &self.checks {
            if *of != section {
                let blank = if text.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{blank}{of}\n"));
                section = of;
            }
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

/// `1 check`, `2 checks`.
pub fn many(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// A few names, and how many more there are.
pub fn some(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

const SHOWN: usize = 5;
const STAYS: Duration = Duration::from_secs(3);
/// Checks whose warnings a restart mends.
const OUTDATED: [&str; 2] = ["injected", "version"];
const RESTARTS: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What `settled` makes of looks that give these lines, and the milliseconds it took; the last look's stay.
    async fn waited(looks: &[&[(Outcome, bool)]], wait: u64) -> (Outcome, u128) {
        let began = Instant::now();
        let count = Cell::new(0);
        let look = async || {
            let outcomes = looks[count.get().min(looks.len() - 1)];
            count.set(count.get() + 1);
            let mut lines = Lines::new("");
            for (outcome, passing) in outcomes {
                lines.push(*outcome, "line", format!("look {}", count.get()), None);
                lines.lines.last_mut().unwrap().passing = *passing;
            }
            Ok(Report::new([lines]))
        };
        let report = settled(look, Duration::from_secs(wait)).await.unwrap();
        (report.outcome, (Instant::now() - began).as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_waiting_may_change_is_waited_for() {
        let good: &[(Outcome, bool)] = &[(Outcome::Passed, false)];
        let stays: &[(Outcome, bool)] = &[(Outcome::Passed, false), (Outcome::Warning, false)];
        let goes: &[(Outcome, bool)] = &[(Outcome::Warning, true), (Outcome::Warning, false)];
        let bad: &[(Outcome, bool)] = &[(Outcome::Failed, false), (Outcome::Warning, false)];
        for (looks, wait, expected) in [
            (&[good][..], 300, (Outcome::Passed, 0)),
            (&[stays], 300, (Outcome::Warning, 3000)),
            (&[stays], 1, (Outcome::Warning, 1000)),
            (&[stays], 0, (Outcome::Warning, 0)),
            (&[bad, goes, goes, good], 300, (Outcome::Passed, 1500)),
            (&[bad, bad, stays], 300, (Outcome::Warning, 4000)),
            // A restart that takes a moment to show.
            (&[stays, stays, goes, goes, good], 300, (Outcome::Passed, 2000)),
            (&[stays, bad, stays], 300, (Outcome::Warning, 4000)),
            (&[goes], 10, (Outcome::Warning, 10_000)),
            (&[bad], 10, (Outcome::Failed, 10_000)),
        ] {
            assert_eq!(waited(looks, wait).await, expected, "{looks:?} {wait}");
        }
    }

    /// `kubectl rollout restart` and then `check --wait`: the first new pod takes its time, the old ones look as if they stayed.
    #[tokio::test(start_paused = true)]
    async fn pods_to_start_anew_are_given_longer() {
        for (name, shows_after, expected) in [
            ("injected", 20, (Outcome::Passed, 25_000)),
            ("version", 20, (Outcome::Passed, 25_000)),
            ("injected", 1000, (Outcome::Warning, 30_000)),
            ("gateway-api", 20, (Outcome::Warning, 3000)),
        ] {
            let began = Instant::now();
            let look = async || {
                let mut lines = Lines::new("");
                match (Instant::now() - began).as_secs() {
                    seconds if seconds < shows_after => lines.warning(name, "old pods", "restart"),
                    seconds if seconds < shows_after + 5 => lines.passing(name, "old pods; being replaced", "restart"),
                    _ => lines.passed(name, "none"),
                }
                Ok(Report::new([lines]))
            };
            let report = settled(look, Duration::from_secs(300)).await.unwrap();
            assert_eq!((report.outcome, (Instant::now() - began).as_millis()), expected, "{name} {shows_after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mesh_that_cannot_be_reached_yet_is_waited_for_and_a_mistake_is_not() {
        let began = Instant::now();
        let away = async || anyhow::bail!("nobody answers");
        assert!(settled(away, Duration::from_secs(5)).await.is_err());
        assert_eq!(Instant::now() - began, Duration::from_secs(5));
        assert!(settled(async || Err(usage::usage("odd")), Duration::from_secs(5)).await.is_err());
        assert_eq!(Instant::now() - began, Duration::from_secs(5));
    }
}
