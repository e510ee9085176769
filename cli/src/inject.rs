//! `meshctl inject` and `uninject`: manifests in, manifests out, with the word for the webhook put in or taken out.
//!
//! Nothing but the annotation changes: the proxy itself is put in when the pod is made, so that it always has the
//! version of the control plane ([`manual`] puts it in here and now). Documents that need no change go through as they are,
//! comments and all.

pub mod manual;

use std::fmt;

use anyhow::{Context as _, anyhow, bail};
use injector::decision::Skipped;
use injector::{Decision, decide};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::names;
use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::analyze::annotations;
use crate::args::{ManifestArgs, Output};
use crate::check::many;
use crate::input::{self, Input, Inputs};
use crate::output;

/// What to do with pods.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wish<'a> {
    /// They get a proxy.
    Enabled,
    /// They get none, whatever their namespace says.
    Disabled,
    /// Their namespace decides.
    Nothing,
    /// The proxy itself, with these settings.
    Proxy(&'a manual::Manual),
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Kind and name.
    pub object: String,
    /// What was done.
    pub done: Done,
    /// Settings that cannot be used, or hardly are meant, one sentence each.
    pub doubts: Vec<String>,
}

/// What was done with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It says now what was wished.
    Changed,
    /// It has a proxy now; what people should know of it, one sentence each.
    Injected(Vec<String>),
    /// It is to have one, and cannot.
    NotInjected(String),
    /// It says that it wants none, or is nobody's to change.
    LeftOut(String),
    /// It said so before.
    Unchanged,
    /// It shares the node's network, where there can be no proxy.
    HostNetwork,
    /// The proxy itself is in it, which a word more or less takes out of no pod.
    HasProxy,
    /// It makes no pods.
    NoPods,
}

/// Reads manifests, writes standard output, and tells on standard error what was done.
pub fn run(args: &ManifestArgs, wish: Wish<'_>, output: Option<Output>) -> anyhow::Result<()> {
    let Inputs { read, notes } = input::read(&args.names(), STDIN)?;
    let rewritten = rewrite(&read, wish, output)?;
    for note in notes.iter().chain(&rewritten.notes) {
        eprintln!("meshctl: {}", crate::table::one_line(note));
    }
    for fate in &rewritten.fates {
        eprintln!("{fate}");
    }
    // Whoever reads on, as kubectl apply does, would make pods without a proxy of them.
    let failed = rewritten.fates.iter().filter(|fate| matches!(fate.done, Done::NotInjected(_))).count();
    if failed > 0 {
        let them = if failed == 1 { "it says" } else { "they say" };
        bail!(
            "{} not injected, so nothing is written; correct what {them} above, or write {}: disabled where no proxy is wanted",
            many(failed, "object"),
            names::INJECT
        );
    }
    output::print(&rewritten.text)
}

/// Manifests with the wish in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// All of them.
    pub text: String,
    /// What became of each object.
    pub fates: Vec<Fate>,
    /// What was left out.
    pub notes: Vec<String>,
}

/// Puts the wish into all manifests, written as they came or as `output` says.
pub fn rewrite(inputs: &[Input], wish: Wish<'_>, output: Option<Output>) -> anyhow::Result<Rewritten> {
    let mut rewritten = Rewritten::default();
    let mut parts: Vec<Vec<Document>> = Vec::new();
    for input in inputs {
        let name = if input.file == "-" { "standard input" } else { &input.file };
        let text = input.text.as_ref().map_err(|problem| anyhow!("{name} {problem}"))?;
        let before = rewritten.fates.len();
        let documents = one(text, wish, &mut rewritten.fates).with_context(|| name.to_owned())?;
        if !input.found
            && let Some(index) = documents.iter().position(Document::is_foreign)
        {
            bail!("{name}: document {} is no manifest of Kubernetes: it has no kind", index + 1);
        }
        if input.found && rewritten.fates.len() == before {
            rewritten.notes.push(format!("{name} is no manifest of Kubernetes: left out"));
        } else {
            parts.push(documents);
        }
    }
    if parts.iter().flatten().all(|document| document.object.is_null()) {
        let named: Vec<&str> = inputs.iter().map(|input| input.file.as_str()).collect();
        let all = if named == ["-"] { "on standard input".to_owned() } else { format!("in {}", named.join(", ")) };
        bail!("there is no manifest {all}");
    }
    let is_json = |documents: &Vec<Document>| documents.iter().any(|document| document.is_json);
    let output = match output {
        // One stream cannot hold both as they are.
        None if parts.iter().any(is_json) && !parts.iter().all(is_json) => Some(Output::Yaml),
        output => output,
    };
    for documents in &parts {
        for (index, document) in documents.iter().enumerate() {
            document.write(&mut rewritten.text, index == 0, output)?;
        }
    }
    Ok(rewritten)
}

/// The documents of one text, and what becomes of their objects.
fn one(text: &str, wish: Wish<'_>, fates: &mut Vec<Fate>) -> anyhow::Result<Vec<Document>> {
    if text.trim_start().starts_with('{') {
        let mut documents = Vec::new();
        for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
            let mut object = document.context("is neither JSON nor YAML")?;
            apply(&mut object, wish, fates);
            documents.push(Document { separator: String::new(), body: output::json(&object), object, is_json: true });
        }
        return Ok(documents);
    }
    let mut documents = documents(text);
    for (index, document) in documents.iter_mut().enumerate() {
        let parsed = serde_yaml_ng::Deserializer::from_str(&document.body);
        let mut object = Value::deserialize(parsed).with_context(|| format!("document {} is not YAML", index + 1))?;
        let before = fates.len();
        apply(&mut object, wish, fates);
        if fates[before..].iter().any(|fate| matches!(fate.done, Done::Changed | Done::Injected(_))) {
            document.body = yaml(&object)?;
        }
        document.object = object;
    }
    Ok(documents)
}

struct Document {
    /// The line that it begins with, if it is not the first.
    separator: String,
    /// As it is to be written.
    body: String,
    /// What it holds.
    object: Value,
    is_json: bool,
}

impl Document {
    /// Whether it holds something else than an object of Kubernetes.
    fn is_foreign(&self) -> bool {
        !self.object.is_null() && self.object["kind"].as_str().is_none_or(str::is_empty)
    }

    fn write(&self, text: &mut String, is_first_of_input: bool, output: Option<Output>) -> anyhow::Result<()> {
        if output == Some(Output::Json) {
            if !self.object.is_null() {
                text.push_str(&output::json(&self.object));
            }
            return Ok(());
        }
        if is_first_of_input && !text.is_empty() && self.body.trim().is_empty() {
            return Ok(());
        }
        let is_written_anew = self.is_json && output == Some(Output::Yaml);
        let runs_on = is_first_of_input && (!self.is_json || is_written_anew);
        if is_written_anew || (runs_on && self.separator.is_empty()) {
            text.push_str(if text.is_empty() { "" } else { "---\n" });
        }
        text.push_str(&self.separator);
        if is_written_anew {
            text.push_str(&yaml(&self.object)?)
        } else {
            text.push_str(&self.body)
        }
        Ok(())
    }
}

fn yaml(object: &Value) -> anyhow::Result<String> {
    serde_yaml_ng::to_string(object).context("a document cannot be written as YAML")
}

fn documents(text: &str) -> Vec<Document> {
    let empty = |separator: &str| Document {
        separator: separator.to_owned(),
        body: String::new(),
        object: Value::Null,
        is_json: false,
    };
    let mut documents = vec![empty("")];
    for line in text.split_inclusive('\n') {
        let is_separator = line.trim_end() == "---" || line.starts_with("--- #");
        if is_separator {
            documents.push(empty(line));
        } else if let Some(document) = documents.last_mut() {
            document.body.push_str(line);
        }
    }
    // A last line without its end would swallow the separator behind it.
    for document in &mut documents {
        if !document.body.is_empty() && !document.body.ends_with('\n') {
            document.body.push('\n');
        }
    }
    documents
}

fn apply(object: &mut Value, wish: Wish<'_>, fates: &mut Vec<Fate>) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if let (true, Some(items)) = (kind.ends_with("List"), object.get_mut("items").and_then(Value::as_array_mut)) {
        items.iter_mut().for_each(|item| apply(item, wish, fates));
        return;
    }
    if kind.is_empty() {
        return;
    }
    let name = object["metadata"]["name"].as_str().unwrap_or("(no name)").to_owned();
    let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
    let mut doubts = Vec::new();
    let done = match template(&kind, object) {
        None => Done::NoPods,
        // What its pods inherit is a word only.
        Some(_) if kind == "Namespace" && matches!(wish, Wish::Proxy(_)) => Done::NoPods,
        Some(template) if template["spec"]["hostNetwork"] == true => Done::HostNetwork,
        Some(template) => match wish {
            Wish::Proxy(manual) => manual.put(&name, namespace.as_deref(), template),
            Wish::Disabled | Wish::Nothing if has_proxy(template) => Done::HasProxy,
            wish => {
                if wish == Wish::Enabled
                    && let Some(word) = refusal(&kind, template)
                {
                    fates.push(Fate {
                        object: format!("{} {name}", kind.to_lowercase()),
                        done: Done::LeftOut(word),
                        doubts,
                    });
                    return;
                }
                let changed = say(template, wish);
                if wish == Wish::Enabled {
                    doubts = doubts_of(template);
                }
                if changed { Done::Changed } else { Done::Unchanged }
            }
        },
    };
    fates.push(Fate { object: format!("{} {name}", kind.to_lowercase()), done, doubts });
}

/// The word by which somebody said no, for this very object.
fn refusal(kind: &str, template: &Value) -> Option<String> {
    let metadata: ObjectMeta = serde_json::from_value(template["metadata"].clone()).ok()?;
    let (pod, namespace) = match kind {
        "Namespace" => (ObjectMeta::default(), metadata),
        _ => (metadata, ObjectMeta::default()),
    };
    match decide(&Pod { metadata: pod, ..Pod::default() }, &namespace) {
        Decision::Skip(no @ Skipped::Disabled(_)) => Some(no.to_string()),
        _ => None,
    }
}

/// Whether `inject --manual` put the proxy in, or a webhook did before the object was fetched.
fn has_proxy(template: &Value) -> bool {
    serde_json::from_value::<PodSpec>(template["spec"].clone()).is_ok_and(|spec| crd::pod::has_proxy(&spec))
}

fn doubts_of(template: &Value) -> Vec<String> {
    let pod = serde_json::json!({ "metadata": template["metadata"], "spec": template["spec"] });
    serde_json::from_value::<Pod>(pod).map(|pod| annotations::doubts(&pod)).unwrap_or_default()
}

/// What holds the metadata of a kind's pods, or of the namespace they inherit from.
fn template<'a>(kind: &str, object: &'a mut Value) -> Option<&'a mut Value> {
    object.pointer_mut(template_path(kind)?).filter(|template| template.is_object())
}

/// Where that is, as a JSON pointer.
pub(crate) fn template_path(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Pod" | "Namespace" => "",
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" | "Rollout" => {
            "/spec/template"
        }
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => return None,
    })
}

/// Puts the wish into the annotation, and says whether that changed anything. A label of the same name would be a second
/// word about the same matter: it goes.
fn say(template: &mut Value, wish: Wish<'_>) -> bool {
    let before = template.clone();
    let metadata = &mut template["metadata"];
    if !metadata.is_object() {
        *metadata = Map::new().into();
    }
    for place in ["labels", "annotations"] {
        if let Some(map) = metadata.get_mut(place).and_then(Value::as_object_mut)
            && map.remove(names::INJECT).is_some()
            && map.is_empty()
        {
            metadata.as_object_mut().map(|metadata| metadata.remove(place));
        }
    }
    let word = match wish {
        Wish::Enabled => "enabled",
        Wish::Disabled => "disabled",
        Wish::Nothing | Wish::Proxy(_) => "",
    };
    if !word.is_empty() {
        let annotations = &mut metadata["annotations"];
        if !annotations.is_object() {
            *annotations = Map::new().into();
        }
        annotations[names::INJECT] = word.into();
    } else if metadata.as_object().is_some_and(Map::is_empty) && before.get("metadata").is_none() {
        template.as_object_mut().map(|template| template.remove("metadata"));
    }
    *template != before
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match &self.done {
            Done::Changed => "changed",
            Done::Injected(notes) => {
                write!(f, "{} injected", crate::table::one_line(&self.object))?;
                return notes.iter().try_for_each(|note| write!(f, "; {}", crate::table::one_line(note)));
            }
            Done::NotInjected(why) => {
                let line = format!("{} not injected: {why}", self.object);
                return f.write_str(&crate::table::one_line(&line));
            }
            Done::LeftOut(why) => {
                let line = format!("{} skipped: {why}", self.object);
                return f.write_str(&crate::table::one_line(&line));
            }
            Done::Unchanged => "unchanged",
            Done::HostNetwork => "skipped: on the host network there can be no proxy",
            Done::HasProxy => {
                "skipped: the proxy itself is in it; begin with the manifest that inject --manual was given"
            }
            Done::NoPods => "skipped: it makes no pods",
        };
        write!(f, "{} {done}", crate::table::one_line(&self.object))?;
        self.doubts.iter().try_for_each(|doubt| write!(f, "; but {}", crate::table::one_line(doubt)))
    }
}

const STDIN: &str = "kubectl get deploy -o yaml | meshctl inject | kubectl apply -f -";

#[cfg(test)]
mod tests;
