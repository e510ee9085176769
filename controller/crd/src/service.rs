//! Services, Namespaces and Nodes to facts.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::manifest::{Invalid, metadata, port};
use crate::model::{Metadata, Namespace, Node, PortOfService, Service, TargetPort};

/// The object as a fact.
pub fn namespace(object: &core::Namespace) -> Result<Namespace, Invalid> {
    Ok(Namespace { metadata: metadata(&object.metadata, false)? })
}

/// A Namespace of which only the metadata was asked for, as a fact.
pub fn namespace_metadata(object: &ObjectMeta) -> Result<Namespace, Invalid> {
    Ok(Namespace { metadata: metadata(object, false)? })
}

/// A Node of which only the metadata was asked for, as a fact.
pub fn node(object: &ObjectMeta) -> Result<Node, Invalid> {
    let zone = object.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned().unwrap_or_default();
    let whole = metadata(object, false)?;
    Ok(Node { metadata: Metadata { name: whole.name, ..Metadata::default() }, zone })
}

/// The object as a fact. `ExternalName` Services come out without addresses and ports: nothing dials them.
pub fn service(object: &core::Service) -> Result<Service, Invalid> {
    let metadata = metadata(&object.metadata, true)?;
    let default = core::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&default);
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(Service { metadata, ..Service::default() });
    }
    let cluster_ips = cluster_ips(spec)?;
    // Nobody forwards what is sent to other addresses of a headless Service, either.
    let outer = !cluster_ips.is_empty();
    Ok(Service {
        external_ips: if outer { parsed(spec.external_ips.iter().flatten()) } else { Vec::new() },
        balancer_ips: if outer { balancer_ips(object, spec) } else { Vec::new() },
        cluster_ips,
        node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        affinity_seconds: affinity(spec),
        selector: spec.selector.clone().unwrap_or_default(),
        ports: ports(spec)?,
        metadata,
    })
}

fn cluster_ips(spec: &core::ServiceSpec) -> Result<Vec<IpAddr>, Invalid> {
    let one = spec.cluster_ip.iter().map(|address| ("spec.clusterIP".to_owned(), address));
    let all = spec.cluster_ips.iter().flatten().enumerate();
    let written = one.chain(all.map(|(index, address)| (format!("spec.clusterIPs[{index}]"), address)));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (field, text) in written {
        if text.is_empty() || text == "None" {
            continue;
        }
        addresses.push(text.parse().map_err(|_| Invalid::new(field, format!("{text:?} is not an IP address")))?);
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// What kube-proxy forwards without the load balancer's help. A list of allowed sources is kept by kube-proxy where it
/// receives the traffic: it must go there.
fn balancer_ips(object: &core::Service, spec: &core::ServiceSpec) -> Vec<IpAddr> {
    let ranges = object.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE_RANGES));
    if spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty())
        || ranges.is_some_and(|ranges| !ranges.trim().is_empty())
    {
        return Vec::new();
    }
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let direct = ingress.filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
    parsed(direct.filter_map(|ingress| ingress.ip.as_ref()))
}

/// Addresses nobody can read are nobody's: they must not keep the Service from being used.
fn parsed<'t>(texts: impl Iterator<Item = &'t String>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn affinity(spec: &core::ServiceSpec) -> Option<u32> {
    let wanted = spec.session_affinity.as_deref() == Some("ClientIP");
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    wanted.then(|| seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY).clamp(1, MOST_AFFINITY))
}

fn ports(spec: &core::ServiceSpec) -> Result<Vec<PortOfService>, Invalid> {
    let mut ports: Vec<PortOfService> = Vec::new();
    for (index, written) in spec.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        if written.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        let number = port(&field("port"), written.port)?;
        if ports.iter().any(|other| other.port == number) {
            return Err(Invalid::new(field("port"), format!("{number} is used twice")));
        }
        // 0 and an empty name mean the same port, as the API server reads them.
        let target = match &written.target_port {
            None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => TargetPort::Number(port(&field("targetPort"), *target)?),
            Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(number),
            Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
        };
        ports.push(PortOfService {
            name: written.name.clone().unwrap_or_default(),
            port: number,
            target,
            app_protocol: written.app_protocol.clone(),
        });
    }
    Ok(ports)
}

const ZONE: &str = "topology.kubernetes.io/zone";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Kubernetes' default and most for `timeoutSeconds`.
const AFFINITY: u32 = 10_800;
const MOST_AFFINITY: u32 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str) -> Result<Service, Invalid> {
        service(&serde_yaml_ng::from_str(&format!("{{metadata: {{name: a, namespace: shop}}, {rest}}}")).unwrap())
    }

    fn texts(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn policies_and_their_defaults() {
        let affinity = |rest: &str| read(&format!("spec: {{{rest}}}")).unwrap().affinity_seconds;
        assert_eq!(affinity("sessionAffinity: None"), None);
        assert_eq!(affinity("sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}"), None);
        assert_eq!(affinity("sessionAffinity: ClientIP"), Some(10_800));
        assert_eq!(
            affinity("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}"),
            Some(5)
        );
        assert_eq!(
            affinity("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}"),
            Some(1)
        );
        assert!(read("spec: {internalTrafficPolicy: Local}").unwrap().node_local);
        assert!(!read("spec: {internalTrafficPolicy: Cluster}").unwrap().node_local);
        assert!(!read("spec: {externalTrafficPolicy: Local}").unwrap().node_local);
    }

    #[test]
    fn addresses_that_lead_to_it_from_outside() {
        let status = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: Proxy}, {ip: 192.0.2.3, ipMode: VIP}, {hostname: x}]}}";
        let web = read(&format!("spec: {{clusterIP: 10.96.0.1, externalIPs: [198.51.100.1, x]}}, {status}")).unwrap();
        assert_eq!(texts(&web.external_ips), ["198.51.100.1"]);
        assert_eq!(texts(&web.balancer_ips), ["192.0.2.1", "192.0.2.3"]);
        let headless = read(&format!("spec: {{clusterIP: None, externalIPs: [198.51.100.1]}}, {status}")).unwrap();
        assert!(headless.external_ips.is_empty() && headless.balancer_ips.is_empty());
        let guarded = format!("spec: {{clusterIP: 10.96.0.1, loadBalancerSourceRanges: [10.0.0.0/8]}}, {status}");
        assert!(read(&guarded).unwrap().balancer_ips.is_empty(), "kube-proxy keeps the list of allowed sources");
    }

    #[test]
    fn odd_ports() {
        let web = read(
            "spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 0}, {name: a, port: 81, targetPort: ''}, {port: 80, protocol: UDP}, {port: 82, protocol: SCTP}]}",
        );
        let ports: Vec<_> = web.unwrap().ports.into_iter().map(|port| (port.name, port.port, port.target)).collect();
        let expected = [(String::new(), 80, TargetPort::Number(80)), ("a".to_owned(), 81, TargetPort::Number(81))];
        assert_eq!(ports, expected, "as the API server and kube-proxy read them");
        assert!(read("spec: {ports: [{port: 80}, {port: 80}]}").is_err());
        let name = read("spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}").unwrap();
        assert!(name.ports.is_empty() && name.cluster_ips.is_empty());
    }
}
