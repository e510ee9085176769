//! HTTP routes: which rule a request falls under, and what the rule says.
//!
//! Semantics are Gateway API's HTTPRoute on a Service parent (GEP-1324, GEP-1426): the controller sorts rules by
//! precedence (exact path, longest prefix, method, number of headers, number of query parameters, age, name), so the
//! first match wins here. A Service with routes of which none matches answers 404.

use regex_lite::Regex;

use crate::outbound::ServicePort;

/// What matching needs of a request; HTTP/1 and HTTP/2 heads both offer it.
pub trait Request {
    /// Method, as sent.
    fn method(&self) -> &str;
    /// Path without query.
    fn path(&self) -> &str;
    /// Query without `?`, empty where there is none.
    fn query(&self) -> &str;
    /// First value of a header; the name is in lower case.
    fn header(&self, name: &str) -> Option<&[u8]>;
}

/// The routes of one Service port, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routes {
    /// Rules of every attached route, in order of precedence, one match each.
    pub rules: Vec<Rule>,
}

/// One match with what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// `namespace/name` of the HTTPRoute, for labels and messages.
    pub route: String,
    /// When the rule applies; [`Match::default`] always does.
    pub matches: Match,
    /// Edits, in the order of the route's filters.
    pub filters: Vec<Filter>,
    /// Where to; by weight.
    pub backends: Vec<Backend>,
    /// Whole request, retries included; milliseconds (GEP-1742 `timeouts.request`).
    pub request_timeout_ms: Option<u64>,
    /// One try; milliseconds (GEP-1742 `timeouts.backendRequest`).
    pub backend_timeout_ms: Option<u64>,
}

/// Conditions, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Match {
    /// Of the path.
    pub path: PathMatch,
    /// Of the method.
    pub method: Option<String>,
    /// Of headers; names in lower case.
    pub headers: Vec<(String, ValueMatch)>,
    /// Of query parameters; names as written.
    pub query: Vec<(String, ValueMatch)>,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    /// The whole path, to the letter.
    Exact(String),
    /// Whole segments from the start: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// The whole path against a regular expression.
    Regex(Pattern),
}

/// A condition on a header or query parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatch {
    /// The whole value, to the letter.
    Exact(String),
    /// The whole value against a regular expression.
    Regex(Pattern),
}

/// A regular expression, anchored at both ends; linear time whatever the input.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

/// One step between match and backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// RequestHeaderModifier.
    RequestHeaders(HeaderEdits),
    /// ResponseHeaderModifier.
    ResponseHeaders(HeaderEdits),
}

/// Header edits: set replaces, add appends, remove takes away; applied in this order (Gateway API).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replaced, or added where missing.
    pub set: Vec<(String, String)>,
    /// Added beside what is there.
    pub add: Vec<(String, String)>,
    /// Taken away; lower case.
    pub remove: Vec<String>,
}

/// Where a share of the requests goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `None`: the reference names nothing; its share of requests gets 500 (Gateway API).
    pub service: Option<ServicePort>,
    /// Share, relative to the other backends of the rule, 0 to 1,000,000.
    pub weight: u32,
    /// Edits for this backend only, after the rule's.
    pub filters: Vec<Filter>,
}

impl Routes {
    /// The rule a request falls under.
    pub fn find(&self, request: &impl Request) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches.holds(request))
    }

    /// Whether any route is attached.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Rule {
    /// The backend for a draw from `0..`[`Rule::total_weight`]; `None` where every weight is zero.
    pub fn backend(&self, draw: u64) -> Option<&Backend> {
        let mut left = draw;
        self.backends.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let chosen = left < weight;
            left = left.saturating_sub(weight);
            chosen
        })
    }

    /// Sum of the weights.
    pub fn total_weight(&self) -> u64 {
        self.backends.iter().map(|backend| u64::from(backend.weight)).sum()
    }
}

impl Match {
    /// Whether every condition holds.
    pub fn holds(&self, request: &impl Request) -> bool {
        self.path.holds(request.path())
            && self.method.as_deref().is_none_or(|method| method == request.method())
            && self.headers.iter().all(|(name, value)| request.header(name).is_some_and(|found| value.holds(found)))
            && self.query.iter().all(|(name, value)| {
                query_value(request.query(), name).is_some_and(|found| value.holds(found.as_bytes()))
            })
    }
}

impl PathMatch {
    fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(pattern) => pattern.holds(path),
        }
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

impl ValueMatch {
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_bytes(),
            Self::Regex(pattern) => std::str::from_utf8(value).is_ok_and(|value| pattern.holds(value)),
        }
    }
}

/// A regular expression that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{pattern:?} is not a regular expression we can use: {problem}")]
pub struct PatternError {
    pattern: String,
    problem: String,
}

impl Pattern {
    /// Compiles an expression of at most 1,024 characters.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        let error = |problem: String| PatternError { pattern: source.chars().take(80).collect(), problem };
        if source.len() > MAX_PATTERN {
            return Err(error(format!("it is longer than {MAX_PATTERN} characters")));
        }
        // Alone first: `a)|(b` must not close the group that anchors it.
        Regex::new(source).map_err(|e| error(e.to_string()))?;
        let regex = Regex::new(&format!("^(?:{source})$")).map_err(|e| error(e.to_string()))?;
        Ok(Self { source: source.to_owned(), regex })
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    fn holds(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// First value of a query parameter, as sent (no decoding: Gateway API compares what is on the wire).
fn query_value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

const MAX_PATTERN: usize = 1024;

#[cfg(test)]
mod tests;
