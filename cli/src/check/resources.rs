//! What proxies take of what they are allowed: one that reaches its memory limit is killed, and its connections with it.

use crate::exposition;
use crate::transport::{self, Answer, Pod, Transport, TransportError};

use super::{Lines, many};

/// Asks those proxies whose memory is limited how much they take.
pub async fn gather(transport: &impl Transport, pods: &[Pod]) -> Vec<Answer<f64>> {
    let limited: Vec<String> =
        pods.iter().filter(|pod| pod.meshed && pod.memory_limit.is_some()).map(|pod| pod.proxy.clone()).collect();
    let answers = transport::ask(transport, &limited, "/metrics").await;
    let read = |body: &[u8]| {
        let samples = exposition::parse(&String::from_utf8_lossy(body), &[RESIDENT]).unwrap_or_default();
        let odd = || TransportError::Malformed { path: "/metrics".to_owned(), problem: format!("no {RESIDENT}") };
        samples.first().map(|sample| sample.value).ok_or_else(odd)
    };
    let each = answers.into_iter().map(|Answer { proxy, at, result }| {
        let result = result.and_then(|body| read(&body));
        Answer { proxy, at, result }
    });
    each.collect()
}

/// Who is near its limit. Having none is the default, and no fault.
pub fn memory(pods: &[Pod], taken: &[Answer<f64>], lines: &mut Lines) {
    let before = lines.len();
    for pod in pods.iter().filter(|pod| pod.meshed) {
        let answer = taken.iter().find(|answer| answer.proxy == pod.proxy);
        let (Some(limit), Some(Ok(taken))) = (pod.memory_limit, answer.map(|answer| &answer.result)) else { continue };
        #[expect(clippy::cast_precision_loss, reason = "a share needs no byte")]
        let share = taken / limit as f64;
        if share >= NEAR {
            let text = format!(
                "proxy {} takes {:.0}% of the {:.0} MiB of memory it is limited to, and is killed at all of it",
                pod.proxy,
                share * 100.0,
                mebibytes(limit)
            );
            let hint = format!("raise {} of {}, and restart it", proto::names::PROXY_MEMORY_LIMIT, pod.workload);
            lines.warning("memory", text, &hint);
        }
    }
    if lines.len() > before {
        return;
    }
    let (limited, free): (Vec<&Pod>, Vec<&Pod>) =
        pods.iter().filter(|pod| pod.meshed).partition(|pod| pod.memory_limit.is_some());
    let proxies = |count: usize| if count == 1 { "1 proxy".to_owned() } else { format!("{count} proxies") };
    match (limited.len(), free.len()) {
        (0, 0) => {}
        (0, free) => lines.passed("memory", format!("{} without a memory limit, which is the default", proxies(free))),
        (limited, 0) => lines.passed("memory", format!("{} well below the memory limit", proxies(limited))),
        (limited, free) => {
            let text = format!("{} well below the memory limit, {} without one", proxies(limited), many(free, "other"));
            lines.passed("memory", text);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed without decimals")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

const RESIDENT: &str = "process_resident_memory_bytes";
/// Share of the limit from which somebody should look.
const NEAR: f64 = 0.8;

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::check::{Outcome, Report};

    fn told(limits: &[Option<u64>], taken: &[f64]) -> Report {
        let name = |index: usize| format!("shop/web-{index}");
        let pod = |(index, limit): (usize, &Option<u64>)| Pod {
            proxy: name(index),
            workload: "web".to_owned(),
            meshed: true,
            memory_limit: *limit,
            ..Pod::default()
        };
        let answer =
            |(index, taken): (usize, &f64)| Answer { proxy: name(index), at: Instant::now(), result: Ok(*taken) };
        let pods: Vec<Pod> = limits.iter().enumerate().map(pod).collect();
        let answers: Vec<Answer<f64>> = taken.iter().enumerate().map(answer).collect();
        let mut lines = Lines::new("proxies");
        memory(&pods, &answers, &mut lines);
        Report::new([lines])
    }

    #[test]
    fn who_is_near_its_limit_is_named() {
        let limit = Some(64 * 1024 * 1024);
        let near = told(&[limit, limit], &[60.0 * 1024.0 * 1024.0, 10.0 * 1024.0 * 1024.0]);
        assert_eq!((near.outcome, near.checks.len()), (Outcome::Warning, 1));
        assert!(near.checks[0].text.starts_with("proxy shop/web-0 takes 94% of the 64 MiB of memory"), "{near:?}");
        assert!(near.checks[0].hint.as_ref().unwrap().contains("meshctl.io/proxy-memory-limit of web"), "{near:?}");
        for (limits, expected) in [
            (&[limit, limit][..], "2 proxies well below the memory limit"),
            (&[limit, None], "1 proxy well below the memory limit, 1 other without one"),
            (&[None], "1 proxy without a memory limit, which is the default"),
        ] {
            let report = told(limits, &[1e6, 1e6]);
            assert_eq!((report.outcome, report.checks[0].text.as_str()), (Outcome::Passed, expected));
        }
    }
}
