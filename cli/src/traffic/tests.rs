//! Two scrapes, and what is made of them.

use super::*;

/// A scrape of `text`, `seconds` after `start`.
pub(crate) fn scrape(proxy: &str, start: Instant, seconds: u64, text: &str) -> Scrape {
    let samples = exposition::parse(text, &WANTED).unwrap();
    Scrape { proxy: proxy.to_owned(), at: start + Duration::from_secs(seconds), samples: Ok(samples) }
}

/// What happened in two seconds that began with nothing.
pub(crate) fn traffic(proxies: &[(&str, &str)]) -> Traffic {
    let start = Instant::now();
    let before: Vec<_> = proxies.iter().map(|(proxy, _)| scrape(proxy, start, 0, "")).collect();
    let after: Vec<_> = proxies.iter().map(|(proxy, text)| scrape(proxy, start, 2, text)).collect();
    between(&before, &after)
}

#[test]
fn changes_become_rates() {
    let start = Instant::now();
    let before = [scrape(
        "a",
        start,
        0,
        "istio_requests_total{response_code=\"200\"} 100\nistio_requests_total{response_code=\"503\"} 5\n",
    )];
    let after = [scrape(
        "a",
        start,
        4,
        "istio_requests_total{response_code=\"200\"} 140\nistio_requests_total{response_code=\"503\"} 5\n",
    )];
    let traffic = between(&before, &after);
    assert_eq!(traffic.window, Duration::from_secs(4));
    assert_eq!(traffic.series.len(), 1, "what did not change is no series");
    assert_eq!(traffic.series[0].figures.requests, 10.0);
}

#[test]
fn the_time_between_is_what_the_proxy_tells_unless_its_clock_was_set() {
    let start = Instant::now();
    let page = |time: f64, count: u32| {
        format!("mesh_time_seconds {time}\nistio_requests_total{{response_code=\"200\"}} {count}\n")
    };
    for (told, rate) in [(5.0, 20.0), (3.0, 100.0 / 3.0), (400.0, 25.0), (-4.0, 25.0), (f64::NAN, 25.0)] {
        let before = [scrape("a", start, 0, &page(1.8e9, 100))];
        let after = [scrape("a", start, 4, &page(1.8e9 + told, 200))];
        let traffic = between(&before, &after);
        assert_eq!(traffic.series[0].figures.requests, rate, "{told} s told");
    }
}

#[test]
fn a_counter_that_began_anew_is_counted_from_zero() {
    let start = Instant::now();
    let before = [scrape("a", start, 0, "istio_requests_total{response_code=\"200\"} 100\n")];
    let after = [scrape("a", start, 1, "istio_requests_total{response_code=\"200\"} 3\n")];
    assert_eq!(between(&before, &after).series[0].figures.requests, 3.0);
}

#[test]
fn a_proxy_that_answered_once_is_silent_and_one_that_came_later_is_not_counted() {
    let start = Instant::now();
    let mut dead = scrape("a", start, 0, "");
    dead.samples = Err(TransportError::TimedOut(5));
    let text = "istio_requests_total{response_code=\"200\"} 9\n";
    let traffic = between(&[dead], &[scrape("a", start, 1, text), scrape("b", start, 1, text)]);
    assert!(traffic.series.is_empty() && traffic.answered.is_empty());
    assert_eq!(traffic.silent["a"], TransportError::TimedOut(5));
}

#[test]
fn success_is_what_did_not_fail() {
    for (labels, success, client_error) in [
        ("response_code=\"200\"", true, false),
        ("response_code=\"404\"", true, true),
        ("response_code=\"499\"", true, true),
        ("response_code=\"500\"", false, false),
        ("response_code=\"0\"", false, false),
        ("response_code=\"200\",grpc_response_status=\"0\"", true, false),
        ("response_code=\"200\",grpc_response_status=\"5\"", true, false),
        ("response_code=\"200\",grpc_response_status=\"14\"", false, false),
    ] {
        let traffic = traffic(&[("a", &format!("istio_requests_total{{{labels}}} 4\n"))]);
        let figures = &traffic.series[0].figures;
        assert_eq!(figures.success(), Some(if success { 1.0 } else { 0.0 }), "{labels}");
        assert_eq!(figures.failures(), Some(if success { 0.0 } else { 2.0 }), "{labels}");
        assert_eq!(figures.client_errors, if client_error { 2.0 } else { 0.0 }, "{labels}");
    }
}

#[test]
fn quantiles_as_prometheus_estimates_them() {
    let buckets = [(1.0, 50.0), (5.0, 90.0), (10.0, 99.0), (f64::INFINITY, 100.0)];
    let figures = Figures {
        buckets: buckets.map(|(bound, rate): (f64, f64)| (bound.to_bits(), rate)).into(),
        ..Figures::default()
    };
    assert_eq!(figures.quantile(0.5), Some(1.0));
    assert_eq!(figures.quantile(0.7), Some(3.0));
    assert_eq!(figures.quantile(0.99), Some(10.0));
    assert_eq!(figures.quantile(0.999), Some(10.0), "beyond the last finite bound");
    assert_eq!(Figures::default().quantile(0.5), None);
}

#[test]
fn mutual_tls_is_a_share_of_what_is_known() {
    let text = "istio_requests_total{response_code=\"200\",connection_security_policy=\"mutual_tls\"} 3\n\
                istio_requests_total{response_code=\"200\",connection_security_policy=\"none\"} 1\n\
                istio_requests_total{response_code=\"200\",connection_security_policy=\"unknown\"} 9\n";
    let mut sum = Figures::default();
    traffic(&[("a", text)]).series.iter().for_each(|series| sum.add(&series.figures));
    assert_eq!(sum.mutual_tls_share(), Some(0.75));
    assert_eq!(sum.rps(), Some(6.5));
}
