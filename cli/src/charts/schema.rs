//! Checks values against a chart's JSON schema, as far as our schema goes.
//!
//! A validator of its own because a whole one brings more code than all of `meshctl`; a test sees to it that the schema
//! uses no keyword that is not understood here.

use regex_lite::Regex;
use serde_json::Value;

use super::values::ValuesError;

/// Checks `values`; an empty schema accepts everything.
pub fn check(schema: &str, values: &Value) -> Result<(), ValuesError> {
    if schema.is_empty() {
        return Ok(());
    }
    let schema: Value = serde_json::from_str(schema)
        .map_err(|error| ValuesError::Refused(vec![format!("the chart's schema is broken: {error}")]))?;
    let mut problems = Vec::new();
    Checker { root: &schema, problems: &mut problems }.check(&schema, values, "");
    if problems.is_empty() { Ok(()) } else { Err(ValuesError::Refused(problems)) }
}

struct Checker<'a> {
    root: &'a Value,
    problems: &'a mut Vec<String>,
}

impl Checker<'_> {
    fn check(&mut self, schema: &Value, value: &Value, path: &str) {
        if let Some(name) = schema["$ref"].as_str() {
            let definition = name.strip_prefix("#/definitions/").map(|name| &self.root["definitions"][name]);
            return self.check(&definition.unwrap_or(&Value::Null).clone(), value, path);
        }
        if !schema["type"].is_null() && !is_of_type(&schema["type"], value) {
            let hint = if wants_text(&schema["type"], value) { AS_TEXT } else { "" };
            return self.problem(path, &format!("is {value}, not {}{hint}", types(&schema["type"])));
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            self.problem(path, &format!("is {value}, not one of {}", allowed.join(", ")));
        }
        match value {
            Value::String(text) => self.text(schema, text, path),
            Value::Number(number) => self.number(schema, number.as_f64().unwrap_or(f64::NAN), path),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.check(&schema["items"], item, &format!("{path}[{index}]"));
                }
            }
            Value::Object(map) => {
                for (key, item) in map {
                    let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    match (&schema["properties"][key], &schema["additionalProperties"]) {
                        (Value::Null, Value::Bool(false)) => {
                            let known: Vec<&str> = schema["properties"]
                                .as_object()
                                .into_iter()
                                .flatten()
                                .map(|(key, _)| key.as_str())
                                .collect();
                            self.problem(&inner, &format!("is not known; there are {}", known.join(", ")));
                        }
                        (Value::Null, others) => self.check(others, item, &inner),
                        (property, _) => self.check(property, item, &inner),
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str) {
        let length = text.chars().count() as u64;
        if schema["minLength"].as_u64().is_some_and(|least| length < least) {
            self.problem(path, "is too short");
        }
        if schema["maxLength"].as_u64().is_some_and(|most| length > most) {
            self.problem(path, "is too long");
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && !Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
        {
            let wanted = schema["description"].as_str();
            let wanted = wanted.map_or_else(|| format!("what matches {pattern}"), str::to_owned);
            self.problem(path, &format!("is {text:?}, not {wanted}"));
        }
    }

    fn number(&mut self, schema: &Value, number: f64, path: &str) {
        if schema["minimum"].as_f64().is_some_and(|least| number < least) {
            self.problem(path, &format!("is {number}, less than {}", schema["minimum"]));
        }
        if schema["maximum"].as_f64().is_some_and(|most| number > most) {
            self.problem(path, &format!("is {number}, more than {}", schema["maximum"]));
        }
    }

    fn problem(&mut self, path: &str, problem: &str) {
        let path = if path.is_empty() { "the whole" } else { path };
        self.problems.push(format!("{path} {problem}"));
    }
}

fn is_of_type(types: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    };
    match types {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => false,
    }
}

/// Whether it would be good if it were text.
fn wants_text(types: &Value, value: &Value) -> bool {
    (value.is_number() || value.is_boolean()) && is_of_type(types, &Value::String(String::new()))
}

fn types(types: &Value) -> String {
    match types {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        name => name.as_str().unwrap_or_default().to_owned(),
    }
}

const AS_TEXT: &str = " (give it with --set-string, or in quotes in a file)";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::MESH;
    use super::*;

    #[test]
    fn the_schema_uses_only_what_is_understood() {
        fn walk(schema: &Value, path: &str) {
            let known = [
                "$ref",
                "$schema",
                "title",
                "description",
                "type",
                "enum",
                "items",
                "properties",
                "additionalProperties",
                "minLength",
                "maxLength",
                "pattern",
                "minimum",
                "maximum",
                "definitions",
            ];
            let says_pattern = schema["pattern"].is_string();
            assert!(!says_pattern || schema["description"].is_string(), "{path}: say in words what is wanted");
            for (key, value) in schema.as_object().into_iter().flatten() {
                assert!(known.contains(&key.as_str()), "{path}: {key}");
                match key.as_str() {
                    "properties" | "definitions" => {
                        value.as_object().unwrap().iter().for_each(|(name, inner)| walk(inner, name));
                    }
                    "items" | "additionalProperties" => walk(value, path),
                    "pattern" => drop(Regex::new(value.as_str().unwrap()).unwrap()),
                    _ => {}
                }
            }
        }
        walk(&serde_json::from_str(MESH.schema).unwrap(), "");
    }

    #[test]
    fn problems_name_the_value() {
        for (values, expected) in [
            (json!({"nonsense": 1}), "nonsense is not known"),
            (json!({"controller": {"replicas": 0}}), "controller.replicas is 0, less than 1"),
            (json!({"controller": {"replicas": "2"}}), "controller.replicas is \"2\", not integer"),
            (json!({"controller": {"replicas": 1.5}}), "not integer"),
            (json!({"image": {"pullPolicy": "Sometimes"}}), "not one of Always, IfNotPresent, Never"),
            (json!({"imagePullSecrets": ["a", 7]}), "imagePullSecrets[1] is 7, not string"),
            (json!({"controlPlane": {"nodeSelector": {"a": true}}}), "controlPlane.nodeSelector.a is true, not string"),
            (json!({"proxy": {"resources": {"requests": {"cpu": "lots"}}}}), "proxy.resources.requests.cpu"),
            (
                json!({"proxy": {"drainDelay": "soon"}}),
                "proxy.drainDelay is \"soon\", not a time such as 500ms, 2s or 1m, of at most an hour",
            ),
            (
                json!({"proxy": {"skipInboundPorts": 99}}),
                "skipInboundPorts is 99, not string (give it with --set-string, or in quotes in a file)",
            ),
            (json!({"proxy": {"skipOutboundSubnets": "foo"}}), "not networks such as 10.0.0.0/8"),
            (json!({"proxy": {"skipInboundPorts": "65536"}}), "not ports from 1 to 65535"),
            (json!({"proxy": {"skipInboundPorts": "0-3"}}), "not ports from 1 to 65535"),
            (json!({"proxy": {"skipInboundPorts": "99999-100000"}}), "not ports from 1 to 65535"),
            (json!({"proxy": {"logLevel": "loud!!"}}), "not a log filter such as info"),
            (json!({"proxy": {"drainDelay": "61m"}}), "not a time"),
            (json!({"proxy": {"drainDelay": "3000m"}}), "not a time"),
            (json!({"proxy": {"drainDelay": "3601s"}}), "not a time"),
            (json!({"identity": {"leafLifetime": "1s"}}), "not a time such as 90m or 24h, from 5s to 8760h"),
            (json!({"identity": {"leafLifetime": "6000ms"}}), "not a time such as 90m or 24h"),
            (json!({"image": {"registry": "a$b"}}), "not where images are"),
            (json!([]), "the whole is [], not object"),
        ] {
            let error = check(MESH.schema, &values).unwrap_err().to_string();
            assert!(error.contains(expected), "{values}: {error}");
        }
        let good =
            json!({"controlPlane": {"nodeSelector": {"a": "b"}}, "proxy": {"resources": {"limits": {"cpu": 1}}}});
        check(MESH.schema, &good).unwrap();
    }
}
