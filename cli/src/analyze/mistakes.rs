//! [`all`]: every mistake of one document, from a parser that stops at the first.
//!
//! What was found is taken out of a copy, and the copy is read again. A mistake is told if it was in what was written: one that
//! taking something out has made, such as a field that is missing now, is not.

use serde_json::Value;

/// One mistake: path of the field, where that is known, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Path from the object's root; empty where it is the whole object.
    pub field: String,
    /// What is wrong, and how to write it instead.
    pub problem: String,
}

/// The mistakes of `object` after `first`, which `parse` found; itself included.
pub fn all(object: &Value, first: Mistake, parse: impl Fn(&Value) -> Option<Mistake>) -> Vec<Mistake> {
    let mut copy = object.clone();
    let mut taken = Taken::default();
    let mut found = vec![first];
    let mut at = found[0].field.clone();
    for _ in 0..MOST {
        if !taken.take_out(&mut copy, &at) {
            break;
        }
        let Some(next) = parse(&copy) else { break };
        let field = taken.as_written(&next.field);
        if !taken.has_made(&field) && !field.is_empty() {
            found.push(Mistake { field, problem: next.problem });
        }
        at = next.field;
    }
    found
}

/// What was taken out so far.
#[derive(Debug, Default)]
struct Taken {
    /// Fields, as they were written.
    fields: Vec<String>,
    /// Items of lists: the list as it was called at the time, and the place in it.
    items: Vec<(String, usize)>,
}

impl Taken {
    /// Takes a field out; where that was done before, or it is the place of one, the item of a list around it.
    fn take_out(&mut self, object: &mut Value, field: &str) -> bool {
        let written = self.as_written(field);
        if field.is_empty() {
            return false;
        }
        if !self.has_made(&written) && !field.ends_with(']') {
            let done = remove(object, field);
            if done {
                self.fields.push(written);
                return true;
            }
        }
        let Some((list, place)) = innermost_item(field) else { return false };
        let Some(items) = object.pointer_mut(&pointer(list)).and_then(Value::as_array_mut) else { return false };
        if place >= items.len() {
            return false;
        }
        items.remove(place);
        self.fields.push(self.as_written(&format!("{list}[{place}]")));
        self.items.push((list.to_owned(), place));
        true
    }

    /// Whether a mistake there is the work of what was taken out: of a field itself, or of what holds it.
    fn has_made(&self, written: &str) -> bool {
        self.fields.iter().any(|field| {
            field.strip_prefix(written).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// The path before items were taken out of lists.
    fn as_written(&self, field: &str) -> String {
        let mut field = field.to_owned();
        for (list, place) in self.items.iter().rev() {
            let Some((index, rest)) = field
                .strip_prefix(list.as_str())
                .and_then(|rest| rest.strip_prefix('['))
                .and_then(|rest| rest.split_once(']'))
            else {
                continue;
            };
            if let Ok(index) = index.parse::<usize>()
                && index >= *place
            {
                field = format!("{list}[{}]{rest}", index + 1);
            }
        }
        field
    }
}

fn remove(object: &mut Value, field: &str) -> bool {
    let (parent, name) = field.rsplit_once('.').unwrap_or(("", field));
    let parent = object.pointer_mut(&pointer(parent)).and_then(Value::as_object_mut);
    parent.is_some_and(|parent| parent.remove(name).is_some())
}

/// `spec.ports[0].port` -> `spec.ports`, 0.
fn innermost_item(field: &str) -> Option<(&str, usize)> {
    let (list, rest) = field.rsplit_once('[')?;
    Some((list, rest.split_once(']')?.0.parse().ok()?))
}

fn pointer(field: &str) -> String {
    let parts = field.split(['.', '[']).filter(|part| !part.is_empty());
    parts.map(|part| format!("/{}", part.trim_end_matches(']'))).collect()
}

/// Mistakes of one document; more are found when these are mended.
const MOST: usize = 200;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Refuses ports that are no numbers or missing, and an empty list of them; the name has to be there.
    fn parse(object: &Value) -> Option<Mistake> {
        let mistake = |field: String, problem: &str| Some(Mistake { field, problem: problem.to_owned() });
        let ports = object["spec"]["ports"].as_array()?;
        if ports.is_empty() {
            return mistake("spec.ports".to_owned(), "is empty");
        }
        for (index, port) in ports.iter().enumerate() {
            match &port["port"] {
                Value::Null => return mistake(format!("spec.ports[{index}]"), "missing field"),
                Value::Number(_) => {}
                _ => return mistake(format!("spec.ports[{index}].port"), "is no number"),
            }
            if port["name"].as_str().is_some_and(|name| name.contains('_')) {
                return mistake(format!("spec.ports[{index}].name"), "is no name");
            }
        }
        object["spec"]["type"]
            .as_str()
            .filter(|kind| *kind == "x")
            .and_then(|_| mistake("spec.type".to_owned(), "is odd"))
    }

    fn fields(object: &Value) -> Vec<String> {
        let first = parse(object).unwrap();
        all(object, first, parse).into_iter().map(|mistake| mistake.field).collect()
    }

    #[test]
    fn each_is_told_once_and_by_the_path_that_was_written() {
        let object = json!({"spec": {"type": "x", "ports": [
            {"port": "a", "name": "_"}, {"port": 1}, {"port": "b"}, {"port": 2, "name": "a_b"}, {"name": "c"},
        ]}});
        // The name beside a port that had to be taken out with its item is found once the port is mended.
        assert_eq!(
            fields(&object),
            ["spec.ports[0].port", "spec.ports[2].port", "spec.ports[3].name", "spec.ports[4]", "spec.type"]
        );
        // That no port is left is not what was written.
        assert_eq!(fields(&json!({"spec": {"ports": [{"port": "a"}]}})), ["spec.ports[0].port"]);
    }

    #[test]
    fn a_mistake_that_stays_ends_it() {
        let same = |_: &Value| Some(Mistake { field: "spec.type".to_owned(), problem: "no".to_owned() });
        let first = Mistake { field: "spec.type".to_owned(), problem: "no".to_owned() };
        assert_eq!(all(&json!({"spec": {"type": 1}}), first.clone(), same), vec![first.clone()]);
        let nowhere = Mistake { field: String::new(), ..first };
        assert_eq!(all(&json!({}), nowhere.clone(), same), vec![nowhere]);
    }
}
