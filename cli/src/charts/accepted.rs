//! Whether the programs take what was rendered for them, so that a value they refuse at their start is refused before it is
//! in a cluster.
//!
//! The schema says what a value looks like, and Helm reads it too. What only the reader knows (a range that runs backwards,
//! a prefix that is too long) is asked here, of the readers' own functions.

use injector::Config;
use injector::config::ConfigError;
use ipnet::IpNet;
use proto::names;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::values::ValuesError;
use crate::args;

/// Checks the objects of a chart.
pub fn check(objects: &[Value]) -> Result<(), ValuesError> {
    let mut problems = Vec::new();
    for object in objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match object["kind"].as_str() {
            Some("ConfigMap") if name == names::CONFIG_CONFIG_MAP => problems.extend(of_config(object)),
            Some("Deployment") => problems.extend(of_program(name, object)),
            _ => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ValuesError::Refused(problems)) }
}

/// The injector's configuration: its keys are called as the values are.
fn of_config(object: &Value) -> Option<String> {
    let yaml = object["data"][names::CONFIG_KEY].as_str().unwrap_or_default();
    Config::parse(yaml).err().map(|error| match error {
        ConfigError::Invalid { key, problem } => format!("{key}: {problem}"),
        ConfigError::Malformed(error) => format!("proxy, image or trustDomain: {error}"),
    })
}

/// Arguments of one program.
fn of_program(program: &str, object: &Value) -> Vec<String> {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
    let arguments = containers.flat_map(|container| container["args"].as_array().into_iter().flatten());
    let options = arguments.filter_map(|argument| argument.as_str()?.strip_prefix("--")?.split_once('='));
    let part = program.strip_prefix("mesh-").unwrap_or(program);
    let read = |(option, text): (&str, &str)| match option {
        "log" => log_filter(text).err().map(|problem| format!("{part}.logLevel: {problem}")),
        "leaf-lifetime" => leaf_lifetime(text).err().map(|problem| format!("identity.leafLifetime: {problem}")),
        "cluster-network" => text
            .parse::<IpNet>()
            .err()
            .map(|_| format!("clusterNetworks: {text:?} is not a network such as 10.0.0.0/8 or fd00::/8")),
        _ => None,
    };
    options.filter_map(read).collect()
}

/// As the programs' own `--log` reads it.
fn log_filter(text: &str) -> Result<(), String> {
    let read = EnvFilter::builder().parse(text);
    read.map(drop).map_err(|error| format!("{text:?} is not a log filter such as info or warn,kube=debug: {error}"))
}

/// Its unit is the schema's business.
fn leaf_lifetime(text: &str) -> Result<(), String> {
    match args::duration(text) {
        Ok(lifetime) if identity::LEAF_LIFETIMES.contains(&lifetime) => Ok(()),
        _ => Err(format!("{text:?} is not a time such as 90m or 24h, from 5s to 8760h")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::values;
    use super::super::{MESH, Release};

    fn render(set: &str) -> Result<(), String> {
        let release = Release {
            name: "mesh".to_owned(),
            namespace: "mesh-system".to_owned(),
            service: "meshctl".to_owned(),
            kube_version: "v1.34.0".to_owned(),
        };
        let mut overrides = json!({});
        values::set(&mut overrides, set, true).unwrap();
        MESH.objects(&overrides, &release).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_program_would_refuse_at_its_start_is_refused_before_with_the_values_name() {
        for (set, expected) in [
            ("proxy.logLevel=loud!!", "proxy.logLevel"),
            ("proxy.skipOutboundSubnets=foo", "proxy.skipOutboundSubnets"),
            ("proxy.skipOutboundSubnets=10.0.0.0/33", "proxy.skipOutboundSubnets: \"10.0.0.0/33\" is not a network"),
            ("proxy.skipInboundPorts=99999-100000", "proxy.skipInboundPorts"),
            ("proxy.skipOutboundPorts=9010-9000", "proxy.skipOutboundPorts: \"9010-9000\" is not a port"),
            ("proxy.drainDelay=3000m", "proxy.drainDelay"),
            ("image.registry=a$b", "image.registry"),
            ("identity.leafLifetime=1s", "identity.leafLifetime"),
            ("identity.leafLifetime=500ms", "identity.leafLifetime"),
            ("identity.leafLifetime=8761h", "identity.leafLifetime: \"8761h\" is not a time"),
            ("controller.logLevel=a=b=c", "controller.logLevel: \"a=b=c\" is not a log filter"),
            ("clusterNetworks[0]=10.0.0.0/64", "clusterNetworks: \"10.0.0.0/64\" is not a network"),
        ] {
            let error = render(set).unwrap_err();
            assert!(error.starts_with("these values cannot be used: "), "{set}: {error}");
            assert!(error.contains(expected) && !error.contains('\n'), "{set}: {error}");
        }
    }

    #[test]
    fn what_they_take_is_taken() {
        for set in [
            "proxy.logLevel=warn\\,proxy=debug",
            "proxy.logLevel=WARN",
            "proxy.skipOutboundSubnets=10.0.0.0/8\\, fd00::/8\\,192.0.2.1",
            "proxy.skipInboundPorts=22\\, 9000-65535",
            "proxy.skipInboundPorts=",
            "proxy.skipOutboundPorts= 022\\,1 - 9",
            "proxy.skipOutboundSubnets=",
            "proxy.skipOutboundSubnets=10.0.0.0/8\\,\\, ",
            "proxy.drainDelay=60m",
            "proxy.drainDelay=3600000ms",
            "identity.leafLifetime=5s",
            "identity.leafLifetime=8760h",
            "identity.leafLifetime=31536000s",
            "controller.logLevel=info\\,kube=debug",
            "clusterNetworks[0]=fd00::/8",
        ] {
            render(set).unwrap_or_else(|error| panic!("{set}: {error}"));
        }
    }
}
