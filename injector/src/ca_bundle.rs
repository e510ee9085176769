//! `caBundle` of our webhooks: what the API server checks our certificate with.
//!
//! It is the mesh's trust bundle, written whenever that, or the configuration object, changes. Only entries that differ
//! are named in the patch, so several replicas that do the same do not disturb each other. Whoever resets it again and again is
//! answered once a second.

use std::sync::Arc;
use std::time::Duration;

use controller_runtime::health::Readiness;
use controller_runtime::kubernetes::{describe, watch_named};
use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use proto::names;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

/// Keeps every `caBundle` equal to the bundle; never returns.
pub async fn keep(client: Client, mut bundle: watch::Receiver<Option<Arc<str>>>, readiness: Readiness) {
    readiness.wait_for(CONDITION, "waiting for the trust bundle");
    let api = Api::<MutatingWebhookConfiguration>::all(client);
    let mut objects = std::pin::pin!(watch_named(api.clone(), names::WEBHOOK_CONFIGURATION));
    let (mut current, mut pace, mut failing) = (None, Pace::default(), false);
    loop {
        let again = pace.again;
        tokio::select! {
            object = objects.next() => match object {
                Some(Ok(object)) => {
                    failing = false;
                    if object.is_none() {
                        tracing::warn!(name = names::WEBHOOK_CONFIGURATION, "there is no MutatingWebhookConfiguration; nothing is injected");
                    }
                    current = object;
                }
                Some(Err(error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "cannot follow the webhook configuration");
                    }
                    continue;
                }
                None => std::future::pending().await,
            },
            changed = bundle.changed() => if changed.is_err() {
                std::future::pending().await
            },
            () = async { tokio::time::sleep_until(again.unwrap_or_else(Instant::now)).await }, if again.is_some() => {}
        }
        let wanted = bundle.borrow_and_update().clone();
        if let Some(wanted) = wanted.filter(|_| pace.may_write(Instant::now())) {
            let written = write(&api, current.as_ref(), &wanted, &readiness).await;
            pace.wrote(written, Instant::now());
        }
    }
}

/// What came of a look at the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Nothing had to be.
    Nothing,
    Something,
    Failed,
}

/// When to write.
#[derive(Debug, Default)]
struct Pace {
    /// Not before.
    quiet: Option<Instant>,
    /// Whatever happens, then.
    again: Option<Instant>,
}

impl Pace {
    /// Whether it may be now; if not, it will be later.
    fn may_write(&mut self, now: Instant) -> bool {
        self.again = self.quiet.filter(|quiet| now < *quiet);
        self.again.is_none()
    }

    fn wrote(&mut self, written: Written, now: Instant) {
        self.again = (written == Written::Failed).then(|| now + AGAIN);
        if written == Written::Something {
            self.quiet = Some(now + QUIET);
        }
    }
}

async fn write(
    api: &Api<MutatingWebhookConfiguration>,
    current: Option<&MutatingWebhookConfiguration>,
    wanted: &str,
    readiness: &Readiness,
) -> Written {
    let Some(patch) = current.and_then(|current| patch(current, wanted)) else {
        readiness.met(CONDITION);
        return Written::Nothing;
    };
    let parameters = PatchParams { field_manager: Some("mesh-injector".to_owned()), ..PatchParams::default() };
    let patch = Patch::Strategic(patch);
    let patching = api.patch(names::WEBHOOK_CONFIGURATION, &parameters, &patch);
    let error = match tokio::time::timeout(PATIENCE, patching).await {
        Ok(Ok(_)) => {
            tracing::info!("the API server knows the bundle that our certificate is checked with");
            readiness.met(CONDITION);
            return Written::Something;
        }
        Ok(Err(error)) => describe(&error),
        Err(_) => format!("the API server does not answer within {PATIENCE:?}"),
    };
    tracing::warn!(error, "cannot write caBundle");
    readiness.wait_for(CONDITION, error);
    Written::Failed
}

/// The entries that differ, by name, as a strategic merge patch has them; nothing where none does.
fn patch(current: &MutatingWebhookConfiguration, wanted: &str) -> Option<Value> {
    let wanted = ByteString(wanted.as_bytes().to_vec());
    let webhooks: Vec<_> = current
        .webhooks
        .iter()
        .flatten()
        .filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&wanted))
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": wanted}}))
        .collect();
    // Entries that were renamed since are not made anew from a name and a bundle.
    let version = &current.metadata.resource_version;
    (!webhooks.is_empty()).then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": webhooks}))
}

const CONDITION: &str = "webhooks";
const AGAIN: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_once_a_second_at_most() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(pace.may_write(start));
        pace.wrote(Written::Something, start);
        assert_eq!(pace.again, None);
        // Somebody has reset it: it is written again when the second is over, though nothing more happens.
        assert!(!pace.may_write(start + QUIET / 10));
        assert_eq!(pace.again, Some(start + QUIET));
        assert!(pace.may_write(start + QUIET));
        pace.wrote(Written::Nothing, start + QUIET);
        assert!(pace.again.is_none() && pace.may_write(start + QUIET));
        pace.wrote(Written::Failed, start + QUIET);
        assert_eq!(pace.again, Some(start + QUIET + AGAIN));
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut object: MutatingWebhookConfiguration = serde_json::from_value(json!({
            "metadata": {"name": "mesh-injector", "resourceVersion": "7"},
            "webhooks": [
                {"name": "pods.meshctl.io", "clientConfig": {"caBundle": "UEVN"}, "admissionReviewVersions": ["v1"], "sideEffects": "None"},
                {"name": "namespaces.meshctl.io", "clientConfig": {}, "admissionReviewVersions": ["v1"], "sideEffects": "None"},
            ],
        }))
        .unwrap();
        assert_eq!(
            patch(&object, "PEM").unwrap(),
            json!({
                "metadata": {"resourceVersion": "7"},
                "webhooks": [{"name": "namespaces.meshctl.io", "clientConfig": {"caBundle": "UEVN"}}],
            })
        );
        object.webhooks.as_mut().unwrap()[1].client_config.ca_bundle = Some(ByteString(b"PEM".to_vec()));
        assert_eq!(patch(&object, "PEM"), None);
    }
}
