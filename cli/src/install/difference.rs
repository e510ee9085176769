//! What would change in an object, path by path.

use serde_json::Value;

/// The differences between two objects as `path: before -> after`, without what the API server keeps for itself.
pub fn between(before: &Value, after: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    walk(&meant(before), &meant(after), "", &mut lines);
    lines
}

/// An object without what moves by itself.
fn meant(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
        if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            for own in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"] {
                metadata.remove(own);
            }
        }
    }
    object
}

fn walk(before: &Value, after: &Value, path: &str, lines: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(left), Value::Object(right)) => {
            for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(left.get(key).unwrap_or(&Value::Null), right.get(key).unwrap_or(&Value::Null), &inner, lines);
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            for index in 0..left.len().max(right.len()) {
                let item = |list: &[Value]| list.get(index).cloned().unwrap_or(Value::Null);
                walk(&item(left), &item(right), &format!("{path}[{index}]"), lines);
            }
        }
        (left, right) if left != right => lines.push(format!("{path}: {} -> {}", shown(left), shown(right))),
        _ => {}
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => return "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = crate::table::one_line(&text);
    if text.chars().count() <= LONGEST {
        return text;
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{start}…")
}

const LONGEST: usize = 60;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_meant_counts() {
        let before = json!({"metadata": {"name": "a", "generation": 1, "resourceVersion": "7"}, "status": {"a": 1},
            "spec": {"replicas": 1, "args": ["a", "b"], "gone": true}});
        let after = json!({"metadata": {"name": "a", "generation": 2, "resourceVersion": "8"},
            "spec": {"replicas": 3, "args": ["a", "c", "d"]}});
        assert_eq!(
            between(&before, &after),
            [
                "spec.args[1]: b -> c",
                "spec.args[2]: nothing -> d",
                "spec.gone: true -> nothing",
                "spec.replicas: 1 -> 3"
            ]
        );
        assert!(between(&before, &before).is_empty());
    }
}
