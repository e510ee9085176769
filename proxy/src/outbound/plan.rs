//! [`Plan`]: an outbound destination made ready for requests, once per version discovery sends.
//!
//! What a request needs and would be slow to make (header values, backends, metric series) is made here, so that the
//! request path only looks things up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use policy::{Endpoint, Outbound, Rule, ServicePort};
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use super::tcp::{endpoint_labels, service_labels};
use crate::Error;
use crate::balance::{Backend, Loads, Member};
use crate::http::filter::Filters;
use crate::http::head::RequestHead;
use crate::telemetry::labels::{EdgeLabels, PeerLabels, Reporter, RequestLabels, SecurityPolicy, ServiceLabels};
use crate::telemetry::{RequestProtocol, RequestSeries};
use crate::worker::Worker;

/// A destination as requests see it.
#[derive(Debug)]
pub struct Plan {
    source: Arc<Outbound>,
    rules: Vec<PlannedRule>,
    /// For a Service without routes, and for a workload.
    fallback: Option<PlannedRule>,
    /// Requests that no rule took.
    unmatched: SeriesByEndpoint,
}

/// What is done with the requests of one rule.
#[derive(Debug)]
pub struct PlannedRule {
    /// Edits of the rule.
    pub filters: Filters,
    /// For the whole request, other tries included.
    pub request_timeout: Option<Duration>,
    /// For one try.
    pub backend_timeout: Option<Duration>,
    backends: Vec<PlannedBackend>,
    name: String,
}

/// Where a share of a rule's requests goes.
#[derive(Debug)]
pub struct PlannedBackend {
    /// Edits of the backend, after the rule's.
    pub filters: Filters,
    weight: u32,
    target: Target,
    series: SeriesByEndpoint,
}

#[derive(Debug)]
enum Target {
    Balanced(Rc<Backend>),
    Fixed(Member, ServerName<'static>),
    /// The route names what does not exist.
    Nothing,
}

impl Plan {
    /// Prepares a destination.
    pub fn new(worker: &Worker, source: &Arc<Outbound>) -> Self {
        let mut plan = Self {
            source: Arc::clone(source),
            rules: Vec::new(),
            fallback: None,
            unmatched: SeriesByEndpoint::new(None, Arc::default()),
        };
        match &**source {
            Outbound::Service(service) => {
                let labels: Arc<ServiceLabels> = service_labels(&service.id).into();
                let rule = |rule: &Rule| PlannedRule::new(worker, rule, &labels);
                plan.rules = service.routes.rules.iter().map(rule).collect();
                if service.routes.is_empty() {
                    let target = service.default_backend.as_ref();
                    let target = target.map_or(Target::Nothing, |id| Target::Balanced(worker.backend(id)));
                    plan.fallback = Some(PlannedRule::to(target, service.id.to_string(), &labels));
                }
                plan.unmatched = SeriesByEndpoint::new(None, labels);
            }
            Outbound::Workload(endpoint) => {
                let load = Loads::default().of(endpoint.address, Instant::now());
                let name = ServerName::from(endpoint.address.ip());
                let target = Target::Fixed(Member { endpoint: Rc::new(endpoint.clone()), load }, name);
                plan.fallback = Some(PlannedRule::to(target, endpoint.address.to_string(), &Arc::default()));
            }
            Outbound::Foreign => {}
        }
        plan
    }

    /// Whether this is still what discovery says.
    pub fn is_of(&self, source: &Arc<Outbound>) -> bool {
        Arc::ptr_eq(&self.source, source)
    }

    /// The rule of a request.
    pub fn rule(&self, head: &RequestHead) -> Result<&PlannedRule, Error> {
        if let Some(fallback) = &self.fallback {
            return Ok(fallback);
        }
        let Outbound::Service(service) = &*self.source else {
            return Err(Error::Internal("an HTTP request to a destination outside the mesh"));
        };
        let index = service.routes.rules.iter().position(|rule| rule.matches.holds(head));
        index.and_then(|index| self.rules.get(index)).ok_or_else(|| Error::NoRoute(service.id.clone()))
    }

    /// Where a request is counted that got to no endpoint.
    pub fn unmatched(&self, worker: &Worker, grpc: bool) -> RequestSeries {
        self.unmatched.of(worker, None, grpc)
    }
}

impl PlannedRule {
    fn new(worker: &Worker, rule: &Rule, labels: &Arc<ServiceLabels>) -> Self {
        let route: Arc<str> = rule.route.as_str().into();
        let backends = rule.backends.iter().map(|backend| PlannedBackend {
            filters: Filters::new(&backend.filters),
            weight: backend.weight,
            target: match &backend.service {
                Some(id) => Target::Balanced(worker.backend(id)),
                None => Target::Nothing,
            },
            series: SeriesByEndpoint::new(Some(Arc::clone(&route)), service_of(backend.service.as_ref(), labels)),
        });
        Self {
            filters: Filters::new(&rule.filters),
            request_timeout: rule.request_timeout_ms.filter(|&limit| limit > 0).map(Duration::from_millis),
            backend_timeout: rule.backend_timeout_ms.filter(|&limit| limit > 0).map(Duration::from_millis),
            backends: backends.collect(),
            name: rule.route.clone(),
        }
    }

    fn to(target: Target, name: String, labels: &Arc<ServiceLabels>) -> Self {
        let series = SeriesByEndpoint::new(None, Arc::clone(labels));
        let backend = PlannedBackend { filters: Filters::default(), weight: 1, target, series };
        let filters = Filters::default();
        Self { filters, request_timeout: None, backend_timeout: None, backends: vec![backend], name }
    }

    /// Draws a backend by weight. `draw(n)` is a random number below `n`.
    pub fn backend(&self, draw: impl FnOnce(u64) -> u64) -> Result<&PlannedBackend, Error> {
        if let [only] = &self.backends[..]
            && only.weight > 0
        {
            return Ok(only);
        }
        let total: u64 = self.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let nothing = || Error::BackendUnresolved(self.name.clone());
        let mut left = if total == 0 { return Err(nothing()) } else { draw(total) };
        let chosen = self.backends.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let chosen = left < weight;
            left = left.saturating_sub(weight);
            chosen
        });
        chosen.ok_or_else(nothing)
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl PlannedBackend {
    /// Waits until it is known who serves, if it is not.
    pub async fn ready(&self, rule: &PlannedRule) -> Result<(), Error> {
        match &self.target {
            Target::Balanced(backend) => backend.ready().await,
            Target::Fixed(..) => Ok(()),
            Target::Nothing => Err(Error::BackendUnresolved(rule.name.clone())),
        }
    }

    /// An endpoint for a client of this address family, none of `tried`.
    pub fn choose(&self, ipv6: bool, tried: &[SocketAddr], now: Instant) -> Result<Member, Error> {
        match &self.target {
            Target::Balanced(backend) => backend.choose(ipv6, tried, now),
            Target::Fixed(member, _) if tried.is_empty() => Ok(member.clone()),
            Target::Fixed(member, _) => Err(Error::NoEndpoints(member.endpoint.address.to_string())),
            Target::Nothing => Err(Error::NoEndpoints(String::new())),
        }
    }

    /// Whether there is another endpoint besides those tried.
    pub fn has_other(&self, ipv6: bool, tried: usize) -> bool {
        matches!(&self.target, Target::Balanced(backend) if backend.count(ipv6) > tried + 1)
    }

    /// What the endpoints' proxies are told in SNI.
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        match &self.target {
            Target::Balanced(backend) => Some(&backend.server_name),
            Target::Fixed(_, name) => Some(name),
            Target::Nothing => None,
        }
    }

    /// Where requests to this endpoint are counted.
    pub fn series(&self, worker: &Worker, endpoint: &Endpoint, grpc: bool) -> RequestSeries {
        self.series.of(worker, Some(endpoint), grpc)
    }
}

/// Metric series, resolved at first use.
#[derive(Debug)]
struct SeriesByEndpoint {
    route: Option<Arc<str>>,
    service: Arc<ServiceLabels>,
    resolved: RefCell<HashMap<(Option<SocketAddr>, bool), RequestSeries>>,
}

impl SeriesByEndpoint {
    fn new(route: Option<Arc<str>>, service: Arc<ServiceLabels>) -> Self {
        Self { route, service, resolved: RefCell::default() }
    }

    fn of(&self, worker: &Worker, endpoint: Option<&Endpoint>, grpc: bool) -> RequestSeries {
        let key = (endpoint.map(|endpoint| endpoint.address), grpc);
        let mut resolved = self.resolved.borrow_mut();
        if let Some(series) = resolved.get(&key) {
            return series.clone();
        }
        if resolved.len() >= MOST_SERIES {
            resolved.clear();
        }
        let security = match endpoint {
            Some(endpoint) if endpoint.identity.is_some() => SecurityPolicy::MutualTls,
            Some(_) => SecurityPolicy::None,
            None => SecurityPolicy::Unknown,
        };
        let labels = RequestLabels {
            edge: EdgeLabels {
                reporter: Reporter::Source,
                source: worker.shared.labels.clone(),
                destination: endpoint.map_or_else(PeerLabels::default, endpoint_labels).into(),
                service: Arc::clone(&self.service),
                security,
            },
            protocol: if grpc { RequestProtocol::Grpc } else { RequestProtocol::Http },
            route: self.route.clone(),
        };
        let series = worker.shared.telemetry.metrics.requests(&labels);
        resolved.insert(key, series.clone());
        series
    }
}

/// A backend of a route may be another Service than the one that was called; Istio counts it under the backend.
fn service_of(backend: Option<&ServicePort>, called: &Arc<ServiceLabels>) -> Arc<ServiceLabels> {
    backend.map_or_else(|| Arc::clone(called), |id| service_labels(id).into())
}

/// Series kept per backend before they are resolved again.
const MOST_SERIES: usize = 2048;
