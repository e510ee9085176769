//! [`of_object`]: what is wrong with an object that can be read, seen beside all the others: what it names and is not
//! there, and what it says and nobody follows. `meshctl analyze` and `mesh-controller check` tell it, each with its place.

use std::collections::BTreeSet;

use crd::model::{HttpRoute, Object, Origin, PortOfService, Service, Workload};
use policy::{Protocol, ServicePort};

use crate::audience::Audience;
use crate::endpoints::endpoints;
use crate::facts::{Facts, Mesh};
use crate::ports;
use crate::routes::routes;

/// Something that hardly is as meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// Where in the object, as in `spec.rules[0].backendRefs[1]`; empty where it is the whole of it.
    pub field: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Works, but something that is written has no effect.
    Warning,
    /// Something it names is not among the facts: an error where they are all there is.
    Missing,
    /// Requests fail, or all of it has no effect.
    Error,
}

impl Finding {
    fn new(weight: Weight, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { weight, field: field.into(), problem: problem.into() }
    }
}

/// What is wrong with one object of the facts. Objects without findings of their own (Nodes, EndpointSlices, Pods) have none.
pub fn of_object(facts: &Facts, object: &Object) -> Vec<Finding> {
    match object {
        Object::HttpRoute(route) => of_route(facts, route),
        Object::Service(service) => of_service(facts, service),
        Object::Workload(workload) if workload.origin == Origin::External => of_external(facts, workload),
        _ => Vec::new(),
    }
}

fn of_route(facts: &Facts, route: &HttpRoute) -> Vec<Finding> {
    let mut found = parents(facts, route);
    for (index, rule) in route.rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        if let Some(filter) = &rule.unsupported {
            let problem = format!("the filter {filter} is not supported; requests of its rule get 500: take it out");
            found.push(Finding::new(Weight::Error, format!("{field}.filters"), problem));
        }
        let backends = rule.backends.as_deref().unwrap_or_default();
        for (place, backend) in backends.iter().enumerate() {
            let field = format!("{field}.backendRefs[{place}]");
            found.extend(of_backend(facts, &field, backend.service.as_ref()));
        }
        if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
            let problem = "every weight is 0, so requests of this rule get 500; give one backend a weight of 1 or more";
            found.push(Finding::new(Weight::Error, format!("{field}.backendRefs"), problem));
        }
    }
    found.extend(shadowed(facts, route));
    found
}

fn parents(facts: &Facts, route: &HttpRoute) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |weight, problem: String| found.push(Finding::new(weight, "spec.parentRefs", problem));
    if route.parents.is_empty() {
        let problem = "no parentRef names a Service (group \"\", kind Service), so the mesh does not use it".to_owned();
        add(Weight::Warning, problem);
    }
    for parent in &route.parents {
        let name = format!("{}/{}", parent.namespace, parent.name);
        if parent.namespace != route.metadata.namespace {
            add(
                Weight::Error,
                format!(
                    "the parent {name} is in another namespace; only routes of the Service's own are in force: move it to {}",
                    parent.namespace
                ),
            );
        }
        let Some(service) = facts.service(&parent.namespace, &parent.name) else {
            add(Weight::Missing, format!("there is no Service {name} to attach to; correct the name or make it"));
            continue;
        };
        if service.cluster_ips.is_empty() {
            let problem = format!(
                "the Service {name} has no cluster address: clients dial its pods, and no route applies; give it one"
            );
            add(Weight::Error, problem);
        }
        if let Some(port) = parent.port
            && !has_port(service, port)
        {
            let ports = listed(service);
            add(Weight::Error, format!("the Service {name} has no port {port} to attach to; it has {ports}"));
        }
        // A route without a port is for those of the Service's that can be routed.
        let named = service.ports.iter().filter(|port| parent.port == Some(port.port));
        let carries_bytes =
            |port: &&PortOfService| matches!(ports::of_service(facts, service, port), Protocol::Tcp | Protocol::Tls);
        for port in named.filter(carries_bytes) {
            let why = "which carries bytes (appProtocol, the port's name or meshctl.io/opaque-ports say so)";
            add(Weight::Warning, format!("no effect on {name}:{}, {why}", port.port));
        }
    }
    found
}

fn of_backend(facts: &Facts, field: &str, id: Option<&ServicePort>) -> Option<Finding> {
    let Some(id) = id else {
        let problem = "a backendRef is no Service or has no port; its share of requests gets 500: write name and port";
        return Some(Finding::new(Weight::Error, field, problem));
    };
    let (weight, instead) = match facts.service(&id.namespace, &id.name) {
        None => (Weight::Missing, "correct the name or make the Service".to_owned()),
        Some(service) if !has_port(service, id.port) => (Weight::Error, format!("it has {}", listed(service))),
        Some(_) => return None,
    };
    let problem = format!("there is no Service port {id}; its share of requests gets 500: {instead}");
    Some(Finding::new(weight, field, problem))
}

/// Rules that can't apply, because the same match stands before them wherever the route is attached.
fn shadowed(facts: &Facts, route: &HttpRoute) -> Vec<Finding> {
    let own = format!("{}/{}", route.metadata.namespace, route.metadata.name);
    let mut problems = BTreeSet::new();
    for parent in route.parents.iter().filter(|parent| parent.namespace == route.metadata.namespace) {
        let Some(service) = facts.service(&parent.namespace, &parent.name) else { continue };
        for port in service.ports.iter().filter(|port| parent.port.is_none_or(|only| only == port.port)) {
            let rules = routes(facts, service, port.port).rules;
            for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.route == own) {
                let Some(before) = rules[..index].iter().find(|before| before.matches == rule.matches) else {
                    continue;
                };
                let whose = if before.route == own {
                    "an earlier rule of the same route".to_owned()
                } else {
                    format!("HTTPRoute {} (the older one, or the first by name, wins)", before.route)
                };
                problems.insert(format!(
                    "a match never applies on {}/{}:{}, because {whose} has the same; take one of them out",
                    parent.namespace, parent.name, port.port
                ));
            }
        }
    }
    problems.into_iter().map(|problem| Finding::new(Weight::Warning, "spec.rules", problem)).collect()
}

fn of_service(facts: &Facts, service: &Service) -> Vec<Finding> {
    if service.selector.is_empty() {
        return Vec::new();
    }
    let nobody = |port: u16| {
        let id = ServicePort::new(&service.metadata.namespace, &service.metadata.name, port);
        let mesh = Mesh { trust_domain: String::new(), cluster: String::new(), cluster_networks: Vec::new() };
        endpoints(facts, &mesh, &id, &Audience::Everybody).is_none_or(|endpoints| endpoints.list.is_empty())
    };
    let empty = service.ports.iter().enumerate().filter(|(_, port)| nobody(port.port));
    empty
        .map(|(index, port)| {
            let problem = format!("port {} has no endpoint; see its selector and targetPort", port.port);
            Finding::new(Weight::Warning, format!("spec.ports[{index}]"), problem)
        })
        .collect()
}

fn of_external(facts: &Facts, workload: &Workload) -> Vec<Finding> {
    let (namespace, name) = (&workload.metadata.namespace, &workload.metadata.name);
    let taken = |address: &std::net::IpAddr| {
        let service =
            facts.service_at(*address).map(|it| format!("Service {}/{}", it.metadata.namespace, it.metadata.name));
        let pod = || facts.pod_at(*address).map(|it| format!("Pod {}/{}", it.metadata.namespace, it.metadata.name));
        let other = || {
            let first = facts.external_at(namespace, *address)?;
            (first.metadata.name != *name)
                .then(|| format!("ExternalWorkload {namespace}/{} (older)", first.metadata.name))
        };
        Some((*address, service.or_else(pod).or_else(other)?))
    };
    let found = workload.addresses.iter().filter_map(taken);
    found
        .map(|(address, whose)| {
            let problem = format!("{address} is the address of {whose} already, which wins; write the workload's own");
            Finding::new(Weight::Warning, "spec.addresses", problem)
        })
        .collect()
}

fn has_port(service: &Service, port: u16) -> bool {
    service.ports.iter().any(|written| written.port == port)
}

fn listed(service: &Service) -> String {
    let ports: Vec<String> = service.ports.iter().take(SHOWN).map(|port| port.port.to_string()).collect();
    match (ports.len(), service.ports.len()) {
        (0, _) => "no TCP port".to_owned(),
        (shown, all) if shown < all => format!("{} and others", ports.join(", ")),
        _ => ports.join(", "),
    }
}

const SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crd::Parsed;

    use super::*;

    const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}, {port: 90}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80}]}
";

    fn found(manifests: &str) -> Vec<String> {
        let parsed = crd::manifest::documents(manifests).into_iter().flat_map(|it| crd::manifest::parse(it).unwrap());
        let objects: Vec<Arc<Object>> = parsed
            .filter_map(|one| if let Parsed::Object(object, _) = one { Some(Arc::new(*object)) } else { None })
            .collect();
        let facts = Facts::new(objects.iter().cloned());
        let all = objects.iter().flat_map(|object| of_object(&facts, object));
        all.map(|finding| format!("{:?} {}: {}", finding.weight, finding.field, finding.problem)).collect()
    }

    fn route(parents: &str, rules: &str) -> Vec<String> {
        let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}";
        let text = format!("{SHOP}---\n{head}\nspec: {{parentRefs: {parents}, rules: {rules}}}\n");
        found(&text).into_iter().filter(|finding| !finding.contains("no endpoint")).collect()
    }

    fn one(found: &[String], expected: &str) {
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}\n{found:?}");
    }

    #[test]
    fn what_a_route_names_is_there() {
        const WEB: &str = "[{group: '', kind: Service, name: web, port: 80}]";
        let good = "[{backendRefs: [{name: cart, port: 80}]}]";
        assert_eq!(route(WEB, good), [""; 0]);
        one(&route("[{name: gateway}]", good), "Warning spec.parentRefs: no parentRef names a Service");
        one(
            &route("[{group: '', kind: Service, name: x}]", good),
            "Missing spec.parentRefs: there is no Service shop/x",
        );
        one(
            &route("[{group: '', kind: Service, name: web, port: 81}]", good),
            "no port 81 to attach to; it has 80, 90",
        );
        one(&route("[{group: '', kind: Service, name: cart}]", good), "the Service shop/cart has no cluster address");
        let elsewhere = "[{group: '', kind: Service, name: web, namespace: other}]";
        let elsewhere = route(elsewhere, good);
        assert!(
            elsewhere[0].starts_with("Error spec.parentRefs") && elsewhere[0].contains("move it to other"),
            "{elsewhere:?}"
        );
        one(&route(WEB, "[{backendRefs: [{name: x, port: 80}]}]"), "Missing spec.rules[0].backendRefs[0]: there is no");
        one(
            &route(WEB, "[{backendRefs: [{name: cart, port: 81}]}]"),
            "Error spec.rules[0].backendRefs[0]: there is no",
        );
        one(&route(WEB, "[{backendRefs: [{name: cart}]}]"), "write name and port");
        one(&route(WEB, "[{backendRefs: [{name: cart, port: 80, weight: 0}]}]"), "every weight is 0");
        let database = SHOP.replace("[{port: 80}, {port: 90}]", "[{port: 80, name: tcp-db}]");
        let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}";
        let of_bytes = found(&format!("{database}---\n{head}\nspec: {{parentRefs: {WEB}, rules: {good}}}\n"));
        assert!(
            of_bytes.iter().any(|it| it.starts_with("Warning spec.parentRefs: no effect on shop/web:80")),
            "{of_bytes:?}"
        );
        let mirror = "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: cart, port: 80}}}]}]";
        one(&route(WEB, mirror), "Error spec.rules[0].filters: the filter RequestMirror is not supported");
    }

    #[test]
    fn the_same_match_twice_counts_once() {
        const WEB: &str = "[{group: '', kind: Service, name: web, port: 80}]";
        let rule = "{matches: [{path: {value: /a}}], backendRefs: [{name: cart, port: 80}]}";
        one(
            &route(WEB, &format!("[{rule}, {rule}]")),
            "never applies on shop/web:80, because an earlier rule of the same",
        );
        let other = rule.replace("/a", "/b");
        assert_eq!(route(WEB, &format!("[{rule}, {other}]")), [""; 0]);
    }

    #[test]
    fn services_without_endpoints_and_addresses_of_others() {
        one(&found(SHOP), "Warning spec.ports[0]: port 80 has no endpoint");
        let external = |name: &str, address: &str| {
            format!(
                "---\napiVersion: meshctl.io/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: {name}, namespace: shop, \
                 labels: {{app: cart}}}}\nspec: {{addresses: [{address}]}}\n"
            )
        };
        assert_eq!(found(&format!("{SHOP}{}", external("a", "192.0.2.1"))), [""; 0]);
        let twice = format!("{SHOP}{}{}", external("a", "192.0.2.1"), external("b", "192.0.2.1"));
        one(&found(&twice), "Warning spec.addresses: 192.0.2.1 is the address of ExternalWorkload shop/a (older)");
        one(&found(&format!("{SHOP}{}", external("a", "10.96.0.1"))), "is the address of Service shop/web already");
    }
}
