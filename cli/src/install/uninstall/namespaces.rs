//! What the injector wrote onto namespaces, taken back; what their owners wrote stays.

use injector::mirror;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt as _};
use proto::names;

use crate::install::apply;
use crate::kubernetes::{explain, is_missing};
use crate::transport::port_forward::all;

use super::Report;

/// Takes the injector's labels and marks off all namespaces, and tells what was done and whose words stay.
///
/// Nobody puts them there again: the injector's rights are gone by then.
pub async fn take_back(client: &Client, report: &mut Report) -> anyhow::Result<()> {
    let partial: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let listed = all(&partial).await;
    let listed = listed.map_err(|error| anyhow::anyhow!("namespaces cannot be listed: {}", explain(&error)))?;
    let api: Api<Namespace> = Api::all(client.clone());
    for namespace in listed {
        let name = namespace.name_any();
        // The whole namespace is gone, or about to be.
        if namespace.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if undo(&api, namespace.metadata.clone()).await? {
            report.deleted.push(format!("what mesh-injector wrote on Namespace {name}"));
        }
        if let Some(word) = owners_word(&namespace.metadata) {
            report.kept.push(format!("{word} of Namespace {name}: its owner's word, which nothing reads now"));
        }
    }
    Ok(())
}

/// Whether there was anything to undo. A namespace that somebody else writes to meanwhile is looked at again.
async fn undo(api: &Api<Namespace>, mut namespace: ObjectMeta) -> anyhow::Result<bool> {
    let name = namespace.name.clone().unwrap_or_default();
    for _ in 0..ATTEMPTS {
        let Some(change) = mirror::undo(&namespace) else { return Ok(false) };
        let parameters = PatchParams { field_manager: Some(apply::MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(change.merge_patch(&namespace));
        match api.patch_metadata(&name, &parameters, &patch).await {
            Ok(_) => return Ok(true),
            Err(error) if is_missing(&error) => return Ok(false),
            Err(kube::Error::Api(status)) if status.code == 409 => match api.get_metadata_opt(&name).await {
                Ok(Some(now)) => namespace = now.metadata,
                Ok(None) => return Ok(false),
                Err(error) => anyhow::bail!("Namespace {name} cannot be read: {}", explain(&error)),
            },
            Err(error) => anyhow::bail!(
                "{} of Namespace {name} cannot be taken back: {}; run the same command again",
                names::INJECT_MIRRORED,
                explain(&error)
            ),
        }
    }
    anyhow::bail!("Namespace {name} changes all the time; run the same command again")
}

/// What a person wrote to ask for proxies, or against them.
fn owners_word(namespace: &ObjectMeta) -> Option<String> {
    let of = |map: &Option<std::collections::BTreeMap<String, String>>| map.as_ref()?.get(names::INJECT).cloned();
    let is_ours = matches!(mirror::undo(namespace), Some(mirror::Change::Remove { label: true }));
    let annotation = of(&namespace.annotations).map(|value| format!("annotation {}={value}", names::INJECT));
    let label = of(&namespace.labels).filter(|_| !is_ours).map(|value| format!("label {}={value}", names::INJECT));
    annotation.or(label).map(|word| crate::table::one_line(&word))
}

const ATTEMPTS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_owners_are_told_from_ours() {
        let metadata = |annotation: Option<&str>, label: Option<&str>, mark: Option<&str>| {
            let entry = |key: &str, value: Option<&str>| value.map(|value| (key.to_owned(), value.to_owned()));
            ObjectMeta {
                annotations: Some(
                    entry(names::INJECT, annotation).into_iter().chain(entry(names::INJECT_MIRRORED, mark)).collect(),
                ),
                labels: Some(entry(names::INJECT, label).into_iter().collect()),
                ..ObjectMeta::default()
            }
        };
        let on = Some("enabled");
        for (found, expected) in [
            (metadata(on, on, on), Some("annotation meshctl.io/inject=enabled")),
            (metadata(None, on, None), Some("label meshctl.io/inject=enabled")),
            // Istio's label was what the injector copied.
            (metadata(None, on, on), None),
            (metadata(None, Some("disabled"), on), Some("label meshctl.io/inject=disabled")),
            (metadata(None, None, None), None),
        ] {
            assert_eq!(owners_word(&found).as_deref(), expected, "{found:?}");
        }
    }
}
