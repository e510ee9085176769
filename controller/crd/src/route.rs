//! HTTPRoute to facts. Only here does anybody look at Gateway API's generated types.
//!
//! Parents of other kinds than Service are left out: they belong to somebody's gateway. Hostnames are ignored, as
//! GEP-1294 has it for meshes. A filter we don't implement makes its rule answer with an error rather than act as if
//! the filter were not there.

pub use gateway_api::apis::standard::httproutes::HttpRoute as GatewayRoute;
use gateway_api::apis::standard::httproutes::{
    HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesBackendRefsFilters,
    HttpRouteRulesFilters, HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPath,
    HttpRouteRulesMatchesPathType, HttpRouteRulesMatchesQueryParamsType,
};
use policy::ServicePort;
use policy::route::{Filter, HeaderEdits, Match, PathMatch, Pattern, ValueMatch};

use crate::duration;
use crate::manifest::{Invalid, metadata, port};
use crate::model::{BackendReference, HttpRoute, HttpRule, ParentService};

/// The object as a fact.
pub fn http_route(object: &GatewayRoute) -> Result<HttpRoute, Invalid> {
    let metadata = metadata(&object.metadata, true)?;
    let mut parents = Vec::new();
    for (index, parent) in object.spec.parent_refs.iter().flatten().enumerate() {
        parents.extend(parent_service(&format!("spec.parentRefs[{index}]"), parent, &metadata.namespace)?);
    }
    let rules = object.spec.rules.iter().flatten().enumerate();
    let rules = rules.map(|(index, written)| rule(&format!("spec.rules[{index}]"), written, &metadata.namespace));
    Ok(HttpRoute { rules: rules.collect::<Result<_, _>>()?, parents, metadata })
}

/// What a route says that nobody follows, though it can be read and names only what is there.
pub fn without_effect(object: &GatewayRoute) -> Vec<Invalid> {
    let mut found = Vec::new();
    let is_ours = |parent: &&HttpRouteParentRefs| matches!(parent_service("", parent, ""), Ok(Some(_)) | Err(_));
    let parents = object.spec.parent_refs.as_deref().unwrap_or_default();
    for (index, parent) in parents.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        if is_ours(&parent) && parent.section_name.as_deref().is_some_and(|name| !name.is_empty()) {
            let problem = "cannot be followed: Services have no sections; write port instead";
            found.push(Invalid::new(format!("{field}.sectionName"), problem));
        } else if !is_ours(&parent) && parent.kind.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("service")) {
            let problem = "is no Service of the mesh: write kind: Service with group: \"\" (without group it is one of Gateway API's)";
            found.push(Invalid::new(field, problem));
        }
    }
    let only_ours = !parents.is_empty() && parents.iter().all(|parent| is_ours(&parent));
    if only_ours && object.spec.hostnames.as_ref().is_some_and(|names| !names.is_empty()) {
        let problem =
            "has no effect on a route of a Service (GEP-1294): every request to the Service is matched; leave it out";
        found.push(Invalid::new("spec.hostnames", problem));
    }
    found
}

fn parent_service(
    field: &str,
    parent: &HttpRouteParentRefs,
    namespace: &str,
) -> Result<Option<ParentService>, Invalid> {
    if parent.kind.as_deref() != Some("Service") || !matches!(parent.group.as_deref(), Some("" | "core")) {
        return Ok(None);
    }
    Ok(Some(ParentService {
        namespace: parent.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
        name: parent.name.clone(),
        port: parent.port.map(|number| port(&format!("{field}.port"), number)).transpose()?,
    }))
}

fn rule(field: &str, rule: &HttpRouteRules, namespace: &str) -> Result<HttpRule, Invalid> {
    let mut matches = Vec::new();
    for (index, written) in rule.matches.iter().flatten().enumerate() {
        matches.push(one_match(&format!("{field}.matches[{index}]"), written)?);
    }
    if matches.is_empty() {
        matches.push(Match::default());
    }
    let (mut filters, mut unsupported) = (Vec::new(), None);
    for (index, written) in rule.filters.iter().flatten().enumerate() {
        match filter(&format!("{field}.filters[{index}]"), Written::from(written))? {
            Ok(filter) => filters.push(filter),
            Err(kind) => unsupported = Some(kind),
        }
    }
    let mut backends = Vec::new();
    for (index, written) in rule.backend_refs.iter().flatten().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        match backend(&field, written, namespace)? {
            Ok(backend) => backends.push(backend),
            Err(kind) => unsupported = Some(kind),
        }
    }
    let limit = |name: &str, text: Option<&String>| {
        let Some(text) = text else { return Ok(None) };
        let field = format!("{field}.timeouts.{name}");
        let limit = duration::parse(text).map_err(|error| Invalid::new(field, error.to_string()))?;
        Ok((limit != 0).then_some(limit))
    };
    let timeouts = rule.timeouts.as_ref();
    let request_timeout_ms = limit("request", timeouts.and_then(|timeouts| timeouts.request.as_ref()))?;
    let backend_timeout_ms = limit("backendRequest", timeouts.and_then(|timeouts| timeouts.backend_request.as_ref()))?;
    if let (Some(request), Some(backend)) = (request_timeout_ms, backend_timeout_ms)
        && backend > request
    {
        let field = format!("{field}.timeouts.backendRequest");
        return Err(Invalid::new(field, "is longer than timeouts.request, which covers it"));
    }
    Ok(HttpRule {
        matches,
        filters,
        backends: rule.backend_refs.as_ref().filter(|written| !written.is_empty()).map(|_| backends),
        request_timeout_ms,
        backend_timeout_ms,
        unsupported,
    })
}

fn one_match(field: &str, written: &HttpRouteRulesMatches) -> Result<Match, Invalid> {
    let mut headers: Vec<(String, ValueMatch)> = Vec::new();
    for (index, header) in written.headers.iter().flatten().enumerate() {
        let field = format!("{field}.headers[{index}]");
        let name = header_name(&format!("{field}.name"), &header.name)?;
        let regex = header.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression);
        // Of several conditions on one header only the first counts (Gateway API).
        if !headers.iter().any(|(other, _)| *other == name) {
            headers.push((name, value_match(&format!("{field}.value"), regex, &header.value)?));
        }
    }
    let mut query: Vec<(String, ValueMatch)> = Vec::new();
    for (index, parameter) in written.query_params.iter().flatten().enumerate() {
        let field = format!("{field}.queryParams[{index}].value");
        let regex = parameter.r#type == Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression);
        if !query.iter().any(|(other, _)| *other == parameter.name) {
            query.push((parameter.name.clone(), value_match(&field, regex, &parameter.value)?));
        }
    }
    let method = written.method.as_ref().map(|method| format!("{method:?}").to_ascii_uppercase());
    let path = written.path.as_ref().map(|path| path_match(&format!("{field}.path.value"), path)).transpose()?;
    Ok(Match { path: path.unwrap_or_default(), method, headers, query })
}

fn path_match(field: &str, path: &HttpRouteRulesMatchesPath) -> Result<PathMatch, Invalid> {
    let value = path.value.clone().unwrap_or_else(|| "/".to_owned());
    let kind = path.r#type.as_ref().unwrap_or(&HttpRouteRulesMatchesPathType::PathPrefix);
    if *kind != HttpRouteRulesMatchesPathType::RegularExpression && !value.starts_with('/') {
        return Err(Invalid::new(field, format!("{value:?} does not begin with /")));
    }
    Ok(match kind {
        HttpRouteRulesMatchesPathType::Exact => PathMatch::Exact(value),
        HttpRouteRulesMatchesPathType::PathPrefix => PathMatch::Prefix(value),
        HttpRouteRulesMatchesPathType::RegularExpression => PathMatch::Regex(pattern(field, &value)?),
    })
}

fn value_match(field: &str, regex: bool, value: &str) -> Result<ValueMatch, Invalid> {
    if regex { pattern(field, value).map(ValueMatch::Regex) } else { Ok(ValueMatch::Exact(value.to_owned())) }
}

fn pattern(field: &str, source: &str) -> Result<Pattern, Invalid> {
    Pattern::parse(source).map_err(|error| Invalid::new(field, error.to_string()))
}

/// A backend, or the kind of a filter on it that we don't implement.
fn backend(
    field: &str,
    written: &HttpRouteRulesBackendRefs,
    namespace: &str,
) -> Result<Result<BackendReference, String>, Invalid> {
    let mut filters = Vec::new();
    for (index, one) in written.filters.iter().flatten().enumerate() {
        match filter(&format!("{field}.filters[{index}]"), Written::from(one))? {
            Ok(filter) => filters.push(filter),
            Err(kind) => return Ok(Err(kind)),
        }
    }
    let is_service = written.kind.as_deref().unwrap_or("Service") == "Service"
        && matches!(written.group.as_deref(), None | Some("" | "core"));
    let number = written.port.map(|number| port(&format!("{field}.port"), number)).transpose()?;
    let service = number
        .filter(|_| is_service)
        .map(|port| ServicePort::new(written.namespace.as_deref().unwrap_or(namespace), written.name.as_str(), port));
    let weight = written.weight.unwrap_or(1);
    let weight = u32::try_from(weight).ok().filter(|weight| *weight <= MAX_WEIGHT).ok_or_else(|| {
        Invalid::new(format!("{field}.weight"), format!("{weight} is not a weight; write 0 to {MAX_WEIGHT}"))
    })?;
    Ok(Ok(BackendReference { service, weight, filters }))
}

/// What both generated filter types say of the filters we know.
struct Written {
    kind: String,
    request: Option<WrittenEdits>,
    response: Option<WrittenEdits>,
}

struct WrittenEdits {
    set: Vec<(String, String)>,
    add: Vec<(String, String)>,
    remove: Vec<String>,
}

macro_rules! written_edits {
    ($modifier:expr) => {
        $modifier.as_ref().map(|edits| WrittenEdits {
            set: edits.set.iter().flatten().map(|one| (one.name.clone(), one.value.clone())).collect(),
            add: edits.add.iter().flatten().map(|one| (one.name.clone(), one.value.clone())).collect(),
            remove: edits.remove.clone().unwrap_or_default(),
        })
    };
}

macro_rules! written_filter {
    ($generated:ty) => {
        impl From<&$generated> for Written {
            fn from(filter: &$generated) -> Self {
                Self {
                    kind: written_word(&filter.r#type),
                    request: written_edits!(filter.request_header_modifier),
                    response: written_edits!(filter.response_header_modifier),
                }
            }
        }
    };
}

// Gateway API's generated types exist once per place they are used in.
written_filter!(HttpRouteRulesFilters);
written_filter!(HttpRouteRulesBackendRefsFilters);

/// A word as Gateway API writes it, which is not what the generated type calls it.
fn written_word(word: &impl serde::Serialize) -> String {
    let word = serde_json::to_value(word).expect("a variant without content is a word");
    word.as_str().unwrap_or_default().to_owned()
}

/// The filter, or its kind where we don't implement it.
fn filter(field: &str, filter: Written) -> Result<Result<Filter, String>, Invalid> {
    let missing = |name: &str| Invalid::new(field, format!("is of type {}, but has no {name}", filter.kind));
    match filter.kind.as_str() {
        "RequestHeaderModifier" => {
            let written = filter.request.ok_or_else(|| missing("requestHeaderModifier"))?;
            edits(&format!("{field}.requestHeaderModifier"), written).map(|edits| Ok(Filter::RequestHeaders(edits)))
        }
        "ResponseHeaderModifier" => {
            let written = filter.response.ok_or_else(|| missing("responseHeaderModifier"))?;
            edits(&format!("{field}.responseHeaderModifier"), written).map(|edits| Ok(Filter::ResponseHeaders(edits)))
        }
        other => Ok(Err(other.to_owned())),
    }
}

fn edits(field: &str, written: WrittenEdits) -> Result<HeaderEdits, Invalid> {
    let pairs = |name: &str, pairs: Vec<(String, String)>| {
        let pairs = pairs.into_iter().enumerate().map(|(index, (key, value))| {
            let field = format!("{field}.{name}[{index}]");
            header_name(&format!("{field}.name"), &key)?;
            header_value(&format!("{field}.value"), &value)?;
            Ok((key, value))
        });
        pairs.collect::<Result<Vec<_>, Invalid>>()
    };
    let set = pairs("set", written.set)?;
    let add = pairs("add", written.add)?;
    let remove = written.remove.iter().map(|name| header_name(&format!("{field}.remove"), name));
    Ok(HeaderEdits { set, add, remove: remove.collect::<Result<_, _>>()? })
}

/// The name in lower case, if it is a token (RFC 9110, section 5.6.2).
fn header_name(field: &str, name: &str) -> Result<String, Invalid> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Err(Invalid::new(field, format!("{name:?} is not the name of a header")));
    }
    Ok(name.to_ascii_lowercase())
}

/// Whether a value can stand in a head without changing it (RFC 9110, section 5.5).
fn header_value(field: &str, value: &str) -> Result<(), Invalid> {
    let bad = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    if value.len() > 4096 || value.bytes().any(bad) {
        return Err(Invalid::new(field, "has characters that no header may have, or is longer than 4096"));
    }
    Ok(())
}

const MAX_WEIGHT: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// With all that any filter needs.
    fn with_filter(kind: &str) -> HttpRoute {
        let filter = serde_json::json!({
            "type": kind,
            "requestHeaderModifier": {},
            "responseHeaderModifier": {},
            "requestMirror": { "backendRef": { "name": "x" } },
            "requestRedirect": {},
            "urlRewrite": {},
            "cors": {},
            "extensionRef": { "group": "g", "kind": "k", "name": "n" },
        });
        let route = serde_json::json!({ "metadata": { "name": "r" }, "spec": { "rules": [{ "filters": [filter] }] } });
        http_route(&serde_json::from_value(route).unwrap()).unwrap()
    }

    #[test]
    fn the_cluster_warns_of_the_filters_that_are_not_followed() {
        let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/mesh/templates/route-warnings.yaml");
        let policy = std::fs::read_to_string(policy).unwrap();
        let is_followed = |kind: &&str| {
            let unsupported = with_filter(kind).rules.remove(0).unsupported;
            assert!(unsupported.as_deref().is_none_or(|named| named == *kind), "{kind} is called {unsupported:?}");
            unsupported.is_none()
        };
        let followed: Vec<&str> = ALL_FILTERS.iter().copied().filter(is_followed).collect();
        let quoted: Vec<String> = followed.iter().map(|kind| format!("'{kind}'")).collect();
        let listed = format!("filter.type in [{}]", quoted.join(", "));
        let lists = policy.matches("filter.type in").count();
        assert!(lists == 2 && policy.matches(&listed).count() == lists, "{listed}");
        assert!(policy.contains(&format!("only the filters {} are supported", followed.join(" and "))), "{followed:?}");
    }

    /// Of Gateway API.
    const ALL_FILTERS: [&str; 7] = [
        "RequestHeaderModifier",
        "ResponseHeaderModifier",
        "RequestMirror",
        "RequestRedirect",
        "URLRewrite",
        "ExtensionRef",
        "CORS",
    ];
}
