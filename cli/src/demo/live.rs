//! The live view: one table of edges, drawn anew every second on a terminal, now and then elsewhere.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::edges::Edges;
use crate::output;
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
        let frame = frame(&Edges::new(&traffic), &read(report).unwrap_or_default());
        screen.draw(&frame, &hints(directory))?;
    }
    Ok(())
}

fn frame(edges: &Edges, report: &Report) -> String {
    let Report { succeeded, failed, last_failure, .. } = report;
    let failure = last_failure.as_deref().map(|why| format!(" (the last: {why})")).unwrap_or_default();
    let (canary, share) = verdict::canary_share(edges);
    let canary = share.map(|(share, _)| format!("{canary} gets {:.1}% of the calls to reviews\n", share * 100.0));
    let canary = canary.unwrap_or_default();
    format!("{}\nrequests: {succeeded} succeeded, {failed} failed{failure}\n{canary}", edges.render())
}

fn hints(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "\nTry, in another terminal:\n  meshctl stat                                  figures of every workload\n  \
         meshctl check; meshctl identity; meshctl proxy-status\n  \
         edit {directory}/manifests/{ROUTE_FILE}   change the weights, save, and watch\n  \
         less {directory}/logs/catalog.proxy.log\nCtrl-C ends the demo and removes everything.\n"
    )
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
            let text = format!("meshctl demo\n\n{frame}{hints}").replace('\n', "\x1b[K\n");
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
