//! The live view: one table of edges, drawn anew every second on a terminal, now and then elsewhere.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::edges::Edges;
use crate::location;
use crate::output;
use crate::table;
use crate::traffic::{self, Scrape};
use crate::transport;
use crate::transport::unix_socket::UnixSockets;

use super::app::Report;
use super::manifests::ROUTE_FILE;
use super::verdict::{self, read};

/// Shows what happens until it is told to stop, or for a while.
pub(super) async fn watch(directory: &Path, report: &Path, limit: Option<Duration>) -> anyhow::Result<()> {
    let screen = Screen::open()?;
    let end = limit.map(|limit| Instant::now() + limit);
    let transport = UnixSockets::new(directory);
    let proxies = transport::proxies(&transport).await?;
    let mut looks: VecDeque<Vec<Scrape>> = VecDeque::new();
    let mut next = Instant::now();
    let mut drawn = Instant::now() - PLAIN_EVERY;
    if !screen.terminal {
        output::print(&hints(directory))?;
    }
    while end.is_none_or(|end| next < end) {
        sleep_until(next).await;
        next += Duration::from_secs(1);
        looks.push_back(traffic::look(&transport, &proxies).await);
        if looks.len() > LOOKS {
            looks.pop_front();
        }
        let (Some(first), Some(last)) = (looks.front(), looks.back()) else { continue };
        if looks.len() < 2 || (!screen.terminal && Instant::now() - drawn < PLAIN_EVERY) {
            continue;
        }
        drawn = Instant::now();
        let traffic = traffic::between(first, last);
        let problems = location::read_state(directory).ok().and_then(|state| state.manifest_problems);
        let frame = frame(&Edges::new(&traffic), &read(report).unwrap_or_default(), &problems.unwrap_or_default());
        screen.draw(&frame, &hints(directory))?;
    }
    Ok(())
}

fn frame(edges: &Edges, report: &Report, problems: &[String]) -> String {
    let Report { succeeded, failed, last_failure, .. } = report;
    let failure = last_failure.as_deref().map(|why| format!(" (the last: {why})")).unwrap_or_default();
    let (canary, share) = verdict::canary_share(edges);
    let canary = share.map(|(share, _)| format!("{canary} gets {:.1}% of the calls to reviews\n", share * 100.0));
    let canary = canary.unwrap_or_default();
    let problems: String = problems.iter().map(|problem| format!("‼ {}\n", table::one_line(problem))).collect();
    format!("{}\nrequests: {succeeded} succeeded, {failed} failed{failure}\n{canary}{problems}", edges.render())
}

fn hints(directory: &Path) -> String {
    let directory = directory.display();
    let path = std::env::var_os("PATH");
    let meshctl = std::env::current_exe().map_or_else(
        |_| "meshctl".to_owned(),
        |own| typed(&own, std::env::current_dir().ok().as_deref(), path.as_deref()),
    );
    format!(
        "\nTry, in another terminal:\n  {meshctl} stat\n  {meshctl} check\n  \
         edit {directory}/manifests/{ROUTE_FILE}: change the weights, save, and watch\n  \
         less {directory}/logs/catalog.proxy.log\nCtrl-C ends the demo and removes everything.\n"
    )
}

/// How a person in `current` types this program: its name alone where the shell finds it, else where it is.
fn typed(own: &Path, current: Option<&Path>, path: Option<&OsStr>) -> String {
    let name = own.file_name().unwrap_or(own.as_os_str());
    let mut found = path.into_iter().flat_map(std::env::split_paths).map(|directory| directory.join(name));
    let shortest = match (found.find(|program| program.is_file()), current.and_then(|it| own.strip_prefix(it).ok())) {
        (Some(program), _) if program.canonicalize().is_ok_and(|program| program == own) => Path::new(name),
        (_, Some(below)) if below.components().count() > 1 => below,
        _ => own,
    };
    shortest.display().to_string()
}

/// The terminal, if there is one. Restored when dropped.
struct Screen {
    terminal: bool,
}

impl Screen {
    fn open() -> anyhow::Result<Self> {
        let terminal = std::io::stdout().is_terminal();
        if terminal {
            // The other screen, so that what was there before comes back; no wrapping, so that a line is a line.
            output::print("\x1b[?1049h\x1b[?7l\x1b[?25l\x1b[2J")?;
        }
        Ok(Self { terminal })
    }

    fn draw(&self, frame: &str, hints: &str) -> anyhow::Result<()> {
        if self.terminal {
            // No line end at the end: it would move everything up on a terminal that is full to the last line.
            let text = format!("meshctl demo\n\n{frame}{hints}").trim_end().replace('\n', "\x1b[K\n");
            return output::print(&format!("\x1b[H{text}\x1b[J"));
        }
        output::print(&format!("{frame}\n"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            output::print("\x1b[?25h\x1b[?7h\x1b[?1049l").ok();
        }
    }
}

/// Rates are over the last five seconds: calm enough to read, quick enough to see an edit take effect.
const LOOKS: usize = 6;
const PLAIN_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hints_can_be_typed_as_they_stand() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let own = directory.join("target/release/meshctl");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "").unwrap();
        assert_eq!(typed(&own, Some(&directory), None), "target/release/meshctl");
        assert_eq!(typed(&own, Some(Path::new("/elsewhere")), None), own.display().to_string());
        assert_eq!(typed(&own, own.parent(), None), own.display().to_string());
        let path = own.parent().map(Path::as_os_str);
        assert_eq!(typed(&own, Some(&directory), path), "meshctl");
    }

    #[test]
    fn what_is_wrong_with_a_manifest_is_seen() {
        let edges = Edges::new(&traffic::tests::traffic(&[]));
        let text = frame(&edges, &Report::default(), &["a.yaml:3: o\u{1b}dd".to_owned()]);
        assert!(text.ends_with("‼ a.yaml:3: o\u{fffd}dd\n"), "{text}");
    }
}
