//! Templates of a chart to objects, with the part of Helm's functions that our charts use:
//! `include`, `indent`, `nindent`, `toYaml`, `default`, `quote`, `required`, `fail`, `dict`, `semverCompare` (for
//! `>=1.30-0` and the like), and Go's own.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use gotmpl::{MissingKey, Template, TemplateError, Value as GoValue};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::Chart;

/// Who renders, and for which cluster: what templates see as `.Release` and `.Capabilities`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Name of the release.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Who manages it: `Helm` or `meshctl`.
    pub service: String,
    /// Version of the cluster, such as `v1.34.4`.
    pub kube_version: String,
}

/// A template that cannot be rendered, or gives no objects.
#[derive(Debug, thiserror::Error)]
#[error("{chart}/templates/{file}: {problem}")]
pub struct RenderError {
    chart: &'static str,
    file: &'static str,
    problem: String,
}

/// The objects of a chart.
pub fn objects(chart: &Chart, values: &Value, release: &Release) -> Result<Vec<Value>, RenderError> {
    let top = go_value(&json!({
        "Values": values,
        "Release": {
            "Name": release.name, "Namespace": release.namespace, "Service": release.service,
            "IsInstall": true, "IsUpgrade": false, "Revision": 1,
        },
        "Chart": {"Name": chart.name, "Version": VERSION, "AppVersion": VERSION},
        "Capabilities": {"KubeVersion": {"Version": release.kube_version}},
    }));
    let mut objects = Vec::new();
    for (file, source) in chart.templates.iter().filter(|(file, _)| !file.starts_with('_')) {
        let failed = |problem: String| RenderError { chart: chart.name, file, problem };
        let text = text(chart, file, source, &top).map_err(|error| failed(error.to_string()))?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).map_err(|error| failed(error.to_string()))?;
            if !object.is_null() {
                objects.push(object);
            }
        }
    }
    Ok(objects)
}

fn text(chart: &Chart, file: &str, source: &str, top: &GoValue) -> gotmpl::Result<String> {
    let this = Arc::new(OnceLock::<Template>::new());
    let mut template = with_functions(Template::new(file).missing_key(MissingKey::ZeroValue), Arc::downgrade(&this));
    for (_, shared) in chart.templates.iter().filter(|(name, _)| name.starts_with('_')) {
        template = template.parse(shared)?;
    }
    let template = template.parse(source)?;
    this.get_or_init(|| template).execute_to_string(top)
}

fn with_functions(template: Template, this: Weak<OnceLock<Template>>) -> Template {
    template
        .func("include", move |arguments| {
            let [name, data] = arguments else { return Err(wrong("include takes a name and data")) };
            let this = this.upgrade().ok_or_else(|| wrong("include outside of a template"))?;
            let template = this.get().ok_or_else(|| wrong("include outside of a template"))?;
            Ok(text_value(template.execute_template_to_string(&name.to_string(), data)?))
        })
        .func("indent", |arguments| Ok(text_value(indented(arguments)?)))
        .func("nindent", |arguments| Ok(text_value(format!("\n{}", indented(arguments)?))))
        .func("toYaml", |arguments| {
            let [value] = arguments else { return Err(wrong("toYaml takes one value")) };
            let yaml = serde_yaml_ng::to_string(&json_value(value)).map_err(|error| wrong(&error.to_string()))?;
            Ok(text_value(yaml.trim_end_matches('\n').to_owned()))
        })
        .func("default", |arguments| match arguments {
            [default] => Ok(default.clone()),
            [default, given] => Ok(if gotmpl::is_true(given) { given.clone() } else { default.clone() }),
            _ => Err(wrong("default takes a default and a value")),
        })
        .func("quote", |arguments| {
            let given = arguments.iter().filter(|value| !matches!(value, GoValue::Nil));
            let quoted: Vec<String> = given.map(|value| Value::String(value.to_string()).to_string()).collect();
            Ok(text_value(quoted.join(" ")))
        })
        .func("required", |arguments| match arguments {
            [_, value] if !matches!(value, GoValue::Nil) && value.as_str() != Some("") => Ok(value.clone()),
            [message, ..] => Err(wrong(&message.to_string())),
            [] => Err(wrong("required takes a message and a value")),
        })
        .func("fail", |arguments| Err(wrong(&arguments.first().map(ToString::to_string).unwrap_or_default())))
        .func("semverCompare", |arguments| {
            let [constraint, version] = arguments else { return Err(wrong("semverCompare takes two versions")) };
            let constraint = constraint.to_string();
            let oldest = constraint.strip_prefix(">=").and_then(|text| minor(text.strip_suffix("-0")?));
            let oldest = oldest.ok_or_else(|| wrong("semverCompare is understood for >=1.30-0 and the like"))?;
            let version = minor(&version.to_string()).ok_or_else(|| wrong("the cluster's version is none"))?;
            Ok(GoValue::Bool(version >= oldest))
        })
        .func("dict", |arguments| {
            let pairs = arguments.chunks(2).map(|pair| match pair {
                [key, value] => (Arc::from(key.to_string()), value.clone()),
                alone => {
                    (Arc::from(alone.iter().map(ToString::to_string).collect::<String>()), text_value(String::new()))
                }
            });
            Ok(GoValue::Map(Arc::new(pairs.collect())))
        })
}

/// The first two numbers of a version.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn indented(arguments: &[GoValue]) -> gotmpl::Result<String> {
    let [width, text] = arguments else { return Err(wrong("indent takes a width and a text")) };
    let width = width.as_int().and_then(|width| usize::try_from(width).ok()).filter(|width| *width <= 100);
    let blanks = " ".repeat(width.ok_or_else(|| wrong("a width is 0 to 100"))?);
    Ok(format!("{blanks}{}", text.to_string().replace('\n', &format!("\n{blanks}"))))
}

fn wrong(problem: &str) -> TemplateError {
    TemplateError::Exec(problem.to_owned())
}

fn text_value(text: String) -> GoValue {
    GoValue::String(text.into())
}

fn go_value(value: &Value) -> GoValue {
    match value {
        Value::Null => GoValue::Nil,
        Value::Bool(value) => GoValue::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => GoValue::Int(number),
            None => GoValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => GoValue::String(text.as_str().into()),
        Value::Array(items) => GoValue::List(items.iter().map(go_value).collect()),
        Value::Object(map) => {
            let map: BTreeMap<Arc<str>, GoValue> =
                map.iter().map(|(key, value)| (key.as_str().into(), go_value(value))).collect();
            GoValue::Map(Arc::new(map))
        }
    }
}

fn json_value(value: &GoValue) -> Value {
    match value {
        GoValue::Nil | GoValue::Function(_) => Value::Null,
        GoValue::Bool(value) => Value::Bool(*value),
        GoValue::Int(number) => Value::from(*number),
        GoValue::Uint(number) => Value::from(*number),
        GoValue::Float(number) => Value::from(*number),
        GoValue::String(text) => Value::from(&**text),
        GoValue::List(items) => items.iter().map(json_value).collect(),
        GoValue::Map(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.to_string(), json_value(value))).collect())
        }
    }
}

/// Charts carry the version of the program that holds them.
const VERSION: &str = env!("CARGO_PKG_VERSION");
