//! Facts as manifests, and the values they make.

mod cluster;
mod services;

use std::net::IpAddr;
use std::sync::Arc;

use crd::{Object, Parsed};
use policy::{Endpoints, Outbound, Protocol, ServicePort};

use crate::{Audience, Caller, Facts, Mesh, endpoints, inbound, outbound};

fn mesh() -> Mesh {
    Mesh { trust_domain: "cluster.local".to_owned(), cluster: "demo".to_owned(), cluster_networks: Vec::new() }
}

fn facts(text: &str) -> Facts {
    Facts::new(objects(text).into_iter().map(Arc::new))
}

fn objects(text: &str) -> Vec<Object> {
    let parsed =
        crd::manifest::documents(text).into_iter().flat_map(|document| crd::manifest::parse(document).unwrap());
    let object = |one| match one {
        Parsed::Object(object, _) => Some(*object),
        Parsed::Ignored { .. } => None,
    };
    parsed.filter_map(object).collect()
}

fn service(name: &str, address: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  clusterIP: {address}\n  selector: {{app: {name}}}\n  ports:\n{rest}"
    )
}

fn workload(name: &str, labels: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: meshctl.io/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}\nspec:\n  {rest}\n"
    )
}

fn route(name: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  parentRefs: [{{group: '', kind: Service, {parent}}}]\n  rules:\n{rules}"
    )
}

fn shop() -> String {
    [
        service("cart", "10.96.0.7", "  - {port: 80, name: http, targetPort: web}\n  - {port: 90, targetPort: 9000}\n"),
        service("cart-v2", "10.96.0.8", "  - {port: 80, targetPort: 8081}\n"),
        workload(
            "cart-1",
            "app: cart, version: v1",
            "{addresses: [10.1.0.3], serviceAccount: cart, ports: [{name: web, port: 8080}]}",
        ),
        workload(
            "cart-2",
            "app: cart, version: v1",
            "{addresses: [fd00::2, 10.1.0.2], zone: a, ports: [{name: web, port: 8088}]}",
        ),
        workload(
            "cart-3",
            "app: cart, version: v1",
            "{addresses: [10.1.0.4], terminating: true, serviceAccount: cart}",
        ),
        workload("other-1", "app: other", "{addresses: [10.1.0.9], serviceAccount: other}"),
    ]
    .concat()
}

fn addresses(endpoints: &Endpoints) -> Vec<String> {
    endpoints.list.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn all(facts: &Facts, id: &ServicePort) -> Option<Endpoints> {
    endpoints(facts, &mesh(), id, &Audience::Everybody)
}

/// What a client in the namespace `shop` dials.
fn target(facts: &Facts, address: &str) -> Option<Outbound> {
    target_from(facts, address, "shop")
}

fn target_from(facts: &Facts, address: &str, namespace: &str) -> Option<Outbound> {
    let address = address.parse().unwrap();
    let caller = Caller {
        namespace: namespace.to_owned(),
        service_account: "client".to_owned(),
        name: "client".to_owned(),
        addresses: Vec::new(),
    };
    outbound(facts, &mesh(), address, &Audience::of_outbound(facts, address, &caller))
}

fn rules(facts: &Facts, address: &str) -> Vec<(String, String)> {
    let Some(Outbound::Service(service)) = target(facts, address) else { panic!("{address} is no Service") };
    let backends = |rule: &policy::Rule| {
        let names = rule.backends.iter().map(|backend| match &backend.service {
            Some(service) => format!("{}={}", service.name, backend.weight),
            None => format!("?={}", backend.weight),
        });
        names.collect::<Vec<_>>().join(" ")
    };
    service.routes.rules.iter().map(|rule| (rule.route.clone(), backends(rule))).collect()
}

#[test]
fn named_and_numeric_ports_lead_to_sorted_endpoints() {
    let facts = facts(&shop());
    let by_name = all(&facts, &ServicePort::new("shop", "cart", 80)).unwrap();
    assert_eq!(addresses(&by_name), ["10.1.0.2:8088", "10.1.0.3:8080", "[fd00::2]:8088"]);
    assert_eq!(by_name.list[1].identity.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/cart"));
    assert_eq!(by_name.list[0].identity, None);
    assert_eq!((by_name.list[0].zone.as_str(), by_name.list[0].version.as_str()), ("a", "v1"));
    let by_number = all(&facts, &ServicePort::new("shop", "cart", 90)).unwrap();
    assert_eq!(addresses(&by_number), ["10.1.0.2:9000", "10.1.0.3:9000", "10.1.0.4:9000", "[fd00::2]:9000"]);
    assert_eq!(by_number.list.iter().map(|e| e.ready).collect::<Vec<_>>(), [true, true, false, true]);
    assert!(all(&facts, &ServicePort::new("shop", "cart", 81)).is_none());
    assert!(all(&facts, &ServicePort::new("other", "cart", 80)).is_none());
    let nobody = all(&facts, &ServicePort::new("shop", "cart-v2", 80)).unwrap();
    assert!(nobody.list.is_empty());
}

#[test]
fn addresses_are_services_workloads_or_foreign() {
    let facts = facts(&shop());
    let Some(Outbound::Service(cart)) = target(&facts, "10.96.0.7:80") else { panic!() };
    assert_eq!((cart.id.to_string().as_str(), cart.protocol), ("shop/cart:80", Protocol::Http1));
    assert!(cart.routes.is_empty() && cart.default_backend == Some(cart.id));
    assert_eq!(target(&facts, "10.96.0.7:81"), None);
    let Some(Outbound::Workload(direct)) = target(&facts, "10.1.0.3:8080") else { panic!() };
    assert_eq!((direct.workload.as_str(), direct.protocol), ("cart-1", Protocol::Http1));
    let Some(Outbound::Workload(direct)) = target(&facts, "10.1.0.3:22") else { panic!() };
    assert_eq!(direct.protocol, Protocol::Undeclared);
    assert_eq!(target(&facts, "10.1.0.200:80"), Some(Outbound::Foreign));
    assert_eq!(target(&facts, "93.184.216.34:443"), Some(Outbound::Foreign));
}

#[test]
fn rules_stand_in_gateway_apis_order() {
    let rule = |matches: &str, to: u32| {
        format!("  - matches: [{matches}]\n    backendRefs: [{{name: cart, port: 80, weight: {to}}}]\n")
    };
    let rules_text = [
        rule("{path: {value: /}}", 8),
        rule("{path: {value: /a}}", 7),
        rule("{path: {value: /a/b}, headers: [{name: x, value: y}]}, {path: {value: /a/b}, method: GET}", 5),
        rule("{path: {value: /a/b}, queryParams: [{name: x, value: y}]}", 6),
        rule("{path: {value: /a/b}, headers: [{name: x, value: y}, {name: z, value: y}]}", 4),
        rule("{path: {type: Exact, value: /a}}", 1),
        rule("{path: {type: RegularExpression, value: '/a.*'}}", 2),
    ];
    let facts = facts(&(shop() + &route("all", "name: cart", &rules_text.concat())));
    let found: Vec<String> = rules(&facts, "10.96.0.7:80").into_iter().map(|(_, backends)| backends).collect();
    assert_eq!(found, ["cart=1", "cart=2", "cart=5", "cart=4", "cart=5", "cart=6", "cart=7", "cart=8"]);
}

#[test]
fn equal_matches_go_to_the_older_route_then_by_name() {
    let backend = "  - backendRefs: [{name: cart, port: 80}]\n";
    let dated = |name: &str, date: &str| {
        route(name, "name: cart", backend)
            .replace("namespace: shop}", &format!("namespace: shop, creationTimestamp: '{date}'}}"))
    };
    let facts = facts(
        &[
            shop(),
            dated("a", "2026-01-02T00:00:00Z"),
            dated("c", "2026-01-01T00:00:00Z"),
            dated("b", "2026-01-01T00:00:00Z"),
        ]
        .concat(),
    );
    let found: Vec<String> = rules(&facts, "10.96.0.7:80").into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["shop/b", "shop/c", "shop/a"]);
}

#[test]
fn weights_missing_backends_and_unsupported_filters() {
    let text = route(
        "canary",
        "name: cart, port: 80",
        "  - backendRefs: [{name: cart, port: 80, weight: 90}, {name: cart-v2, port: 80, weight: 0}, {name: gone, port: 80}, {name: cart-v2, port: 81}, {name: x, kind: Secret, port: 1}]\n  - filters: [{type: URLRewrite, urlRewrite: {hostname: x}}]\n    backendRefs: [{name: cart, port: 80}]\n  - timeouts: {request: 10s, backendRequest: 0s}\n",
    );
    let facts = facts(&(shop() + &text));
    let found: Vec<String> = rules(&facts, "10.96.0.7:80").into_iter().map(|(_, backends)| backends).collect();
    assert_eq!(found, ["cart=90 cart-v2=0 ?=1 ?=1 ?=1", "?=1", "cart=1"]);
    let Some(Outbound::Service(cart)) = target(&facts, "10.96.0.7:80") else { panic!() };
    assert_eq!(cart.routes.rules[2].request_timeout_ms, Some(10_000));
    assert_eq!(cart.routes.rules[2].backend_timeout_ms, None);
    assert!(rules(&facts, "10.96.0.7:90").is_empty(), "the parent names port 80 only");
}

#[test]
fn routes_of_other_namespaces_and_parents_do_not_count() {
    let backend = "  - backendRefs: [{name: cart, port: 80}]\n";
    let consumer = route("consumer", "name: cart, namespace: shop", backend)
        .replace("namespace: shop}\nspec", "namespace: web}\nspec");
    let gateway = route("gateway", "name: cart", backend)
        .replace("group: '', kind: Service", "name: gw, kind: Gateway")
        .replace("name: cart}]\n  rules", "port: 80}]\n  rules")
        .replace(", name: cart}", "}");
    let facts = facts(&[shop(), consumer, gateway].concat());
    assert!(rules(&facts, "10.96.0.7:80").is_empty());
}

#[test]
fn a_route_declares_http() {
    let facts = facts(&(shop() + &route("all", "name: cart, port: 90", "  - {}\n")));
    let Some(Outbound::Service(cart)) = target(&facts, "10.96.0.7:90") else { panic!() };
    assert_eq!(cart.protocol, Protocol::Http1);
    let Some(Outbound::Workload(direct)) = target(&facts, "10.1.0.3:9000") else { panic!() };
    assert_eq!(direct.protocol, Protocol::Http1);
}

#[test]
fn a_proxy_learns_its_own_workload_only() {
    let facts = facts(&shop());
    let caller = |account: &str, address: &str| Caller {
        namespace: "shop".to_owned(),
        service_account: account.to_owned(),
        name: String::new(),
        addresses: vec![address.parse::<IpAddr>().unwrap()],
    };
    let own = inbound(&facts, &mesh(), &caller("cart", "10.1.0.3")).unwrap();
    assert_eq!((own.workload.as_str(), own.app.as_str(), own.cluster.as_str()), ("cart-1", "cart", "demo"));
    let ports: Vec<_> =
        own.ports.iter().map(|port| (port.port, port.protocol, port.service.as_ref().unwrap().port)).collect();
    assert_eq!(ports, [(8080, Protocol::Http1, 80), (9000, Protocol::Undeclared, 90)]);
    assert!(inbound(&facts, &mesh(), &caller("other", "10.1.0.3")).is_none(), "another's address");
    assert!(inbound(&facts, &mesh(), &caller("cart", "10.1.0.9")).is_none(), "another's account");
    assert!(inbound(&facts, &mesh(), &caller("cart", "10.1.0.2")).is_none(), "without a proxy");
}
