//! `ExternalWorkload` (`meshctl.io/v1alpha1`): a machine or process that Kubernetes does not run but Services select.
//!
//! What can be said in the definition is refused by the API server, before anybody relies on it. Its words are those that
//! every supported Kubernetes knows: `isIP()` is not among them before 1.31.

use std::net::IpAddr;

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::manifest::{Invalid, metadata};
use crate::model::{Workload, WorkloadPort};

/// A machine or process outside Kubernetes. Services of its namespace select it by its labels, as they select pods.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "meshctl.io",
    version = "v1alpha1",
    kind = "ExternalWorkload",
    plural = "externalworkloads",
    singular = "externalworkload",
    shortname = "mxw",
    namespaced,
    printcolumn = r#"{"name":"Addresses","type":"string","jsonPath":".spec.addresses"}"#,
    printcolumn = r#"{"name":"Service account","type":"string","jsonPath":".spec.serviceAccount"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalWorkloadSpec {
    /// IPv4 or IPv6 addresses of the workload: 1 to 16. Clients of other namespaces reach it through Services.
    #[schemars(schema_with = "addresses")]
    pub addresses: Vec<String>,
    /// Ports the workload listens on, at most 100. Services can name them in `targetPort`; ports a Service selects by
    /// number need no entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-validations" = [{
        "rule": "self.all(one, !has(one.name) || self.exists_one(other, has(other.name) && other.name == one.name))",
        "message": "a name is used twice",
    }]))]
    pub ports: Vec<ExternalWorkloadPort>,
    /// Service account its proxy proves to be, in the object's namespace. Without one the workload has no proxy and is
    /// dialled in plain (as `WorkloadEntry.serviceAccount` in Istio).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME))]
    pub service_account: Option<String>,
    /// Zone the workload is in, such as `eu-west-1a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_NAME))]
    pub zone: Option<String>,
    /// Set to true while the workload shuts down but still serves: it is used only when nobody else is ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
}

/// A port of an ExternalWorkload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExternalWorkloadPort {
    /// Name, unique among the ports; a prefix such as `http-` or `tcp-` declares the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_PORT_NAME))]
    pub name: Option<String>,
    /// Port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// The object as a fact.
pub fn workload(object: &ExternalWorkload) -> Result<Workload, Invalid> {
    let spec = &object.spec;
    if spec.addresses.is_empty() || spec.addresses.len() > MAX_ADDRESSES {
        return Err(Invalid::new("spec.addresses", format!("must have 1 to {MAX_ADDRESSES} addresses")));
    }
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(spec.addresses.len());
    for (index, text) in spec.addresses.iter().enumerate() {
        let field = || format!("spec.addresses[{index}]");
        let address: IpAddr = text
            .parse()
            .map_err(|_| Invalid::new(field(), format!("{text:?} is not an IP address (names are not looked up)")))?;
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(Invalid::new(field(), format!("{address} is not an address others can dial")));
        }
        addresses.push(address);
    }
    addresses.sort_unstable();
    addresses.dedup();
    if spec.ports.len() > MAX_PORTS {
        return Err(Invalid::new("spec.ports", format!("has more than {MAX_PORTS} ports")));
    }
    let mut ports: Vec<WorkloadPort> = Vec::with_capacity(spec.ports.len());
    for (index, port) in spec.ports.iter().enumerate() {
        let field = || format!("spec.ports[{index}].name");
        of_length(&field(), port.name.as_deref(), MAX_PORT_NAME)?;
        let name = port.name.clone().unwrap_or_default();
        if !name.is_empty() && ports.iter().any(|other| other.name == name) {
            return Err(Invalid::new(field(), format!("{name:?} is used twice")));
        }
        let port = crate::manifest::port(&format!("spec.ports[{index}].port"), port.port)?;
        ports.push(WorkloadPort { name, port });
    }
    if spec.service_account.as_deref().is_some_and(str::is_empty) {
        return Err(Invalid::new("spec.serviceAccount", "is empty; leave it out for a workload without a proxy"));
    }
    of_length("spec.serviceAccount", spec.service_account.as_deref(), MAX_NAME)?;
    of_length("spec.zone", spec.zone.as_deref().filter(|zone| !zone.is_empty()), MAX_NAME)?;
    Ok(Workload {
        metadata: metadata(&object.metadata, true)?,
        addresses,
        ports,
        service_account: spec.service_account.clone(),
        zone: spec.zone.clone().unwrap_or_default(),
        ready: !spec.terminating,
        ..Workload::default()
    })
}

fn of_length(field: &str, text: Option<&str>, most: usize) -> Result<(), Invalid> {
    match text.map_or(1, |text| text.chars().count()) {
        0 => Err(Invalid::new(field, "is empty; leave it out")),
        length if length > most => Err(Invalid::new(field, format!("has more than {most} characters"))),
        _ => Ok(()),
    }
}

fn addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_ADDRESSES,
        "items": {
            "type": "string",
            "maxLength": 45,
            "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }],
            "x-kubernetes-validations": [{
                "rule": "!(self in ['0.0.0.0', '::', '::1']) && !self.startsWith('127.') \
                         && !self.matches('^(2(2[4-9]|3[0-9])[.]|[fF]{2}[0-9a-fA-F]{2}:)')",
                "message": "is not an address others can dial",
            }],
        },
    })
}

const MAX_ADDRESSES: usize = 16;
const MAX_PORTS: usize = 100;
const MAX_PORT_NAME: usize = 63;
const MAX_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Case {
        spec: serde_yaml_ng::Value,
        refused: Option<String>,
    }

    /// A test in a cluster asks an API server the same.
    #[test]
    fn the_parser_refuses_what_the_definition_refuses() {
        let cases: Vec<Case> = serde_yaml_ng::from_str(include_str!("external_workload/cases.yaml")).unwrap();
        for case in cases {
            let mut object = serde_yaml_ng::Mapping::new();
            object.insert("metadata".into(), serde_yaml_ng::from_str("{name: machine}").unwrap());
            object.insert("spec".into(), case.spec.clone());
            let read = serde_yaml_ng::from_value::<ExternalWorkload>(object.into()).ok();
            let is_read = read.is_some_and(|object| workload(&object).is_ok());
            assert_eq!(is_read, case.refused.is_none(), "{:?}", case.spec);
        }
    }
}
