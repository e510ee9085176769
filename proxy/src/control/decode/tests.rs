//! What is taken, and what is refused.

use super::*;

fn rule(filter: wire::HttpFilter) -> wire::update::Value {
    let service_port = wire::ServicePort { namespace: "shop".to_owned(), name: "web".to_owned(), port: 80 };
    wire::update::Value::Outbound(wire::Outbound {
        target: Some(wire::outbound::Target::Service(wire::Service {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            port: 80,
            protocol: wire::Protocol::Http1.into(),
            routes: vec![wire::HttpRoute {
                namespace: "shop".to_owned(),
                name: "split".to_owned(),
                hostnames: Vec::new(),
                rules: vec![wire::HttpRule {
                    matches: vec![exact("/a"), exact("/b")],
                    filters: vec![filter],
                    backends: vec![wire::WeightedBackend {
                        backend: Some(service_port.clone()),
                        weight: 90,
                        filters: Vec::new(),
                    }],
                    request_timeout_ms: 0,
                    backend_request_timeout_ms: 5,
                }],
            }],
            default_backend: Some(service_port),
        })),
    })
}

fn exact(path: &str) -> wire::HttpMatch {
    wire::HttpMatch { path: Some(wire::http_match::Path::PathExact(path.to_owned())), ..wire::HttpMatch::default() }
}

fn set(name: &str, value: &str) -> wire::HttpFilter {
    let header = wire::Header { name: name.to_owned(), value: value.to_owned() };
    let edits = wire::HeaderEdits { set: vec![header], ..wire::HeaderEdits::default() };
    wire::HttpFilter { kind: Some(wire::http_filter::Kind::RequestHeaders(edits)) }
}

fn decode(value: wire::update::Value) -> Result<Value, Unusable> {
    super::value(&Key::Outbound("10.96.0.7:80".parse().unwrap()), Some(value))
}

#[test]
fn every_match_becomes_a_rule_in_order() {
    let Value::Outbound(Outbound::Service(service)) = decode(rule(set("X-Canary", "yes"))).unwrap() else { panic!() };
    let paths: Vec<_> = service.routes.rules.iter().map(|rule| rule.matches.path.clone()).collect();
    assert_eq!(paths, [PathMatch::Exact("/a".to_owned()), PathMatch::Exact("/b".to_owned())]);
    let rule = &service.routes.rules[1];
    assert_eq!(rule.route, "shop/split");
    assert_eq!((rule.request_timeout_ms, rule.backend_timeout_ms), (None, Some(5)));
    let Filter::RequestHeaders(edits) = &rule.filters[0] else { panic!() };
    assert_eq!(edits.set, [("x-canary".to_owned(), "yes".to_owned())]);
}

#[test]
fn what_cannot_be_followed_to_the_letter_is_refused() {
    for (filter, expected) in [
        (wire::HttpFilter { kind: None }, "a filter is of a kind"),
        (set("x y", "1"), "header's name"),
        (set("x", "1\r\nhost: evil"), "header's value"),
    ] {
        let error = decode(rule(filter)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let endpoints = |endpoint| {
        let value = wire::Endpoints { endpoints: vec![endpoint], ..wire::Endpoints::default() };
        super::value(&Key::Endpoints(ServicePort::new("a", "b", 1)), Some(wire::update::Value::Endpoints(value)))
    };
    assert!(endpoints(wire::Endpoint::default()).is_err(), "no address");
    let address = Some(wire::SocketAddress { ip: vec![10, 0, 0, 1].into(), port: 80 });
    let endpoint = wire::Endpoint { address, ..wire::Endpoint::default() };
    assert!(endpoints(endpoint.clone()).is_ok());
    assert!(endpoints(wire::Endpoint { identity: "web".to_owned(), ..endpoint.clone() }).is_err());
    assert!(endpoints(wire::Endpoint { protocol: 99, ..endpoint }).is_err());
    assert!(matches!(
        value(&Key::Inbound, Some(wire::update::Value::Settings(wire::Settings::default()))),
        Err(Unusable::WrongKind)
    ));
    assert!(value(&Key::Inbound, None).is_err());
}
