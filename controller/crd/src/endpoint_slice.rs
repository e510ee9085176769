//! EndpointSlices to facts, read as kube-proxy reads them.

use k8s_openapi::api::discovery::v1 as discovery;

use crate::manifest::{Invalid, metadata};
use crate::model::{EndpointSlice, EndpointState, Hints, Metadata, SliceEndpoint, WorkloadPort};

/// The object as a fact; `None` for one that belongs to no Service or holds names instead of addresses.
pub fn endpoint_slice(object: &discovery::EndpointSlice) -> Result<Option<EndpointSlice>, Invalid> {
    let whole = metadata(&object.metadata, true)?;
    let Some(service) = whole.labels.get(SERVICE_NAME).filter(|service| !service.is_empty()) else { return Ok(None) };
    if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
        return Ok(None);
    }
    let service = service.clone();
    let metadata = Metadata { namespace: whole.namespace, name: whole.name, ..Metadata::default() };
    let mut ports = Vec::new();
    for written in object.ports.iter().flatten() {
        let Some(number) = written.port else { continue };
        if written.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        // Nobody can dial it; the others of the slice are none the worse for it.
        let Some(number) = u16::try_from(number).ok().filter(|number| *number != 0) else { continue };
        ports.push(WorkloadPort { name: written.name.clone().unwrap_or_default(), port: number });
    }
    let endpoints = object.endpoints.iter().filter_map(|written| endpoint(written, &metadata.namespace)).collect();
    Ok(Some(EndpointSlice { metadata, service, ports, endpoints }))
}

/// An endpoint nobody can dial is left out, so that it can't keep the others of its slice from being used.
fn endpoint(written: &discovery::Endpoint, namespace: &str) -> Option<SliceEndpoint> {
    let address = written.addresses.first()?.parse().ok()?;
    let conditions = written.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(true);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    let state = match (ready, serving && terminating) {
        (true, _) => EndpointState::Ready,
        (false, true) => EndpointState::Terminating,
        (false, false) => EndpointState::Unusable,
    };
    let pod = written.target_ref.as_ref().filter(|target| {
        target.kind.as_deref() == Some("Pod")
            && target.namespace.as_deref().is_none_or(|other| other.is_empty() || other == namespace)
    });
    let pod = pod.and_then(|pod| pod.name.clone());
    Some(SliceEndpoint {
        address,
        // Every endpoint has one, and the pod as well.
        node: if pod.is_some() { String::new() } else { written.node_name.clone().unwrap_or_default() },
        pod,
        zone: written.zone.clone().unwrap_or_default(),
        state,
        hints: written.hints.as_ref().and_then(hints).map(Box::new),
    })
}

fn hints(written: &discovery::EndpointHints) -> Option<Hints> {
    let nodes: Vec<String> = written.for_nodes.iter().flatten().map(|node| node.name.clone()).collect();
    let zones: Vec<String> = written.for_zones.iter().flatten().map(|zone| zone.name.clone()).collect();
    (!nodes.is_empty() || !zones.is_empty()).then_some(Hints { nodes, zones })
}

const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(rest: &str) -> Result<Option<EndpointSlice>, Invalid> {
        let text = format!(
            "{{metadata: {{name: a-1, namespace: shop, labels: {{kubernetes.io/service-name: a}}}}, addressType: IPv4, {rest}}}"
        );
        endpoint_slice(&serde_yaml_ng::from_str(&text).unwrap())
    }

    #[test]
    fn conditions_that_nobody_set_mean_ready() {
        let conditions = [
            ("{}", EndpointState::Ready),
            ("{ready: true}", EndpointState::Ready),
            ("{ready: true, serving: false, terminating: true}", EndpointState::Ready),
            ("{ready: false}", EndpointState::Unusable),
            ("{ready: false, terminating: true}", EndpointState::Terminating),
            ("{ready: false, serving: true}", EndpointState::Unusable),
            ("{ready: false, serving: true, terminating: true}", EndpointState::Terminating),
            ("{ready: false, serving: false, terminating: true}", EndpointState::Unusable),
        ];
        for (written, expected) in conditions {
            let found = slice(&format!("endpoints: [{{addresses: [10.0.0.1], conditions: {written}}}]"));
            assert_eq!(found.unwrap().unwrap().endpoints[0].state, expected, "{written}");
        }
        let found = slice("endpoints: [{addresses: [10.0.0.1, 10.0.0.2]}, {addresses: []}, {addresses: [x]}]");
        let endpoints = found.unwrap().unwrap().endpoints;
        assert_eq!((endpoints.len(), endpoints[0].state), (1, EndpointState::Ready));
    }

    #[test]
    fn hints_that_say_nothing_are_none() {
        let hints = |written: &str| {
            let found = slice(&format!("endpoints: [{{addresses: [10.0.0.1]{written}}}]")).unwrap().unwrap();
            found.endpoints[0].hints.as_ref().map(|hints| (hints.nodes.join(" "), hints.zones.join(" ")))
        };
        assert_eq!(hints(""), None);
        assert_eq!(hints(", hints: {}"), None);
        assert_eq!(hints(", hints: {forZones: [], forNodes: []}"), None);
        assert_eq!(hints(", hints: {forZones: [{name: a}, {name: b}]}"), Some((String::new(), "a b".to_owned())));
        let both = ", hints: {forNodes: [{name: node-1}], forZones: [{name: a}]}";
        assert_eq!(hints(both), Some(("node-1".to_owned(), "a".to_owned())));
    }

    #[test]
    fn only_tcp_ports_with_a_number() {
        let found = slice(
            "endpoints: [], ports: [{name: a, port: 80}, {name: a, port: 80, protocol: UDP}, {name: b}, {port: 81, protocol: TCP}]",
        );
        let ports: Vec<_> = found.unwrap().unwrap().ports.into_iter().map(|port| (port.name, port.port)).collect();
        assert_eq!(ports, [("a".to_owned(), 80), (String::new(), 81)]);
        let found = slice("endpoints: [], ports: [{port: 65536}, {port: 0}, {name: b, port: 80}]").unwrap().unwrap();
        assert_eq!(found.ports.len(), 1, "one that nobody can dial does not take the others with it");
    }

    #[test]
    fn names_and_strays_are_nobodys_endpoints() {
        let mut object: discovery::EndpointSlice =
            serde_yaml_ng::from_str("{metadata: {name: a, namespace: b}, addressType: IPv4, endpoints: []}").unwrap();
        assert_eq!(endpoint_slice(&object), Ok(None));
        object.metadata.labels = Some([(SERVICE_NAME.to_owned(), "s".to_owned())].into());
        assert_eq!(endpoint_slice(&object).unwrap().unwrap().service, "s");
        object.address_type = "FQDN".to_owned();
        assert_eq!(endpoint_slice(&object), Ok(None));
        let found = slice(
            "endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p, namespace: shop}}, {addresses: [10.0.0.2], targetRef: {kind: Node, name: n}}, {addresses: [10.0.0.3], targetRef: {kind: Pod, name: p, namespace: other}}]",
        );
        let pods: Vec<_> = found.unwrap().unwrap().endpoints.into_iter().map(|endpoint| endpoint.pod).collect();
        assert_eq!(pods, [Some("p".to_owned()), None, None]);
    }
}
