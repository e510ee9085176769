//! HTTPRoutes of a Service's port, in the order of Gateway API's precedence, so that the first match is the right one.
//!
//! Only producer routes (GEP-1294: those of the Service's own namespace) are in force.

use std::cmp::Reverse;

use crd::model::{BackendReference, HttpRoute, HttpRule, Service};
use policy::route::{Match, PathMatch};
use policy::{Backend, Routes, Rule, ServicePort};

use crate::facts::Facts;

/// The rules attached to one port of a Service, best first.
pub fn routes(facts: &Facts, service: &Service, port: u16) -> Routes {
    let mut attached: Vec<&HttpRoute> = attached(facts, service, port).collect();
    attached.sort_by_key(|route| route.metadata.created.unwrap_or(i64::MIN));
    let mut rules = Vec::new();
    for route in attached {
        let name = format!("{}/{}", route.metadata.namespace, route.metadata.name);
        for written in &route.rules {
            let backends = backends(facts, service, port, written);
            rules.extend(written.matches.iter().map(|matches| Rule {
                route: name.clone(),
                matches: matches.clone(),
                filters: written.filters.clone(),
                backends: backends.clone(),
                request_timeout_ms: written.request_timeout_ms,
                backend_timeout_ms: written.backend_timeout_ms,
            }));
        }
    }
    // Stable: what is equal stays in order of age, name, and place in the route.
    rules.sort_by_key(|rule| precedence(&rule.matches));
    Routes { rules }
}

/// Whether any route is attached to the port.
pub(crate) fn has_routes(facts: &Facts, service: &Service, port: u16) -> bool {
    attached(facts, service, port).next().is_some()
}

fn attached<'f>(facts: &'f Facts, service: &'f Service, port: u16) -> impl Iterator<Item = &'f HttpRoute> {
    let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
    facts.routes_of(service).filter(move |route| {
        &route.metadata.namespace == namespace
            && route.parents.iter().any(|parent| {
                &parent.namespace == namespace && &parent.name == name && parent.port.is_none_or(|only| only == port)
            })
    })
}

/// Gateway API: exact path, then the longest prefix, a method, most headers, most query parameters. Regular expressions,
/// whose place is left to implementations, stand between exact paths and prefixes.
fn precedence(matches: &Match) -> impl Ord + use<> {
    let path = match &matches.path {
        PathMatch::Exact(_) => (0, Reverse(0)),
        PathMatch::Regex(pattern) => (1, Reverse(pattern.as_str().len())),
        PathMatch::Prefix(prefix) => (2, Reverse(prefix.trim_end_matches('/').len())),
    };
    (path, matches.method.is_none(), Reverse(matches.headers.len()), Reverse(matches.query.len()))
}

fn backends(facts: &Facts, service: &Service, port: u16, rule: &HttpRule) -> Vec<Backend> {
    let one = |service, filters: &[_], weight| Backend { service, weight, filters: filters.to_vec() };
    if rule.unsupported.is_some() {
        return vec![one(None, &[], 1)];
    }
    let Some(written) = &rule.backends else {
        let own = ServicePort::new(&service.metadata.namespace, &service.metadata.name, port);
        return vec![one(Some(own), &[], 1)];
    };
    written.iter().map(|backend| one(existing(facts, backend), &backend.filters, backend.weight)).collect()
}

/// The backend, if it is a Service that exists and has the port.
fn existing(facts: &Facts, backend: &BackendReference) -> Option<ServicePort> {
    let id = backend.service.as_ref()?;
    let service = facts.service(&id.namespace, &id.name)?;
    service.ports.iter().any(|port| port.port == id.port).then(|| id.clone())
}
