//! `check` on a cluster: is the installed mesh well?

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Namespace, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use proto::names;

use identity::TrustBundle;

use crate::install::rollout;
use crate::table;

use super::fetch::{Fetched, Replica, Trial};
use super::{Lines, Report, before, injection, many, trust};

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The cluster's clock, milliseconds since 1970.
    pub now_ms: u64,
    /// Of the mesh's namespace.
    pub deployments: Fetched<Vec<Deployment>>,
    /// Of the mesh's namespace.
    pub leases: Fetched<Vec<Lease>>,
    /// Whether the issuer's Secret is there.
    pub issuer: Fetched<bool>,
    /// The injector's webhooks.
    pub webhook: Fetched<Option<MutatingWebhookConfiguration>>,
    /// Of the mesh's namespace.
    pub endpoints: Fetched<Vec<EndpointSlice>>,
    /// Our kinds by name.
    pub kinds: Vec<(&'static str, Fetched<Option<CustomResourceDefinition>>)>,
    /// The CRD of HTTPRoutes.
    pub gateway: Fetched<Option<CustomResourceDefinition>>,
    /// What the injector makes pods with.
    pub config: Fetched<Option<ConfigMap>>,
    /// What every replica says about itself.
    pub replicas: Vec<Replica>,
    /// Trust bundles of all namespaces.
    pub bundles: Fetched<Vec<ConfigMap>>,
    /// All namespaces.
    pub namespaces: Fetched<Vec<Namespace>>,
    /// All pods.
    pub pods: Fetched<Vec<Pod>>,
    /// A pod that asked to be injected, without being created.
    pub trial: Fetched<Trial>,
}

/// What it means, section by section.
pub fn sections(facts: &Installed) -> Vec<Lines> {
    let mut control = Lines::new("control plane");
    let present = deployments(facts, &mut control);
    if !present {
        return vec![control];
    }
    kinds(&facts.kinds, &mut control);
    // Who may not read kinds was told of it just now.
    match &facts.gateway {
        Err(_) => {}
        // Nothing is wrong with a mesh that nobody wants routes from.
        Ok(None) => control.passed(
            "gateway-api",
            format!("there are no routes without the Gateway API's kinds: {}", before::GATEWAY_COMMAND),
        ),
        Ok(Some(_)) => before::gateway(&facts.gateway, &mut control),
    }
    leases(&facts.leases, facts.now_ms, &mut control);
    replicas(&facts.replicas, &mut control);
    restarts(facts, &mut control);

    let mut identity = Lines::new("identity");
    let namespaces = facts.namespaces.as_deref().unwrap_or_default();
    let opted_in = injection::opted_in(namespaces);
    trust::issuer(&facts.issuer, &facts.replicas, facts.now_ms, &mut identity);
    let bundle = trust::bundles(&facts.bundles, &opted_in, facts.now_ms, &mut identity);

    let mut injection = Lines::new("injection");
    webhook(facts, bundle.as_ref(), &mut injection);
    endpoints(&facts.endpoints, &mut injection);
    trial(&facts.trial, &mut injection);
    injection::check(facts, &mut injection);
    vec![control, identity, injection]
}

/// Why only a part can be looked at: whoever asks may see neither all namespaces nor all pods.
pub fn not_everybodys(facts: &Installed) -> Option<String> {
    let forbidden = |why: &String| why.contains("forbidden");
    match (&facts.namespaces, &facts.pods) {
        (Err(_), Err(why)) if forbidden(why) => Some(why.clone()),
        _ => None,
    }
}

/// What can be said of one namespace, and why it is only one where nobody wished that.
pub fn sections_of_namespace(facts: &Installed, namespace: &str, why: Option<&str>) -> Vec<Lines> {
    let mut lines = Lines::new("namespace");
    if let Some(why) = why {
        let text = format!("only namespace {namespace} is looked at, not the control plane: {why}");
        lines.warning("scope", text, "meshctl check -n NAMESPACE, for another one of yours");
    }
    let opted_in = injection::opted_in(facts.namespaces.as_deref().unwrap_or_default());
    trust::bundles(&facts.bundles, &opted_in, facts.now_ms, &mut lines);
    if !opted_in.is_empty() {
        trial(&facts.trial, &mut lines);
    }
    injection::check(facts, &mut lines);
    vec![lines]
}

/// The same as one answer.
pub fn judge(facts: &Installed) -> Report {
    Report::new(sections(facts))
}

/// Whether anything is installed at all: if not, one line says so and nothing else does.
fn deployments(facts: &Installed, lines: &mut Lines) -> bool {
    let deployments = match &facts.deployments {
        Err(why) => {
            let text = format!("Deployments in {} may not be listed: {why}", names::SYSTEM_NAMESPACE);
            lines.warning("deployment", text, "kubectl auth can-i list deployments -n mesh-system");
            return true;
        }
        Ok(deployments) => deployments,
    };
    if !COMPONENTS.iter().any(|name| deployments.iter().any(|deployment| deployment.name_any() == **name)) {
        lines.failed("deployment", "the mesh is not installed in this cluster", "meshctl install");
        return false;
    }
    for name in COMPONENTS {
        match deployments.iter().find(|deployment| deployment.name_any() == name) {
            None => lines.failed("deployment", format!("{name} is not installed"), "meshctl install"),
            Some(deployment) => component(name, deployment, facts.pods.as_deref().unwrap_or_default(), lines),
        }
    }
    true
}

fn component(name: &str, deployment: &Deployment, pods: &[Pod], lines: &mut Lines) {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let available = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    let image = image(deployment, name).unwrap_or("an unknown image");
    let version = tag(image);
    let hint = format!(
        "kubectl -n {} describe pod -l app.kubernetes.io/name={name}; kubectl -n {0} logs deploy/{name}",
        names::SYSTEM_NAMESPACE
    );
    let why = trouble(name, pods).map(|why| format!(": {why}")).unwrap_or_default();
    if available == 0 {
        lines.failed("deployment", format!("{name}: none of {} is available{why}", many_replicas(wanted)), &hint);
    } else if available < wanted {
        let text = format!("{name}: {available} of {} are available{why}", many_replicas(wanted));
        lines.passing("deployment", text, &hint);
    } else if let Some(missing) = rollout::rolling(deployment) {
        // What is available may all be of the version before.
        lines.passing("deployment", format!("{name} is being rolled out: {missing}{why}"), &hint);
    } else if version != OWN {
        let text = format!("{name} has version {version} ({image}), this meshctl {OWN}");
        lines.warning("deployment", text, "meshctl upgrade --plan");
    } else {
        lines.passed("deployment", format!("{name}: {available} of {} available, {image}", many_replicas(wanted)));
    }
}

fn many_replicas(count: i32) -> String {
    many(usize::try_from(count).unwrap_or(0), "replica")
}

/// Image of the container that is called as the Deployment, else of the first.
pub(crate) fn image<'d>(deployment: &'d Deployment, name: &str) -> Option<&'d str> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    containers.iter().find(|container| container.name == name).or(containers.first())?.image.as_deref()
}

/// `registry:5000/mesh-proxy:0.1.0@sha256:…` has tag `0.1.0`.
pub(crate) fn tag(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

/// A pod of the control plane.
pub(super) fn is_component(pod: &Pod) -> bool {
    let name = pod.name_any();
    pod.namespace().as_deref() == Some(names::SYSTEM_NAMESPACE)
        && COMPONENTS.iter().any(|component| name.strip_prefix(component).is_some_and(|rest| rest.starts_with('-')))
}

/// Why the first pod of a component that is not ready is not.
fn trouble(component: &str, pods: &[Pod]) -> Option<String> {
    let of_component = pods.iter().filter(|pod| is_component(pod) && pod.name_any().starts_with(component));
    of_component.filter_map(|pod| Some((pod, pod.status.as_ref()?))).find_map(|(pod, status)| {
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        let waiting =
            containers.iter().find_map(|container| Some((container, container.state.as_ref()?.waiting.as_ref()?)));
        if let Some((container, waiting)) = waiting {
            let reason = waiting.reason.as_deref().unwrap_or("waiting");
            let last = last_end(container).map(|end| format!(", after {end}")).unwrap_or_default();
            return Some(format!("{} is in {reason}{last}", pod.name_any()));
        }
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let unscheduled =
            conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        if let Some(condition) = unscheduled {
            let message = table::one_line(condition.message.as_deref().unwrap_or("no node takes it"));
            return Some(format!("{} has no node ({message})", pod.name_any()));
        }
        let unready = containers.iter().find(|container| !container.ready)?;
        Some(format!("container {} of {} is not ready", unready.name, pod.name_any()))
    })
}

fn last_end(container: &ContainerStatus) -> Option<String> {
    let end = container.last_state.as_ref()?.terminated.as_ref()?;
    let reason = end.reason.as_deref().unwrap_or("an end");
    Some(format!("{reason} with code {}", end.exit_code))
}

fn kinds(kinds: &[(&'static str, Fetched<Option<CustomResourceDefinition>>)], lines: &mut Lines) {
    let mut well = 0;
    for (name, kind) in kinds {
        match kind {
            Err(why) => lines.warning("kinds", format!("kind {name} may not be read: {why}"), "kubectl get crd"),
            Ok(None) => lines.failed("kinds", format!("kind {name} is missing"), "meshctl install"),
            Ok(Some(kind)) => {
                let conditions =
                    kind.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
                if conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
                    well += 1;
                } else {
                    let hint = format!("kubectl describe crd {name}");
                    lines.failed("kinds", format!("kind {name} is not established"), &hint);
                }
            }
        }
    }
    if well == kinds.len() {
        lines.passed("kinds", format!("{} of the mesh established", many(well, "kind")));
    }
}

fn leases(leases: &Fetched<Vec<Lease>>, now_ms: u64, lines: &mut Lines) {
    let leases = match leases {
        Err(why) => {
            let text = format!("leases may not be listed: {why}");
            return lines.warning("lease", text, "kubectl auth can-i list leases -n mesh-system");
        }
        Ok(leases) => leases,
    };
    for name in [names::CONTROLLER_LEASE, names::IDENTITY_LEASE] {
        let hint = format!("kubectl -n {} logs deploy/{name}", names::SYSTEM_NAMESPACE);
        let spec = leases.iter().find(|lease| lease.name_any() == name).and_then(|lease| lease.spec.as_ref());
        let Some(spec) = spec else {
            lines.failed("lease", format!("lease {name} does not exist: nobody leads"), &hint);
            continue;
        };
        let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        let renewed = spec.renew_time.as_ref().map_or(0, |time| milliseconds(time.0));
        let lasts = u64::try_from(spec.lease_duration_seconds.unwrap_or(15)).unwrap_or(15) * 1000;
        let ago = now_ms.saturating_sub(renewed);
        match holder {
            None => lines.failed("lease", format!("nobody holds lease {name}"), &hint),
            // Half a minute of grace: holder and API server have clocks of their own.
            Some(holder) if ago > lasts + LEASE_GRACE_MS => {
                let text = format!("lease {name} ran out: {holder} renewed it {} ago", table::span(ago));
                lines.failed("lease", text, &hint);
            }
            Some(holder) => lines.passed("lease", format!("{holder} holds lease {name}")),
        }
    }
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

/// What the replicas say themselves: ready or why not, and whether they still hear from the API server.
fn replicas(replicas: &[Replica], lines: &mut Lines) {
    let before = lines.len();
    for Replica { pod, unready, source_age_ms, .. } in replicas {
        let hint = format!("kubectl -n {} logs {pod}", names::SYSTEM_NAMESPACE);
        if let Some(why) = unready {
            lines.passing("replica", format!("{pod} is not ready: {}", table::one_line(why.trim())), &hint);
        }
        if let Some(age) = source_age_ms.filter(|age| *age >= STALE_MS) {
            let text = format!("{pod} has not heard from the API server for {}", table::span(age));
            lines.passing("replica", text, &hint);
        }
    }
    super::watches::judge(replicas, lines);
    let oldest = replicas.iter().filter_map(|replica| replica.source_age_ms).max();
    if lines.len() == before && !replicas.is_empty() {
        let heard =
            oldest.map(|age| format!(", the API server was heard {} ago", table::span(age))).unwrap_or_default();
        lines.passed("replica", format!("{} ready{heard}", answering(replicas.len())));
    }
}

fn answering(count: usize) -> String {
    if count == 1 { "1 replica answers and is".to_owned() } else { format!("{count} replicas answer and are") }
}

/// Containers of the control plane that end again and again.
fn restarts(facts: &Installed, lines: &mut Lines) {
    let Ok(pods) = &facts.pods else { return };
    let before = lines.len();
    for pod in pods.iter().filter(|pod| pod.namespace().as_deref() == Some(names::SYSTEM_NAMESPACE)) {
        let containers =
            pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        for container in containers {
            let Some(end) = container.last_state.as_ref().and_then(|state| state.terminated.as_ref()) else { continue };
            let ago = facts.now_ms.saturating_sub(end.finished_at.as_ref().map_or(0, |time| milliseconds(time.0)));
            if container.restart_count >= MANY_RESTARTS && ago < RECENT_MS {
                let text = format!(
                    "{} restarted {}, the last time {} ago after {}",
                    pod.name_any(),
                    many(usize::try_from(container.restart_count).unwrap_or(0), "time"),
                    table::span(ago),
                    last_end(container).unwrap_or_default()
                );
                let hint = format!("kubectl -n {} logs --previous {}", names::SYSTEM_NAMESPACE, pod.name_any());
                lines.warning("restarts", text, &hint);
            }
        }
    }
    if lines.len() == before {
        lines.passed("restarts", "no component restarts again and again");
    }
}

fn webhook(facts: &Installed, bundle: Option<&TrustBundle>, lines: &mut Lines) {
    // Whose business caBundle is.
    let hint = "kubectl -n mesh-system logs deploy/mesh-identity";
    let name = names::WEBHOOK_CONFIGURATION;
    let webhooks = match &facts.webhook {
        Err(why) => {
            let text = format!("webhook configuration {name} may not be read: {why}");
            return lines.warning("webhook", text, "kubectl auth can-i get mutatingwebhookconfigurations");
        }
        Ok(None) => {
            let text = format!("webhook configuration {name} is missing: no pod is injected");
            return lines.failed("webhook", text, "meshctl install");
        }
        Ok(Some(configuration)) => configuration.webhooks.as_deref().unwrap_or_default(),
    };
    let before = lines.len();
    for wanted in [names::PODS_WEBHOOK, names::NAMESPACES_WEBHOOK] {
        if !webhooks.iter().any(|webhook| webhook.name.ends_with(wanted)) {
            lines.failed("webhook", format!("webhook {wanted} is missing"), "meshctl install");
        }
    }
    for webhook in webhooks {
        let bytes = webhook.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).unwrap_or_default();
        match (TrustBundle::from_pem(bytes), bundle) {
            _ if bytes.is_empty() => {
                let text = format!("webhook {} has no caBundle yet: the API server cannot call it", webhook.name);
                lines.failed("webhook", text, hint);
            }
            (Err(error), _) => {
                lines.failed("webhook", format!("caBundle of webhook {} is unusable: {error}", webhook.name), hint);
            }
            (Ok(own), Some(bundle)) if !own.contains_all(bundle) => {
                let text = format!("caBundle of webhook {} is not the trust bundle", webhook.name);
                lines.failed("webhook", text, hint);
            }
            _ => {}
        }
    }
    if lines.len() == before {
        lines.passed("webhook", format!("{} with the mesh's trust bundle", many(webhooks.len(), "webhook")));
    }
}

fn endpoints(slices: &Fetched<Vec<EndpointSlice>>, lines: &mut Lines) {
    let slices = match slices {
        Err(why) => {
            let text = format!("EndpointSlices may not be listed: {why}");
            return lines.warning("endpoints", text, "kubectl auth can-i list endpointslices -n mesh-system");
        }
        Ok(slices) => slices,
    };
    for service in COMPONENTS {
        let of_service =
            slices.iter().filter(|slice| slice.labels().get(SERVICE_NAME).is_some_and(|name| name == service));
        let ready = of_service
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false))
            .count();
        if ready == 0 {
            let hint = format!("kubectl -n {} get endpointslices,pods", names::SYSTEM_NAMESPACE);
            lines.failed("endpoints", format!("Service {service} has no ready endpoint"), &hint);
        } else if service == names::INJECTOR_ACCOUNT {
            lines.passed("endpoints", format!("the webhooks' Service has {}", many(ready, "ready endpoint")));
        }
    }
}

fn trial(trial: &Fetched<Trial>, lines: &mut Lines) {
    match trial {
        Ok(Trial { namespace, injected: true, took_ms }) => {
            let text =
                format!("the API server reaches the injector: a pod on trial in {namespace} is injected, {took_ms} ms");
            lines.passed("trial", text);
        }
        Ok(Trial { namespace, .. }) => {
            let text = format!("a pod on trial in namespace {namespace} that asks for a proxy gets none");
            lines.failed("trial", text, "kubectl describe mutatingwebhookconfiguration mesh-injector");
        }
        Err(why) if why.contains("forbidden: User") => {
            lines.warning("trial", format!("no pod may be put on trial {why}"), "kubectl auth can-i create pods");
        }
        Err(why) => {
            let hint = "kubectl -n mesh-system logs deploy/mesh-injector";
            lines.failed("trial", format!("a pod on trial was refused {why}"), hint);
        }
    }
}

/// The control plane.
pub(crate) const COMPONENTS: [&str; 3] = [names::CONTROLLER_ACCOUNT, names::IDENTITY_ACCOUNT, names::INJECTOR_ACCOUNT];
/// Our kinds, by the names of their CRDs.
pub const KINDS: [&str; 1] = ["externalworkloads.meshctl.io"];
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const OWN: &str = env!("CARGO_PKG_VERSION");
/// Twice as long as a watch of the controller waits for anything to happen.
const STALE_MS: u64 = 45_000;
const LEASE_GRACE_MS: u64 = 30_000;
const MANY_RESTARTS: i32 = 3;
const RECENT_MS: u64 = 3_600_000;

#[cfg(test)]
pub(super) mod tests;
