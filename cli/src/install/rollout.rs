//! Waits until what was applied runs, and says which pod waits for what.
//!
//! What a state means is decided by pure functions; waiting is one loop that asks twice a second.

use std::time::Duration;

use anyhow::bail;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ListParams};
use proto::names;
use tokio::time::{Instant, sleep};

use crate::kubernetes::explain;
use crate::table;

use crate::progress::Progress;

/// Waits until the API server serves these kinds.
pub async fn kinds(
    client: &Client,
    kinds: &[String],
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for name in kinds {
        let what = format!("kind {name}");
        wait(&what, deadline, progress, || async {
            let kind = api.get(name).await?;
            let conditions = kind.status.and_then(|status| status.conditions).unwrap_or_default();
            let served = conditions.iter().any(|is| is.type_ == "Established" && is.status == "True");
            Ok((!served).then(|| "is not served yet".to_owned()))
        })
        .await?;
    }
    Ok(())
}

/// Waits for the end of a namespace that somebody has deleted: nothing can be made in it, nor another of its name.
pub async fn namespace_ended(
    client: &Client,
    name: &str,
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    wait(&format!("namespace {name}"), deadline, progress, || async {
        let found = api.get_opt(name).await?;
        let ending = found.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some());
        Ok(ending.then(|| "is still ending from before".to_owned()))
    })
    .await
}

/// Waits until a Deployment of the mesh's namespace runs as it was applied.
pub async fn deployment(client: &Client, name: &str, deadline: Instant, progress: &mut Progress) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    wait(name, deadline, progress, || async {
        let deployment = deployments.get(name).await?;
        let Some(missing) = rolling(&deployment) else { return Ok(None) };
        let selector = ListParams::default().labels(&format!("app.kubernetes.io/name={name}")).limit(100);
        let waiting: Vec<String> = pods.list(&selector).await?.iter().filter_map(pod_waits_for).collect();
        let refused = deployment_problem(&deployment);
        Ok(Some(match waiting.into_iter().chain(refused).next() {
            Some(reason) => format!("{missing}; {reason}"),
            None => missing,
        }))
    })
    .await?;
    progress.done(&format!("{name} runs"));
    Ok(())
}

/// Waits until mesh-identity has put its trust bundle into the injector's webhooks: from then on the API server can call it.
pub async fn webhook(client: &Client, name: &str, deadline: Instant, progress: &mut Progress) -> anyhow::Result<()> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    wait("webhooks", deadline, progress, || async {
        let webhooks = api.get(name).await?.webhooks.unwrap_or_default();
        let trusted = webhooks
            .iter()
            .all(|webhook| webhook.client_config.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty()));
        Ok((!trusted).then(|| "have no caBundle from mesh-identity yet".to_owned()))
    })
    .await?;
    progress.done("webhooks are served");
    Ok(())
}

/// Asks `look` until it has nothing to wait for. An API server that fails for a moment is asked again.
async fn wait<F>(what: &str, deadline: Instant, progress: &mut Progress, look: impl Fn() -> F) -> anyhow::Result<()>
where
    F: Future<Output = kube::Result<Option<String>>>,
{
    loop {
        let waits_for = match look().await {
            Ok(None) => return Ok(()),
            Ok(Some(reason)) => reason,
            Err(error) => explain(&error),
        };
        if Instant::now() >= deadline {
            bail!("{what}: {waits_for}. Gave up waiting; run the same command again to go on");
        }
        progress.wait(&format!("{what}: {waits_for}"));
        sleep(Duration::from_millis(500)).await;
    }
}

/// What a Deployment lacks, as kubectl's rollout status judges it; `None` when it runs as it should.
pub(crate) fn rolling(deployment: &Deployment) -> Option<String> {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let (updated, available) = (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0));
    let old = status.replicas.unwrap_or(0) - updated;
    if status.observed_generation < deployment.metadata.generation {
        return Some("its change has not been seen yet".to_owned());
    }
    if updated < wanted || available < wanted.min(updated) || available < wanted {
        return Some(format!("{} of {wanted} pods are ready", available.min(updated)));
    }
    (old > 0).then(|| format!("{old} pods of the version before are ending"))
}

/// Why a Deployment gets no pods, if that is so.
fn deployment_problem(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions.iter().find(|is| is.type_ == "ReplicaFailure" && is.status == "True")?;
    Some(format!("its pods are refused ({})", table::one_line(failed.message.as_deref().unwrap_or("no message"))))
}

/// What a pod waits for; `None` for one that is ready or ending.
fn pod_waits_for(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|is| is.type_ == kind);
    if condition("Ready").is_some_and(|ready| ready.status == "True") {
        return None;
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(scheduled) = condition("PodScheduled").filter(|scheduled| scheduled.status == "False") {
        let why = scheduled.message.as_deref().unwrap_or("no message");
        return Some(format!("pod {name} has no node ({})", table::one_line(why)));
    }
    let containers = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
    let reason = containers.filter(|container| !container.ready).find_map(|container| container_waits_for(&container));
    Some(format!("pod {name} {}", reason.unwrap_or_else(|| "is not ready yet".to_owned())))
}

fn container_waits_for(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        return Some(match reason {
            "ContainerCreating" | "PodInitializing" => "is being started".to_owned(),
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
                format!("has no image {} ({reason}); see --set image.registry=… and image.tag=…", container.image)
            }
            "CrashLoopBackOff" => {
                let code = ended.map_or_else(String::new, |ended| format!(" with {}", ended.exit_code));
                format!(
                    "ends{code} again and again; see: kubectl logs --namespace {} --previous",
                    names::SYSTEM_NAMESPACE
                )
            }
            other => {
                let message = waiting.message.as_deref().map(table::one_line).unwrap_or_default();
                format!("waits: {other} {message}").trim_end().to_owned()
            }
        });
    }
    let ended = state.terminated.as_ref()?;
    Some(format!("has ended with {}", ended.exit_code))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(generation: i64, status: &serde_json::Value) -> Deployment {
        let value = json!({"metadata": {"generation": generation}, "status": status,
            "spec": {"replicas": 2, "selector": {}, "template": {}}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_rollout_is_over_when_all_of_it_is_new_and_ready() {
        let status = |replicas, updated, available| json!({"observedGeneration": 3, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available});
        for (generation, status, expected) in [
            (3, status(2, 2, 2), None),
            (4, status(2, 2, 2), Some("not been seen")),
            (3, status(2, 2, 1), Some("1 of 2")),
            (3, status(3, 2, 3), Some("1 pods of the version before")),
            (3, status(3, 1, 2), Some("1 of 2")),
            (3, json!({"observedGeneration": 3}), Some("0 of 2")),
        ] {
            let missing = rolling(&deployment(generation, &status));
            match expected {
                None => assert_eq!(missing, None, "{status}"),
                Some(expected) => assert!(missing.as_deref().unwrap().contains(expected), "{status}: {missing:?}"),
            }
        }
    }

    #[test]
    fn a_pod_says_what_it_waits_for() {
        let pod = |status: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
        };
        let container = |state: serde_json::Value| {
            pod(json!({"containerStatuses": [
                {"name": "c", "image": "example.com/c:1", "imageID": "", "ready": false, "restartCount": 0, "state": state,
                 "lastState": {"terminated": {"exitCode": 2}}}]}))
        };
        for (pod, expected) in [
            (container(json!({"waiting": {"reason": "ImagePullBackOff"}})), "pod p has no image example.com/c:1"),
            (container(json!({"waiting": {"reason": "CrashLoopBackOff"}})), "pod p ends with 2 again and again"),
            (
                container(json!({"waiting": {"reason": "CreateContainerConfigError", "message": "no\nkey"}})),
                "CreateContainerConfigError",
            ),
            (container(json!({"running": {}})), "pod p is not ready yet"),
            (
                pod(json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]})),
                "no node (0/1 nodes)",
            ),
            (pod(json!({})), "not ready yet"),
        ] {
            let waits_for = pod_waits_for(&pod).unwrap();
            assert!(waits_for.contains(expected) && !waits_for.contains('\n'), "{waits_for}");
        }
        assert_eq!(pod_waits_for(&pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}))), None);
    }
}
