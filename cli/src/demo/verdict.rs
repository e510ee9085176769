//! The verdict of `--once`: ten seconds of traffic, and whether all of it was as it should be.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use proto::bootstrap::spiffe_id;
use proto::names;
use tokio::time::sleep;

use crate::certificates;
use crate::check::{Outcome, proxies as checks_of};
use crate::edges::{Edge, Edges};
use crate::output;
use crate::stat::{By, Question, Stat};
use crate::traffic;
use crate::transport::unix_socket::UnixSockets;
use crate::transport::{self, Transport as _};

use super::app::Report;
use super::shop::{self, CANARY, Member, NAMESPACE, Protocol, STABLE};

/// Watches for ten seconds, prints what it saw, and fails when anything of it is wrong.
pub(super) async fn once(directory: &Path, report: &Path) -> anyhow::Result<()> {
    let transport = UnixSockets::new(directory);
    let pods = transport.pods().await?;
    let proxies = transport::proxies(&transport).await?;
    first_success(report).await?;
    let before = traffic::look(&transport, &proxies).await;
    let earlier = read(report)?;
    sleep(WINDOW).await;
    let after = traffic::look(&transport, &proxies).await;
    let traffic = traffic::between(&before, &after);
    let checks = checks_of::judge(&checks_of::gather(&transport).await?, crate::now_ms());
    let (stat, edges) = (Stat::new(&Question::all(By::Workload), &pods, &traffic), Edges::new(&traffic));
    let versions = Stat::new(&Question::all(By::Version), &pods, &traffic);
    let report = read(report)?;
    let certificates = certificates::render(&certificates::gather(&transport, &proxies).await, crate::now_ms());
    output::print(&format!(
        "\n$ meshctl check\n{}\n$ meshctl identity\n{certificates}\n$ meshctl stat\n{}\n$ meshctl stat --by version\n{}\n$ meshctl edges\n{}\n",
        checks.render(),
        stat.render(),
        versions.render(),
        edges.render()
    ))?;
    let mut problems = judge(&report, report.succeeded.saturating_sub(earlier.succeeded), &edges);
    if checks.outcome == Outcome::Failed {
        problems.push("a check failed".to_owned());
    }
    if problems.is_empty() {
        let Report { succeeded, .. } = report;
        return output::print(&format!("passed: {succeeded} requests, all successful, all mTLS, the split is right\n"));
    }
    for problem in &problems {
        output::print(&format!("× {problem}\n"))?;
    }
    bail!("the demo did not do what it should: {} problems", problems.len())
}

/// Everything that is wrong. `measured` is how many requests succeeded within the window of `edges`.
pub(super) fn judge(report: &Report, measured: u64, edges: &Edges) -> Vec<String> {
    let mut problems = Vec::new();
    if report.failed > 0 {
        let why = report.last_failure.as_deref().unwrap_or("unknown");
        problems.push(format!(
            "{} of {} requests failed, the last: {why}",
            report.failed,
            report.failed + report.succeeded
        ));
    }
    if report.skipped > 0 {
        problems.push(format!("{} requests were not made because others took too long", report.skipped));
    }
    if measured < LEAST_REQUESTS {
        problems.push(format!("only {measured} requests in {WINDOW:?}"));
    }
    for (caller, called, protocol) in shop::edges() {
        let name = format!("{} -> {} ({})", caller.workload, called.workload, protocol.name());
        let Some(edge) = find(edges, caller, called, protocol) else {
            problems.push(format!("{name}: no proxy reports this edge"));
            continue;
        };
        if protocol != Protocol::Tcp && edge.figures.success != Some(1.0) {
            problems.push(format!("{name}: not every request succeeded"));
        }
        if edge.figures.mtls != Some(1.0) {
            problems.push(format!("{name}: not every request was mTLS"));
        }
        for (side, shown, app) in
            [("client", &edge.source.id, caller.app), ("server", &edge.destination.id, called.app)]
        {
            if shown.as_deref() != Some(&spiffe_id(names::TRUST_DOMAIN, NAMESPACE, app)) {
                problems.push(format!(
                    "{name}: the {side} showed the identity {}",
                    shown.as_deref().unwrap_or("of nobody")
                ));
            }
        }
    }
    problems.extend(split(edges));
    problems
}

/// Problem with the canary's share, which must lie where chance can bring it.
fn split(edges: &Edges) -> Option<String> {
    let expected = CANARY.1;
    let (canary, share) = canary_share(edges);
    let (share, count) = share.unwrap_or_default();
    // Beyond 4.5 standard deviations of a binomial distribution lies one run in 150 000.
    let allowed = 4.5 * (expected * (1.0 - expected) / count.max(1.0)).sqrt();
    ((share - expected).abs() > allowed || count == 0.0).then(|| {
        format!(
            "{canary} got {:.1}% of {count:.0} requests, and its route says {:.0}% (±{:.1}%)",
            share * 100.0,
            expected * 100.0,
            allowed * 100.0
        )
    })
}

/// The canary's name, its share of the requests to both versions, and how many those were.
pub(super) fn canary_share(edges: &Edges) -> (&'static str, Option<(f64, f64)>) {
    let rate = |workload: &str| {
        let to = edges.edges.iter().filter(|edge| edge.destination.workload == workload);
        to.filter_map(|edge| edge.figures.rps).sum::<f64>()
    };
    let (new, old) = (rate(CANARY.0), rate(STABLE));
    let share = (new + old > 0.0).then(|| (new / (new + old), (new + old) * edges.window_seconds));
    (CANARY.0, share)
}

fn find<'a>(edges: &'a Edges, caller: &Member, called: &Member, protocol: Protocol) -> Option<&'a Edge> {
    edges.edges.iter().find(|edge| {
        let ends = (edge.source.workload.as_str(), edge.destination.workload.as_str());
        ends == (caller.workload, called.workload) && edge.protocol == protocol.name()
    })
}

async fn first_success(report: &Path) -> anyhow::Result<()> {
    let mut patience = 100;
    loop {
        match read(report) {
            Ok(report) if report.succeeded > 0 => return Ok(()),
            Ok(report) if patience == 0 => {
                bail!("no request has succeeded: {}", report.last_failure.as_deref().unwrap_or("none has ended"))
            }
            Err(error) if patience == 0 => return Err(error),
            _ => {}
        }
        patience -= 1;
        sleep(Duration::from_millis(100)).await;
    }
}

/// What the traffic's program says of its requests.
pub(super) fn read(report: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read(report).context("the traffic has not said how it goes; see its log")?;
    Ok(serde_json::from_slice(&text)?)
}

const WINDOW: Duration = Duration::from_secs(10);
const LEAST_REQUESTS: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edges::End;
    use crate::stat::Summary;

    fn good() -> Edges {
        let end = |workload: &str, app: &str| End {
            namespace: NAMESPACE.into(),
            workload: workload.into(),
            id: Some(spiffe_id(names::TRUST_DOMAIN, NAMESPACE, app)),
        };
        let rate = |workload: &str| if workload == CANARY.0 { 5.0 } else { 45.0 };
        let edge = |(caller, called, protocol): (&Member, &Member, Protocol)| Edge {
            source: end(caller.workload, caller.app),
            destination: end(called.workload, called.app),
            protocol: protocol.name().into(),
            figures: Summary {
                success: (protocol != Protocol::Tcp).then_some(1.0),
                mtls: Some(1.0),
                rps: Some(rate(called.workload)),
                ..Summary::default()
            },
        };
        let edges = shop::edges().into_iter().map(edge).collect();
        Edges { window_seconds: 10.0, answered: 7, proxies: 7, silent: std::collections::BTreeMap::new(), edges }
    }

    #[test]
    fn what_should_be_is_no_problem() {
        assert_eq!(judge(&Report { succeeded: 500, ..Report::default() }, 500, &good()), [""; 0]);
    }

    #[test]
    fn each_thing_that_is_wrong_is_found() {
        let report = Report { succeeded: 500, ..Report::default() };
        let problem = |report: &Report, change: fn(&mut Edges)| {
            let mut edges = good();
            change(&mut edges);
            judge(report, 500, &edges).join("; ")
        };
        let failed = Report { failed: 1, succeeded: 500, skipped: 0, last_failure: Some("cart: 503".into()) };
        assert_eq!(problem(&failed, |_| {}), "1 of 501 requests failed, the last: cart: 503");
        assert!(
            problem(&report, |edges| edges.edges[0].figures.mtls = Some(0.99)).contains("not every request was mTLS")
        );
        assert!(problem(&report, |edges| edges.edges[0].figures.mtls = None).contains("mTLS"));
        assert!(problem(&report, |edges| edges.edges[0].figures.success = Some(0.9)).contains("succeeded"));
        assert!(problem(&report, |edges| edges.edges[0].source.id = None).contains("of nobody"));
        assert!(problem(&report, |edges| drop(edges.edges.remove(0))).contains("no proxy reports"));
        let canary = problem(&report, |edges| {
            for edge in &mut edges.edges {
                edge.figures.rps = Some(25.0);
            }
        });
        assert!(canary.contains("reviews-v2 got 50.0% of 500 requests"), "{canary}");
        assert!(judge(&report, 3, &good()).join("").contains("only 3 requests"));
    }
}
