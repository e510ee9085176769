//! What was installed, as a ConfigMap beside it: version, values, and every object.
//!
//! `upgrade` takes the values from it, and whoever installs next deletes the objects in it that are no longer wanted. It
//! is written before the first object is made (with all that were and will be), and again when all is done.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use proto::names;
use serde_json::{Map, Value};

use crate::kubernetes::{explain, is_missing};

use super::apply::{MANAGED_BY, MANAGER};
use super::object::{Key, Object};

/// One installation.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Version of the program that installed.
    pub version: String,
    /// Values over the chart's.
    pub values: Value,
    /// Every object there may be.
    pub keys: BTreeSet<Key>,
    /// It went to its end.
    pub complete: bool,
}

impl Record {
    /// The record of a finished installation of `objects`.
    pub fn of(values: &Value, objects: &[Object]) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            values: values.clone(),
            keys: objects.iter().map(|object| object.key.clone()).collect(),
            complete: true,
        }
    }

    /// The same while it is being made over `before`.
    pub fn begun_over(&self, before: Option<&Self>) -> Self {
        let mut begun = self.clone();
        begun.complete = false;
        begun.keys.extend(before.into_iter().flat_map(|before| before.keys.iter().cloned()));
        begun
    }

    /// Objects of this one that `after` does not have, in an order in which they can go. Kinds stay: with them every
    /// object of theirs would go.
    pub fn gone(&self, after: &Self) -> Vec<Key> {
        let gone = self.keys.difference(&after.keys).filter(|key| !is_kept(key));
        gone.cloned().collect()
    }

    /// The record in the cluster, if there is one that can be read.
    pub async fn read(client: &Client) -> anyhow::Result<Option<Self>> {
        match api(client).get_opt(NAME).await {
            Ok(found) => Ok(found.and_then(|found| Self::parse(&found.data.unwrap_or_default()))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => {
                anyhow::bail!("ConfigMap {}/{NAME} cannot be read: {}", names::SYSTEM_NAMESPACE, explain(&error))
            }
        }
    }

    /// Writes it into the cluster.
    pub async fn write(&self, client: &Client) -> anyhow::Result<()> {
        let labels = [(MANAGED_BY, MANAGER), ("app.kubernetes.io/part-of", "mesh")];
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(names::SYSTEM_NAMESPACE.to_owned()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                ..ObjectMeta::default()
            },
            data: Some(self.data()),
            ..ConfigMap::default()
        };
        let written = api(client).patch(NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await;
        written.map(drop).map_err(|error| {
            anyhow::anyhow!("ConfigMap {}/{NAME} cannot be written: {}", names::SYSTEM_NAMESPACE, explain(&error))
        })
    }

    fn data(&self) -> BTreeMap<String, String> {
        let lines: String = self.keys.iter().map(|key| key.to_line() + "\n").collect();
        let values = serde_yaml_ng::to_string(&self.values).expect("values are plain data");
        let data = [
            ("version", self.version.clone()),
            ("values", values),
            ("objects", lines),
            ("complete", self.complete.to_string()),
        ];
        data.map(|(key, value)| (key.to_owned(), value)).into()
    }

    fn parse(data: &BTreeMap<String, String>) -> Option<Self> {
        let text = |key: &str| data.get(key).map(String::as_str);
        let values = serde_yaml_ng::from_str(text("values").unwrap_or_default()).ok();
        Some(Self {
            version: text("version")?.to_owned(),
            values: values.filter(Value::is_object).unwrap_or_else(|| Map::new().into()),
            keys: text("objects")?.lines().filter_map(Key::from_line).collect(),
            complete: text("complete") == Some("true"),
        })
    }
}

/// The namespace holds what others made as well.
fn is_kept(key: &Key) -> bool {
    ["CustomResourceDefinition", "Namespace"].contains(&key.kind.as_str())
}

fn api(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE)
}

/// Name of the ConfigMap.
pub const NAME: &str = "mesh-install";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(names: &[&str]) -> Record {
        let objects: Vec<Object> = names
            .iter()
            .map(|name| {
                let metadata = json!({"namespace": "mesh-system", "name": name});
                Object::new(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata})).unwrap()
            })
            .collect();
        Record::of(&json!({"a": {"b": 1}}), &objects)
    }

    #[test]
    fn it_is_read_back() {
        let record = record(&["a", "b"]);
        assert_eq!(Record::parse(&record.data()), Some(record));
        assert_eq!(Record::parse(&BTreeMap::new()), None);
    }

    #[test]
    fn what_is_no_longer_wanted_goes_even_after_an_interruption() {
        let (old, new) = (record(&["a", "b"]), record(&["b", "c"]));
        let begun = new.begun_over(Some(&old));
        assert!(!begun.complete);
        let names = |keys: Vec<Key>| keys.into_iter().map(|key| key.name).collect::<Vec<_>>();
        assert_eq!(names(old.gone(&new)), ["a"]);
        assert_eq!(names(begun.gone(&new)), ["a"]);
        assert!(new.gone(&new).is_empty());
    }

    #[test]
    fn kinds_and_the_namespace_stay() {
        let objects = super::super::desired(&json!({}), "v1.34.0").unwrap();
        let all = Record::of(&json!({}), &objects);
        let nothing = Record { keys: BTreeSet::new(), ..all.clone() };
        let gone = all.gone(&nothing);
        assert!(gone.iter().all(|key| key.kind != "Namespace" && key.kind != "CustomResourceDefinition"));
        assert!(gone.len() > 20);
    }
}
