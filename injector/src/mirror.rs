//! A namespace's annotation, or Istio's label, copied into our label: webhooks are chosen by labels, and people write
//! annotations.
//!
//! Pure. What was copied is marked with a second annotation, so that it goes when its original goes. A label that a person
//! wrote and that says what the annotation says is not marked, and stays. One that says otherwise is overruled, as the
//! annotation is what we document: it is overwritten, since webhooks would go by it, and from then on it is the copy, which
//! goes with the annotation. Whoever writes that is told so at once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::names::{INJECT, INJECT_MIRRORED};
use serde_json::{Value, json};

use crate::decision::{ISTIO_NAMESPACE, is_system};
use crate::quoted::quoted;

/// What is to be changed on a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Label and mark get this value.
    Set(String),
    /// The mark goes, with the label if it is ours.
    Remove {
        /// Whether the label is ours.
        label: bool,
    },
}

/// What has to change for label and annotation to agree; nothing where they do.
pub fn change(namespace: &ObjectMeta) -> Option<Change> {
    if namespace.name.as_deref().is_some_and(is_system) {
        return None;
    }
    let annotation = |key: &str| namespace.annotations.as_ref()?.get(key).map(String::as_str);
    let label = namespace.labels.as_ref().and_then(|labels| labels.get(INJECT)).map(String::as_str);
    let mark = annotation(INJECT_MIRRORED);
    // One that a person wrote counts before Istio's.
    let has_own = label.is_some() && label != mark;
    let wanted = match annotation(INJECT) {
        Some(value) => Some(value).filter(|value| is_word(value)),
        None if !has_own && asks_as_istio(namespace) => Some("enabled"),
        None => None,
    };
    match wanted {
        Some(wanted) if label != Some(wanted) || mark.is_some_and(|mark| mark != wanted) => {
            Some(Change::Set(wanted.to_owned()))
        }
        Some(_) => None,
        None => mark.map(|mark| Change::Remove { label: label == Some(mark) }),
    }
}

/// What takes everything of ours off a namespace, when nobody mirrors any more; nothing where there is nothing of ours.
pub fn undo(namespace: &ObjectMeta) -> Option<Change> {
    let mark = namespace.annotations.as_ref()?.get(INJECT_MIRRORED)?;
    let label = namespace.labels.as_ref().and_then(|labels| labels.get(INJECT));
    Some(Change::Remove { label: label == Some(mark) })
}

/// What to tell who writes a value that means nothing, or a label that the annotation overrules.
pub fn warning(namespace: &ObjectMeta) -> Option<String> {
    let annotations = namespace.annotations.as_ref()?;
    let value = annotations.get(INJECT)?;
    if !is_word(value) {
        let value = quoted(value);
        return Some(format!(
            "{INJECT}: {value} is neither enabled nor disabled; pods of this namespace are not injected"
        ));
    }
    let label = namespace.labels.as_ref()?.get(INJECT)?;
    let is_copy = annotations.get(INJECT_MIRRORED) == Some(label);
    (label != value && !is_copy).then(|| {
        let label = quoted(label);
        format!("the annotation {INJECT}: {value} overrules the label {INJECT}: {label}, which becomes a copy of it")
    })
}

impl Change {
    /// As operations on the object that the change was found for (RFC 6902).
    pub fn json_patch(&self, namespace: &ObjectMeta) -> json_patch::Patch {
        let mut operations = Vec::new();
        match self {
            Self::Set(value) => {
                for (map, key, exists) in [
                    ("labels", INJECT, namespace.labels.is_some()),
                    ("annotations", INJECT_MIRRORED, namespace.annotations.is_some()),
                ] {
                    if !exists {
                        operations.push(json!({"op": "add", "path": format!("/metadata/{map}"), "value": {}}));
                    }
                    operations.push(json!({"op": "add", "path": place(map, key), "value": value}));
                }
            }
            Self::Remove { label } => {
                operations.push(json!({"op": "remove", "path": place("annotations", INJECT_MIRRORED)}));
                if *label {
                    operations.push(json!({"op": "remove", "path": place("labels", INJECT)}));
                }
            }
        }
        serde_json::from_value(Value::Array(operations)).expect("operations are written as RFC 6902 has them")
    }

    /// As a merge patch (RFC 7386) that fails if the namespace is no longer the one the change was found for.
    pub fn merge_patch(&self, namespace: &ObjectMeta) -> Value {
        let mut metadata = json!({"resourceVersion": namespace.resource_version});
        match self {
            Self::Set(value) => {
                metadata["labels"] = json!({ INJECT: value });
                metadata["annotations"] = json!({ INJECT_MIRRORED: value });
            }
            Self::Remove { label } => {
                metadata["annotations"] = json!({ INJECT_MIRRORED: null });
                if *label {
                    metadata["labels"] = json!({ INJECT: null });
                }
            }
        }
        json!({ "metadata": metadata })
    }
}

fn asks_as_istio(namespace: &ObjectMeta) -> bool {
    namespace.labels.as_ref().and_then(|labels| labels.get(ISTIO_NAMESPACE)).is_some_and(|value| value == "enabled")
}

fn is_word(value: &str) -> bool {
    matches!(value, "enabled" | "disabled")
}

fn place(map: &str, key: &str) -> String {
    format!("/metadata/{map}/{}", key.replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(annotation: Option<&str>, label: Option<&str>, mark: Option<&str>) -> ObjectMeta {
        let mut metadata = ObjectMeta { name: Some("shop".to_owned()), ..ObjectMeta::default() };
        for (key, value) in [(INJECT, annotation), (INJECT_MIRRORED, mark)] {
            if let Some(value) = value {
                metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
            }
        }
        metadata.labels = label.map(|label| [(INJECT.to_owned(), label.to_owned())].into());
        metadata
    }

    #[test]
    fn the_label_follows_the_annotation_and_a_persons_label_stays() {
        let (on, off) = (Some("enabled"), Some("disabled"));
        let set = |value: &str| Some(Change::Set(value.to_owned()));
        for ((annotation, label, mark), expected) in [
            ((None, None, None), None),
            ((on, None, None), set("enabled")),
            ((on, on, on), None),
            ((off, on, on), set("disabled")),
            // A person's label that says otherwise is overruled.
            ((on, off, None), set("enabled")),
            ((off, on, None), set("disabled")),
            // Written by hand, and the same: nothing to do now, and it stays later.
            ((on, on, None), None),
            ((None, on, None), None),
            ((None, on, on), Some(Change::Remove { label: true })),
            ((None, off, on), Some(Change::Remove { label: false })),
            ((None, None, on), Some(Change::Remove { label: false })),
            ((Some("yes"), None, None), None),
            ((Some("yes"), on, on), Some(Change::Remove { label: true })),
        ] {
            let namespace = namespace(annotation, label, mark);
            let found = change(&namespace);
            assert_eq!(found, expected, "{annotation:?} {label:?} {mark:?}");
            // Both forms of the patch do the same, and afterwards there is nothing left to do.
            let Some(found) = found else { continue };
            let mut patched = json!({ "metadata": namespace });
            let mut merged = patched.clone();
            json_patch::patch(&mut patched, &found.json_patch(&namespace)).unwrap();
            json_patch::merge(&mut merged, &found.merge_patch(&namespace));
            let metadata: ObjectMeta = serde_json::from_value(patched["metadata"].clone()).unwrap();
            assert_eq!(serde_json::from_value::<ObjectMeta>(merged["metadata"].clone()).unwrap(), metadata);
            assert_eq!(change(&metadata), None, "{metadata:?}");
        }
    }

    #[test]
    fn who_writes_what_is_overruled_is_told() {
        let (on, off) = (Some("enabled"), Some("disabled"));
        for ((annotation, label, mark), expected) in [
            ((Some("yes"), None, None), "\"yes\" is neither"),
            ((on, off, None), "enabled overrules the label meshctl.io/inject: \"disabled\""),
            ((off, on, None), "disabled overrules"),
            // The annotation was changed by somebody, the label by another.
            ((on, Some("maybe"), on), "overrules the label meshctl.io/inject: \"maybe\""),
        ] {
            let told = warning(&namespace(annotation, label, mark)).unwrap_or_default();
            assert!(told.contains(expected), "{annotation:?} {label:?} {mark:?}: {told}");
        }
        for (annotation, label, mark) in
            [(on, on, None), (on, on, on), (on, None, None), (None, off, None), (off, on, on), (None, on, on)]
        {
            assert_eq!(warning(&namespace(annotation, label, mark)), None, "{annotation:?} {label:?} {mark:?}");
        }
    }

    #[test]
    fn a_persons_label_that_said_the_same_outlives_the_annotation_and_an_overruled_one_does_not() {
        let (on, off) = (Some("enabled"), Some("disabled"));
        for (label, left) in [(on, on), (off, None)] {
            let mut metadata = namespace(on, label, None);
            for _ in 0..2 {
                if let Some(change) = change(&metadata) {
                    let mut patched = json!({ "metadata": metadata });
                    json_patch::merge(&mut patched, &change.merge_patch(&metadata));
                    metadata = serde_json::from_value(patched["metadata"].clone()).unwrap();
                }
                if let Some(annotations) = &mut metadata.annotations {
                    annotations.remove(INJECT);
                }
            }
            let label = metadata.labels.as_ref().and_then(|labels| labels.get(INJECT)).map(String::as_str);
            assert_eq!((label, change(&metadata)), (left, None));
        }
    }

    #[test]
    fn what_is_undone_is_ours_alone() {
        let on = Some("enabled");
        for ((annotation, label, mark), expected) in [
            ((on, on, on), Some(Change::Remove { label: true })),
            ((on, Some("disabled"), on), Some(Change::Remove { label: false })),
            ((on, None, on), Some(Change::Remove { label: false })),
            ((on, on, None), None),
            ((None, None, None), None),
        ] {
            assert_eq!(undo(&namespace(annotation, label, mark)), expected, "{annotation:?} {label:?} {mark:?}");
        }
    }

    #[test]
    fn istios_label_counts_where_ours_says_nothing() {
        let with_istio = |mut metadata: ObjectMeta, value: &str| {
            metadata.labels.get_or_insert_default().insert("istio-injection".to_owned(), value.to_owned());
            change(&metadata)
        };
        let (on, off) = (Some("enabled"), Some("disabled"));
        let set = Some(Change::Set("enabled".to_owned()));
        assert_eq!(with_istio(namespace(None, None, None), "enabled"), set);
        assert_eq!(with_istio(namespace(None, on, on), "enabled"), None);
        assert_eq!(with_istio(namespace(None, off, off), "enabled"), set);
        assert_eq!(with_istio(namespace(None, off, None), "enabled"), None);
        assert_eq!(with_istio(namespace(off, off, off), "enabled"), None);
        assert_eq!(with_istio(namespace(None, None, None), "disabled"), None);
        assert_eq!(with_istio(namespace(None, on, on), "disabled"), Some(Change::Remove { label: true }));
    }

    #[test]
    fn system_namespaces_are_left_alone() {
        let system = ObjectMeta { name: Some("kube-system".to_owned()), ..namespace(Some("enabled"), None, None) };
        assert_eq!(change(&system), None);
    }
}
