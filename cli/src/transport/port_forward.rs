//! Proxies in a cluster, reached as `kubectl port-forward` reaches them: through the API server and the kubelet of their node.
//!
//! The kubelet dials inside the pod's network namespace, so the admin port needs no other door than loopback, and who may look
//! at a proxy is what Kubernetes says: whoever may create `pods/portforward` in its namespace.

use std::time::Duration;

use bytes::Bytes;
use injector::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod as KubernetesPod, Service};
use kube::api::{Api, ListParams, Portforwarder};
use kube::client::UpgradeConnectionError;
use kube::{Client, ResourceExt as _};
use proto::names;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::kubernetes;

use super::{Pod, Transport, TransportError, http, owner};

/// The pods of a cluster, or of one of its namespaces.
#[derive(Clone)]
pub struct PortForward {
    client: Client,
    namespace: Option<String>,
}

impl std::fmt::Debug for PortForward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortForward").field("namespace", &self.namespace).finish()
    }
}

impl PortForward {
    /// The pods of `namespace`, or of all.
    pub fn new(client: Client, namespace: Option<String>) -> Self {
        Self { client, namespace }
    }

    /// What a program in a pod answers to a GET of `path` on a port, of the control plane for instance. `pod` is `namespace/name`.
    pub async fn get_port(&self, pod: &str, port: u16, path: &str) -> Result<Bytes, TransportError> {
        let Some((namespace, name)) = pod.split_once('/') else {
            return Err(TransportError::Unreachable(format!("{pod:?} is not namespace/name")));
        };
        let pods: Api<KubernetesPod> = Api::namespaced(self.client.clone(), namespace);
        match timeout(LIMIT, exchange(&pods, name, port, path)).await {
            Ok(answer) => answer,
            Err(_) => Err(TransportError::TimedOut(LIMIT.as_secs())),
        }
    }

    async fn list<K>(&self) -> Result<Vec<K>, TransportError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        all(&api).await.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 403 => {
                let way_out =
                    if self.namespace.is_none() { "; look at one of your own namespaces with -n" } else { "" };
                TransportError::NotAllowed(kubernetes::explain(&error) + way_out)
            }
            _ => TransportError::List(kubernetes::explain(&error)),
        })
    }
}

impl Transport for PortForward {
    async fn pods(&self) -> Result<Vec<Pod>, TransportError> {
        let pods: Vec<KubernetesPod> = self.list().await?;
        // Services only add columns: who may not list them sees the rest.
        let services: Vec<Service> = self.list().await.unwrap_or_default();
        let mut pods: Vec<Pod> = pods.iter().filter(|pod| lives(pod)).map(|pod| described(pod, &services)).collect();
        pods.sort_unstable_by(|one, other| one.proxy.cmp(&other.proxy));
        Ok(pods)
    }

    async fn problems(&self) -> Result<Option<Vec<String>>, TransportError> {
        Ok(None)
    }

    /// In a cluster where nothing happens the controller hears from the API server when a watch begins anew, every 20 s, or
    /// 25 s with patience; a heartbeat or two carry that on.
    fn stale_after(&self) -> Duration {
        Duration::from_secs(45)
    }

    async fn get(&self, proxy: &str, path: &str) -> Result<Bytes, TransportError> {
        let port = if path == "/metrics" { names::HEALTH_PORT } else { names::ADMIN_PORT };
        self.get_port(proxy, port, path).await
    }
}

/// Everything of a kind, piece by piece: an API server with ten thousand pods does not answer with all of them at once.
pub async fn all<K>(api: &Api<K>) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut items = Vec::new();
    let mut params = ListParams::default().limit(PIECE);
    loop {
        let piece = api.list(&params).await?;
        items.extend(piece.items);
        match piece.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => params.continue_token = Some(next),
            None => return Ok(items),
        }
    }
}

/// A pod that ended has no proxy any more.
pub fn lives(pod: &KubernetesPod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether there is a proxy in it, as the controller judges.
pub fn is_meshed(pod: &KubernetesPod) -> bool {
    pod.spec.as_ref().is_some_and(crd::pod::has_proxy)
}

fn described(pod: &KubernetesPod, services: &[Service]) -> Pod {
    let (kind, workload) = owner::of(pod);
    let namespace = pod.namespace().unwrap_or_default();
    Pod {
        proxy: format!("{namespace}/{}", pod.name_any()),
        name: pod.name_any(),
        services: services.iter().filter(|service| selects(service, pod)).map(kube::ResourceExt::name_any).collect(),
        namespace,
        workload,
        kind,
        meshed: is_meshed(pod),
        memory_limit: memory_limit(pod),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an amount of bytes is no negative number")]
fn memory_limit(pod: &KubernetesPod) -> Option<u64> {
    let spec = pod.spec.as_ref().filter(|spec| crd::pod::has_proxy(spec))?;
    let proxy = spec.init_containers.iter().flatten().find(|container| container.name == names::PROXY_CONTAINER)?;
    let limit = proxy.resources.as_ref()?.limits.as_ref()?.get("memory")?;
    limit.0.parse::<Quantity>().ok().filter(|limit| !limit.is_zero()).map(|limit| limit.amount() as u64)
}

/// A Service without a selector chooses nothing by itself.
fn selects(service: &Service, pod: &KubernetesPod) -> bool {
    let selector =
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
    let labels = pod.labels();
    service.namespace() == pod.namespace()
        && selector.is_some_and(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

async fn exchange(pods: &Api<KubernetesPod>, name: &str, port: u16, path: &str) -> Result<Bytes, TransportError> {
    let mut forwarder = Forwarder(pods.portforward(name, &[port]).await.map_err(|error| refused(&error))?);
    let gone = || TransportError::Unreachable("the API server forwards no such port".to_owned());
    let stream = forwarder.0.take_stream(port).ok_or_else(gone)?;
    let problem = forwarder.0.take_error(port).ok_or_else(gone)?;
    tokio::pin!(problem);
    let answer = http::get(stream, path);
    tokio::pin!(answer);
    // What the kubelet says explains more than a stream that ends; it may come a moment after the stream's end.
    tokio::select! {
        answer = &mut answer => match answer {
            Err(TransportError::Unreachable(why)) => match timeout(EXPLANATION, &mut problem).await {
                Ok(Some(problem)) => Err(TransportError::Unreachable(in_pod(&problem, port))),
                _ => Err(TransportError::Unreachable(why)),
            },
            answer => answer,
        },
        Some(problem) = &mut problem => Err(TransportError::Unreachable(in_pod(&problem, port))),
    }
}

/// Ends with whoever holds it: a deadline must leave no forwarding behind.
struct Forwarder(Portforwarder);

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn refused(error: &kube::Error) -> TransportError {
    let kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) = error else {
        return TransportError::Unreachable(kubernetes::explain(error));
    };
    TransportError::Unreachable(match status.as_u16() {
        401 => "the API server does not accept your credentials".to_owned(),
        403 => "you may not create pods/portforward in its namespace".to_owned(),
        404 => "the pod is gone".to_owned(),
        // The kubelet does not forward to a pod that has no sandbox yet.
        500 | 503 => {
            format!("its node does not forward to it: the pod does not run, or the kubelet is away ({status})")
        }
        _ => format!("the API server answered {status} to port-forwarding"),
    })
}

/// A kubelet's sentence about a port, which begins with an id that means nothing to people.
fn in_pod(problem: &str, port: u16) -> String {
    if problem.contains("connection refused") {
        return format!("nothing listens on port {port} in the pod");
    }
    let problem = crate::table::one_line(problem.trim());
    let cut: String = problem.chars().take(LONGEST_PROBLEM).collect();
    format!("port {port}: {cut}")
}

/// Long enough for a busy node, short enough that a dead one holds nobody up.
const LIMIT: Duration = Duration::from_secs(3);
const EXPLANATION: Duration = Duration::from_millis(200);
const PIECE: u32 = 500;
const LONGEST_PROBLEM: usize = 300;

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus, ServiceSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn pod(labels: &[(&str, &str)], init: &[&str]) -> KubernetesPod {
        let container = |name: &&str| Container {
            name: (*name).to_owned(),
            args: (*name == names::INIT_CONTAINER).then(|| vec!["init".to_owned()]),
            restart_policy: (*name == names::PROXY_CONTAINER).then(|| "Always".to_owned()),
            ..Container::default()
        };
        KubernetesPod {
            metadata: ObjectMeta {
                name: Some("web-1".into()),
                namespace: Some("shop".into()),
                labels: Some(map(labels)),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                containers: vec![container(&"app")],
                init_containers: Some(init.iter().map(container).collect()),
                ..PodSpec::default()
            }),
            status: None,
        }
    }

    fn service(name: &str, namespace: &str, selector: Option<&[(&str, &str)]>) -> Service {
        Service {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec { selector: selector.map(map), ..ServiceSpec::default() }),
            status: None,
        }
    }

    #[test]
    fn a_pod_is_described_with_its_services() {
        let app: &[_] = &[("app", "web")];
        let services = [
            service("web", "shop", Some(app)),
            service("canary", "shop", Some(&[("app", "web"), ("version", "v2")])),
            service("web", "other", Some(app)),
            service("everything", "shop", Some(&[])),
            service("external", "shop", None),
        ];
        let described = described(&pod(&[("app", "web"), ("x", "y")], &["mesh-init", "mesh-proxy"]), &services);
        assert_eq!((described.proxy.as_str(), described.services), ("shop/web-1", vec!["web".to_owned()]));
        assert!(described.meshed);
        assert!(!is_meshed(&pod(app, &["mesh-init"])), "the init container alone is no proxy");
        assert!(!is_meshed(&pod(app, &["mesh-proxy"])), "nothing leads connections to it");
        let mut own = pod(app, &[]);
        own.spec.as_mut().unwrap().containers[0].name = names::PROXY_CONTAINER.to_owned();
        assert!(!is_meshed(&own), "somebody's own container");
    }

    #[test]
    fn what_has_ended_is_left_out() {
        for (phase, expected) in [("Running", true), ("Pending", true), ("Succeeded", false), ("Failed", false)] {
            let status = PodStatus { phase: Some(phase.into()), ..PodStatus::default() };
            assert_eq!(lives(&KubernetesPod { status: Some(status), ..pod(&[], &[]) }), expected, "{phase}");
        }
    }

    #[test]
    fn kubelets_are_translated() {
        let long = "error forwarding port 15000 to pod 5b6d4, uid : failed to execute portforward in network namespace \
                    \"/var/run/netns/cni-1\": failed to connect to localhost:15000 inside namespace \"5b6d4\", IPv4: dial \
                    tcp4 127.0.0.1:15000: connect: connection refused";
        assert_eq!(in_pod(long, 15000), "nothing listens on port 15000 in the pod");
        assert_eq!(in_pod("odd\n", 1), "port 1: odd");
    }
}
