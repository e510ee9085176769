//! [`Source`]: one object as it was written, and where each of its fields stands.

use std::borrow::Cow;

use crd::manifest::{self, Document, ManifestError, documents, line_of};
use serde_json::{Map, Value};

use super::mistakes::{self, Mistake};
use super::{Finding, Severity};
use crate::check::some;
use crate::input::Input;

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Where it is written.
    pub place: Place,
    /// The object.
    pub object: Value,
    /// The namespace of what names none in its text, where whoever asked named one.
    given: Option<String>,
}

/// Where an object is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a cluster.
    Cluster,
    /// A document of a file.
    Document {
        /// The file.
        file: String,
        /// Line of the document's first line.
        line: usize,
        /// Its text.
        text: String,
    },
    /// An item of a `List`.
    Item {
        /// The file.
        file: String,
        /// Line the item begins at.
        line: usize,
    },
}

impl Source {
    /// An object of a cluster.
    pub fn of_cluster(object: Value) -> Self {
        Self::new(Place::Cluster, object)
    }

    fn new(place: Place, object: Value) -> Self {
        Self { place, object, given: None }
    }

    /// Puts an object that names no namespace into this one, as `kubectl apply --namespace` does.
    pub fn put_into(&mut self, namespace: &str) {
        let written = &self.object["metadata"]["namespace"];
        if self.kind() == "Namespace" || written.as_str().is_some_and(|written| !written.is_empty()) {
            return;
        }
        if written.is_null() || written == "" {
            let object = self.object.as_object_mut();
            let metadata = object.map(|object| object.entry("metadata").or_insert_with(|| Map::new().into()));
            if let Some(metadata) = metadata.and_then(Value::as_object_mut) {
                metadata.insert("namespace".to_owned(), namespace.into());
            }
        }
        self.given = Some(namespace.to_owned());
    }

    /// Whether a question about one namespace is about this object; what cannot be read may belong to anybody.
    pub fn is_of(&self, namespace: &str) -> bool {
        let of = if self.kind() == "Namespace" { self.name() } else { self.namespace() };
        self.kind().is_empty() || of == namespace
    }

    /// What kind of object it is.
    pub fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    /// Group and version of its kind.
    pub fn api_version(&self) -> &str {
        self.object["apiVersion"].as_str().unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Its namespace: where none is written the one it was put into or `default`, empty for a Namespace.
    pub fn namespace(&self) -> &str {
        match self.object["metadata"]["namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
            _ if self.kind() == "Namespace" => "",
            Some(namespace) => namespace,
            None => self.given.as_deref().unwrap_or("default"),
        }
    }

    /// Something to say of one of its fields.
    pub fn finding(&self, severity: Severity, field: &str, problem: impl Into<String>) -> Finding {
        self.finding_at(severity, field, self.line(field), problem)
    }

    /// Something to say of an annotation or label, the keys of which have dots in them.
    pub fn of_key(&self, severity: Severity, map: &str, key: &str, problem: impl Into<String>) -> Finding {
        let field = format!("{map}[{key}]");
        self.finding_at(severity, &field, self.line_of_key(map, key), problem)
    }

    /// What the mesh reads it as; of another kind, nothing. Else everything that is wrong with it.
    pub fn parsed(&self) -> Result<Option<crd::Object>, Vec<Finding>> {
        let (line, text) = self.text();
        let read = manifest::parse(Document { line, text: &text }).map_err(|error| self.mistakes(error))?;
        let mut objects = read.into_iter().filter_map(|parsed| match parsed {
            crd::Parsed::Object(object, _) => Some(*object),
            crd::Parsed::Ignored { .. } => None,
        });
        Ok(objects.next())
    }

    fn mistakes(&self, error: ManifestError) -> Vec<Finding> {
        // The parser knows best where the first is; those after it are found in a copy.
        let exact = (matches!(self.place, Place::Document { .. }) && self.given.is_none()).then_some(error.line);
        let again = |object: &Value| {
            let text = object.to_string();
            manifest::parse(Document { line: 1, text: &text }).err().map(mistake)
        };
        let found = mistakes::all(&self.object, mistake(error), again).into_iter().enumerate();
        let finding = |(index, Mistake { field, problem }): (usize, Mistake)| {
            let line = exact.filter(|_| index == 0).or_else(|| self.line(&field));
            self.finding_at(Severity::Error, &field, line, problem)
        };
        found.map(finding).collect()
    }

    /// Fields nobody reads. In a cluster there are only those that the API server knows: it has dropped the others.
    pub fn unknown_fields(&self) -> Vec<String> {
        let (line, text) = self.text();
        manifest::unknown_fields(Document { line, text: &text }).into_iter().map(|unknown| unknown.field).collect()
    }

    /// What the parser reads: as it was written, where that is all of it; the line it begins at.
    fn text(&self) -> (usize, Cow<'_, str>) {
        match &self.place {
            Place::Document { line, text, .. } if self.given.is_none() => (*line, Cow::Borrowed(text)),
            _ => (1, Cow::Owned(self.object.to_string())),
        }
    }

    fn finding_at(&self, severity: Severity, field: &str, line: Option<usize>, problem: impl Into<String>) -> Finding {
        let file = match &self.place {
            Place::Cluster => None,
            Place::Document { file, .. } | Place::Item { file, .. } => Some(file.clone()),
        };
        Finding {
            severity,
            file,
            line,
            kind: self.kind().to_owned(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    /// Line of a field; empty: of the object.
    pub fn line(&self, field: &str) -> Option<usize> {
        match &self.place {
            Place::Cluster => None,
            Place::Document { line, text, .. } => Some(line_of(Document { line: *line, text }, field)),
            Place::Item { line, .. } => Some(*line),
        }
    }

    fn line_of_key(&self, map: &str, key: &str) -> Option<usize> {
        let of_map = self.line(map)?;
        let Place::Document { line, text, .. } = &self.place else { return Some(of_map) };
        let below = text.lines().enumerate().skip(of_map - line);
        Some(below.into_iter().find(|(_, text)| text.contains(key)).map_or(of_map, |(index, _)| line + index))
    }
}

fn mistake(error: ManifestError) -> Mistake {
    let problem = error.problem.strip_prefix(&error.field).unwrap_or(&error.problem);
    let problem = problem.trim_start_matches(':').trim_start().to_owned();
    Mistake { field: error.field, problem }
}

/// The objects of all files; what lay in a directory and is no manifest is named in a sentence instead.
pub fn objects(inputs: &[Input]) -> (Vec<Source>, Option<String>) {
    let (mut sources, mut foreign) = (Vec::new(), Vec::new());
    for input in inputs {
        for source in split(input) {
            if input.found && source.api_version().is_empty() && source.kind().is_empty() {
                foreign.push(input.file.clone());
            } else {
                sources.push(source);
            }
        }
    }
    foreign.dedup();
    let note =
        (!foreign.is_empty()).then(|| format!("no manifest of Kubernetes, so not looked at: {}", some(&foreign)));
    (sources, note)
}

/// The objects of a file; what is none of them is [`unreadable`].
pub fn split(input: &Input) -> Vec<Source> {
    let Ok(text) = &input.text else { return Vec::new() };
    let mut sources = Vec::new();
    for document in documents(text) {
        let Ok(object) = serde_yaml_ng::from_str::<Value>(document.text) else { continue };
        let is_list = object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match object["items"].as_array().filter(|_| is_list) {
            Some(items) => sources.extend(items.iter().enumerate().map(|(index, item)| {
                let line = line_of(document, &format!("items[{index}]"));
                Source::new(Place::Item { file: input.file.clone(), line }, item.clone())
            })),
            None if object.is_null() => {}
            None => {
                let text = document.text.to_owned();
                let place = Place::Document { file: input.file.clone(), line: document.line, text };
                sources.push(Source::new(place, object));
            }
        }
    }
    sources
}

/// Files and documents that hold no objects because they cannot be read.
pub fn unreadable(inputs: &[Input]) -> Vec<Finding> {
    let mut found = Vec::new();
    let nameless = |file: &str, line, problem| Finding {
        severity: Severity::Error,
        file: Some(file.to_owned()),
        line,
        kind: String::new(),
        namespace: String::new(),
        name: String::new(),
        field: String::new(),
        problem,
    };
    for Input { file, text, .. } in inputs {
        match text {
            Err(problem) => found.push(nameless(file, None, problem.clone())),
            Ok(text) => {
                for document in documents(text) {
                    if let Err(error) = serde_yaml_ng::from_str::<Value>(document.text) {
                        let line = error.location().map(|at| document.line + at.line().saturating_sub(1));
                        // Its own position counts from the document, ours from the file.
                        let text = error.to_string();
                        let problem = format!("is not YAML: {}", text.split(" at line ").next().unwrap_or(&text));
                        let template = if document.text.contains("{{") {
                            "; a Helm template has to be rendered first: helm template . | meshctl analyze -f -"
                        } else {
                            ""
                        };
                        let problem = problem + template;
                        found.push(nameless(file, line, problem));
                    }
                }
            }
        }
    }
    found
}
