//! Manifests: YAML or JSON text, one document or many, to objects of the model.
//!
//! Every error names a line: the parser's own where the text or a type is wrong, else that of the field which holds the
//! value. Kinds that are not ours are reported as such, not as errors: a directory may hold everything a cluster does.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use crate::external_workload::{self, ExternalWorkload};
use crate::model::{Metadata, Object};
use crate::{route, service};

/// One document of a file.
#[derive(Debug, Clone, Copy)]
pub struct Document<'t> {
    /// Line in the file of the document's first line, from 1.
    pub line: usize,
    /// Its text.
    pub text: &'t str,
}

/// What a document held.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// An object of a kind the mesh reads, and the line it begins at.
    Object(Box<Object>, usize),
    /// A kind the mesh does not read.
    Ignored {
        /// `apiVersion`.
        api_version: String,
        /// `kind`.
        kind: String,
    },
}

/// A field that the object's kind does not have: mistyped, or of a newer version. It has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Line in the file, from 1.
    pub line: usize,
    /// Path from the object's root, such as `spec.rules[0].matchs`.
    pub field: String,
}

/// Why a document can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ManifestError {
    /// Line in the file, from 1.
    pub line: usize,
    /// Path of the field from the object's root; empty where it is the whole object, or not known.
    pub field: String,
    /// What is wrong, and how to write it instead; begins with the field.
    pub problem: String,
}

/// A field with a value that can't work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    field: String,
    problem: String,
}

impl Invalid {
    /// `field` as a path from the object's root, such as `spec.ports[0].port`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// Path of the field from the object's root.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.problem)
    }
}

/// The documents of a file.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let separator =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if separator && offset > start {
            documents.push(Document { line: first_line, text: &text[start..offset] });
            (start, first_line) = (offset, index + 1);
        }
        offset += line.len();
    }
    documents.push(Document { line: first_line, text: &text[start..] });
    documents
}

/// What a document holds: nothing, one object, or the items of a `List`.
pub fn parse(document: Document<'_>) -> Result<Vec<Parsed>, ManifestError> {
    let header: Option<Header> = typed(document)?;
    let Some(header) = header else { return Ok(Vec::new()) };
    let (Some(api_version), Some(kind)) = (header.api_version, header.kind) else {
        let problem = "an object needs both apiVersion and kind".to_owned();
        return Err(ManifestError { line: first_content(document), field: String::new(), problem });
    };
    if (api_version.as_str(), kind.as_str()) != ("v1", "List") {
        let parsed = match known(&api_version, &kind) {
            Some(known) => Parsed::Object(Box::new(known.object(document)?), first_content(document)),
            None => Parsed::Ignored { api_version, kind },
        };
        return Ok(vec![parsed]);
    }
    let list: List = typed(document)?;
    let mut found = Vec::with_capacity(list.items.len());
    for (index, item) in list.items.into_iter().enumerate() {
        let line = locate(document.text, &format!("items[{index}]")).map_or(document.line, |at| document.line + at);
        let text = serde_yaml_ng::to_string(&item).map_err(|e| ManifestError {
            line,
            field: String::new(),
            problem: e.to_string(),
        })?;
        // Lines within the item are those of its own text, so all errors are put at its beginning.
        let items = parse(Document { line: 1, text: &text }).map_err(|e| ManifestError { line, ..e })?;
        found.extend(items.into_iter().map(|parsed| match parsed {
            Parsed::Object(object, _) => Parsed::Object(object, line),
            ignored @ Parsed::Ignored { .. } => ignored,
        }));
    }
    Ok(found)
}

/// Fields of a document's object that nobody reads, as kubectl would warn of them. None of a document that can't be used,
/// is of a kind the mesh does not read, or holds a `List`.
pub fn unknown_fields(document: Document<'_>) -> Vec<UnknownField> {
    let Ok(Some(Header { api_version: Some(api_version), kind: Some(kind) })) = typed(document) else {
        return Vec::new();
    };
    let fields = match known(&api_version, &kind) {
        Some(Known::Namespace) => unread::<core::Namespace>(document),
        Some(Known::Service) => unread::<core::Service>(document),
        Some(Known::HttpRoute) => unread::<route::GatewayRoute>(document),
        Some(Known::ExternalWorkload) => unread::<ExternalWorkload>(document),
        None => Vec::new(),
    };
    fields.into_iter().map(|field| UnknownField { line: line_of(document, &field), field }).collect()
}

/// Line in the file of a field, such as `spec.rules[0].matches`; of its nearest ancestor, or the object, where the field
/// is not written in a line of its own.
pub fn line_of(document: Document<'_>, field: &str) -> usize {
    locate(document.text, field).map_or_else(|| first_content(document), |at| document.line + at)
}

fn unread<T: DeserializeOwned>(document: Document<'_>) -> Vec<String> {
    let mut fields = Vec::new();
    let source = serde_yaml_ng::Deserializer::from_str(document.text);
    let read: Result<T, _> = serde_ignored::deserialize(source, |path| {
        let field = dotted(&path.to_string());
        // Every object has these two, and some of the types leave them to whoever chose the type.
        if !matches!(field.as_str(), "apiVersion" | "kind") && fields.len() < MAX_UNKNOWN {
            fields.push(field);
        }
    });
    if read.is_ok() { fields } else { Vec::new() }
}

/// The path as Kubernetes writes it: `?` stands for a value that may be absent, a number for a place in a list.
fn dotted(path: &str) -> String {
    let mut text = String::new();
    for segment in path.split('.').filter(|segment| *segment != "?") {
        match segment.parse::<usize>() {
            Ok(index) => text.push_str(&format!("[{index}]")),
            Err(_) if text.is_empty() => text.push_str(segment),
            Err(_) => text.push_str(&format!(".{segment}")),
        }
    }
    text
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Clone, Copy)]
enum Known {
    Namespace,
    Service,
    HttpRoute,
    ExternalWorkload,
}

fn known(api_version: &str, kind: &str) -> Option<Known> {
    match (api_version, kind) {
        ("v1", "Namespace") => Some(Known::Namespace),
        ("v1", "Service") => Some(Known::Service),
        ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", "HTTPRoute") => Some(Known::HttpRoute),
        ("meshctl.io/v1alpha1", "ExternalWorkload") => Some(Known::ExternalWorkload),
        _ => None,
    }
}

impl Known {
    fn object(self, document: Document<'_>) -> Result<Object, ManifestError> {
        let object = match self {
            Self::Namespace => service::namespace(&typed::<core::Namespace>(document)?).map(Object::Namespace),
            Self::Service => service::service(&typed::<core::Service>(document)?).map(Object::Service),
            Self::HttpRoute => route::http_route(&typed(document)?).map(Object::HttpRoute),
            Self::ExternalWorkload => {
                external_workload::workload(&typed::<ExternalWorkload>(document)?).map(Object::Workload)
            }
        };
        object.map_err(|invalid| ManifestError {
            line: line_of(document, &invalid.field),
            problem: invalid.to_string(),
            field: invalid.field,
        })
    }
}

/// Name, labels and age of an object.
pub(crate) fn metadata(object: &ObjectMeta, namespaced: bool) -> Result<Metadata, Invalid> {
    let name = object.name.clone().unwrap_or_default();
    check_name("metadata.name", &name)?;
    let namespace = match (namespaced, object.namespace.as_deref()) {
        (false, _) => String::new(),
        (true, None | Some("")) => "default".to_owned(),
        (true, Some(namespace)) => {
            check_name("metadata.namespace", namespace)?;
            namespace.to_owned()
        }
    };
    Ok(Metadata {
        namespace,
        name,
        labels: object.labels.clone().unwrap_or_default(),
        annotations: ours(object),
        created: object.creation_timestamp.as_ref().map(|time| time.0.as_second()),
    })
}

/// Annotations the mesh reads.
pub(crate) fn ours(object: &ObjectMeta) -> BTreeMap<String, String> {
    let written = object.annotations.iter().flatten().filter(|(name, _)| name.starts_with(ANNOTATION_PREFIX));
    written.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A port number as Kubernetes writes it.
pub(crate) fn port(field: &str, port: i32) -> Result<u16, Invalid> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Invalid::new(field, format!("{port} is not a port; write 1 to 65535")))
}

fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if name.is_empty() {
        return Err(Invalid::new(field, "is missing"));
    }
    if name.len() > MAX_NAME || !name.bytes().all(allowed) {
        let problem = format!("{name:?} is not a name; write up to {MAX_NAME} of a-z, 0-9, '-' and '.'");
        return Err(Invalid::new(field, problem));
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(document: Document<'_>) -> Result<T, ManifestError> {
    serde_yaml_ng::from_str(document.text).map_err(|error| {
        let line = match error.location() {
            Some(location) => document.line + location.line().saturating_sub(1),
            None => first_content(document),
        };
        let problem = without_location(&error.to_string());
        ManifestError { line, field: path_of(&problem).to_owned(), problem }
    })
}

/// The parser writes its position into the message; it counts from the document, we from the file.
fn without_location(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(problem, _)| problem).to_owned()
}

/// The path that the parser writes before what is wrong with a value.
fn path_of(problem: &str) -> &str {
    let is_path = |text: &&str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._[]-".contains(&byte));
    problem.split_once(": ").map(|(path, _)| path).filter(is_path).unwrap_or_default()
}

/// Line in the file of the first line that is neither blank, comment nor separator.
fn first_content(document: Document<'_>) -> usize {
    let content = |line: &str| !(line.trim().is_empty() || line.starts_with('#') || line.starts_with("---"));
    document.line + document.text.lines().position(content).unwrap_or(0)
}

/// Where the field of a path is written in block style, as lines after the first; of its nearest ancestor where the
/// rest is written in another way.
fn locate(text: &str, path: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut at, mut end, mut found) = (0, lines.len(), None);
    for segment in path.split('.') {
        let (key, index) = match segment.split_once('[') {
            Some((key, rest)) => (key, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (segment, None),
        };
        let Some(line) = (at..end).find(|line| key_of(lines[*line]) == Some(key)) else { break };
        (at, found) = (line + 1, Some(line));
        end = block_end(&lines, line, end);
        if let Some(index) = index {
            let depth = (at..end).map(|line| lines[line]).find(|line| is_item(line)).map(indent);
            let mut items = (at..end).filter(|line| is_item(lines[*line]) && Some(indent(lines[*line])) == depth);
            let Some(item) = items.nth(index) else { break };
            end = items.next().unwrap_or(end);
            (at, found) = (item, Some(item));
        }
    }
    found
}

fn key_of(line: &str) -> Option<&str> {
    let content = line.trim_start().trim_start_matches("- ").trim_start();
    content.split_once(':').map(|(key, _)| key.trim_matches(['"', '\'', '{', ' ']))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn is_item(line: &str) -> bool {
    line.trim_start().starts_with("- ") || line.trim() == "-"
}

/// First line after `line` that does not belong to its value.
fn block_end(lines: &[&str], line: usize, end: usize) -> usize {
    let content = lines[line].trim_start();
    let own = indent(lines[line]) + (content.len() - content.trim_start_matches("- ").len());
    let outside = |next: &usize| {
        let next = lines[*next];
        !next.trim().is_empty() && (indent(next) < own || (indent(next) == own && !is_item(next)))
    };
    (line + 1..end).find(outside).unwrap_or(end)
}

const ANNOTATION_PREFIX: &str = "meshctl.io/";
const MAX_NAME: usize = 253;
const MAX_UNKNOWN: usize = 20;

#[cfg(test)]
mod tests;
