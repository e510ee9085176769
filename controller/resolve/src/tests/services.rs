//! Services as kube-proxy reads them, and what must not be read out of them.

use std::time::Duration;

use crd::Object;
use policy::{Endpoints, Outbound, ServicePort};

use super::cluster::{endpoint, facts as facts_of, from_yaml, slice};
use super::{all, facts, mesh, target_from, workload};
use crate::{Audience, Caller, Facts, endpoints};

fn service(name: &str, namespace: &str, spec: &str) -> Object {
    let text = format!(
        "{{metadata: {{name: {name}, namespace: {namespace}}}, spec: {{ports: [{{name: http, port: 80}}], {spec}}}}}"
    );
    Object::Service(crd::service::service(&from_yaml(&text)).unwrap())
}

/// A meshed pod of the account `web`.
fn pod(name: &str, node: &str, address: &str) -> Object {
    let text = format!(
        "{{metadata: {{name: {name}, namespace: shop}}, spec: {{serviceAccountName: web, nodeName: {node}, initContainers: [{{name: mesh-init, args: [init]}}, {{name: mesh-proxy, restartPolicy: Always}}]}}, status: {{podIPs: [{{ip: '{address}'}}]}}}}"
    );
    Object::Workload(crd::pod::pod(&from_yaml(&text)).unwrap())
}

/// Endpoints as the pod of this name is told them.
fn told(facts: &Facts, service: &str, name: &str) -> Endpoints {
    let caller = Caller {
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        name: name.to_owned(),
        addresses: facts.pod("shop", name).map(|pod| pod.addresses.clone()).unwrap_or_default(),
    };
    let id = ServicePort::new("shop", service, 80);
    endpoints(facts, &mesh(), &id, &Audience::of_endpoints(facts, &id, &caller)).unwrap()
}

/// What a client in `namespace` finds at an address: a Service, a meshed workload, or nobody.
fn found(facts: &Facts, address: &str, namespace: &str) -> String {
    match target_from(facts, address, namespace) {
        Some(Outbound::Service(service)) => service.id.to_string(),
        Some(Outbound::Workload(workload)) => workload.identity.unwrap_or_else(|| "plain".to_owned()),
        Some(Outbound::Foreign) => "foreign".to_owned(),
        None => "no such port".to_owned(),
    }
}

#[test]
fn an_external_workload_has_its_address_for_its_own_namespace_only() {
    let claim = |namespace: &str, created: &str| {
        workload("machine", "app: machine", "{addresses: [10.9.9.9], serviceAccount: machine}")
            .replace("namespace: shop", &format!("namespace: {namespace}, creationTimestamp: '{created}T00:00:00Z'"))
    };
    let hostile = facts(&[claim("evil", "2025-01-01"), claim("shop", "2026-01-01")].concat());
    assert_eq!(found(&hostile, "10.9.9.9:443", "shop"), "spiffe://cluster.local/ns/shop/sa/machine", "though younger");
    assert_eq!(found(&hostile, "10.9.9.9:443", "evil"), "spiffe://cluster.local/ns/evil/sa/machine");
    assert_eq!(found(&hostile, "10.9.9.9:443", "other"), "foreign");
    assert_eq!(found(&hostile, "10.9.9.8:443", "shop"), "foreign");
}

#[test]
fn local_is_the_clients_own_node_and_nobody_else() {
    let of = |service: &str| {
        let list = [
            endpoint("10.1.1.1", "a", ""),
            endpoint("10.1.1.2", "b", "ready: false, serving: true, terminating: true"),
            endpoint("10.1.2.1", "c", "ready: false, serving: true, terminating: true"),
            "{addresses: [10.9.1.1], nodeName: node-1}, {addresses: [10.9.9.9]}".to_owned(),
        ];
        let ports = "ports: [{name: http, port: 80}]";
        slice(&format!("{service}-1"), service, &format!("{ports}, endpoints: [{}]", list.join(", ")))
    };
    let facts = facts_of(vec![
        service("agent", "shop", "clusterIP: 10.96.0.1, internalTrafficPolicy: Local"),
        service("web", "shop", "clusterIP: 10.96.0.2, externalTrafficPolicy: Local"),
        of("agent"),
        of("web"),
        pod("a", "node-1", "10.1.1.1"),
        pod("b", "node-1", "10.1.1.2"),
        pod("c", "node-2", "10.1.2.1"),
        pod("alone", "node-3", "10.1.3.1"),
    ]);
    let near = |name: &str| {
        let told = told(&facts, "agent", name);
        assert!(told.node_local);
        told.usable(false).map(|endpoint| endpoint.address.ip().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(near("b"), ["10.1.1.1", "10.9.1.1"], "a slice by hand says where its endpoints are");
    assert_eq!(near("c"), ["10.1.2.1"], "one that ends, where nobody near is ready");
    assert!(near("alone").is_empty());
    assert!(near("nobody").is_empty(), "whoever is on no node has nobody near");
    assert_eq!(told(&facts, "web", "alone").list.len(), 5, "externalTrafficPolicy is about others");
    assert!(!told(&facts, "web", "alone").node_local);
}

/// The cases of kube-proxy's `topologyModeFromHints`, for clients on three nodes in two zones, and one on none.
#[test]
fn clients_keep_to_what_is_meant_for_them() {
    let near = |hints: [&str; 3], last: &str, more: &str| {
        let mut objects = vec![service("web", "shop", "clusterIP: 10.96.0.1, selector: {app: web}")];
        let mut list = Vec::new();
        for (number, zone) in [(1, "a"), (2, "a"), (3, "b")] {
            let (name, address) = (format!("pod-{number}"), format!("10.1.1.{number}"));
            let written = endpoint(&address, &name, if number == 3 { last } else { "" });
            list.push(format!("{}, hints: {{{}}}}}", &written[..written.len() - 1], hints[number - 1]));
            objects.push(pod(&name, &format!("node-{number}"), &address));
            let node = format!("{{name: node-{number}, labels: {{topology.kubernetes.io/zone: {zone}}}}}");
            objects.push(Object::Node(crd::service::node(&from_yaml(&node)).unwrap()));
        }
        objects.push(slice(
            "web-1",
            "web",
            &format!("ports: [{{name: http, port: 80}}], endpoints: [{}]", list.join(", ")),
        ));
        objects.extend(super::objects(more));
        let facts = facts_of(objects);
        ["pod-1", "pod-2", "pod-3", "nobody"].map(|client| {
            let list = told(&facts, "web", client).list;
            list.iter().filter_map(|endpoint| endpoint.address.ip().to_string().pop()).collect::<String>()
        })
    };
    let zones = ["forZones: [{name: a}]", "forZones: [{name: a}]", "forZones: [{name: b}]"];
    assert_eq!(near(zones, "", ""), ["12", "12", "3", "123"]);
    let nobody_in_b = [zones[0], zones[1], "forZones: [{name: c}]"];
    assert_eq!(near(nobody_in_b, "", ""), ["12", "12", "123", "123"]);
    let one_without = [zones[0], zones[1], ""];
    assert_eq!(near(one_without, "", ""), ["123"; 4], "Kubernetes is still writing them");
    let ends = "ready: false, serving: true, terminating: true";
    assert_eq!(near([zones[0], zones[2], ""], ends, ""), ["13", "13", "23", "123"], "who ends needs none");
    let nodes = [
        "forNodes: [{name: node-1}], forZones: [{name: a}]",
        "forNodes: [{name: node-2}], forZones: [{name: a}]",
        "forNodes: [{name: node-9}], forZones: [{name: b}]",
    ];
    assert_eq!(
        near(nodes, "", ""),
        ["1", "2", "3", "123"],
        "on the last one's node there is nobody, in its zone there is"
    );
    let external = workload("vm", "app: web", "addresses: [10.9.9.4]\n  ports: [{name: http, port: 80}]");
    assert_eq!(near(zones, "", &external), ["1234"; 4], "an ExternalWorkload is meant for everybody");
}

#[test]
fn affinity_comes_with_the_endpoints() {
    let affinity = |spec: &str| {
        let facts = facts_of(vec![service("web", "shop", spec)]);
        all(&facts, &ServicePort::new("shop", "web", 80)).unwrap().affinity
    };
    let config = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}";
    assert_eq!(affinity(config), Some(Duration::from_secs(7)));
    assert_eq!(affinity("sessionAffinity: None"), None);
}

#[test]
fn a_load_balancers_address_leads_to_its_service_for_everybody() {
    let balanced = |mode: &str, spec: &str| {
        let text = format!(
            "{{metadata: {{name: web, namespace: shop}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]{spec}}}, status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.1{mode}}}]}}}}}}"
        );
        facts_of(vec![Object::Service(crd::service::service(&from_yaml(&text)).unwrap())])
    };
    assert_eq!(found(&balanced("", ""), "192.0.2.1:80", "other"), "shop/web:80");
    assert_eq!(found(&balanced("", ""), "192.0.2.1:81", "other"), "foreign", "not the Service's to refuse");
    assert_eq!(found(&balanced(", ipMode: Proxy", ""), "192.0.2.1:80", "shop"), "foreign");
    assert_eq!(found(&balanced("", ", internalTrafficPolicy: Local"), "192.0.2.1:80", "shop"), "foreign");
    assert_eq!(found(&balanced("", ", loadBalancerSourceRanges: [10.0.0.0/8]"), "192.0.2.1:80", "shop"), "foreign");
}

#[test]
fn nobody_gets_anothers_traffic_by_writing_an_address_into_a_service() {
    let node: Object = {
        let text = "{metadata: {name: proxy, namespace: shop}, spec: {hostNetwork: true, nodeName: node-1}, status: {podIPs: [{ip: 10.0.0.1}]}}";
        Object::Workload(crd::pod::pod(&from_yaml(text)).unwrap())
    };
    let facts = facts_of(vec![
        service("grab", "evil", "clusterIP: 10.96.6.6, externalIPs: [198.51.100.1, 10.1.1.1, 10.96.0.1, 10.0.0.1]"),
        service("web", "shop", "clusterIP: 10.96.0.1, externalIPs: [198.51.100.1]"),
        pod("a", "node-1", "10.1.1.1"),
        node,
    ]);
    assert_eq!(found(&facts, "198.51.100.1:80", "shop"), "shop/web:80");
    assert_eq!(found(&facts, "198.51.100.1:80", "evil"), "evil/grab:80");
    assert_eq!(found(&facts, "198.51.100.1:80", "other"), "foreign", "kube-proxy decides, as without a mesh");
    assert_eq!(found(&facts, "198.51.100.1:443", "shop"), "foreign");
    for namespace in ["shop", "evil"] {
        assert_eq!(found(&facts, "10.1.1.1:80", namespace), "spiffe://cluster.local/ns/shop/sa/web", "a pod's");
        assert_eq!(found(&facts, "10.96.0.1:80", namespace), "shop/web:80", "another Service's");
        assert_eq!(found(&facts, "10.0.0.1:80", namespace), "foreign", "a node's");
    }
}
