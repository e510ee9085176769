//! Watches of the controller that stand still again and again, and why: an API server whose etcd does not tell it of its progress.
//!
//! The controller lists such a kind anew, which keeps its picture right and costs the API server a list every 40 s for each quiet
//! kind and replica. Once is nothing: an etcd that was away does that as well.

use k8s_openapi::api::core::v1::Pod;

use super::fetch::Replica;
use super::{Lines, some};
use crate::exposition::Sample;
use crate::table;

/// Which watches stood still, and how often.
pub fn stood_still(samples: &[Sample]) -> Vec<(String, u64)> {
    let label = |sample: &Sample, name: &str| sample.labels.get(name).cloned().unwrap_or_default();
    let of_reason =
        samples.iter().filter(|sample| sample.name == RESTARTS && label(sample, "reason") == "stands_still");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter counts from nought")]
    let mut each: Vec<(String, u64)> = of_reason.map(|sample| (label(sample, "watch"), sample.value as u64)).collect();
    each.sort_unstable();
    each
}

/// How long the pod's program has been running.
pub fn runs_ms(pod: &Pod, now_ms: u64) -> Option<u64> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let started = container.state.as_ref()?.running.as_ref()?.started_at.as_ref()?;
    Some(now_ms.saturating_sub(u64::try_from(started.0.as_millisecond()).unwrap_or(0)))
}

/// Says of whom it is lasting.
pub fn judge(replicas: &[Replica], lines: &mut Lines) {
    for Replica { pod, stood_still, runs_ms, .. } in replicas {
        let Some(runs_ms) = runs_ms else { continue };
        let lasting = |count: u64| count >= OFTEN && count >= runs_ms / RARE_MS;
        let kinds: Vec<String> =
            stood_still.iter().filter(|(_, count)| lasting(*count)).map(|(kind, _)| kind.clone()).collect();
        let Some(most) = stood_still.iter().map(|(_, count)| *count).filter(|count| lasting(*count)).max() else {
            continue;
        };
        let text = format!(
            "{pod} lists {} anew again and again, {most} times in {}: their watches stand still, because etcd does not tell the \
             API server of its progress",
            some(&kinds),
            table::span(*runs_ms)
        );
        lines.warning("watches", text, HINT);
    }
}

/// Counter of watches begun anew, by watch and reason.
pub const RESTARTS: &str = "mesh_controller_watch_restarts_total";
/// An etcd that was away for a while does not come so far.
const OFTEN: u64 = 5;
/// What comes less often than this is no state of things.
const RARE_MS: u64 = 5 * 60 * 1000;
const HINT: &str = "start etcd with --watch-progress-notify-interval=5s (before 3.6: --experimental-watch-progress-notify-interval), as \
                    kubeadm does; without it nothing is wrong but the load of these lists";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Report;
    use crate::exposition;

    #[test]
    fn a_lasting_standstill_is_told_with_its_cause_and_a_passing_one_is_not() {
        let metrics = "mesh_controller_watch_restarts_total{watch=\"services\",reason=\"stands_still\"} 90\n\
                       mesh_controller_watch_restarts_total{watch=\"services\",reason=\"expired\"} 900\n\
                       mesh_controller_watch_restarts_total{watch=\"pods\",reason=\"stands_still\"} 2\n";
        let stood_still = stood_still(&exposition::parse(metrics, &[RESTARTS]).unwrap());
        assert_eq!(stood_still, [("pods".to_owned(), 2), ("services".to_owned(), 90)]);
        for (hours, expected) in [(1, true), (7, true), (8, false), (200, false)] {
            let replica = Replica {
                pod: "mesh-controller-1".to_owned(),
                stood_still: stood_still.clone(),
                runs_ms: Some(hours * 3_600_000),
                ..Replica::default()
            };
            let mut lines = Lines::new("control plane");
            judge(&[replica], &mut lines);
            assert_eq!(!lines.is_empty(), expected, "{hours} h");
            if expected {
                let text = Report::new([lines]).render();
                assert!(
                    text.contains("‼ mesh-controller-1 lists services anew again and again, 90 times in "),
                    "{text}"
                );
                assert!(text.contains("progress-notify-interval"), "{text}");
            }
        }
        let few = Replica { stood_still: vec![("pods".to_owned(), 4)], runs_ms: Some(60_000), ..Replica::default() };
        let mut lines = Lines::new("control plane");
        judge(&[few], &mut lines);
        assert!(lines.is_empty());
    }
}
