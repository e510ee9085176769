//! From what a controller sends to what the proxy decides with: everything or nothing.
//!
//! A value that this proxy cannot follow to the letter (a match or filter it does not know, a pattern that does not
//! compile, a header that would break the message) is rejected as a whole, with a reason that goes back to the
//! controller; the last good value stays in force. Guessing would route somebody's traffic wrongly.

use std::net::SocketAddr;
use std::time::Duration;

use identity::{BundleError, SpiffeId, TrustBundle};
use policy::route::{Backend, Filter, HeaderEdits, Match, PathMatch, Pattern, PatternError, Rule, ValueMatch};
use policy::{
    Endpoint, Endpoints, Inbound, InboundPort, MutualTls, Outbound, Protocol, Routes, Service, ServicePort, Settings,
};
use proto::discovery as wire;

use super::key::{Key, address_from_wire, port_from_wire, service_from_wire};

/// A value, by the kind of its key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of an outbound key.
    Outbound(Outbound),
    /// Of the inbound key.
    Inbound(Inbound),
    /// Of an endpoints key.
    Endpoints(Endpoints),
    /// Of the bundle key, PEM.
    Bundle(String),
    /// Of the settings key.
    Settings(Settings),
    /// The key names nothing.
    Absent,
}

/// Why a value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The value is of another kind than the key.
    #[error("the value does not belong to the key")]
    WrongKind,
    /// Something a newer controller knows and this proxy does not.
    #[error("{0} is of a kind this proxy does not know; update the proxy")]
    Unknown(&'static str),
    /// A value outside what is allowed.
    #[error("{field} is not usable: {value:?}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it says, cut.
        value: String,
    },
    /// A pattern that does not compile.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Trust anchors that are none.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Decodes the value of `key`.
pub fn value(key: &Key, value: Option<wire::update::Value>) -> Result<Value, Unusable> {
    use wire::update::Value as Wire;
    Ok(match (key, value.ok_or(Unusable::Unknown("the value"))?) {
        (_, Wire::Absent(_)) => Value::Absent,
        (Key::Outbound(_), Wire::Outbound(value)) => Value::Outbound(outbound(value)?),
        (Key::Inbound, Wire::Inbound(value)) => Value::Inbound(inbound(value)?),
        (Key::Endpoints(_), Wire::Endpoints(value)) => {
            let mut list = value.endpoints.into_iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
            list.sort_unstable_by_key(|endpoint| endpoint.address);
            list.dedup_by_key(|endpoint| endpoint.address);
            let affinity = (value.affinity_seconds > 0).then(|| Duration::from_secs(value.affinity_seconds.into()));
            Value::Endpoints(Endpoints { list, node_local: value.node_local, affinity })
        }
        (Key::Bundle, Wire::Bundle(value)) => {
            TrustBundle::from_pem(value.pem.as_bytes())?;
            Value::Bundle(value.pem)
        }
        (Key::Settings, Wire::Settings(value)) => Value::Settings(settings(value)?),
        _ => return Err(Unusable::WrongKind),
    })
}

fn outbound(value: wire::Outbound) -> Result<Outbound, Unusable> {
    Ok(match value.target.ok_or(Unusable::Unknown("the target"))? {
        wire::outbound::Target::Service(value) => Outbound::Service(service(value)?),
        wire::outbound::Target::Workload(value) => Outbound::Workload(endpoint(value)?),
        wire::outbound::Target::Foreign(_) => Outbound::Foreign,
    })
}

fn service(value: wire::Service) -> Result<Service, Unusable> {
    let id = wire::ServicePort { namespace: value.namespace, name: value.name, port: value.port };
    let mut rules = Vec::new();
    for route in value.routes {
        let name = format!("{}/{}", route.namespace, route.name);
        for wire_rule in route.rules {
            flatten(&name, wire_rule, &mut rules)?;
        }
    }
    Ok(Service {
        id: service_port(&id)?,
        protocol: protocol(value.protocol)?,
        routes: Routes { rules },
        default_backend: value.default_backend.as_ref().map(service_port).transpose()?,
    })
}

/// One rule with several matches becomes several rules with one each: the first that holds wins either way.
fn flatten(route: &str, value: wire::HttpRule, rules: &mut Vec<Rule>) -> Result<(), Unusable> {
    let filters = filters(value.filters)?;
    let backends = value.backends.into_iter().map(backend).collect::<Result<Vec<_>, _>>()?;
    let mut matches = value.matches.into_iter().map(http_match).collect::<Result<Vec<_>, _>>()?;
    if matches.is_empty() {
        matches.push(Match::default());
    }
    rules.extend(matches.into_iter().map(|matches| Rule {
        route: route.to_owned(),
        matches,
        filters: filters.clone(),
        backends: backends.clone(),
        request_timeout_ms: Some(value.request_timeout_ms).filter(|limit| *limit > 0),
        backend_timeout_ms: Some(value.backend_request_timeout_ms).filter(|limit| *limit > 0),
    }));
    Ok(())
}

fn http_match(value: wire::HttpMatch) -> Result<Match, Unusable> {
    let path = match value.path {
        None => PathMatch::default(),
        Some(wire::http_match::Path::PathExact(path)) => PathMatch::Exact(path),
        Some(wire::http_match::Path::PathPrefix(path)) => PathMatch::Prefix(path),
        Some(wire::http_match::Path::PathRegex(pattern)) => PathMatch::Regex(Pattern::parse(&pattern)?),
    };
    if !value.method.is_empty() && http::Method::from_bytes(value.method.as_bytes()).is_err() {
        return Err(invalid("a match's method", &value.method));
    }
    let mut headers = Vec::with_capacity(value.headers.len());
    for condition in value.headers {
        let name = header_name(&condition.name)?;
        headers.push((name, value_match(condition)?.1));
    }
    Ok(Match {
        path,
        method: Some(value.method).filter(|method| !method.is_empty()),
        headers,
        query: value.query.into_iter().map(value_match).collect::<Result<_, _>>()?,
    })
}

fn value_match(value: wire::ValueMatch) -> Result<(String, ValueMatch), Unusable> {
    let condition = match value.value.ok_or(Unusable::Unknown("a match"))? {
        wire::value_match::Value::Exact(exact) => ValueMatch::Exact(exact),
        wire::value_match::Value::Regex(pattern) => ValueMatch::Regex(Pattern::parse(&pattern)?),
    };
    Ok((value.name, condition))
}

fn filters(values: Vec<wire::HttpFilter>) -> Result<Vec<Filter>, Unusable> {
    values
        .into_iter()
        .map(|filter| {
            Ok(match filter.kind.ok_or(Unusable::Unknown("a filter"))? {
                wire::http_filter::Kind::RequestHeaders(edits) => Filter::RequestHeaders(header_edits(edits)?),
                wire::http_filter::Kind::ResponseHeaders(edits) => Filter::ResponseHeaders(header_edits(edits)?),
            })
        })
        .collect()
}

fn header_edits(value: wire::HeaderEdits) -> Result<HeaderEdits, Unusable> {
    let pairs = |headers: Vec<wire::Header>| {
        headers
            .into_iter()
            .map(|header| match http::HeaderValue::from_str(&header.value) {
                Ok(_) => Ok((header_name(&header.name)?, header.value)),
                Err(_) => Err(invalid("a header's value", &header.value)),
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(HeaderEdits {
        set: pairs(value.set)?,
        add: pairs(value.add)?,
        remove: value.remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?,
    })
}

/// In lower case.
fn header_name(name: &str) -> Result<String, Unusable> {
    let parsed = http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("a header's name", name))?;
    Ok(parsed.as_str().to_owned())
}

fn backend(value: wire::WeightedBackend) -> Result<Backend, Unusable> {
    if value.weight > MAX_WEIGHT {
        return Err(invalid("a backend's weight", &value.weight.to_string()));
    }
    Ok(Backend {
        service: value.backend.as_ref().map(service_port).transpose()?,
        weight: value.weight,
        filters: filters(value.filters)?,
    })
}

fn endpoint(value: wire::Endpoint) -> Result<Endpoint, Unusable> {
    if !value.identity.is_empty() && value.identity.parse::<SpiffeId>().is_err() {
        return Err(invalid("an endpoint's identity", &value.identity));
    }
    Ok(Endpoint {
        address: value.address.as_ref().map_or_else(|| Err(invalid("an endpoint's address", "")), address)?,
        identity: Some(value.identity).filter(|identity| !identity.is_empty()),
        workload: value.workload,
        namespace: value.namespace,
        app: value.app,
        version: value.version,
        cluster: value.cluster,
        zone: value.zone,
        ready: value.ready,
        protocol: protocol(value.protocol)?,
    })
}

fn inbound(value: wire::Inbound) -> Result<Inbound, Unusable> {
    let mut ports = Vec::with_capacity(value.ports.len());
    for port in value.ports {
        ports.push(InboundPort {
            port: port_from_wire(port.port).ok_or_else(|| invalid("a port", &port.port.to_string()))?,
            protocol: protocol(port.protocol)?,
            service: port.service.as_ref().map(service_port).transpose()?,
        });
    }
    ports.sort_by_key(|port| port.port);
    let mutual_tls = match wire::MutualTls::try_from(value.mutual_tls) {
        Ok(wire::MutualTls::Permissive) => MutualTls::Permissive,
        Ok(wire::MutualTls::Strict) => MutualTls::Strict,
        Ok(wire::MutualTls::Disable) => MutualTls::Disable,
        Err(_) => return Err(Unusable::Unknown("the mutual TLS mode")),
    };
    Ok(Inbound {
        workload: value.workload,
        namespace: value.namespace,
        app: value.app,
        version: value.version,
        cluster: value.cluster,
        zone: value.zone,
        service_account: value.service_account,
        ports,
        mutual_tls,
    })
}

fn settings(value: wire::Settings) -> Result<Settings, Unusable> {
    let network = |text: &String| text.parse().map_err(|_| invalid("a cluster network", text));
    Ok(Settings {
        cluster_networks: value.cluster_networks.iter().map(network).collect::<Result<_, _>>()?,
        trust_domain: value.trust_domain,
    })
}

fn protocol(value: i32) -> Result<Protocol, Unusable> {
    Ok(match wire::Protocol::try_from(value).map_err(|_| Unusable::Unknown("a protocol"))? {
        wire::Protocol::Undeclared => Protocol::Undeclared,
        wire::Protocol::Http1 => Protocol::Http1,
        wire::Protocol::Http2 => Protocol::Http2,
        wire::Protocol::Grpc => Protocol::Grpc,
        wire::Protocol::Tcp => Protocol::Tcp,
        wire::Protocol::Tls => Protocol::Tls,
    })
}

fn address(value: &wire::SocketAddress) -> Result<SocketAddr, Unusable> {
    address_from_wire(value).ok_or_else(|| invalid("an address", &format!("{value:?}")))
}

fn service_port(value: &wire::ServicePort) -> Result<ServicePort, Unusable> {
    service_from_wire(value).ok_or_else(|| invalid("a Service's port", &format!("{value:?}")))
}

fn invalid(field: &'static str, value: &str) -> Unusable {
    Unusable::Invalid { field, value: value.chars().take(100).collect() }
}

/// Gateway API's limit.
const MAX_WEIGHT: u32 = 1_000_000;

#[cfg(test)]
mod tests;
