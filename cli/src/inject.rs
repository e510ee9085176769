//! `meshctl inject` and `uninject`: manifests in, manifests out, with the word for the webhook put in or taken out.
//!
//! Nothing but the annotation changes: the proxy itself is put in when the pod is made, so that it always has the
//! version of the control plane ([`manual`] puts it in here and now). Documents that need no change go through as they are,
//! comments and all.

pub mod manual;

use std::fmt;
use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, bail};
use proto::names;
use serde::Deserialize as _;
use serde_json::{Map, Value};

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
}

/// What was done with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It says now what was wished.
    Changed,
    /// It has a proxy now; what people should know of it, one sentence each.
    Injected(Vec<String>),
    /// It cannot have one, or wants none.
    NotInjected(String),
    /// It said so before.
    Unchanged,
    /// It shares the node's network, where there can be no proxy.
    HostNetwork,
    /// The proxy itself is in it, which a word more or less takes out of no pod.
    HasProxy,
    /// It makes no pods.
    NoPods,
}

/// Reads standard input, writes standard output, and tells on standard error what was done.
pub fn run(wish: Wish<'_>) -> anyhow::Result<()> {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        bail!("give it manifests on standard input: kubectl get deploy -o yaml | meshctl inject | kubectl apply -f -");
    }
    let mut text = String::new();
    input.read_to_string(&mut text).context("standard input is not text")?;
    let (text, fates) = rewrite(&text, wish)?;
    for fate in &fates {
        eprintln!("{fate}");
    }
    output::print(&text)
}

/// The manifests with the wish in them, and what became of each object.
pub fn rewrite(text: &str, wish: Wish<'_>) -> anyhow::Result<(String, Vec<Fate>)> {
    let mut fates = Vec::new();
    if text.trim_start().starts_with('{') {
        let mut out = String::new();
        for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
            let mut object = document.context("standard input is neither JSON nor YAML")?;
            apply(&mut object, wish, &mut fates);
            out.push_str(&output::json(&object));
        }
        return Ok((out, fates));
    }
    let mut out = String::with_capacity(text.len());
    for (index, document) in documents(text).into_iter().enumerate() {
        let parsed = serde_yaml_ng::Deserializer::from_str(&document.body);
        let mut object = Value::deserialize(parsed).with_context(|| format!("document {} is not YAML", index + 1))?;
        let before = fates.len();
        apply(&mut object, wish, &mut fates);
        out.push_str(&document.separator);
        if fates[before..].iter().any(|fate| matches!(fate.done, Done::Changed | Done::Injected(_))) {
            out.push_str(&serde_yaml_ng::to_string(&object).context("a document cannot be written as YAML")?);
        } else {
            out.push_str(&document.body);
        }
    }
    Ok((out, fates))
}

struct Document {
    /// The line that it begins with, if it is not the first.
    separator: String,
    body: String,
}

fn documents(text: &str) -> Vec<Document> {
    let mut documents = vec![Document { separator: String::new(), body: String::new() }];
    for line in text.split_inclusive('\n') {
        let is_separator = line.trim_end() == "---" || line.starts_with("--- #");
        if is_separator {
            documents.push(Document { separator: line.to_owned(), body: String::new() });
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
    let done = match template(&kind, object) {
        None => Done::NoPods,
        // What its pods inherit is a word only.
        Some(_) if kind == "Namespace" && matches!(wish, Wish::Proxy(_)) => Done::NoPods,
        Some(template) if template["spec"]["hostNetwork"] == true => Done::HostNetwork,
        Some(template) => match wish {
            Wish::Proxy(manual) => manual.put(&name, namespace.as_deref(), template),
            Wish::Disabled | Wish::Nothing if has_proxy(template) => Done::HasProxy,
            wish if say(template, wish) => Done::Changed,
            _ => Done::Unchanged,
        },
    };
    fates.push(Fate { object: format!("{} {name}", kind.to_lowercase()), done });
}

/// Whether `inject --manual` put the proxy in, or a webhook did before the object was fetched.
fn has_proxy(template: &Value) -> bool {
    let containers = template["spec"]["initContainers"].as_array();
    containers.is_some_and(|containers| containers.iter().any(|container| container["name"] == names::PROXY_CONTAINER))
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
            Done::Unchanged => "unchanged",
            Done::HostNetwork => "skipped: on the host network there can be no proxy",
            Done::HasProxy => {
                "skipped: the proxy itself is in it; begin with the manifest that inject --manual was given"
            }
            Done::NoPods => "skipped: it makes no pods",
        };
        write!(f, "{} {done}", crate::table::one_line(&self.object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  template:\n    spec:\n      containers: []\n";

    fn fates(text: &str, wish: Wish<'_>) -> (String, Vec<Done>) {
        let (text, fates) = rewrite(text, wish).unwrap();
        (text, fates.into_iter().map(|fate| fate.done).collect())
    }

    #[test]
    fn a_proxy_that_was_put_in_is_not_talked_out() {
        let manual = DEPLOYMENT.replace("containers: []", "initContainers: [{name: mesh-proxy}]\n      containers: []");
        for wish in [Wish::Nothing, Wish::Disabled] {
            assert_eq!(fates(&manual, wish), (manual.clone(), vec![Done::HasProxy]));
        }
    }

    #[test]
    fn there_and_back() {
        let (injected, done) = fates(DEPLOYMENT, Wish::Enabled);
        assert_eq!(done, [Done::Changed]);
        assert!(injected.contains("meshctl.io/inject: enabled"), "{injected}");
        assert_eq!(fates(&injected, Wish::Enabled), (injected.clone(), vec![Done::Unchanged]));
        let (disabled, _) = fates(&injected, Wish::Disabled);
        assert!(disabled.contains("meshctl.io/inject: disabled"), "{disabled}");
        let (back, done) = fates(&disabled, Wish::Nothing);
        assert_eq!(done, [Done::Changed]);
        assert!(!back.contains("meshctl.io"), "{back}");
        assert_eq!(fates(DEPLOYMENT, Wish::Nothing), (DEPLOYMENT.to_owned(), vec![Done::Unchanged]));
    }

    #[test]
    fn what_needs_no_change_goes_through_as_it_is() {
        let text = format!(
            "# first\n---\n# a service\nkind: Service\nmetadata: {{name: a}}\n--- # next\n{DEPLOYMENT}---\nkind: DaemonSet\n\
             metadata: {{name: node}}\nspec: {{template: {{spec: {{hostNetwork: true}}}}}} # agent"
        );
        let (out, done) = fates(&text, Wish::Enabled);
        assert_eq!(done, [Done::NoPods, Done::Changed, Done::HostNetwork]);
        assert!(out.starts_with("# first\n---\n# a service\nkind: Service\n") && out.ends_with("# agent\n"), "{out}");
        assert_eq!(out.matches("meshctl.io/inject").count(), 1);
    }

    #[test]
    fn every_kind_with_pods() {
        for (text, pointer) in [
            (r#"{"kind": "Pod", "metadata": {"name": "a"}, "spec": {}}"#, "/metadata"),
            (r#"{"kind": "Namespace", "metadata": {"name": "a"}}"#, "/metadata"),
            (r#"{"kind": "Job", "spec": {"template": {}}}"#, "/spec/template/metadata"),
            (
                r#"{"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"metadata": {"labels": {"meshctl.io/inject": "disabled"}}}}}}}"#,
                "/spec/jobTemplate/spec/template/metadata",
            ),
            (
                r#"{"kind": "List", "items": [{"kind": "StatefulSet", "spec": {"template": {}}}]}"#,
                "/items/0/spec/template/metadata",
            ),
        ] {
            let (out, done) = fates(text, Wish::Enabled);
            assert_eq!(done, [Done::Changed], "{text}");
            let object: Value = serde_json::from_str(&out).unwrap();
            let metadata = object.pointer(pointer).unwrap();
            assert_eq!(metadata["annotations"][names::INJECT], "enabled", "{out}");
            assert!(metadata.get("labels").is_none(), "{out}");
        }
    }

    #[test]
    fn odd_input() {
        for text in [
            "",
            "---\n",
            "# nothing\n",
            "null\n",
            "- a\n",
            "kind: [a]\n",
            "kind: Deployment\n",
            "kind: Deployment\nspec: 7\n",
        ] {
            let (out, done) = fates(text, Wish::Enabled);
            assert_eq!(out, text);
            assert!(!done.contains(&Done::Changed), "{text}");
        }
        assert!(rewrite("a: [", Wish::Enabled).is_err());
        assert!(rewrite("{\"a\": ", Wish::Enabled).is_err());
        assert!(rewrite("kind: Pod\nmetadata: 7\n", Wish::Enabled).is_ok());
        assert!(rewrite("kind: Pod\nmetadata: {annotations: [a]}\n", Wish::Enabled).is_ok());
    }
}
