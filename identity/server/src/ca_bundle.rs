//! `caBundle` of the injector's webhooks: what the API server checks the injector's certificate with.
//!
//! Whoever may write a webhook configuration may have itself called for every Pod, Secret and Namespace there is. The injector
//! answers whoever asks, so it may only read its own; we, who are trusted with the mesh's root anyway, write it.
//!
//! It is the bundle that is to be published, written by the leader whenever that, or the configuration object, changes. Only
//! entries that differ are named in the patch. Whoever resets it again and again is answered once a second.

use std::sync::Arc;
use std::time::Duration;

use controller_runtime::health::Readiness;
use controller_runtime::kubernetes::{describe, is_conflict, watch_named};
use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use proto::names::{IDENTITY_ACCOUNT, WEBHOOK_CONFIGURATION};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::rotation::Published;

/// What keeps every `caBundle` equal to the bundle.
pub(crate) struct CaBundle {
    pub(crate) client: Client,
    /// The bundle.
    pub(crate) wanted: watch::Receiver<Option<Arc<Published>>>,
    /// Whether we are the one who writes.
    pub(crate) leading: watch::Receiver<bool>,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
}

impl CaBundle {
    /// Keeps it for ever.
    pub(crate) async fn run(mut self) {
        let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        let mut objects = std::pin::pin!(watch_named(api.clone(), WEBHOOK_CONFIGURATION, "the webhook configuration"));
        let (mut current, mut pace) = (None, Pace::default());
        loop {
            let again = pace.again;
            tokio::select! {
                object = objects.next() => match object {
                    Some(object) => current = object,
                    None => return,
                },
                changed = self.wanted.changed() => if changed.is_err() { return },
                changed = self.leading.changed() => if changed.is_err() { return },
                () = async { tokio::time::sleep_until(again.unwrap_or_else(Instant::now)).await }, if again.is_some() => {}
            }
            let leading = *self.leading.borrow_and_update();
            let wanted = self.wanted.borrow_and_update().clone().filter(|_| leading);
            let Some(wanted) = wanted else {
                self.readiness.remark(ABOUT, None);
                pace = Pace::default();
                continue;
            };
            if pace.may_write(Instant::now()) {
                let written = self.write(&api, current.as_ref(), &wanted.bundle.to_pem()).await;
                pace.wrote(written, Instant::now());
            }
        }
    }

    async fn write(
        &self,
        api: &Api<MutatingWebhookConfiguration>,
        current: Option<&MutatingWebhookConfiguration>,
        wanted: &str,
    ) -> Written {
        // Without a configuration there is nothing to do: the injector says that it is missing.
        let Some(patch) = current.and_then(|current| patch(current, wanted)) else {
            self.readiness.remark(ABOUT, None);
            return Written::Nothing;
        };
        let parameters = PatchParams { field_manager: Some(IDENTITY_ACCOUNT.to_owned()), ..PatchParams::default() };
        let patch = Patch::Strategic(patch);
        let patching = api.patch(WEBHOOK_CONFIGURATION, &parameters, &patch);
        let error = match tokio::time::timeout(PATIENCE, patching).await {
            Ok(Ok(_)) => {
                tracing::info!("the API server knows the bundle that the injector's certificate is checked with");
                self.readiness.remark(ABOUT, None);
                return Written::Something;
            }
            // It has changed since it was seen: what it is now is on its way to us.
            Ok(Err(error)) if is_conflict(&error) => return Written::Failed,
            Ok(Err(error)) => describe(&error),
            Err(_) => format!("the API server does not answer within {PATIENCE:?}"),
        };
        self.metrics.ca_bundle_failed();
        tracing::warn!(error, "cannot write caBundle of the webhooks, trying again");
        self.readiness.remark(ABOUT, Some(format!("cannot write caBundle: {error}")));
        Written::Failed
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
        if written != Written::Nothing {
            self.quiet = Some(now + QUIET);
        }
    }
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

const ABOUT: &str = "webhooks";
const AGAIN: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
