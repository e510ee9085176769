//! Facts as a cluster has them: pods behind EndpointSlices, in shapes that are odd but legal. What is expected is what
//! kube-proxy would do with the same objects.

use std::sync::Arc;

use crd::Object;
use policy::{Endpoints, Outbound, Protocol, ServicePort};

use super::{addresses, all, mesh, target};
use crate::{Caller, Facts, inbound};

fn service(name: &str, address: &str, rest: &str) -> Object {
    let text = format!(
        "{{metadata: {{name: {name}, namespace: shop}}, spec: {{clusterIP: {address}, selector: {{app: {name}}}, {rest}}}}}"
    );
    Object::Service(crd::service::service(&from_yaml(&text)).unwrap())
}

pub(super) fn slice(name: &str, service: &str, rest: &str) -> Object {
    let kind = if rest.contains("'fd") { "IPv6" } else { "IPv4" };
    let text = format!(
        "{{metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}, addressType: {kind}, {rest}}}"
    );
    Object::EndpointSlice(crd::endpoint_slice::endpoint_slice(&from_yaml(&text)).unwrap().unwrap())
}

/// A meshed pod of the app `web`.
fn pod(name: &str, addresses: &str, annotations: &str) -> Object {
    pod_that_skips("", name, addresses, annotations)
}

/// The same, of which these ports are not redirected to its proxy.
fn pod_that_skips(ports: &str, name: &str, addresses: &str, annotations: &str) -> Object {
    let ips: Vec<String> =
        addresses.split(' ').filter(|it| !it.is_empty()).map(|it| format!("{{ip: '{it}'}}")).collect();
    let text = format!(
        "{{metadata: {{name: {name}, namespace: shop, labels: {{app: web}}, annotations: {{{annotations}}}}}, spec: {{serviceAccountName: web, nodeName: node-1, initContainers: [{{name: mesh-init, args: [init, '--skip-inbound-ports={ports}']}}, {{name: mesh-proxy, restartPolicy: Always}}], containers: [{{name: web, ports: [{{name: http, containerPort: 8080}}]}}]}}, status: {{podIPs: [{}]}}}}",
        ips.join(", ")
    );
    Object::Workload(crd::pod::pod(&from_yaml(&text)).unwrap())
}

pub(super) fn from_yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_yaml_ng::from_str(text).unwrap()
}

pub(super) fn facts(objects: Vec<Object>) -> Facts {
    Facts::new(objects.into_iter().map(Arc::new))
}

fn of(facts: &Facts, service: &str, port: u16) -> Endpoints {
    all(facts, &ServicePort::new("shop", service, port)).unwrap()
}

fn identities(endpoints: &Endpoints) -> Vec<bool> {
    endpoints.list.iter().map(|endpoint| endpoint.identity.is_some()).collect()
}

const WEB: &str = "ports: [{name: http, port: 80, targetPort: http}]";

pub(super) fn endpoint(address: &str, pod: &str, conditions: &str) -> String {
    format!(
        "{{addresses: ['{address}'], targetRef: {{kind: Pod, name: {pod}, namespace: shop}}, conditions: {{{conditions}}}}}"
    )
}

#[test]
fn a_named_port_leads_where_each_slice_says() {
    let facts = facts(vec![
        service("web", "10.96.0.1", WEB),
        pod("a", "10.1.0.1", ""),
        pod("b", "10.1.0.2", ""),
        slice(
            "web-1",
            "web",
            &format!("ports: [{{name: http, port: 8080}}], endpoints: [{}]", endpoint("10.1.0.1", "a", "")),
        ),
        slice(
            "web-2",
            "web",
            &format!(
                "ports: [{{name: http, port: 9090}}, {{name: other, port: 1}}], endpoints: [{}]",
                endpoint("10.1.0.2", "b", "")
            ),
        ),
        slice(
            "else-1",
            "else",
            &format!("ports: [{{name: http, port: 7}}], endpoints: [{}]", endpoint("10.1.0.2", "b", "")),
        ),
    ]);
    assert_eq!(addresses(&of(&facts, "web", 80)), ["10.1.0.1:8080", "10.1.0.2:9090"]);
    assert_eq!(of(&facts, "web", 80).list[0].identity.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/web"));
}

#[test]
fn terminating_ones_serve_only_where_nobody_is_ready() {
    let written = [
        endpoint("10.1.0.1", "a", "ready: false, serving: true, terminating: true"),
        endpoint("10.1.0.2", "b", "ready: false, serving: false, terminating: true"),
        endpoint("10.1.0.3", "c", "ready: false"),
    ];
    let all = |more: &str| {
        let list = format!("ports: [{{name: http, port: 8080}}], endpoints: [{}{more}]", written.join(", "));
        facts(vec![
            service("web", "10.96.0.1", WEB),
            pod("a", "10.1.0.1", ""),
            pod("b", "10.1.0.2", ""),
            pod("c", "10.1.0.3", ""),
            pod("d", "10.1.0.4", ""),
            slice("web-1", "web", &list),
        ])
    };
    let usable = |facts: &Facts| {
        of(facts, "web", 80).usable(false).map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(usable(&all("")), ["10.1.0.1:8080"]);
    assert_eq!(usable(&all(&format!(", {}", endpoint("10.1.0.4", "d", "ready: true")))), ["10.1.0.4:8080"]);
}

#[test]
fn both_families_and_an_address_in_two_slices() {
    let facts = facts(vec![
        service("web", "10.96.0.1", WEB),
        pod("a", "10.1.0.1 fd00::1", ""),
        slice(
            "web-4",
            "web",
            &format!(
                "ports: [{{name: http, port: 8080}}], endpoints: [{}]",
                endpoint("10.1.0.1", "a", "ready: false, serving: true, terminating: true")
            ),
        ),
        slice(
            "web-5",
            "web",
            &format!("ports: [{{name: http, port: 8080}}], endpoints: [{}]", endpoint("10.1.0.1", "a", "ready: true")),
        ),
        slice(
            "web-6",
            "web",
            &format!("ports: [{{name: http, port: 8080}}], endpoints: [{}]", endpoint("fd00::1", "a", "")),
        ),
    ]);
    let found = of(&facts, "web", 80);
    assert_eq!(addresses(&found), ["10.1.0.1:8080", "[fd00::1]:8080"]);
    assert!(found.list[0].ready, "ready in one slice is ready");
    assert_eq!(identities(&found), [true, true]);
}

#[test]
fn hundreds_of_ports_and_a_thousand_endpoints() {
    let ports = |target: &str| -> String {
        (0..250).map(|it| format!("{{name: p{it}, port: {}{target}}}", 1000 + it)).collect::<Vec<_>>().join(", ")
    };
    let mut objects = vec![service("web", "10.96.0.1", &format!("ports: [{}]", ports("")))];
    for part in 0..10 {
        let name = |it: usize| format!("pod-{part}-{it}");
        let address = |it: usize| format!("10.1.{part}.{}", it + 1);
        objects.extend((0..100).map(|it| pod(&name(it), &address(it), "")));
        let list: Vec<String> = (0..100).map(|it| endpoint(&address(it), &name(it), "")).collect();
        let list = format!("ports: [{}], endpoints: [{}]", ports(""), list.join(", "));
        objects.push(slice(&format!("web-{part}"), "web", &list));
    }
    let facts = facts(objects);
    for port in [1000, 1123, 1249] {
        let found = of(&facts, "web", port);
        assert_eq!(found.list.len(), 1000);
        assert!(found.list.iter().all(|endpoint| endpoint.address.port() == port && endpoint.identity.is_some()));
    }
}

#[test]
fn slices_without_pods_are_dialled_in_plain_and_unknown_pods_not_at_all() {
    let facts = facts(vec![
        service("web", "10.96.0.1", WEB),
        pod("a", "10.1.0.1", ""),
        slice(
            "by-hand",
            "web",
            &format!(
                "ports: [{{name: http, port: 8080}}], endpoints: [{{addresses: [192.0.2.1], zone: z}}, {{addresses: [10.1.0.1]}}, {}]",
                endpoint("10.1.0.9", "gone", "")
            ),
        ),
    ]);
    let found = of(&facts, "web", 80);
    assert_eq!(addresses(&found), ["10.1.0.1:8080", "192.0.2.1:8080"]);
    assert_eq!(identities(&found), [true, false]);
    assert_eq!((found.list[1].workload.as_str(), found.list[1].zone.as_str()), ("", "z"));
}

#[test]
fn headless_services_are_dialled_by_pod() {
    let facts = facts(vec![service("web", "None", WEB), pod("web-0", "10.1.0.1 fd00::1", "")]);
    for address in ["10.1.0.1:8080", "[fd00::1]:8080"] {
        let found = target(&facts, address);
        let Some(Outbound::Workload(direct)) = found else { panic!("{address}") };
        assert_eq!(
            (direct.workload.as_str(), direct.protocol, direct.identity.is_some()),
            ("web-0", Protocol::Http1, true)
        );
    }
}

#[test]
fn pods_on_their_nodes_network_are_told_apart_by_port() {
    let host = |name: &str, port: u16| {
        let text = format!(
            "{{metadata: {{name: {name}, namespace: shop}}, spec: {{hostNetwork: true, initContainers: [{{name: mesh-init, args: [init]}}, {{name: mesh-proxy, restartPolicy: Always}}], containers: [{{name: c, ports: [{{containerPort: {port}}}]}}]}}, status: {{podIPs: [{{ip: 10.0.0.1}}]}}}}"
        );
        Object::Workload(crd::pod::pod(&from_yaml(&text)).unwrap())
    };
    let facts = facts(vec![
        service("web", "10.96.0.1", WEB),
        host("one", 9100),
        host("two", 9200),
        slice(
            "web-1",
            "web",
            &format!("ports: [{{name: http, port: 9300}}], endpoints: [{}]", endpoint("10.0.0.1", "two", "")),
        ),
    ]);
    let name = |address: &str| match target(&facts, address) {
        Some(Outbound::Workload(direct)) => {
            assert_eq!(direct.identity, None);
            direct.workload
        }
        Some(Outbound::Foreign) => "foreign".to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!([name("10.0.0.1:9100"), name("10.0.0.1:9200"), name("10.0.0.1:10250")], ["one", "two", "foreign"]);
    let found = of(&facts, "web", 80);
    assert_eq!((found.list[0].workload.as_str(), identities(&found)), ("two", vec![false]));
}

#[test]
fn ports_that_pass_the_proxy_by_or_carry_bytes() {
    let with = |ports: &str, annotations: &str| {
        let list = format!("ports: [{{name: http, port: 8080}}], endpoints: [{}]", endpoint("10.1.0.1", "a", ""));
        let service = service("web", "10.96.0.1", WEB);
        facts(vec![service, pod_that_skips(ports, "a", "10.1.0.1", annotations), slice("web-1", "web", &list)])
    };
    let annotated = with("", "meshctl.io/skip-inbound-ports: 1-65535");
    assert_eq!(identities(&of(&annotated, "web", 80)), [true], "what somebody writes later makes nobody speak plain");
    let skipped = with("22,8000-8100", "");
    assert_eq!(identities(&of(&skipped, "web", 80)), [false]);
    let Some(Outbound::Workload(direct)) = target(&skipped, "10.1.0.1:80") else { panic!() };
    assert!(direct.identity.is_some());
    let Some(Outbound::Workload(direct)) = target(&skipped, "10.1.0.1:22") else { panic!() };
    assert!(direct.identity.is_none());

    let opaque = with("", "meshctl.io/opaque-ports: '8080'");
    let Some(Outbound::Service(web)) = target(&opaque, "10.96.0.1:80") else { panic!() };
    assert_eq!((web.protocol, of(&opaque, "web", 80).list[0].protocol), (Protocol::Tcp, Protocol::Tcp));
    let own = Caller {
        namespace: "shop".into(),
        service_account: "web".into(),
        name: "a".into(),
        addresses: vec!["10.1.0.1".parse().unwrap()],
    };
    assert_eq!(inbound(&opaque, &mesh(), &own).unwrap().ports[0].protocol, Protocol::Tcp);
    let plain = with("", "");
    assert_eq!(inbound(&plain, &mesh(), &own).unwrap().ports[0].protocol, Protocol::Http1);
}

#[test]
fn a_namespace_speaks_for_its_pods_and_services() {
    let text = "{metadata: {name: shop, annotations: {meshctl.io/opaque-ports: '80,8080', meshctl.io/skip-inbound-ports: '9'}}}";
    let namespace = Object::Namespace(crd::service::namespace(&from_yaml(text)).unwrap());
    let own = "{metadata: {name: own, namespace: shop, annotations: {meshctl.io/opaque-ports: ''}}, spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}}";
    let own = Object::Service(crd::service::service(&from_yaml(own)).unwrap());
    let facts = facts(vec![
        namespace,
        own,
        service("web", "10.96.0.1", WEB),
        pod("a", "10.1.0.1", ""),
        pod_that_skips("10", "b", "10.1.0.2", ""),
    ]);
    let protocol = |address: &str| match target(&facts, address) {
        Some(Outbound::Service(service)) => service.protocol,
        Some(Outbound::Workload(direct)) => direct.protocol,
        other => panic!("{other:?}"),
    };
    assert_eq!(protocol("10.96.0.1:80"), Protocol::Tcp);
    assert_eq!(protocol("10.96.0.2:80"), Protocol::Http1, "its own annotation counts alone");
    assert_eq!(protocol("10.1.0.1:8080"), Protocol::Tcp);
    let meshed = |address: &str| match target(&facts, address) {
        Some(Outbound::Workload(direct)) => direct.identity.is_some(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [meshed("10.1.0.1:9"), meshed("10.1.0.1:10"), meshed("10.1.0.2:9"), meshed("10.1.0.2:10")],
        [true, true, true, false],
        "what is redirected to a pod's proxy was decided when it started, whatever is written on the namespace since"
    );
}

#[test]
fn a_pod_is_known_to_itself_before_its_address_is() {
    let facts = facts(vec![service("web", "10.96.0.1", WEB), pod("a", "", ""), pod("b", "10.1.0.2", "")]);
    let caller = |name: &str, account: &str, address: &str| Caller {
        namespace: "shop".to_owned(),
        service_account: account.to_owned(),
        name: name.to_owned(),
        addresses: vec![address.parse().unwrap()],
    };
    assert_eq!(inbound(&facts, &mesh(), &caller("a", "web", "10.1.0.1")).unwrap().ports[0].port, 8080);
    assert!(inbound(&facts, &mesh(), &caller("a", "other", "10.1.0.1")).is_none());
    assert_eq!(inbound(&facts, &mesh(), &caller("nobody", "web", "10.1.0.2")).unwrap().workload, "b");
    assert!(
        inbound(&facts, &mesh(), &caller("b", "web", "10.1.0.1")).is_none(),
        "the name of one, the address of another"
    );
}

#[test]
fn an_address_belongs_to_the_pod_that_stays() {
    let ended = |name: &str, created: &str, deleted: &str| {
        let text = format!(
            "{{metadata: {{name: {name}, namespace: shop, creationTimestamp: '{created}'{deleted}}}, status: {{podIPs: [{{ip: 10.1.0.1}}]}}}}"
        );
        Object::Workload(crd::pod::pod(&from_yaml(&text)).unwrap())
    };
    let name = |facts: &Facts| facts.pod_at("10.1.0.1".parse().unwrap()).unwrap().metadata.name.clone();
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let gone = ", deletionTimestamp: '2026-01-03T00:00:00Z'";
    assert_eq!(name(&facts(vec![ended("a", old, ""), ended("b", new, "")])), "b");
    assert_eq!(name(&facts(vec![ended("a", old, ""), ended("b", new, gone)])), "a");
}

#[test]
fn an_address_that_somebody_else_has_by_now_is_no_endpoint() {
    let list = format!("ports: [{{name: http, port: 8080}}], endpoints: [{}]", endpoint("10.1.0.1", "a", ""));
    let moved = facts(vec![
        service("web", "10.96.0.1", WEB),
        slice("web-1", "web", &list),
        pod("a", "10.1.0.9", ""),
        pod("b", "10.1.0.1", ""),
    ]);
    assert!(of(&moved, "web", 80).list.is_empty());
}

#[test]
fn an_address_is_not_a_workloads_because_another_namespace_says_so() {
    let claimed_in = |namespace: &str| {
        let text = format!(
            "---\napiVersion: meshctl.io/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: x, namespace: {namespace}}}\nspec: {{addresses: [10.9.9.9], serviceAccount: x}}\n"
        );
        let list = "ports: [{name: http, port: 443}], endpoints: [{addresses: ['10.9.9.9']}]";
        let mut objects = vec![service("web", "10.96.0.1", WEB), slice("web-1", "web", list)];
        objects.extend(super::objects(&text));
        identities(&of(&facts(objects), "web", 80))
    };
    assert_eq!(claimed_in("shop"), [true]);
    assert_eq!(claimed_in("evil"), [false]);
}

#[test]
fn zones_come_from_nodes() {
    let text = "{metadata: {name: node-1, labels: {topology.kubernetes.io/zone: eu-1}}}";
    let node: k8s_openapi::api::core::v1::Node = from_yaml(text);
    let node = Object::Node(crd::service::node(&node.metadata).unwrap());
    let facts = facts(vec![node, pod("a", "10.1.0.1", "")]);
    let own = Caller {
        namespace: "shop".into(),
        service_account: "web".into(),
        name: "a".into(),
        addresses: vec!["10.1.0.1".parse().unwrap()],
    };
    assert_eq!(inbound(&facts, &mesh(), &own).unwrap().zone, "eu-1");
}

#[test]
fn both_sides_spell_annotations_alike() {
    assert_eq!(crd::pod::INIT_CONTAINER, proto::names::INIT_CONTAINER);
    assert_eq!(crd::pod::HEALTH_PORT, proto::names::HEALTH_PORT);
    assert_eq!(crd::pod::PROXY_CONTAINER, proto::names::PROXY_CONTAINER);
    assert_eq!(crd::pod::OPAQUE_PORTS, proto::names::OPAQUE_PORTS);
}

/// What a cluster's pods cost, facts and indices together, is small beside what the API server sends of them: about
/// 2.5 KB each.
#[test]
fn a_pod_costs_little_memory() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    let pods: Vec<Object> = (0..20_000_u32)
        .map(|it| {
            pod(&format!("web-6d9d8977d5-{it:05}"), &format!("10.{}.{}.{}", it >> 16, (it >> 8) & 255, it & 255), "")
        })
        .collect();
    let facts = facts(pods);
    let each = resident().saturating_sub(before) / facts.len();
    assert!(each < 4096, "{each} bytes for each pod");
}
