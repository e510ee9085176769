//! What pods with a proxy lose when the mesh goes: their certificates end, and each proxy knows when.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::jiff::Timestamp;
use proto::admin::IdentityStatus;
use tokio::time::{Instant, timeout_at};

use crate::check::many;
use crate::install::proxies::MeshedPod;
use crate::table;
use crate::transport::{self, Transport};

/// A pod, and when its certificate ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// `namespace/name`.
    pub pod: String,
    /// Milliseconds since 1970, or why that is not known.
    pub end_ms: Result<u64, String>,
}

/// Asks every pod's proxy. One that says nothing within `patience`, which is for all of them together, is not known.
pub async fn ask(transport: &impl Transport, pods: &[MeshedPod], patience: Duration) -> Vec<Farewell> {
    let deadline = Instant::now() + patience;
    let answers = pods.iter().map(|MeshedPod { namespace, name, .. }| async move {
        let pod = format!("{namespace}/{name}");
        let answer = timeout_at(deadline, transport::ask_one::<IdentityStatus>(transport, &pod, "/identity")).await;
        let end_ms = match answer.map(|answer| answer.result) {
            Ok(Ok(status)) if status.not_after_ms == 0 => Err("has no certificate yet".to_owned()),
            Ok(Ok(status)) => Ok(status.not_after_ms),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("did not answer within {} s", patience.as_secs())),
        };
        Farewell { pod, end_ms }
    });
    stream::iter(answers).buffered(transport::AT_ONCE).collect().await
}

/// When all of that is, in a few words; `lifetime` is the longest a certificate can live.
pub fn span(farewells: &[Farewell], lifetime: &str, now_ms: u64) -> String {
    let known: Vec<u64> = farewells.iter().filter_map(|farewell| farewell.end_ms.clone().ok()).collect();
    let silent = farewells.len() - known.len();
    let unknown = format!("at most {lifetime} from now");
    match (known.iter().min(), known.iter().max()) {
        (Some(first), Some(last)) => {
            let ends = if first == last {
                format!("certificates end {}", when(*last, now_ms))
            } else {
                format!("certificates end, the first {}, the last {}", when(*first, now_ms), when(*last, now_ms))
            };
            match silent {
                0 => ends,
                1 => format!("{ends} (1 proxy did not say, {unknown})"),
                _ => format!("{ends} ({silent} proxies did not say, {unknown})"),
            }
        }
        _ => format!("certificates end {unknown}, none of the proxies says when"),
    }
}

/// Why we will not, and what to do.
pub fn refusal(farewells: &[Farewell], lifetime: &str, now_ms: u64) -> String {
    let mut text = format!(
        "{} still {} a proxy, and without mesh-identity no certificate is renewed; their {}; then they can no longer talk \
         to each other:\n",
        many(farewells.len(), "pod"),
        if farewells.len() == 1 { "has" } else { "have" },
        span(farewells, lifetime, now_ms)
    );
    let mut known: Vec<(u64, &str)> =
        farewells.iter().filter_map(|farewell| Some((farewell.end_ms.clone().ok()?, farewell.pod.as_str()))).collect();
    known.sort_unstable();
    for (end_ms, pod) in known.iter().take(SHOWN) {
        text.push_str(&format!("  {pod}: ends {}\n", when(*end_ms, now_ms)));
    }
    let silent = || farewells.iter().filter_map(|farewell| Some((&farewell.pod, farewell.end_ms.as_ref().err()?)));
    for (pod, why) in silent().take(SHOWN) {
        text.push_str(&format!("  {pod}: ends at most {lifetime} from now; its proxy {}\n", table::one_line(why)));
    }
    let more = known.len().saturating_sub(SHOWN) + silent().count().saturating_sub(SHOWN);
    if more > 0 {
        text.push_str(&format!("  and {more} more\n"));
    }
    text.push_str(
        "Take them out of the mesh (kubectl annotate namespace NAMESPACE meshctl.io/inject=disabled --overwrite; kubectl \
         rollout restart deployment --namespace NAMESPACE), or uninstall nevertheless with --force",
    );
    text
}

fn when(end_ms: u64, now_ms: u64) -> String {
    let seconds = i64::try_from(end_ms / 1000).unwrap_or(i64::MAX);
    let moment = Timestamp::from_second(seconds).map_or_else(|_| "never".to_owned(), |moment| moment.to_string());
    match end_ms.checked_sub(now_ms) {
        Some(left) => format!("in {} ({moment})", table::span(left)),
        None => format!("{} ago ({moment})", table::span(now_ms - end_ms)),
    }
}

/// Pods named in a refusal, of those who answered and of the others.
const SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn farewell(pod: &str, end_ms: Result<u64, &str>) -> Farewell {
        Farewell { pod: pod.to_owned(), end_ms: end_ms.map_err(str::to_owned) }
    }

    #[test]
    fn a_refusal_says_when_each_certificate_ends_and_who_did_not_answer() {
        let hour = 3_600_000;
        let some = [
            farewell("shop/web-1", Ok(23 * hour)),
            farewell("shop/web-0", Ok(5 * hour)),
            farewell("shop/db-0", Err("did not answer within 10 s\nx")),
        ];
        let text = refusal(&some, "24h", hour);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("3 pods still have a proxy"), "{text}");
        assert!(lines[0].contains("the first in 4h00m (1970-01-01T05:00:00Z), the last in 22h00m"), "{text}");
        assert!(lines[0].contains("1 proxy did not say, at most 24h from now"), "{text}");
        assert_eq!(lines[1], "  shop/web-0: ends in 4h00m (1970-01-01T05:00:00Z)");
        assert!(lines[2].starts_with("  shop/web-1: ends in 22h00m"), "{text}");
        assert!(
            lines[3].starts_with("  shop/db-0: ends at most 24h from now; its proxy did not answer within 10 s"),
            "{text}"
        );
        assert!(lines[4].ends_with("--force"), "{text}");
    }

    #[test]
    fn many_pods_are_counted_and_nobodys_silence_is_an_end() {
        let pods: Vec<Farewell> =
            (0..30).map(|number| farewell(&format!("shop/web-{number}"), Ok(7_200_000))).collect();
        let text = refusal(&pods, "24h", 0);
        assert!(text.starts_with("30 pods still have a proxy") && text.contains("and 10 more"), "{text}");
        assert!(text.contains("certificates end in 2h00m (1970-01-01T02:00:00Z); then"), "{text}");
        assert_eq!(
            span(&[farewell("a/b", Err("x"))], "1h", 0),
            "certificates end at most 1h from now, none of the proxies says when"
        );
        assert!(span(&pods, "24h", 7_260_000).contains("certificates end 1m00s ago"));
    }
}
