//! [`Readable`]: an object of which at least the metadata is known, so that one that our types can't read does not take a
//! whole list with it.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::Value;

/// An object as the API server sent it.
#[derive(Debug, Clone)]
pub(crate) struct Readable<K> {
    metadata: ObjectMeta,
    /// Or why it can't be read.
    object: Result<K, String>,
}

impl<K> Readable<K> {
    /// The object, or what is wrong with it.
    pub(crate) fn read(&self) -> Result<&K, String> {
        self.object.as_ref().map_err(Clone::clone)
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Readable<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        // Even of metadata as much as can be had: name, namespace and version are texts.
        let metadata = ObjectMeta::deserialize(&value["metadata"]).unwrap_or_else(|_| {
            let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
            let (name, namespace) = (text("name"), text("namespace"));
            ObjectMeta { name, namespace, resource_version: text("resourceVersion"), ..ObjectMeta::default() }
        });
        let object = K::deserialize(value.take()).map_err(|error| format!("cannot be read: {error}"));
        Ok(Self { metadata, object })
    }
}

impl<K: Resource> Resource for Readable<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn one_that_is_broken_keeps_its_name_and_version() {
        let read = |value: Value| serde_json::from_value::<Readable<Service>>(value).unwrap();
        let good = read(json!({ "metadata": { "name": "web" }, "spec": { "ports": [{ "port": 80 }] } }));
        assert!(good.read().unwrap().spec.is_some());
        let metadata = json!({ "name": "web", "namespace": "shop", "resourceVersion": "7", "labels": 5 });
        for broken in [
            json!({ "metadata": metadata, "spec": {} }),
            json!({ "metadata": { "name": "web", "namespace": "shop", "resourceVersion": "7" }, "spec": { "ports": "all" } }),
        ] {
            let broken = read(broken);
            assert!(broken.read().unwrap_err().contains("cannot be read"));
            assert_eq!((broken.name_any().as_str(), broken.namespace().as_deref()), ("web", Some("shop")));
            assert_eq!(broken.resource_version().as_deref(), Some("7"));
        }
        assert!(read(json!("nothing")).read().is_err());
    }
}
