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
        (Value::String(left), Value::String(right))
            if left != right && (left.contains('\n') || right.contains('\n')) =>
        {
            texts(left, right, path, lines);
        }
        (left, right) if left != right => lines.push(format!("{path}: {} -> {}", shown(left), shown(right))),
        _ => {}
    }
}

/// Lines of a text that are gone (`-`), and those that are new (`+`), in the order of the text.
fn texts(before: &str, after: &str, path: &str, lines: &mut Vec<String>) {
    let (left, right): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let same = left.iter().zip(&right).take_while(|(left, right)| left == right).count();
    let (left, right) = (&left[same..], &right[same..]);
    let tail = left.iter().rev().zip(right.iter().rev()).take_while(|(left, right)| left == right).count();
    let (left, right) = (&left[..left.len() - tail], &right[..right.len() - tail]);
    if left.len().max(right.len()) > MOST_LINES {
        lines.push(format!("{path}: {} lines -> {} lines", left.len(), right.len()));
        return;
    }
    // common[i][j]: the longest common part of what is left from line i here and line j there.
    let mut common = vec![vec![0_u16; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            common[i][j] =
                if left[i] == right[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < left.len() || j < right.len() {
        if i < left.len() && j < right.len() && left[i] == right[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == right.len() || (i < left.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("{path}: - {}", shown(&left[i].trim().into())));
            i += 1;
        } else {
            lines.push(format!("{path}: + {}", shown(&right[j].trim().into())));
            j += 1;
        }
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
/// Of a text, between its first and last different line.
const MOST_LINES: usize = 500;

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

    #[test]
    fn a_text_is_told_line_by_line() {
        let before = json!({"data": {"config.yaml": "a: 1\nproxy:\n  logLevel: info\n  workers: 1\nz: 1\n"}});
        let after = json!({"data": {"config.yaml": "a: 1\nproxy:\n  logLevel: debug\n  workers: 1\nz: 2\nlast: 1\n"}});
        assert_eq!(
            between(&before, &after),
            [
                "data.config.yaml: - logLevel: info",
                "data.config.yaml: + logLevel: debug",
                "data.config.yaml: - z: 1",
                "data.config.yaml: + z: 2",
                "data.config.yaml: + last: 1",
            ]
        );
        let long = |letter: &str| json!({"a": format!("{letter}\n").repeat(501)});
        assert_eq!(between(&long("x"), &long("y")), ["a: 501 lines -> 501 lines"]);
        assert_eq!(between(&json!({"a": "x"}), &json!({"a": "y\nz"})), ["a: - x", "a: + y", "a: + z"]);
    }
}
