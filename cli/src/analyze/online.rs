//! What is analyzed of a cluster: everything of one namespace or of all, and what its routes may name elsewhere.

use injector::Config;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, Resource};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use proto::names;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::judge::Known;
use super::source::Source;
use crate::kubernetes::{Cluster, explain, is_missing};
use crate::transport::port_forward::all;

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// Objects.
    pub sources: Vec<Source>,
    /// What is known beside them.
    pub known: Known,
    /// Kinds that may not be read, and why, one sentence each.
    pub not_read: Vec<String>,
}

/// Reads it. What may not be read in all namespaces is read in the one asked for, and kinds that may not be read at all are
/// left out and told.
pub async fn read(cluster: &Cluster, namespace: Option<&str>) -> anyhow::Result<Read> {
    let client = &cluster.client;
    let (services, config, namespaces) =
        tokio::join!(services(client, namespace), config(client), namespaces(client, namespace));
    let (mut sources, incomplete) = services?;
    sources.extend(namespaces?);
    let mut not_read = Vec::new();
    let mut allowed = |read: Result<Vec<Source>, kube::Error>| -> anyhow::Result<bool> {
        match read {
            Ok(read) => sources.extend(read),
            Err(error) if is_forbidden(&error) => not_read.push(explain(&error)),
            Err(error) => anyhow::bail!("{}", explain(&error)),
        }
        Ok(not_read.is_empty())
    };
    let endpoints = allowed(listed::<EndpointSlice>(client, namespace).await)?;
    allowed(listed::<Pod>(client, namespace).await)?;
    allowed(listed::<Deployment>(client, namespace).await)?;
    allowed(listed::<StatefulSet>(client, namespace).await)?;
    allowed(listed::<DaemonSet>(client, namespace).await)?;
    allowed(listed::<Job>(client, namespace).await)?;
    allowed(listed::<CronJob>(client, namespace).await)?;
    allowed(custom(client, namespace, &ApiResource::erase::<crd::GatewayRoute>(&())).await)?;
    allowed(custom(client, namespace, &ApiResource::erase::<crd::ExternalWorkload>(&())).await)?;
    Ok(Read { sources, known: Known { config, incomplete, endpoints }, not_read })
}

/// Services of all namespaces, for routes may name them, or of one where no more may be read, and why that is not all.
async fn services(client: &Client, namespace: Option<&str>) -> anyhow::Result<(Vec<Source>, Option<&'static str>)> {
    let everywhere = all(&Api::<Service>::all(client.clone())).await;
    match (everywhere, namespace) {
        (Ok(services), _) => {
            // Endpoints were read in one namespace only: elsewhere nothing can be said of who serves.
            let without_selector = |mut service: Service| {
                let of = service.metadata.namespace.as_deref();
                if namespace.is_some_and(|namespace| of != Some(namespace))
                    && let Some(spec) = &mut service.spec
                {
                    spec.selector = None;
                }
                service
            };
            Ok((services.into_iter().map(without_selector).filter_map(|it| source(&it)).collect(), None))
        }
        (Err(_), Some(namespace)) => {
            let why = "unless it is in a namespace that you may not read";
            let own = listed::<Service>(client, Some(namespace)).await;
            Ok((own.map_err(|error| anyhow::anyhow!("{}", explain(&error)))?, Some(why)))
        }
        (Err(error), None) => anyhow::bail!("{}; name one namespace with --namespace", explain(&error)),
    }
}

/// With their annotations; none where not even the one asked for may be read.
async fn namespaces(client: &Client, namespace: Option<&str>) -> anyhow::Result<Vec<Source>> {
    let api = Api::<Namespace>::all(client.clone());
    let Some(name) = namespace else {
        let found = all(&api).await.map_err(|error| anyhow::anyhow!("{}", explain(&error)))?;
        return Ok(found.iter().filter_map(source_of_cluster).collect());
    };
    match api.get_opt(name).await {
        Ok(Some(namespace)) => Ok(source_of_cluster(&namespace).into_iter().collect()),
        Ok(None) => anyhow::bail!("there is no namespace {name}"),
        Err(_) => Ok(Vec::new()),
    }
}

/// What the mesh injects with; the chart's own where there is no mesh, or nobody may read it.
async fn config(client: &Client) -> Config {
    let api = Api::<ConfigMap>::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let found = api.get_opt(names::CONFIG_CONFIG_MAP).await.ok().flatten();
    let yaml = found.and_then(|map| map.data?.remove(names::CONFIG_KEY));
    yaml.and_then(|yaml| Config::parse(&yaml).ok()).unwrap_or_default()
}

async fn listed<K>(client: &Client, namespace: Option<&str>) -> Result<Vec<Source>, kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope>
        + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    Ok(all(&api).await?.iter().filter_map(source).collect())
}

/// Objects of a kind that the cluster may not have.
async fn custom(client: &Client, namespace: Option<&str>, kind: &ApiResource) -> Result<Vec<Source>, kube::Error> {
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        None => Api::all_with(client.clone(), kind),
    };
    match all(&api).await {
        Ok(found) => Ok(found
            .iter()
            .filter_map(|object| with_kind(serde_json::to_value(object).ok()?, &kind.api_version, &kind.kind))
            .collect()),
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

fn source<K: Resource<Scope = NamespaceResourceScope> + Serialize>(object: &K) -> Option<Source> {
    with_kind(serde_json::to_value(object).ok()?, K::API_VERSION, K::KIND)
}

fn source_of_cluster<K: Resource<Scope = ClusterResourceScope> + Serialize>(object: &K) -> Option<Source> {
    with_kind(serde_json::to_value(object).ok()?, K::API_VERSION, K::KIND)
}

/// The API server leaves the kind out of the items of a list.
fn with_kind(mut object: Value, api_version: &str, kind: &str) -> Option<Source> {
    let fields = object.as_object_mut()?;
    fields.insert("apiVersion".to_owned(), api_version.into());
    fields.insert("kind".to_owned(), kind.into());
    Some(Source::of_cluster(object))
}
