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
    let spec = object.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(Service { metadata, cluster_ips: Vec::new(), selector: Default::default(), ports: Vec::new() });
    }
    let mut written: Vec<(String, &String)> = Vec::new();
    if let Some(address) = &spec.cluster_ip {
        written.push(("spec.clusterIP".to_owned(), address));
    }
    for (index, address) in spec.cluster_ips.iter().flatten().enumerate() {
        written.push((format!("spec.clusterIPs[{index}]"), address));
    }
    let mut cluster_ips: Vec<IpAddr> = Vec::new();
    for (field, text) in written {
        if text.is_empty() || text == "None" {
            continue;
        }
        cluster_ips.push(text.parse().map_err(|_| Invalid::new(field, format!("{text:?} is not an IP address")))?);
    }
    cluster_ips.sort_unstable();
    cluster_ips.dedup();
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
        let target = match &written.target_port {
            None => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => TargetPort::Number(port(&field("targetPort"), *target)?),
            Some(IntOrString::String(name)) if name.is_empty() => {
                return Err(Invalid::new(field("targetPort"), "is empty; leave it out to use the same port"));
            }
            Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
        };
        ports.push(PortOfService {
            name: written.name.clone().unwrap_or_default(),
            port: number,
            target,
            app_protocol: written.app_protocol.clone(),
        });
    }
    Ok(Service { metadata, cluster_ips, selector: spec.selector.unwrap_or_default(), ports })
}

const ZONE: &str = "topology.kubernetes.io/zone";
