//! What a scrape looks like.

use std::time::Duration;

use super::super::{
    EdgeLabels, Occurrence, PeerLabels, Reporter, RequestLabels, RequestOutcome, SecurityPolicy, ServiceLabels,
    Telemetry,
};
use super::*;

fn labels(workload: &str) -> RequestLabels {
    let peer = |name: &str| {
        Arc::new(PeerLabels {
            workload: name.into(),
            namespace: "shop".into(),
            principal: format!("spiffe://cluster.local/ns/shop/sa/{name}").into(),
            app: name.into(),
            version: "v1".into(),
            cluster: "east".into(),
        })
    };
    RequestLabels {
        edge: EdgeLabels {
            reporter: Reporter::Source,
            source: peer("web"),
            destination: peer(workload),
            service: Arc::new(ServiceLabels {
                host: "cart.shop.svc.cluster.local".into(),
                name: "cart".into(),
                namespace: "shop".into(),
            }),
            security: SecurityPolicy::MutualTls,
        },
        protocol: RequestProtocol::Http,
        route: Some("shop/cart".into()),
    }
}

fn scrape(telemetry: &Telemetry) -> String {
    Exposition::new(&telemetry.metrics, String::new()).collect()
}

#[test]
fn requests_are_shown_under_istios_names_and_labels() {
    let telemetry = Telemetry::default();
    let series = telemetry.metrics.requests(&labels("cart"));
    let outcome = RequestOutcome { status: 200, duration: Duration::from_millis(7), ..RequestOutcome::default() };
    series.observe(&outcome);
    series.observe(&RequestOutcome { status: 503, reason: Some(Reason::NoEndpoints), ..outcome });
    let text = scrape(&telemetry);
    let ok = text.lines().find(|line| line.contains("response_code=\"200\"")).unwrap();
    for part in [
        "istio_requests_total{reporter=\"source\",source_workload=\"web\",source_workload_namespace=\"shop\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\",source_app=\"web\",source_version=\"v1\"",
        "destination_workload=\"cart\"",
        "destination_service=\"cart.shop.svc.cluster.local\",destination_service_name=\"cart\"",
        "request_protocol=\"http\",connection_security_policy=\"mutual_tls\",mesh_route=\"shop/cart\"",
        "response_flags=\"-\"} 1",
    ] {
        assert!(ok.contains(part), "{part} in {ok}");
    }
    assert!(text.contains("response_code=\"503\",response_flags=\"no_endpoints\"} 1"), "{text}");
    assert!(text.lines().any(|line| line.contains("milliseconds_bucket") && line.ends_with("le=\"10\"} 2")));
    assert!(text.lines().any(|line| line.contains("milliseconds_bucket") && line.ends_with("le=\"0.5\"} 0")));
    assert!(text.lines().any(|line| line.contains("milliseconds_sum") && line.ends_with(" 14")));
}

#[test]
fn what_exceeds_the_budget_is_counted_as_overflow() {
    let telemetry = Telemetry::new(20);
    for number in 0..100 {
        telemetry.metrics.requests(&labels(&format!("cart-{number}"))).observe(&RequestOutcome::default());
    }
    let text = scrape(&telemetry);
    let overflow = text.lines().find(|line| line.contains("destination_workload=\"overflow\"")).unwrap();
    assert!(overflow.ends_with(" 96"), "{overflow}");
    assert!(text.contains("mesh_series_overflow_total 96"));
}

#[test]
fn a_series_nobody_uses_goes_and_one_in_use_stays() {
    let telemetry = Telemetry::default();
    telemetry.metrics.requests(&labels("gone")).observe(&RequestOutcome::default());
    let held = telemetry.metrics.requests(&labels("held"));
    telemetry.metrics.forget_idle();
    assert!(scrape(&telemetry).contains("destination_workload=\"gone\""), "it moved since the last look");
    telemetry.metrics.forget_idle();
    let text = scrape(&telemetry);
    assert!(!text.contains("destination_workload=\"gone\""));
    assert!(text.contains("destination_workload=\"held\""));
    drop(held);
}

#[test]
fn opaque_connections_and_failures_are_counted_while_they_last() {
    let telemetry = Telemetry::default();
    let series = telemetry.metrics.tcp(&labels("cart").edge);
    let open = series.open();
    open.sent(5);
    open.received(7);
    telemetry.failures.record(&Occurrence {
        reason: Reason::NoEndpoints,
        direction: Direction::Outbound,
        source: "web",
        destination: "cart \"quoted\"",
        status: 503,
        detail: "",
    });
    let value = |text: &str, name: &str| {
        text.lines().find(|line| line.starts_with(name)).unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    let text = scrape(&telemetry);
    assert_eq!(value(&text, metric::TCP_OPENED), "1");
    assert_eq!(value(&text, metric::TCP_CLOSED), "0");
    assert_eq!(value(&text, metric::TCP_SENT), "5");
    assert_eq!(value(&text, metric::TCP_RECEIVED), "7");
    assert!(text.contains("mesh_failures_total{direction=\"outbound\",reason=\"no_endpoints\"} 1"));
    drop(open);
    assert_eq!(value(&scrape(&telemetry), metric::TCP_CLOSED), "1");
}

#[test]
fn a_large_scrape_comes_in_pieces_and_each_family_in_one_run() {
    let telemetry = Telemetry::default();
    for number in 0..200 {
        telemetry.metrics.requests(&labels(&format!("cart-{number}"))).observe(&RequestOutcome::default());
    }
    let pieces: Vec<String> = Exposition::new(&telemetry.metrics, String::new()).collect();
    assert!(pieces.len() > 10);
    assert!(pieces.iter().all(|piece| piece.len() < 128 * 1024));
    let text = pieces.concat();
    for (name, _, _) in FAMILIES {
        assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
    }
}
