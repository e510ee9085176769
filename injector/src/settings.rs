//! What annotations may say of one sidecar, and how it is read: a setting of the pod, else of its namespace, else of the
//! mesh's configuration.
//!
//! Every setting is checked before anything is written into a pod, so that a pod is injected as it was asked for or not
//! at all, and never in a form that the API server or the proxy refuses.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::names;

use crate::config::{Amounts, Config};
use crate::decision::On;
use crate::quantity::Quantity;
use crate::quoted::quoted;

/// The settings of one sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Ports on which connections from outside go straight to the app, as written.
    pub skip_inbound_ports: String,
    /// Ports to which the app's connections go straight, as written.
    pub skip_outbound_ports: String,
    /// Networks to which the app's connections go straight, as written.
    pub skip_outbound_subnets: String,
    /// Ports that listen on loopback only.
    pub loopback_ports: Vec<u16>,
    /// Requests, absent where there is none.
    pub requests: Amounts,
    /// Limits, absent where there is none.
    pub limits: Amounts,
    /// Log filter.
    pub log_level: String,
    /// Whole image reference.
    pub image: String,
    /// Worker threads.
    pub workers: usize,
    /// Time between the start of draining and telling clients to go elsewhere.
    pub drain_delay: Milliseconds,
    /// Annotations of the namespace that count for this pod, and the ports that are skipped wherever that was said: they
    /// are written onto the pod, which is where the controller and people look for them.
    pub inherited: BTreeMap<String, String>,
    /// Settings of the pod that overrule another one of its namespace, one sentence each.
    pub overruled: Vec<String>,
}

/// An annotation whose value can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting {
    /// Which annotation.
    pub key: &'static str,
    /// Whose.
    pub on: On,
    /// What is wrong with it.
    pub problem: String,
}

/// A length of time on an annotation: a whole number with ms, s or m.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds(pub u64);

impl Settings {
    /// Reads the annotations of a pod and of its namespace.
    pub fn read(pod: &ObjectMeta, namespace: &ObjectMeta, config: &Config) -> Result<Self, InvalidSetting> {
        let mut found = Found::new(pod, namespace);
        let proxy = &config.proxy;
        let listed = |text: &str| ports(text).map(|_| text.to_owned());
        let amount = |text: &str| text.parse::<Quantity>().map(|_| text.to_owned());
        found.get(names::OPAQUE_PORTS, listed)?;
        let skip_inbound_ports = found.get(names::SKIP_INBOUND_PORTS, listed)?.unwrap_or_else(|| {
            // The redirect rules hold for the pod's life, and so must what its peers are told of them, also when the
            // mesh's default or the namespace's annotation changes: it is said even where it is nothing.
            let default = proxy.skip_inbound_ports.clone();
            found.inherited.insert(names::SKIP_INBOUND_PORTS.to_owned(), default.clone());
            default
        });
        let loopback = found.get(names::LOOPBACK_PORTS, single_ports)?.unwrap_or_default();
        let settings = Self {
            skip_inbound_ports,
            skip_outbound_ports: found
                .get(names::SKIP_OUTBOUND_PORTS, listed)?
                .unwrap_or_else(|| proxy.skip_outbound_ports.clone()),
            skip_outbound_subnets: found
                .get(names::SKIP_OUTBOUND_SUBNETS, |text| subnets(text).map(|_| text.to_owned()))?
                .unwrap_or_else(|| proxy.skip_outbound_subnets.clone()),
            loopback_ports: loopback,
            requests: Amounts {
                cpu: found.get(names::PROXY_CPU_REQUEST, amount)?,
                memory: found.get(names::PROXY_MEMORY_REQUEST, amount)?,
            },
            limits: Amounts {
                cpu: found.get(names::PROXY_CPU_LIMIT, amount)?,
                memory: found.get(names::PROXY_MEMORY_LIMIT, amount)?,
            },
            log_level: found
                .get(names::PROXY_LOG_LEVEL, |text| log_filter(text).map(|()| text.to_owned()))?
                .unwrap_or_else(|| proxy.log_level.clone()),
            image: found
                .get(names::PROXY_IMAGE_OVERRIDE, |text| image(text).map(|()| text.to_owned()))?
                .unwrap_or_else(|| format!("{}/{}:{}", config.image.registry, names::PROXY_IMAGE, config.image.tag)),
            workers: found.get(names::PROXY_WORKERS, workers)?.unwrap_or(proxy.workers),
            drain_delay: match found.get(names::DRAIN_DELAY, str::parse)? {
                Some(delay) => delay,
                None => proxy.drain_delay.parse().unwrap_or(Milliseconds(2000)),
            },
            inherited: found.inherited,
            overruled: found.overruled,
        };
        settings.with_resources(config, &Found::new(pod, namespace))
    }

    /// Puts defaults beside what annotations say, so that no request is above its limit: the API server would refuse the
    /// whole pod.
    fn with_resources(mut self, config: &Config, found: &Found<'_>) -> Result<Self, InvalidSetting> {
        let defaults = &config.proxy.resources;
        for (request, limit, default_request, default_limit, key) in [
            (
                &mut self.requests.cpu,
                &mut self.limits.cpu,
                &defaults.requests.cpu,
                &defaults.limits.cpu,
                names::PROXY_CPU_REQUEST,
            ),
            (
                &mut self.requests.memory,
                &mut self.limits.memory,
                &defaults.requests.memory,
                &defaults.limits.memory,
                names::PROXY_MEMORY_REQUEST,
            ),
        ] {
            let (asked, limited) = (request.is_some(), limit.is_some());
            let or = |own: &mut Option<String>, default: &Option<String>| {
                *own = own.take().or_else(|| default.clone()).filter(|text| !text.is_empty());
            };
            or(request, default_request);
            or(limit, default_limit);
            if !is_more(request.as_deref(), limit.as_deref()) {
                continue;
            }
            match (asked, limited) {
                // The one that nobody wrote gives way.
                (false, _) => request.clone_from(limit),
                (true, false) => limit.clone_from(request),
                (true, true) => {
                    let (request, limit) = (request.as_deref().unwrap_or(""), limit.as_deref().unwrap_or(""));
                    let on = found.on(key);
                    return Err(InvalidSetting {
                        key,
                        on,
                        problem: format!("{} is above the limit {}", quoted(request), quoted(limit)),
                    });
                }
            }
        }
        Ok(self)
    }
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on the {}: {}", self.key, self.on, self.problem)
    }
}

impl FromStr for Milliseconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match &text[digits.len()..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            _ => 0,
        };
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        match number.filter(|number| unit > 0 && *number <= LONGEST_DELAY) {
            Some(number) => Ok(Self(number)),
            None => Err(format!("{} is not a time such as 500ms, 2s or 1m, of at most an hour", quoted(text))),
        }
    }
}

/// `22,9000-9010`; empty: none.
pub(crate) fn ports(text: &str) -> Result<Vec<RangeInclusive<u16>>, String> {
    items(text, "a port or a range of ports such as 22 or 9000-9010", |item| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let ports: RangeInclusive<u16> = first.trim().parse().ok()?..=last.trim().parse().ok()?;
        (!ports.is_empty() && *ports.start() > 0).then_some(ports)
    })
}

/// Every port of such a list.
fn single_ports(text: &str) -> Result<Vec<u16>, String> {
    let ranges = ports(text)?;
    if ranges.iter().map(|range| range.len()).sum::<usize>() > MOST_ITEMS {
        return Err(format!("more than {MOST_ITEMS} ports are too many"));
    }
    Ok(ranges.into_iter().flatten().collect())
}

/// `10.0.0.0/8,fd00::/8`; empty: none.
pub(crate) fn subnets(text: &str) -> Result<Vec<IpNet>, String> {
    items(text, "a network such as 10.0.0.0/8 or fd00::/8", |item| {
        item.parse().ok().or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from))
    })
}

/// `info` or `warn,proxy=debug`.
pub(crate) fn log_filter(text: &str) -> Result<(), String> {
    let is_level = |level: &str| LEVELS.contains(&level.to_ascii_lowercase().as_str());
    let is_target = |target: &str| {
        !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-'))
    };
    let good = |part: &str| match part.split_once('=') {
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(part),
    };
    if text.len() <= LONGEST_FILTER && text.split(',').all(|part| good(part.trim())) {
        return Ok(());
    }
    let levels = LEVELS.join(", ");
    Err(format!("{} is not a log filter such as info or warn,proxy=debug; levels are {levels}", quoted(text)))
}

/// An image reference, or part of one.
pub(crate) fn image(text: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    if !text.is_empty() && text.len() <= LONGEST_IMAGE && text.chars().all(good) {
        return Ok(());
    }
    Err(format!("{} is not an image reference such as registry.example/mesh-proxy:0.1.0", quoted(text)))
}

/// 1 to 64.
pub(crate) fn workers(text: &str) -> Result<usize, String> {
    let number = text.trim().parse().ok().filter(|number| (1..=64).contains(number));
    number.ok_or_else(|| format!("{} is not a number from 1 to 64", quoted(text)))
}

/// Annotations of a pod and of its namespace, and what came of reading them.
struct Found<'m> {
    pod: Option<&'m BTreeMap<String, String>>,
    namespace: Option<&'m BTreeMap<String, String>>,
    inherited: BTreeMap<String, String>,
    overruled: Vec<String>,
}

impl<'m> Found<'m> {
    fn new(pod: &'m ObjectMeta, namespace: &'m ObjectMeta) -> Self {
        let (pod, namespace) = (pod.annotations.as_ref(), namespace.annotations.as_ref());
        Self { pod, namespace, inherited: BTreeMap::new(), overruled: Vec::new() }
    }

    fn get<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, InvalidSetting> {
        let of = |map: Option<&'m BTreeMap<String, String>>| map.and_then(|map| map.get(key)).map(String::as_str);
        let (own, inherited) = (of(self.pod), of(self.namespace));
        if let (Some(own), Some(other)) = (own, inherited)
            && own != other
        {
            let (own, other) = (quoted(own), quoted(other));
            self.overruled.push(format!("{key}: {own} on the pod counts, {other} on the namespace does not"));
        }
        if let (None, Some(inherited)) = (own, inherited) {
            self.inherited.insert(key.to_owned(), inherited.to_owned());
        }
        let Some(text) = own.or(inherited) else { return Ok(None) };
        let invalid = |problem| InvalidSetting { key, on: self.on(key), problem };
        read(text.trim()).map(Some).map_err(invalid)
    }

    fn on(&self, key: &str) -> On {
        if self.pod.is_some_and(|map| map.contains_key(key)) { On::Pod } else { On::Namespace }
    }
}

/// Whether there is a limit and the request is above it.
fn is_more(request: Option<&str>, limit: Option<&str>) -> bool {
    let parse = |text: Option<&str>| text.and_then(|text| text.parse::<Quantity>().ok());
    match (parse(request), parse(limit)) {
        (Some(request), Some(limit)) => !limit.is_zero() && request.compare(limit) == Ordering::Greater,
        _ => false,
    }
}

/// A list with commas. The redirect rules are one message to the kernel, so there is a limit to it.
fn items<T>(text: &str, what: &str, item: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let read = |part: &str| item(part).ok_or_else(|| format!("{} is not {what}", quoted(part)));
    let items = parts.map(read).collect::<Result<Vec<_>, _>>()?;
    if items.len() > MOST_ITEMS { Err(format!("more than {MOST_ITEMS} are too many")) } else { Ok(items) }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Three lists together stay below what the redirect rules take.
const MOST_ITEMS: usize = 128;
const LONGEST_FILTER: usize = 256;
const LONGEST_IMAGE: usize = 512;
const LONGEST_DELAY: u64 = 3_600_000;

#[cfg(test)]
mod tests;
