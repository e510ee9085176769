//! From the model to the messages on the wire. Only shapes change here; equal values encode to equal bytes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use policy::route::{Filter, HeaderEdits, PathMatch, ValueMatch};
use proto::discovery as wire;

pub(crate) fn outbound(value: &policy::Outbound) -> wire::Outbound {
    let target = match value {
        policy::Outbound::Service(it) => wire::outbound::Target::Service(service(it)),
        policy::Outbound::Workload(it) => wire::outbound::Target::Workload(endpoint(it)),
        policy::Outbound::Foreign => wire::outbound::Target::Foreign(wire::Unit {}),
    };
    wire::Outbound { target: Some(target) }
}

pub(crate) fn endpoints(value: &policy::Endpoints) -> wire::Endpoints {
    let seconds = |affinity: Duration| u32::try_from(affinity.as_secs()).unwrap_or(u32::MAX);
    wire::Endpoints {
        endpoints: value.list.iter().map(endpoint).collect(),
        node_local: value.node_local,
        affinity_seconds: value.affinity.map_or(0, seconds),
    }
}

pub(crate) fn inbound(value: &policy::Inbound) -> wire::Inbound {
    wire::Inbound {
        workload: value.workload.clone(),
        namespace: value.namespace.clone(),
        app: value.app.clone(),
        version: value.version.clone(),
        cluster: value.cluster.clone(),
        zone: value.zone.clone(),
        service_account: value.service_account.clone(),
        ports: value.ports.iter().map(inbound_port).collect(),
        mutual_tls: match value.mutual_tls {
            policy::MutualTls::Permissive => wire::MutualTls::Permissive,
            policy::MutualTls::Strict => wire::MutualTls::Strict,
            policy::MutualTls::Disable => wire::MutualTls::Disable,
        }
        .into(),
    }
}

pub(crate) fn settings(mesh: &resolve::Mesh) -> wire::Settings {
    let mut networks: Vec<String> = mesh.cluster_networks.iter().map(ToString::to_string).collect();
    networks.sort_unstable();
    wire::Settings { trust_domain: mesh.trust_domain.clone(), cluster_networks: networks }
}

pub(crate) fn service_port(id: &policy::ServicePort) -> wire::ServicePort {
    wire::ServicePort { namespace: id.namespace.clone(), name: id.name.clone(), port: id.port.into() }
}

pub(crate) fn socket_address(address: SocketAddr) -> wire::SocketAddress {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    wire::SocketAddress { ip: ip.into(), port: address.port().into() }
}

fn service(value: &policy::Service) -> wire::Service {
    wire::Service {
        namespace: value.id.namespace.clone(),
        name: value.id.name.clone(),
        port: value.id.port.into(),
        protocol: protocol(value.protocol).into(),
        routes: routes(&value.routes),
        default_backend: value.default_backend.as_ref().map(service_port),
    }
}

/// Rules stand in order of precedence, whichever route they come from: neighbours of one route share a message.
fn routes(routes: &policy::Routes) -> Vec<wire::HttpRoute> {
    let mut encoded: Vec<wire::HttpRoute> = Vec::new();
    for one in &routes.rules {
        let (namespace, name) = one.route.split_once('/').unwrap_or(("", &one.route));
        match encoded.last_mut() {
            Some(last) if last.namespace == namespace && last.name == name => last.rules.push(rule(one)),
            _ => encoded.push(wire::HttpRoute {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                hostnames: Vec::new(),
                rules: vec![rule(one)],
            }),
        }
    }
    encoded
}

fn rule(rule: &policy::Rule) -> wire::HttpRule {
    wire::HttpRule {
        matches: vec![http_match(&rule.matches)],
        filters: rule.filters.iter().map(filter).collect(),
        backends: rule.backends.iter().map(backend).collect(),
        request_timeout_ms: rule.request_timeout_ms.unwrap_or(0),
        backend_request_timeout_ms: rule.backend_timeout_ms.unwrap_or(0),
    }
}

fn http_match(matches: &policy::route::Match) -> wire::HttpMatch {
    wire::HttpMatch {
        path: Some(match &matches.path {
            PathMatch::Exact(path) => wire::http_match::Path::PathExact(path.clone()),
            PathMatch::Prefix(path) => wire::http_match::Path::PathPrefix(path.clone()),
            PathMatch::Regex(pattern) => wire::http_match::Path::PathRegex(pattern.as_str().to_owned()),
        }),
        method: matches.method.clone().unwrap_or_default(),
        headers: matches.headers.iter().map(value_match).collect(),
        query: matches.query.iter().map(value_match).collect(),
    }
}

fn value_match((name, value): &(String, ValueMatch)) -> wire::ValueMatch {
    let value = match value {
        ValueMatch::Exact(value) => wire::value_match::Value::Exact(value.clone()),
        ValueMatch::Regex(pattern) => wire::value_match::Value::Regex(pattern.as_str().to_owned()),
    };
    wire::ValueMatch { name: name.clone(), value: Some(value) }
}

fn filter(filter: &Filter) -> wire::HttpFilter {
    let kind = match filter {
        Filter::RequestHeaders(it) => wire::http_filter::Kind::RequestHeaders(edits(it)),
        Filter::ResponseHeaders(it) => wire::http_filter::Kind::ResponseHeaders(edits(it)),
    };
    wire::HttpFilter { kind: Some(kind) }
}

fn edits(edits: &HeaderEdits) -> wire::HeaderEdits {
    let header = |(name, value): &(String, String)| wire::Header { name: name.clone(), value: value.clone() };
    wire::HeaderEdits {
        set: edits.set.iter().map(header).collect(),
        add: edits.add.iter().map(header).collect(),
        remove: edits.remove.clone(),
    }
}

fn backend(backend: &policy::Backend) -> wire::WeightedBackend {
    wire::WeightedBackend {
        backend: backend.service.as_ref().map(service_port),
        weight: backend.weight,
        filters: backend.filters.iter().map(filter).collect(),
    }
}

fn endpoint(endpoint: &policy::Endpoint) -> wire::Endpoint {
    wire::Endpoint {
        address: Some(socket_address(endpoint.address)),
        identity: endpoint.identity.clone().unwrap_or_default(),
        workload: endpoint.workload.clone(),
        namespace: endpoint.namespace.clone(),
        app: endpoint.app.clone(),
        version: endpoint.version.clone(),
        cluster: endpoint.cluster.clone(),
        zone: endpoint.zone.clone(),
        ready: endpoint.ready,
        protocol: protocol(endpoint.protocol).into(),
    }
}

fn inbound_port(port: &policy::InboundPort) -> wire::InboundPort {
    wire::InboundPort {
        port: port.port.into(),
        protocol: protocol(port.protocol).into(),
        service: port.service.as_ref().map(service_port),
    }
}

fn protocol(protocol: policy::Protocol) -> wire::Protocol {
    match protocol {
        policy::Protocol::Undeclared => wire::Protocol::Undeclared,
        policy::Protocol::Http1 => wire::Protocol::Http1,
        policy::Protocol::Http2 => wire::Protocol::Http2,
        policy::Protocol::Grpc => wire::Protocol::Grpc,
        policy::Protocol::Tcp => wire::Protocol::Tcp,
        policy::Protocol::Tls => wire::Protocol::Tls,
    }
}
