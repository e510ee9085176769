//! Values of a chart: files and `--set` over the chart's own, as Helm merges them.
//!
//! Maps are merged key by key, everything else is replaced, and `null` takes a default away.

use serde_json::{Map, Value};

/// Values that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ValuesError {
    /// A file that is no map in YAML.
    #[error("{name} is not a file of values: {problem}")]
    File {
        /// Which.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {text:?}: {problem}")]
    Set {
        /// As given.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// The schema says no, or the program that would read them.
    #[error("these values cannot be used: {}", .0.join("; "))]
    Refused(Vec<String>),
}

/// Reads a file of values; an empty one is a map without keys.
pub fn read(name: &str, text: &str) -> Result<Value, ValuesError> {
    let broken = |problem: String| ValuesError::File { name: name.to_owned(), problem };
    match serde_yaml_ng::from_str(text).map_err(|error| broken(error.to_string()))? {
        Value::Null => Ok(Value::Object(Map::new())),
        map @ Value::Object(_) => Ok(map),
        _ => Err(broken("it holds no keys with values".to_owned())),
    }
}

/// Lays `over` over `values`; `null` stays, so that it can still take a default away.
pub fn merge(values: &mut Value, over: Value) {
    match (values, over) {
        (Value::Object(values), Value::Object(over)) => {
            for (key, value) in over {
                merge(values.entry(key).or_insert(Value::Null), value);
            }
        }
        (values, over) => *values = over,
    }
}

/// A chart's own values with `overrides` laid over them.
pub fn over_defaults(defaults: &str, overrides: &Value) -> Result<Value, ValuesError> {
    let mut values = read("values.yaml of the chart", defaults)?;
    merge(&mut values, overrides.clone());
    without_nulls(&mut values);
    Ok(values)
}

fn without_nulls(values: &mut Value) {
    if let Value::Object(map) = values {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(without_nulls);
    }
}

/// Puts what one `--set` says into `values`: `a.b=1,c[0].d=x,e={p,q}`, with `\` before a character that is meant as
/// itself. `true`, `false`, `null` and whole numbers are what they look like, everything else is text; with `as_text` all
/// of it is.
pub fn set(values: &mut Value, text: &str, as_text: bool) -> Result<(), ValuesError> {
    let mut parser = Parser { rest: text, as_text };
    while !parser.rest.is_empty() {
        let comma = if parser.rest.len() < text.len() {
            r"; a comma begins the next key: one within a value is written \, as in 'a=1\,2' (with the quotes, for the shell)"
        } else {
            ""
        };
        parser
            .assignment(values, 0)
            .map_err(|problem| ValuesError::Set { text: text.to_owned(), problem: problem + comma })?;
    }
    Ok(())
}

struct Parser<'a> {
    rest: &'a str,
    as_text: bool,
}

impl Parser<'_> {
    /// One `key=value` below `target`, up to and with the comma behind it.
    fn assignment(&mut self, target: &mut Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} levels deep"));
        }
        let (key, stop) = self.until(&['=', '[', ',', '.']);
        if key.is_empty() {
            return Err("a key is empty".to_owned());
        }
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        let Value::Object(map) = target else { return Err("a key is inside of no map".to_owned()) };
        let slot = map.entry(key.clone());
        match stop {
            Some('=') => {
                let value = self.value();
                *slot.or_insert(Value::Null) = value;
                Ok(())
            }
            Some('.') => self.assignment(slot.or_insert(Value::Null), depth + 1),
            Some('[') => self.item(slot.or_insert(Value::Null), depth + 1),
            _ => Err(format!("key {key:?} has no value; write {key}=VALUE")),
        }
    }

    /// What follows `[`: an index, and what is to be there.
    fn item(&mut self, target: &mut Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} levels deep"));
        }
        let (index, stop) = self.until(&[']']);
        let index: usize = index.parse().map_err(|_| format!("{index:?} is not an index"))?;
        if stop.is_none() || index > MAX_INDEX {
            return Err(format!("an index ends with ] and is at most {MAX_INDEX}"));
        }
        if !target.is_array() {
            *target = Value::Array(Vec::new());
        }
        let Value::Array(list) = target else { return Err("an index is into no list".to_owned()) };
        if list.len() <= index {
            list.resize(index + 1, Value::Null);
        }
        let next = self.rest.chars().next();
        self.rest = self.rest.get(1..).unwrap_or_default();
        match next {
            Some('=') => list[index] = self.value(),
            Some('.') => self.assignment(&mut list[index], depth + 1)?,
            Some('[') => self.item(&mut list[index], depth + 1)?,
            _ => return Err("after ] comes =, . or [".to_owned()),
        }
        Ok(())
    }

    fn value(&mut self) -> Value {
        if let Some(rest) = self.rest.strip_prefix('{') {
            self.rest = rest;
            return self.list();
        }
        let (text, _) = self.until(&[',']);
        self.typed(text)
    }

    fn list(&mut self) -> Value {
        let mut list = Vec::new();
        loop {
            let (text, stop) = self.until(&[',', '}']);
            let end = stop != Some(',');
            if !(end && text.is_empty() && list.is_empty()) {
                list.push(self.typed(text));
            }
            if end {
                self.rest = self.rest.strip_prefix(',').unwrap_or(self.rest);
                return Value::Array(list);
            }
        }
    }

    fn typed(&self, text: String) -> Value {
        match text.as_str() {
            _ if self.as_text => Value::String(text),
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            "0" => Value::from(0),
            // 007 is somebody's name for something, not seven.
            digits if digits.starts_with(['0', '+']) => Value::String(text),
            digits => digits.parse::<i64>().map_or(Value::String(text), Value::from),
        }
    }

    /// Text up to one of `stops`, without escapes, and which it was.
    fn until(&mut self, stops: &[char]) -> (String, Option<char>) {
        let mut text = String::new();
        let mut letters = self.rest.char_indices();
        while let Some((at, letter)) = letters.next() {
            if letter == '\\' {
                text.extend(letters.next().map(|(_, escaped)| escaped));
            } else if stops.contains(&letter) {
                self.rest = &self.rest[at + letter.len_utf8()..];
                return (text, Some(letter));
            } else {
                text.push(letter);
            }
        }
        self.rest = "";
        (text, None)
    }
}

const MAX_DEPTH: usize = 30;
/// As Helm: a slip of the finger does not take all memory.
const MAX_INDEX: usize = 65_536;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_comma_in_a_value_is_told_how_to_write() {
        let mut values = Value::Object(Map::new());
        let told = set(&mut values, "proxy.skipInboundPorts=22,23", false).unwrap_err().to_string();
        assert!(told.contains(r"'a=1\,2'"), "{told}");
        let other = set(&mut values, "proxy", false).unwrap_err().to_string();
        assert!(!other.contains("comma"), "{other}");
        set(&mut values, r"proxy.skipInboundPorts=22\,23", false).unwrap();
        assert_eq!(values["proxy"]["skipInboundPorts"], "22,23");
    }

    #[test]
    fn set_as_helm_reads_it() {
        for (text, expected) in [
            ("a=1", json!({"a": 1})),
            ("a=-1", json!({"a": -1})),
            ("a=0,b=007,c=1.5,d=0x1f", json!({"a": 0, "b": "007", "c": "1.5", "d": "0x1f"})),
            ("a=true,b=false,c=null,d=", json!({"a": true, "b": false, "c": null, "d": ""})),
            ("a.b.c=x,a.d=y", json!({"a": {"b": {"c": "x"}, "d": "y"}})),
            ("a={x,2,true}", json!({"a": ["x", 2, true]})),
            ("a={},b=1", json!({"a": [], "b": 1})),
            ("a={x}", json!({"a": ["x"]})),
            ("a[0]=x,a[2]=y", json!({"a": ["x", null, "y"]})),
            ("a[0].b=x,a[0].c=1", json!({"a": [{"b": "x", "c": 1}]})),
            ("a[0][1]=x", json!({"a": [[null, "x"]]})),
            (r"a\.b=x\,y", json!({"a.b": "x,y"})),
            (r"nodeSelector.kubernetes\.io/role=master", json!({"nodeSelector": {"kubernetes.io/role": "master"}})),
            ("a=b=c", json!({"a": "b=c"})),
            ("a=x y", json!({"a": "x y"})),
            ("", json!({})),
        ] {
            let mut values = json!({});
            set(&mut values, text, false).unwrap();
            assert_eq!(values, expected, "{text}");
        }
        let mut values = json!({"a": {"b": 1}});
        set(&mut values, "a.b=2,a.c=true", true).unwrap();
        assert_eq!(values, json!({"a": {"b": "2", "c": "true"}}));
    }

    #[test]
    fn set_says_what_is_wrong() {
        for text in
            ["a", "a,b=1", "=1", "a.=1", "a[x]=1", "a[0", "a[0]", "a[0]b=1", "a[99999999]=1", "a[-1]=1", "a[0]é=1"]
        {
            assert!(set(&mut json!({}), text, false).is_err(), "{text}");
        }
        assert!(set(&mut json!({}), &format!("{}x=1", "a.".repeat(100_000)), false).is_err());
        assert!(set(&mut json!({}), &format!("a{}=1", "[0]".repeat(100_000)), false).is_err());
    }

    #[test]
    fn files_are_laid_over_the_defaults() {
        let mut overrides = read("a.yaml", "a: {b: 2}\nlist: [3]\ngone: null").unwrap();
        merge(&mut overrides, read("b.yaml", "a: {c: 4}").unwrap());
        let values = over_defaults("a: {a: 0, b: 0}\nlist: [1, 2]\ngone: {x: 1}\nleft: true", &overrides).unwrap();
        assert_eq!(values, json!({"a": {"a": 0, "b": 2, "c": 4}, "list": [3], "left": true}));
        assert_eq!(read("empty.yaml", "").unwrap(), json!({}));
        assert!(read("list.yaml", "- a").unwrap_err().to_string().contains("list.yaml"));
        assert!(read("broken.yaml", "a: [").is_err());
    }
}
