//! What the checks look at, fetched from the API server. Nothing is decided here.

use std::future::Future;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, Node, Pod, PodSpec, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::client::Body;
use kube::{Client, ResourceExt as _};
use proto::names;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::exposition;
use crate::install::object::Object;
use crate::install::preflight;
use crate::kubernetes::{Cluster, explain};
use crate::transport::TransportError;
use crate::transport::port_forward::{PortForward, all, is_meshed};

use super::before::{self, Before};
use super::installed::Installed;
use super::trust::Validity;

/// What was fetched, or in one sentence why not.
pub type Fetched<T> = Result<T, String>;

/// What came of asking the API server to admit a pod that wants to be injected, without creating it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Where.
    pub namespace: String,
    /// The pod that it would have created has a sidecar.
    pub injected: bool,
    /// How long the API server took, milliseconds.
    pub took_ms: u64,
}

/// What a replica of the control plane says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replica {
    /// Its pod.
    pub pod: String,
    /// Why it is not ready, or not to be asked; nothing where it is well.
    pub unready: Option<String>,
    /// Milliseconds since its sources were last known to be live, where it has any.
    pub source_age_ms: Option<u64>,
    /// The certificate it signs with, where it signs.
    pub issuer: Option<Validity>,
    /// Kinds whose watch stood still, and how often each was listed anew for it.
    pub stood_still: Vec<(String, u64)>,
    /// Milliseconds since its program began.
    pub runs_ms: Option<u64>,
}

/// Everything that `check --pre` looks at, where these objects would be installed.
pub async fn before(cluster: &Cluster, desired: &[Object]) -> Before {
    let client = &cluster.client;
    let (date_ms, rights, gateway, namespaces, nodes, leases, installed) = tokio::join!(
        date_ms(client),
        preflight::missing(client, desired),
        one(Api::<CustomResourceDefinition>::all(client.clone()), before::HTTP_ROUTES),
        listed::<Namespace>(Api::all(client.clone())),
        listed::<Node>(Api::all(client.clone())),
        listed::<Lease>(Api::namespaced(client.clone(), NODE_LEASES)),
        one(Api::<Deployment>::namespaced(client.clone(), names::SYSTEM_NAMESPACE), names::CONTROLLER_ACCOUNT),
    );
    Before {
        server: cluster.server.clone(),
        version: cluster.version.git_version.clone(),
        minor_version: cluster.minor_version(),
        now_ms: crate::now_ms(),
        date_ms,
        rights: rights.map_err(|error| error.to_string()),
        gateway,
        namespaces,
        nodes,
        leases,
        installed,
    }
}

/// Everything that `check` looks at.
pub async fn installed(cluster: &Cluster) -> Installed {
    let client = &cluster.client;
    let system = names::SYSTEM_NAMESPACE;
    let bundles = ListParams::default().fields(&format!("metadata.name={}", names::BUNDLE_CONFIG_MAP));
    let (deployments, leases, issuer, webhook, endpoints, kinds, gateway) = tokio::join!(
        listed::<Deployment>(Api::namespaced(client.clone(), system)),
        listed::<Lease>(Api::namespaced(client.clone(), system)),
        issuer(client),
        one(Api::<MutatingWebhookConfiguration>::all(client.clone()), names::WEBHOOK_CONFIGURATION),
        listed::<EndpointSlice>(Api::namespaced(client.clone(), system)),
        kinds(client),
        one(Api::<CustomResourceDefinition>::all(client.clone()), before::HTTP_ROUTES),
    );
    let config_maps: Api<ConfigMap> = Api::all(client.clone());
    let (config, bundles, namespaces, pods, date_ms) = tokio::join!(
        one(Api::<ConfigMap>::namespaced(client.clone(), system), names::CONFIG_CONFIG_MAP),
        said(async { config_maps.list(&bundles).await.map(|list| list.items) }),
        listed::<Namespace>(Api::all(client.clone())),
        listed::<Pod>(Api::all(client.clone())),
        date_ms(client),
    );
    // One that is being deleted takes no new pod and no bundle, and needs none.
    let namespaces = namespaces.map(|mut all| {
        all.retain(|namespace| namespace.metadata.deletion_timestamp.is_none());
        all
    });
    let (trial, replicas) = tokio::join!(
        trial(client, namespaces.as_deref().unwrap_or_default()),
        replicas(client, pods.as_deref().unwrap_or_default()),
    );
    Installed {
        // Leases and certificates are judged by the cluster's clock where it tells the time.
        now_ms: date_ms.unwrap_or_else(|_| crate::now_ms()),
        deployments,
        leases,
        issuer,
        webhook,
        endpoints,
        kinds,
        gateway,
        config,
        replicas,
        bundles,
        namespaces,
        pods,
        trial,
    }
}

/// The part of it that one namespace holds.
pub async fn of_namespace(cluster: &Cluster, namespace: &str) -> Installed {
    let client = &cluster.client;
    let elsewhere = || "it is in another namespace".to_owned();
    let (found, pods, bundle, date_ms) = tokio::join!(
        one(Api::<Namespace>::all(client.clone()), namespace),
        listed::<Pod>(Api::namespaced(client.clone(), namespace)),
        one(Api::<ConfigMap>::namespaced(client.clone(), namespace), names::BUNDLE_CONFIG_MAP),
        date_ms(client),
    );
    let namespaces = match found {
        Ok(Some(found)) => Ok(vec![found]),
        Ok(None) => Err(format!("there is no namespace {namespace}")),
        Err(why) => Err(why),
    };
    let trial = trial(client, namespaces.as_deref().unwrap_or_default()).await;
    Installed {
        now_ms: date_ms.unwrap_or_else(|_| crate::now_ms()),
        deployments: Err(elsewhere()),
        leases: Err(elsewhere()),
        issuer: Err(elsewhere()),
        webhook: Err(elsewhere()),
        endpoints: Err(elsewhere()),
        kinds: Vec::new(),
        gateway: Err(elsewhere()),
        config: Err(elsewhere()),
        replicas: Vec::new(),
        bundles: bundle.map(|bundle| bundle.into_iter().collect()),
        namespaces,
        pods,
        trial,
    }
}

/// Asks every running pod of the control plane on its health port.
async fn replicas(client: &Client, pods: &[Pod]) -> Vec<Replica> {
    let way = PortForward::new(client.clone(), None);
    let ours = pods.iter().filter(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        super::installed::is_component(pod) && phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
    });
    let each = ours.map(|pod| {
        let (way, name) = (way.clone(), pod.name_any());
        async move {
            let address = format!("{}/{name}", names::SYSTEM_NAMESPACE);
            let port = names::CONTROL_HEALTH_PORT;
            let unready = match way.get_port(&address, port, "/ready").await {
                Ok(_) => None,
                Err(TransportError::Status { body, .. }) => Some(body),
                Err(error) => Some(error.to_string()),
            };
            let metrics = way.get_port(&address, port, "/metrics").await.unwrap_or_default();
            let text = String::from_utf8_lossy(&metrics).into_owned();
            let samples = exposition::parse(&text, &[SOURCE_AGE, ISSUER_BEGIN, ISSUER_END, super::watches::RESTARTS]);
            let samples = samples.unwrap_or_default();
            let milliseconds = |metric: &str| {
                let sample = samples.iter().find(|sample| sample.name == metric)?;
                let time = Duration::try_from_secs_f64(sample.value).ok()?;
                Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
            };
            let end = milliseconds(ISSUER_END).filter(|end| *end > 0);
            let issuer = end.map(|end| Validity::new(milliseconds(ISSUER_BEGIN).unwrap_or(0), end));
            let runs_ms = super::watches::runs_ms(pod, crate::now_ms());
            let stood_still = super::watches::stood_still(&samples);
            Replica { pod: name, unready, source_age_ms: milliseconds(SOURCE_AGE), issuer, stood_still, runs_ms }
        }
    });
    stream::iter(each).buffered(AT_ONCE).collect().await
}

/// Whether the issuer's Secret is there. What is in it is nobody's business: with the certificate would come the key.
async fn issuer(client: &Client) -> Fetched<bool> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    said(async { secrets.get_metadata_opt(names::ISSUER_SECRET).await.map(|found| found.is_some()) }).await
}

async fn said<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Fetched<T> {
    call.await.map_err(|error| explain(&error))
}

async fn one<K>(api: Api<K>, name: &str) -> Fetched<Option<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    said(api.get_opt(name)).await
}

async fn listed<K>(api: Api<K>) -> Fetched<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    said(all(&api)).await
}

/// The time in an answer's head, halfway between asking and hearing so that a slow way does not look like a wrong clock: how
/// far the API server's clock is from ours is added to our time now.
async fn date_ms(client: &Client) -> Fetched<u64> {
    let request = http_request("/version")?;
    let before = crate::now_ms();
    let answer = client.send(request).await.map_err(|error| explain(&error))?;
    let middle = u64::midpoint(before, crate::now_ms());
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok()).ok_or("its answers have no Date")?;
    let told = k8s_openapi::jiff::fmt::rfc2822::parse(date).map_err(|error| format!("its Date is odd: {error}"))?;
    // A Date has whole seconds, cut off: on average half of one is missing.
    let told = u64::try_from(told.timestamp().as_millisecond()).unwrap_or(0) + 500;
    Ok((told + crate::now_ms()).saturating_sub(middle))
}

fn http_request(path: &str) -> Fetched<hyper::Request<Body>> {
    hyper::Request::get(path).body(Body::empty()).map_err(|error| error.to_string())
}

/// Our kinds that the API server has, established or not.
async fn kinds(client: &Client) -> Vec<(&'static str, Fetched<Option<CustomResourceDefinition>>)> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let each = super::installed::KINDS.iter().map(|name| {
        let api = api.clone();
        async move { (*name, said(api.get_opt(name)).await) }
    });
    stream::iter(each).buffered(AT_ONCE).collect().await
}

/// Asks the API server to admit a pod as if it were created: its webhook, the way there and its certificate are all real, and
/// nothing is stored.
async fn trial(client: &Client, namespaces: &[Namespace]) -> Fetched<Trial> {
    let namespace = super::injection::opted_in(namespaces).into_iter().next();
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let word = [(names::INJECT.to_owned(), "enabled".to_owned())];
    let pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some("meshctl-check-".to_owned()),
            annotations: Some(word.clone().into()),
            // The webhook's selectors see labels only.
            labels: Some(word.into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "check".to_owned(),
                image: Some("meshctl.io/check".to_owned()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    };
    let began = Instant::now();
    let answer = said(api.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod)).await;
    let took_ms = u64::try_from((Instant::now() - began).as_millis()).unwrap_or(u64::MAX);
    match answer {
        Ok(pod) => Ok(Trial { namespace, injected: is_meshed(&pod), took_ms }),
        Err(why) => Err(format!("in namespace {namespace}: {why}")),
    }
}

/// A namespace's labels and annotations, by name.
pub(super) fn named<'n>(namespaces: &'n [Namespace], name: &str) -> Option<&'n Namespace> {
    namespaces.iter().find(|namespace| namespace.name_any() == name)
}

/// The controller's.
const SOURCE_AGE: &str = "mesh_controller_source_age_seconds";
/// Identity's.
const ISSUER_BEGIN: &str = "mesh_identity_issuer_begin_timestamp_seconds";
const ISSUER_END: &str = "mesh_identity_issuer_expiry_timestamp_seconds";
const NODE_LEASES: &str = "kube-node-lease";
const AT_ONCE: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;
    use crate::check::Outcome;
    use crate::kubernetes::fake;

    /// At an API server that knows rights only, and gives all but one.
    #[tokio::test]
    async fn the_rights_that_are_checked_are_those_that_an_installation_needs() {
        let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let heard = asked.clone();
        let cluster = fake::serve(move |_, path, mut review| {
            if !path.ends_with("/selfsubjectaccessreviews?") {
                return fake::not_found();
            }
            let right = review["spec"]["resourceAttributes"].clone();
            let refused = right["verb"] == "patch" && right["resource"] == "validatingadmissionpolicies";
            heard.lock().insert(right.to_string());
            review["status"] = json!({"allowed": !refused});
            (201, review)
        })
        .await;
        let desired = crate::install::desired(&json!({}), &cluster.version.git_version).unwrap();
        let refusal = preflight::rights(&cluster.client, &desired).await.unwrap_err().to_string();
        let needed = std::mem::take(&mut *asked.lock());
        assert!(refusal.starts_with("you may not patch validatingadmissionpolicies in this cluster"), "{refusal}");

        let report = before::judge(&Box::pin(before(&cluster, &desired)).await);
        assert!(!needed.is_empty());
        assert_eq!(*asked.lock(), needed);
        let line = report.checks.iter().find(|line| line.name == "rights").unwrap();
        assert_eq!(
            (line.outcome, line.text.as_str()),
            (Outcome::Failed, "you may not patch validatingadmissionpolicies")
        );
    }
}
