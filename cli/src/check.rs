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

use crate::install::progress::Progress;
use crate::output::{self, Format};
use crate::{table, usage};

pub mod before;
pub mod fetch;
pub mod injection;
pub mod installed;
pub mod proxies;
pub mod resources;
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

/// Checks until everything passes or `wait` is over, prints, and fails if something does. With `wait`, a mesh that cannot be
/// reached yet is waited for as well.
pub async fn run(
    look: impl AsyncFn() -> anyhow::Result<Report>,
    wait: Option<Duration>,
    format: Format,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait.unwrap_or_default();
    let mut progress = Progress::new();
    let report = loop {
        let report = look().await;
        let well = report.as_ref().is_ok_and(|report| report.outcome == Outcome::Passed);
        // What was typed does not get better by waiting.
        let nonsense = report.as_ref().is_err_and(usage::is_usage);
        if well || nonsense || Instant::now() >= deadline {
            break report?;
        }
        progress.wait(&waits_for(&report));
        sleep(Duration::from_millis(500)).await;
    };
    drop(progress);
    output::print(&match format {
        Format::Json => output::json(&report),
        Format::Table => report.render(),
    })?;
    if report.outcome == Outcome::Failed {
        bail!("{} failed", many(report.count(Outcome::Failed), "check"));
    }
    Ok(())
}

/// What a wait is for: the first line that is not well yet.
fn waits_for(report: &anyhow::Result<Report>) -> String {
    let report = match report {
        Ok(report) => report,
        Err(error) => return format!("waiting: {error:#}"),
    };
    let worst = report.checks.iter().filter(|line| line.outcome == report.outcome).map(|line| line.text.as_str());
    format!("waiting: {}", worst.take(1).collect::<String>())
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
        self.lines.push(Line { name, section: self.section, outcome, text, hint });
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
