//! What answers mean.

use super::*;
use crate::check::Outcome;

const NOW: u64 = 1_000_000;
const STALE_MS: u64 = 15_000;

fn answer<T>(result: T) -> Vec<Answer<T>> {
    vec![Answer { proxy: "web".to_owned(), at: Instant::now(), result: Ok(result) }]
}

fn well() -> Answers {
    let pod = Pod { proxy: "web".into(), name: "web".into(), meshed: true, ..Pod::default() };
    let info = Info { version: env!("CARGO_PKG_VERSION").into(), ready: true, ..Info::default() };
    let identity = IdentityStatus { not_after_ms: NOW + 60_000, bundle: "ab".into(), ..IdentityStatus::default() };
    let discovery = DiscoveryStatus { connected: true, age_ms: 100, ..DiscoveryStatus::default() };
    Answers {
        pods: vec![pod],
        info: answer(info),
        identity: answer(identity),
        discovery: answer(discovery),
        failures: answer(Vec::new()),
        memory: Vec::new(),
        problems: Some(Vec::new()),
        stale_ms: STALE_MS,
        bundle: None,
        in_cluster: false,
    }
}

/// What is not well among Deployment `web`'s proxy in a cluster: text and command.
fn hinted(change: impl FnOnce(&mut Answers)) -> (String, String) {
    let mut answers = well();
    answers.problems = None;
    let pod = &mut answers.pods[0];
    (pod.name, pod.namespace, pod.workload) = ("web-1".into(), "shop".into(), "web".into());
    pod.kind = Some(crate::target::Kind::Deployment);
    change(&mut answers);
    let report = Report::new([section(&Ok(answers), NOW)]);
    let line = report.checks.into_iter().find(|line| line.outcome != Outcome::Passed).unwrap();
    (line.text, line.hint.unwrap())
}

#[test]
fn in_a_cluster_hints_are_commands_about_the_pod() {
    let restart = "kubectl rollout restart deployment/web -n shop";
    let logs = "kubectl logs -n shop web-1 -c mesh-proxy";
    let old = hinted(|answers| answers.info[0].result.as_mut().unwrap().version = "0.0.9".into());
    assert!(old.0.starts_with("proxy web has version 0.0.9, this meshctl ") && old.1 == restart, "{old:?}");
    let silent = hinted(|answers| answers.info[0].result = Err(TransportError::TimedOut(5)));
    assert_eq!(silent.1, logs);
    for (reason, expected) in
        [("no_endpoints", format!("meshctl explain no_endpoints; {logs}")), ("$(reboot)", logs.into())]
    {
        let failure = Failure { at_ms: NOW, reason: reason.into(), ..Failure::default() };
        assert_eq!(hinted(|answers| answers.failures = answer(vec![failure])).1, expected);
    }
}

/// Proxies that all trust the same are not well if it is not what the mesh trusts: another installation's.
#[test]
fn proxies_of_an_earlier_installation_are_named_with_what_restarts_them() {
    let (text, hint) = hinted(|answers| answers.bundle = Some("cd".into()));
    assert!(
        text.starts_with("1 proxy trusts other anchors than the mesh, as after another installation: web;"),
        "{text}"
    );
    assert_eq!(hint, "kubectl rollout restart deployment/web -n shop");
    assert_eq!(judged(|answers| answers.bundle = Some("ab".into())).0, Outcome::Passed);
}

fn judged(change: impl FnOnce(&mut Answers)) -> (Outcome, String) {
    let mut answers = well();
    change(&mut answers);
    let report = judge(&answers, NOW);
    (report.outcome, report.render())
}

#[test]
fn all_is_well() {
    let (outcome, text) = judged(|_| {});
    assert_eq!(outcome, Outcome::Passed);
    assert_eq!(text.lines().filter(|line| line.starts_with('√')).count(), 6, "{text}");
    assert!(text.ends_with("all is well\n"));
}

#[test]
fn what_is_wrong_is_said_with_a_hint() {
    let silent = judged(|answers| answers.info[0].result = Err(TransportError::TimedOut(5)));
    assert_eq!(silent.0, Outcome::Failed);
    assert!(silent.1.contains("× proxy web did not answer within 5 s\n    try: meshctl"), "{}", silent.1);

    let expired = judged(|answers| answers.identity[0].result.as_mut().unwrap().not_after_ms = NOW - 2000);
    assert_eq!(expired.0, Outcome::Failed);
    assert!(expired.1.contains("expired 2.0s ago"), "{}", expired.1);

    let none = judged(|answers| answers.identity[0].result.as_mut().unwrap().not_after_ms = 0);
    assert!(none.1.contains("has no certificate"), "{}", none.1);

    let stale = judged(|answers| answers.discovery[0].result.as_mut().unwrap().age_ms = STALE_MS);
    assert_eq!(stale.0, Outcome::Warning);
    assert!(stale.1.contains("15s old"), "{}", stale.1);

    let rejected = judged(|answers| {
        let key =
            proto::admin::Subscription { key: "inbound".into(), version: "a".into(), rejected: Some("odd".into()) };
        answers.discovery[0].result.as_mut().unwrap().subscriptions.push(key);
    });
    assert_eq!(rejected.0, Outcome::Failed);
    assert!(rejected.1.contains("rejected a new version of inbound: odd"), "{}", rejected.1);

    let empty = judged(|answers| *answers = Answers::default());
    assert_eq!(empty.0, Outcome::Failed);
    assert!(empty.1.contains("no proxy in this mesh"), "{}", empty.1);
}

#[test]
fn only_recent_failures_count_and_they_name_their_reason() {
    let failure =
        |at_ms| Failure { at_ms, reason: "no_endpoints".into(), destination: "shop/cart".into(), ..Failure::default() };
    let old = judged(|answers| answers.failures = answer(vec![failure(NOW - RECENT_MS - 1)]));
    assert_eq!(old.0, Outcome::Passed);
    let recent = judged(|answers| answers.failures = answer(vec![failure(NOW - 5), failure(NOW - 10)]));
    assert_eq!(recent.0, Outcome::Warning);
    assert!(recent.1.contains("2 failures at proxy web") && recent.1.contains("no ready endpoint"), "{}", recent.1);
}

#[test]
fn what_a_full_ring_has_forgotten_is_not_denied() {
    let failure = Failure { at_ms: NOW, detail: "the route shop/a".into(), ..Failure::default() };
    let (_, text) = judged(|answers| answers.failures = answer(vec![failure; proto::admin::FAILURES_KEPT]));
    assert!(text.contains("‼ at least 256 failures at proxy web") && text.contains("(the route shop/a)"), "{text}");
}

#[test]
fn a_broken_manifest_is_a_warning_with_its_line() {
    let (outcome, text) = judged(|answers| answers.problems = Some(vec!["a.yaml:3: odd".into()]));
    assert_eq!(outcome, Outcome::Warning);
    assert!(text.contains("‼ manifest a.yaml:3: odd\n"), "{text}");
    assert!(!judged(|answers| answers.problems = None).1.contains("manifest"));
}

#[test]
fn different_anchors_are_a_warning() {
    let (outcome, text) = judged(|answers| {
        let other = IdentityStatus { not_after_ms: NOW + 1, bundle: "cd".into(), ..IdentityStatus::default() };
        answers.identity.push(Answer { proxy: "api".into(), at: Instant::now(), result: Ok(other) });
    });
    assert_eq!(outcome, Outcome::Warning);
    assert!(text.contains("2 different sets of anchors, others than most: "), "{text}");
    assert!(text.contains("try: meshctl identity\n"), "{text}");
}

#[test]
fn in_a_cluster_what_has_no_proxy_is_not_said_twice() {
    let mut answers = well();
    let outside = Pod { proxy: "shop/x".into(), name: "x".into(), namespace: "shop".into(), ..Pod::default() };
    answers.pods.push(outside);
    assert_eq!(judge(&answers, NOW).outcome, Outcome::Warning);
    assert_eq!(Report::new([section(&Ok(answers), NOW)]).outcome, Outcome::Passed);
    let refused = Report::new([section(&Err(TransportError::NotAllowed("no".into())), NOW)]);
    assert_eq!(refused.outcome, Outcome::Warning);
    assert!(refused.render().starts_with("proxies\n‼ the list of pods may not be read: no\n"), "{}", refused.render());
}
