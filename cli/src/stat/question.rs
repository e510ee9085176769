//! What is asked of `stat`: which rows there are, and which traffic counts for each.

use clap::ValueEnum;
use serde::Serialize;

use crate::args::StatArgs;
use crate::exposition::Labels;
use crate::target::{Kind, Target, TargetError, closest, did_you_mean};
use crate::traffic::Series;
use crate::transport::Pod;

/// What a row stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Deployment or the like.
    #[default]
    Workload,
    /// A pod.
    Pod,
    /// Service that requests were sent to.
    Service,
    /// Namespace.
    Namespace,
    /// Service that requests were sent to, and version of the workload behind it.
    #[value(alias = "backend")]
    Version,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What a row stands for.
    pub by: By,
    /// Workloads of this kind only.
    pub kind: Option<Kind>,
    /// These only; empty for all.
    pub names: Vec<String>,
    /// Rows of this namespace only.
    pub namespace: Option<String>,
    /// Only traffic that this one sends, or is sent.
    pub peer: Option<Peer>,
    /// What the proxies take is shown as well.
    pub costs: bool,
    /// Errors per second are shown as well.
    pub errors: bool,
}

/// The other end of the traffic that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which end of the traffic it is.
    pub end: End,
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, where that is known; a namespace's own name.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// An end of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who calls.
    Source,
    /// Who is called.
    Destination,
}

/// What is asked makes no sense, or not here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// What was typed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A Service is an address.
    #[error("a Service calls nobody; name the workload that calls, as in deploy/web")]
    ServiceCalls,
    /// Both ends are told by one pod's proxy only.
    #[error("a proxy does not know which pod is at the other end; ask for deploy, sts or ds at one of the ends")]
    PodToPod,
    /// Nothing of that name.
    #[error("there is no {kind} {name:?}{}{}", in_namespace(.namespace.as_deref()), did_you_mean(.suggestion.as_deref()))]
    Missing {
        /// What was asked for.
        kind: Kind,
        /// Its name.
        name: String,
        /// Where it was looked for.
        namespace: Option<String>,
        /// What may have been meant.
        suggestion: Option<String>,
    },
}

impl QuestionError {
    /// The command line is wrong, whatever there is to look at.
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::Missing { .. })
    }
}

impl Question {
    /// All rows of a sort, with all traffic.
    pub fn all(by: By) -> Self {
        Self { by, kind: None, names: Vec::new(), namespace: None, peer: None, costs: false, errors: false }
    }

    /// From what was typed; `namespace` is the one to look at, none for all.
    pub fn new(args: &StatArgs, namespace: Option<&str>) -> Result<Self, QuestionError> {
        let mut question = Self { namespace: namespace.map(str::to_owned), costs: args.proxy, ..Self::all(args.by) };
        if let Some(Target { kind, names }) = Target::parse(&args.target)? {
            question.by = match kind {
                Kind::Pod => By::Pod,
                Kind::Service => By::Service,
                Kind::Namespace => By::Namespace,
                _ => By::Workload,
            };
            question.kind = Some(kind);
            question.names = names;
        }
        if question.by == By::Namespace {
            // Namespaces are in no namespace.
            question.namespace = None;
        }
        let peers = [(End::Source, &args.from, &args.from_namespace), (End::Destination, &args.to, &args.to_namespace)];
        for (end, typed, its_namespace) in peers {
            let Some(typed) = typed else { continue };
            let Target { kind, names } = Target::parse_one(typed)?;
            let name = names.into_iter().next().unwrap_or_default();
            let namespace = match kind {
                Kind::Namespace => Some(name.clone()),
                _ => its_namespace.clone().or_else(|| question.namespace.clone()),
            };
            question.peer = Some(Peer { end, kind, namespace, name });
        }
        question.check()?;
        Ok(question)
    }

    fn check(&self) -> Result<(), QuestionError> {
        let Some(peer) = &self.peer else { return Ok(()) };
        let services = matches!(self.by, By::Service | By::Version);
        match peer.end {
            End::Source if peer.kind == Kind::Service => Err(QuestionError::ServiceCalls),
            End::Destination if services => Err(QuestionError::ServiceCalls),
            _ if peer.kind == Kind::Pod && self.by == By::Pod => Err(QuestionError::PodToPod),
            _ => Ok(()),
        }
    }

    /// Namespace whose proxies must be asked; none for all of them. A Service's callers, and a peer's pods, may be anywhere.
    pub fn scope(&self) -> Option<&str> {
        let elsewhere =
            self.peer.as_ref().is_some_and(|peer| peer.kind == Kind::Pod && peer.namespace != self.namespace);
        match self.by {
            By::Workload | By::Pod if !elsewhere => self.namespace.as_deref(),
            By::Namespace if self.names.len() == 1 && self.peer.is_none() => self.names.first().map(String::as_str),
            _ => None,
        }
    }

    /// Rows there are, with or without traffic: for every pod those it counts for, as namespace and name.
    pub fn rows_of<'p>(&'p self, pod: &'p Pod) -> Vec<(&'p str, &'p str)> {
        let namespace = pod.namespace.as_str();
        let names = match self.by {
            By::Workload => vec![pod.workload.as_str()],
            By::Pod => vec![pod.name.as_str()],
            By::Service => pod.services.iter().map(String::as_str).collect(),
            By::Namespace => vec![""],
            By::Version => Vec::new(),
        };
        let of_kind = match self.kind {
            Some(kind) if kind.is_workload() => pod.kind == Some(kind),
            _ => true,
        };
        let named = |name: &str| self.names.is_empty() || self.names.iter().any(|wanted| wanted == name);
        let wanted = |name: &&str| {
            let shown = if self.by == By::Namespace { namespace } else { name };
            of_kind && named(shown) && self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
        };
        names.into_iter().filter(wanted).map(|name| (namespace, name)).collect()
    }

    /// The first name asked for that no pod has.
    pub fn missing(&self, pods: &[Pod]) -> Option<QuestionError> {
        let rows: Vec<(&str, &str)> = pods.iter().flat_map(|pod| self.rows_of(pod)).collect();
        let shown =
            |(namespace, name): (&str, &str)| if self.by == By::Namespace { namespace } else { name }.to_owned();
        let missing = self.names.iter().find(|name| !rows.iter().any(|row| shown(*row) == **name))?;
        let others = Self { names: Vec::new(), ..self.clone() };
        let known: Vec<String> = pods.iter().flat_map(|pod| others.rows_of(pod)).map(shown).collect();
        Some(QuestionError::Missing {
            kind: self.kind.unwrap_or(Kind::Deployment),
            name: missing.clone(),
            namespace: self.namespace.clone(),
            suggestion: closest(missing, known.iter().map(String::as_str)).map(str::to_owned),
        })
    }

    /// The row that a series counts for, if it counts. `pod` is the pod of the proxy that counted, where that is known.
    pub fn row(&self, series: &Series, pod: Option<&Pod>) -> Option<(String, String)> {
        let told_by = self.told_by();
        if label(&series.labels, "reporter") != told_by.reporter() || !self.peer_matches(series, pod) {
            return None;
        }
        let row = match (self.by, pod) {
            (By::Service, _) => service(&series.labels),
            (By::Version, _) => {
                let (namespace, name) = service(&series.labels);
                (namespace, format!("{name}/{}", label(&series.labels, "destination_version")))
            }
            // Whoever counts knows best who it is itself.
            (_, Some(pod)) if told_by == self.own_end() => {
                let (namespace, name) = self.rows_of(pod).into_iter().next()?;
                return Some((namespace.to_owned(), name.to_owned()));
            }
            (By::Pod, _) => return None,
            (By::Workload, _) => workload(&series.labels, self.own_end()),
            (By::Namespace, _) => (workload(&series.labels, self.own_end()).0, String::new()),
        };
        let shown = if self.by == By::Namespace { &row.0 } else { &row.1 };
        let named = self.names.is_empty() || self.names.iter().any(|name| name == shown);
        (named && self.namespace.as_deref().is_none_or(|namespace| namespace == row.0)).then_some(row)
    }

    /// Which end of the traffic the rows are.
    fn own_end(&self) -> End {
        match &self.peer {
            Some(peer) if peer.end == End::Destination => End::Source,
            _ => End::Destination,
        }
    }

    /// Whose proxies' words count: those of the rows, but a pod's own where the other end is one pod, and the callers' where
    /// rows are Services.
    fn told_by(&self) -> End {
        match &self.peer {
            Some(peer) if peer.kind == Kind::Pod => peer.end,
            _ if matches!(self.by, By::Service | By::Version) => End::Source,
            _ => self.own_end(),
        }
    }

    fn peer_matches(&self, series: &Series, pod: Option<&Pod>) -> bool {
        let Some(peer) = &self.peer else { return true };
        let same = |namespace: &str, name: &str| {
            name == peer.name && peer.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
        };
        match peer.kind {
            Kind::Pod => pod.is_some_and(|pod| same(&pod.namespace, &pod.name)),
            Kind::Namespace => workload(&series.labels, peer.end).0 == peer.name,
            Kind::Service => {
                let (namespace, name) = service(&series.labels);
                same(&namespace, &name)
            }
            _ => {
                let (namespace, name) = workload(&series.labels, peer.end);
                same(&namespace, &name)
            }
        }
    }
}

impl End {
    /// Istio's word for the proxy at this end.
    fn reporter(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

fn label<'l>(labels: &'l Labels, name: &str) -> &'l str {
    labels.get(name).map_or("unknown", String::as_str)
}

fn service(labels: &Labels) -> (String, String) {
    let part = |name| label(labels, name).to_owned();
    (part("destination_service_namespace"), part("destination_service_name"))
}

fn workload(labels: &Labels, end: End) -> (String, String) {
    let side = end.reporter();
    let part = |name: &str| label(labels, name).to_owned();
    (part(&format!("{side}_workload_namespace")), part(&format!("{side}_workload")))
}

fn in_namespace(namespace: Option<&str>) -> String {
    namespace.map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::traffic::Figures;

    fn asked(typed: &str) -> Result<Question, QuestionError> {
        let mut args = StatArgs { window: Duration::from_secs(2), ..StatArgs::default() };
        let mut words = typed.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "--from" => args.from = words.next().map(str::to_owned),
                "--to" => args.to = words.next().map(str::to_owned),
                "--to-namespace" => args.to_namespace = words.next().map(str::to_owned),
                word => args.target.push(word.to_owned()),
            }
        }
        Question::new(&args, Some("shop"))
    }

    fn series(reporter: &str, source: &str, destination: &str, service: &str) -> Series {
        let labels = [
            ("reporter", reporter),
            ("source_workload", source),
            ("source_workload_namespace", "shop"),
            ("destination_workload", destination),
            ("destination_workload_namespace", "shop"),
            ("destination_service_name", service),
            ("destination_service_namespace", "shop"),
        ];
        Series {
            proxy: String::new(),
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            figures: Figures::default(),
        }
    }

    fn pod(name: &str, workload: &str) -> Pod {
        Pod {
            proxy: format!("shop/{name}"),
            name: name.into(),
            namespace: "shop".into(),
            workload: workload.into(),
            kind: Some(Kind::Deployment),
            services: vec![workload.to_owned()],
            meshed: true,
            ..Pod::default()
        }
    }

    /// The row that a series told by a pod's proxy counts for.
    fn counts(question: &str, series: &Series, told_by: &Pod) -> String {
        let row = asked(question).unwrap().row(series, Some(told_by));
        row.map_or_else(|| "-".to_owned(), |(_, name)| name)
    }

    #[test]
    fn who_tells_what() {
        let (web, cart) = (pod("web-1", "web"), pod("cart-1", "cart"));
        let by_caller = series("source", "web", "cart", "cart-svc");
        let by_called = series("destination", "web", "cart", "unknown");
        // What is asked, then the row that the caller's word counts for, then that for the called's.
        let cases = [
            ("deploy", "-", "cart"),
            ("deploy/web", "-", "-"),
            ("sts", "-", "-"),
            ("pod", "-", "cart-1"),
            ("svc", "cart-svc", "-"),
            ("svc/other", "-", "-"),
            ("deploy --to deploy/cart", "web", "-"),
            ("deploy --to svc/cart-svc", "web", "-"),
            ("deploy --to svc/other", "-", "-"),
            ("deploy --to deploy/cart --to-namespace other", "-", "-"),
            ("deploy --to pod/cart-1", "-", "web"),
            ("pod --to deploy/cart", "web-1", "-"),
            ("deploy --from deploy/web", "-", "cart"),
            ("deploy --from deploy/cart", "-", "-"),
            ("deploy --from ns/shop", "-", "cart"),
            ("deploy --from pod/web-1", "cart", "-"),
            ("deploy --from pod/cart-1", "-", "-"),
            ("svc --from deploy/web", "cart-svc", "-"),
            ("svc --from pod/web-1", "cart-svc", "-"),
        ];
        for (question, caller, called) in cases {
            let rows = (counts(question, &by_caller, &web), counts(question, &by_called, &cart));
            assert_eq!(rows, (caller.to_owned(), called.to_owned()), "{question}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (question, error) in [
            ("deploy --from svc/cart", QuestionError::ServiceCalls),
            ("svc --to deploy/cart", QuestionError::ServiceCalls),
            ("pod --to pod/a", QuestionError::PodToPod),
            ("deploy --to deploy", QuestionError::Target(TargetError::NotOne("deploy".into()))),
        ] {
            assert_eq!(asked(question).unwrap_err(), error, "{question}");
            assert!(error.is_usage());
        }
    }

    #[test]
    fn a_name_that_nothing_has_gets_a_suggestion() {
        let pods = [pod("web-1", "web"), pod("payments-1", "payments")];
        let missing = |question: &str| asked(question).unwrap().missing(&pods).map(|error| error.to_string());
        assert_eq!(missing("deploy/web"), None);
        assert_eq!(
            missing("deploy/paymnets").unwrap(),
            "there is no deployment \"paymnets\" in namespace shop; did you mean \"payments\"?"
        );
        assert_eq!(missing("sts/web").unwrap(), "there is no statefulset \"web\" in namespace shop");
        assert_eq!(missing("ns/other").unwrap(), "there is no namespace \"other\"");
        assert_eq!(missing("svc/web"), None);
    }

    #[test]
    fn proxies_are_asked_where_the_answer_is() {
        for (question, scope) in [
            ("deploy", Some("shop")),
            ("pod", Some("shop")),
            ("svc", None),
            ("ns", None),
            ("ns/other", Some("other")),
            ("deploy --to deploy/x --to-namespace other", Some("shop")),
            ("deploy --to pod/x --to-namespace other", None),
        ] {
            assert_eq!(asked(question).unwrap().scope(), scope, "{question}");
        }
    }
}
