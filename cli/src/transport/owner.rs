//! Which workload a pod belongs to, from the pod alone: no other object need be read, or may be.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::target::Kind;

/// Kind and name of a pod's workload. A ReplicaSet with a template hash stands for its Deployment, a Job of a schedule for
/// its CronJob; a pod that nobody controls stands for itself.
pub fn of(pod: &Pod) -> (Option<Kind>, String) {
    let metadata = &pod.metadata;
    let own = || metadata.name.clone().unwrap_or_default();
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else {
        return (Some(Kind::Pod), own());
    };
    match owner.kind.as_str() {
        "ReplicaSet" => match deployment(metadata, &owner.name) {
            Some(name) => (Some(Kind::Deployment), name.to_owned()),
            None => (None, owner.name.clone()),
        },
        "Job" => match scheduled(&owner.name) {
            Some(name) => (Some(Kind::CronJob), name.to_owned()),
            None => (Some(Kind::Job), owner.name.clone()),
        },
        kind => (Kind::of_owner(kind), owner.name.clone()),
    }
}

/// A Deployment names its ReplicaSets `<deployment>-<hash>` and labels their pods with the hash.
fn deployment<'n>(metadata: &ObjectMeta, replica_set: &'n str) -> Option<&'n str> {
    let hash = metadata.labels.as_ref()?.get("pod-template-hash")?;
    replica_set.strip_suffix(hash.as_str())?.strip_suffix('-').filter(|name| !name.is_empty())
}

/// A CronJob names its Jobs `<cronjob>-<minutes since 1970>`.
fn scheduled(job: &str) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    (minutes.len() >= 8 && minutes.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    #[test]
    fn the_workload_behind_a_pod() {
        let cases = [
            (Some(("ReplicaSet", "web-5d4f")), Some("5d4f"), Some(Kind::Deployment), "web"),
            (Some(("ReplicaSet", "alone")), None, None, "alone"),
            (Some(("StatefulSet", "db")), None, Some(Kind::StatefulSet), "db"),
            (Some(("DaemonSet", "agent")), None, Some(Kind::DaemonSet), "agent"),
            (Some(("Job", "nightly-29384756")), None, Some(Kind::CronJob), "nightly"),
            (Some(("Job", "once")), None, Some(Kind::Job), "once"),
            (Some(("Rollout", "canary")), None, None, "canary"),
            (None, None, Some(Kind::Pod), "p"),
        ];
        for (owner, hash, kind, name) in cases {
            let reference = |(kind, name): (&str, &str)| OwnerReference {
                kind: kind.into(),
                name: name.into(),
                controller: Some(true),
                ..OwnerReference::default()
            };
            let metadata = ObjectMeta {
                name: Some("p".into()),
                labels: hash.map(|hash| [("pod-template-hash".to_owned(), hash.to_owned())].into()),
                owner_references: owner.map(|owner| vec![reference(owner)]),
                ..ObjectMeta::default()
            };
            assert_eq!(injector::inject::workload_name(&metadata), name, "metrics carry another name");
            assert_eq!(of(&Pod { metadata, ..Pod::default() }), (kind, name.to_owned()), "{owner:?}");
        }
    }
}
