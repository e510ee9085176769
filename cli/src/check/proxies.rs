//! What the proxies say themselves, and what it means.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use proto::admin::{DiscoveryStatus, Failure, IdentityStatus, Info};
use tokio::time::Instant;

use crate::table;
use crate::transport::{self, Answer, Pod, Transport, TransportError};

use super::restart::Restart;
use super::{Lines, Report, many, resources, some};

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
    /// Bytes that those proxies take whose memory is limited.
    pub memory: Vec<Answer<f64>>,
    /// What is wrong with the objects the mesh follows, where that is known.
    pub problems: Option<Vec<String>>,
    /// Age from which a picture is stale, milliseconds.
    pub stale_ms: u64,
    /// Fingerprint of the trust bundle that the mesh has now, where that is known.
    pub bundle: Option<String>,
    /// They are in a cluster, so that kubectl reaches them.
    pub in_cluster: bool,
}

/// Asks every proxy everything, one thing after the other, and several proxies at a time.
pub async fn gather(transport: &impl Transport) -> Result<Answers, TransportError> {
    let (pods, problems) = (transport.pods().await?, transport.problems().await?);
    let stale_ms = u64::try_from(transport.stale_after().as_millis()).unwrap_or(u64::MAX);
    let mut answers = Answers { problems, stale_ms, ..Answers::default() };
    let asked = pods.iter().filter(|pod| pod.meshed).map(|pod| async {
        let info: Answer<Info> = transport::ask_one(transport, &pod.proxy, "/info").await;
        // Who does not answer at all is not waited for four times.
        if let Err(error @ (TransportError::Unreachable(_) | TransportError::TimedOut(_))) = &info.result {
            let (proxy, at) = (&info.proxy, info.at);
            let silent = (again(proxy, at, error), again(proxy, at, error), again(proxy, at, error));
            return (info, silent.0, silent.1, silent.2);
        }
        let identity = transport::ask_one(transport, &pod.proxy, "/identity").await;
        let discovery = transport::ask_one(transport, &pod.proxy, "/discovery").await;
        let failures = transport::ask_one(transport, &pod.proxy, "/failures").await;
        (info, identity, discovery, failures)
    });
    let mut asked: Vec<_> = stream::iter(asked).buffer_unordered(transport::AT_ONCE).collect().await;
    asked.sort_unstable_by(|one, other| one.0.proxy.cmp(&other.0.proxy));
    for (info, identity, discovery, failures) in asked {
        answers.info.push(info);
        answers.identity.push(identity);
        answers.discovery.push(discovery);
        answers.failures.push(failures);
    }
    answers.memory = resources::gather(transport, &pods).await;
    answers.pods = pods;
    Ok(answers)
}

fn again<T>(proxy: &str, at: Instant, error: &TransportError) -> Answer<T> {
    Answer { proxy: proxy.to_owned(), at, result: Err(error.clone()) }
}

/// What the answers mean at a moment, in milliseconds since 1970.
pub fn judge(answers: &Answers, now_ms: u64) -> Report {
    let mut checks = Lines::new("");
    fill(answers, now_ms, &mut checks);
    Report::new([checks])
}

/// What the proxies of a cluster say, as a section beside those about everything else: which pods have no proxy, and that none
/// has one, is said there.
pub fn section(answers: &Result<Answers, TransportError>, now_ms: u64) -> Lines {
    let mut checks = Lines::new("proxies");
    match answers {
        Err(why @ TransportError::NotAllowed(_)) => {
            checks.warning("proxy", why.to_string(), "meshctl proxy-status -n NAMESPACE, for those that you may see");
        }
        Err(why) => checks.failed("proxy", why.to_string(), "kubectl get pods -A"),
        Ok(answers) if answers.info.is_empty() => {}
        Ok(answers) => {
            let pods = answers.pods.iter().filter(|pod| pod.meshed).cloned().collect();
            fill(&Answers { pods, in_cluster: true, ..answers.clone() }, now_ms, &mut checks);
            resources::memory(&answers.pods, &answers.memory, &mut checks);
        }
    }
    checks
}

fn fill(answers: &Answers, now_ms: u64, checks: &mut Lines) {
    proxies(answers, checks);
    certificates(&answers.identity, now_ms, checks);
    one_bundle(answers, checks);
    discovery(&answers.discovery, answers.stale_ms, checks);
    manifests(answers.problems.as_deref(), checks);
    recent_failures(answers, now_ms, checks);
}

fn proxies(answers: &Answers, checks: &mut Lines) {
    if answers.info.is_empty() {
        let hint = "start a demo with: meshctl demo";
        checks.failed("proxy", "there is no proxy in this mesh".to_owned(), hint);
        return;
    }
    let own = env!("CARGO_PKG_VERSION");
    let mut well = 0;
    for Answer { proxy, result, .. } in &answers.info {
        match result {
            Err(error) => {
                let hint = answers.logs(proxy).unwrap_or_else(|| "meshctl proxy-status".to_owned());
                checks.failed("proxy", format!("proxy {proxy} {error}"), &hint);
            }
            Ok(info) if !info.ready => {
                let text = format!("proxy {proxy} is not ready: no certificate or no configuration yet");
                checks.failed("proxy", text, &format!("meshctl identity {proxy}; meshctl proxy-status {proxy}"));
            }
            Ok(info) if info.draining => {
                let hint = format!("meshctl proxy-status {proxy}");
                checks.passing("proxy", format!("proxy {proxy} is draining: its pod is about to end"), &hint);
            }
            Ok(info) if info.version != own => {
                let (rest, hint) = answers.restart(&[proxy]).unwrap_or((String::new(), "meshctl version".to_owned()));
                let text = format!("proxy {proxy} has version {}, this meshctl {own}{rest}", info.version);
                checks.warning("proxy", text, &hint);
            }
            Ok(_) => well += 1,
        }
    }
    if well == answers.info.len() {
        checks.passed("proxy", format!("{well} of {well} proxies answer and are ready"));
    }
    let outside = answers.pods.iter().filter(|pod| !pod.meshed && pod.namespace != proto::names::SYSTEM_NAMESPACE);
    for pod in outside {
        checks.warning("proxy", format!("pod {} has no proxy", pod.name), "start the demo without --no-mesh");
    }
}

fn certificates(answers: &[Answer<IdentityStatus>], now_ms: u64, checks: &mut Lines) {
    let mut soonest = u64::MAX;
    let mut well = 0;
    let known: Vec<_> =
        answers.iter().filter_map(|answer| Some((&answer.proxy, answer.result.as_ref().ok()?))).collect();
    for (proxy, status) in &known {
        let hint = format!("meshctl identity {proxy}");
        let why = status.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        if status.not_after_ms == 0 {
            checks.failed("certificate", format!("proxy {proxy} has no certificate{why}"), &hint);
        } else if status.not_after_ms <= now_ms {
            let ago = table::span(now_ms - status.not_after_ms);
            checks.failed("certificate", format!("certificate of {proxy} expired {ago} ago{why}"), &hint);
        } else if status.last_error.is_some() {
            let left = table::span(status.not_after_ms - now_ms);
            checks.passing(
                "certificate",
                format!("certificate of {proxy} ends in {left} and could not be renewed{why}"),
                &hint,
            );
        } else {
            well += 1;
            soonest = soonest.min(status.not_after_ms - now_ms);
        }
    }
    if well > 0 && well == known.len() {
        checks.passed(
            "certificate",
            format!("{well} certificates are valid, the first ends in {}", table::span(soonest)),
        );
    }
}

fn one_bundle(answers: &Answers, checks: &mut Lines) {
    let mut bundles: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Answer { proxy, result, .. } in &answers.identity {
        if let Ok(status) = result {
            bundles.entry(status.bundle.as_str()).or_default().push(proxy);
        }
    }
    let known = bundles.len();
    if let Some(current) = &answers.bundle {
        bundles.remove(current.as_str());
    } else if let Some(most) = bundles.values().map(Vec::len).max() {
        // Those that differ from most are named; of two halves, one.
        let of_most = bundles.iter().find(|(_, proxies)| proxies.len() == most).map(|(bundle, _)| *bundle);
        bundles.remove(of_most.unwrap_or_default());
    }
    if bundles.is_empty() {
        if known > 0 {
            checks.passed("one-bundle", "all proxies trust the same anchors");
        }
        return;
    }
    let others: Vec<&str> = bundles.into_values().flatten().collect();
    let named = some(&others.iter().map(|proxy| (*proxy).to_owned()).collect::<Vec<_>>());
    let (rest, hint) = answers.restart(&others).unwrap_or((String::new(), "meshctl identity".to_owned()));
    let text = match &answers.bundle {
        Some(_) => format!(
            "{} other anchors than the mesh, as after another installation: {named}; fine for minutes while anchors are rotated{rest}",
            if others.len() == 1 { "1 proxy trusts".to_owned() } else { format!("{} proxies trust", others.len()) }
        ),
        None => format!(
            "proxies trust {known} different sets of anchors, others than most: {named}; fine while anchors are being rotated{rest}"
        ),
    };
    checks.passing("one-bundle", text, &hint);
}

fn discovery(answers: &[Answer<DiscoveryStatus>], stale_ms: u64, checks: &mut Lines) {
    let known: Vec<_> =
        answers.iter().filter_map(|answer| Some((&answer.proxy, answer.result.as_ref().ok()?))).collect();
    let mut oldest = 0;
    let mut well = 0;
    for (proxy, status) in &known {
        let hint = format!("meshctl proxy-status {proxy}");
        let age = table::span(status.age_ms);
        let why = status.last_error.as_deref().filter(|_| !status.connected);
        let why = why.map(|error| format!(": {error}")).unwrap_or_default();
        let rejected = status.subscriptions.iter().find_map(|key| Some((&key.key, key.rejected.as_ref()?)));
        if let Some((key, reason)) = rejected {
            checks.failed("discovery", format!("proxy {proxy} rejected a new version of {key}: {reason}"), &hint);
        } else if status.age_ms >= stale_ms {
            checks.passing(
                "discovery",
                format!("picture of {proxy} is {age} old; it works on with what it knows{why}"),
                &hint,
            );
        } else if !status.connected {
            checks.passing("discovery", format!("proxy {proxy} is not connected to a controller{why}"), &hint);
        } else {
            well += 1;
            oldest = oldest.max(status.age_ms);
        }
    }
    if well > 0 && well == known.len() {
        checks.passed(
            "discovery",
            format!("{well} proxies are connected to a controller, the oldest picture is {} old", table::span(oldest)),
        );
    }
}

fn manifests(problems: Option<&[String]>, checks: &mut Lines) {
    let Some(problems) = problems else { return };
    for problem in problems {
        checks.warning("manifest", format!("manifest {problem}"), "correct the file; it is read again at once");
    }
    if problems.is_empty() {
        checks.passed("manifest", "all manifests are in force".to_owned());
    }
}

fn recent_failures(answers: &Answers, now_ms: u64, checks: &mut Lines) {
    let known: Vec<_> =
        answers.failures.iter().filter_map(|answer| Some((&answer.proxy, answer.result.as_ref().ok()?))).collect();
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
        let reason = last.reason.parse::<proto::Reason>();
        let sentence = reason.as_ref().map_or("", |reason| reason.sentence());
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
        // What is pasted is one of our own words, whatever a proxy says.
        let explained = reason.ok().map(|reason| format!("meshctl explain {}", reason.as_str()));
        let hint: Vec<String> = explained.into_iter().chain(answers.logs(proxy)).collect();
        checks.warning("failures", text, &hint.join("; "));
    }
    if checks.len() == before {
        checks.passed("failures", "no proxy caused a failure in the last minute".to_owned());
    }
}

impl Answers {
    fn pod(&self, proxy: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.proxy == proxy).filter(|_| self.in_cluster)
    }

    /// The command that shows a proxy's log.
    fn logs(&self, proxy: &str) -> Option<String> {
        let Pod { namespace, name, .. } = self.pod(proxy)?;
        Some(format!("kubectl logs -n {namespace} {name} -c {}", proto::names::PROXY_CONTAINER))
    }

    /// What starts these proxies' pods anew: what is left beside the hint, and the hint.
    fn restart(&self, proxies: &[&str]) -> Option<(String, String)> {
        let mut pods = proxies.iter().filter_map(|proxy| self.pod(proxy)).peekable();
        pods.peek()?;
        let mut restart = Restart::default();
        for Pod { namespace, kind, workload, name, .. } in pods {
            restart.add(namespace, *kind, workload, name);
        }
        Some((restart.rest(), restart.hint()))
    }
}

const RECENT_MS: u64 = 60_000;

#[cfg(test)]
mod tests;
