//! Whether the API server believes us: `caBundle` of our webhooks, which mesh-identity writes, against the certificate we serve
//! with.
//!
//! We only read it. Who may write a webhook configuration can have itself called for every object of the cluster, and we are
//! called by whoever likes to.

use std::sync::atomic::AtomicI64;
use std::time::{Duration, SystemTime};

use controller_runtime::health::Readiness;
use controller_runtime::kubernetes::watch_named;
use futures_util::StreamExt;
use identity::{LeafCertificate, MeshTls, PeerRole, TrustBundle};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use kube::{Api, Client};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::names::WEBHOOK_CONFIGURATION;

/// What is known of it, for whoever scrapes us.
#[derive(Debug, Clone, Default)]
pub struct Trusted {
    in_force: Gauge<i64, AtomicI64>,
}

impl Trusted {
    /// Puts `mesh_injector_ca_bundle_in_force` into the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let trusted = Self::default();
        registry.register(
            "mesh_injector_ca_bundle_in_force",
            "1 while the API server believes the certificate we serve with: every webhook has a caBundle that it chains to",
            trusted.in_force.clone(),
        );
        trusted
    }
}

/// Follows the configuration, and says what is wrong with it; never returns.
///
/// Not ready until it was right once. What is wrong later is a remark: there is nobody else whom the API server could call
/// instead, and when it is mended it would have to hear of us anew.
pub async fn follow(client: Client, tls: MeshTls, readiness: Readiness, trusted: Trusted) {
    readiness.wait_for(CONDITION, "waiting for the webhook configuration");
    let api = Api::<MutatingWebhookConfiguration>::all(client);
    let mut objects = std::pin::pin!(watch_named(api, WEBHOOK_CONFIGURATION, "the webhook configuration"));
    let mut ticks = tokio::time::interval(EVERY);
    let (mut current, mut told) = (None, Told::default());
    loop {
        tokio::select! {
            object = objects.next() => match object {
                Some(object) => current = Some(object),
                None => std::future::pending().await,
            },
            // Another certificate of ours, or one that has ended.
            _ = ticks.tick() => {}
        }
        if let (Some(object), Some(leaf)) = (&current, tls.leaf()) {
            told.tell(look(object.as_ref(), &leaf, SystemTime::now()), &readiness, &trusted);
        }
    }
}

/// Whether the API server would call us.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    Right,
    /// It has nobody to call.
    Missing,
    /// It would not believe us, for this reason.
    Wrong(String),
}

/// What was said last.
#[derive(Debug, Default)]
struct Told {
    was_right: bool,
    last: Option<Look>,
}

impl Told {
    fn tell(&mut self, look: Look, readiness: &Readiness, trusted: &Trusted) {
        trusted.in_force.set((look == Look::Right).into());
        if self.last.as_ref() == Some(&look) {
            return;
        }
        let remark = match &look {
            Look::Right => {
                tracing::info!("the API server can check our certificate");
                None
            }
            Look::Missing => {
                tracing::warn!(
                    name = WEBHOOK_CONFIGURATION,
                    "there is no MutatingWebhookConfiguration; nothing is injected"
                );
                Some("there is no MutatingWebhookConfiguration; nothing is injected".to_owned())
            }
            Look::Wrong(reason) => {
                tracing::warn!(reason, "the API server does not believe us; mesh-identity keeps caBundle");
                Some(reason.clone())
            }
        };
        self.was_right |= look == Look::Right;
        match remark.clone().filter(|_| !self.was_right && look != Look::Missing) {
            Some(reason) => readiness.wait_for(CONDITION, reason),
            None => readiness.met(CONDITION),
        }
        readiness.remark(CONDITION, remark);
        self.last = Some(look);
    }
}

fn look(object: Option<&MutatingWebhookConfiguration>, leaf: &LeafCertificate, now: SystemTime) -> Look {
    let Some(object) = object else { return Look::Missing };
    let mut webhooks = object.webhooks.iter().flatten();
    let wrong = webhooks.find_map(|webhook| Some((&webhook.name, wrong(webhook, leaf, now)?)));
    wrong.map_or(Look::Right, |(name, wrong)| Look::Wrong(format!("{name} {wrong}")))
}

fn wrong(webhook: &MutatingWebhook, leaf: &LeafCertificate, now: SystemTime) -> Option<String> {
    let bytes = webhook.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).unwrap_or_default();
    if bytes.is_empty() {
        return Some("has no caBundle from mesh-identity yet".to_owned());
    }
    let bundle = match TrustBundle::from_pem(bytes) {
        Ok(bundle) => bundle,
        Err(error) => return Some(format!("has a caBundle that is no trust bundle: {error}")),
    };
    let verified = MeshTls::new(Some(bundle.into())).verify_peer(leaf.chain(), PeerRole::Server, now);
    verified.err().map(|refused| format!("has a caBundle by which our certificate is refused: {refused}"))
}

const CONDITION: &str = "webhooks";
const EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use identity::{Issuer, KeyAndRequest, SpiffeId, TrustDomain};
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn issuer() -> Issuer {
        Issuer::create(&"cluster.local".parse::<TrustDomain>().unwrap(), SystemTime::now()).unwrap().0
    }

    fn leaf(issuer: &Issuer) -> LeafCertificate {
        let id: SpiffeId = "spiffe://cluster.local/ns/mesh-system/sa/mesh-injector".parse().unwrap();
        let key = KeyAndRequest::new(&id).unwrap();
        let issued = issuer.issue(key.csr(), &id, Duration::from_secs(3600), SystemTime::now()).unwrap();
        key.complete(issued.chain).unwrap()
    }

    fn configuration(bundles: [&str; 2]) -> MutatingWebhookConfiguration {
        let webhook = |(name, bundle): (&str, &str)| {
            let bundle = ByteString(bundle.as_bytes().to_vec());
            json!({"name": name, "clientConfig": {"caBundle": bundle}, "admissionReviewVersions": ["v1"], "sideEffects": "None"})
        };
        let webhooks: Vec<_> = ["pods", "namespaces"].into_iter().zip(bundles).map(webhook).collect();
        serde_json::from_value(json!({"metadata": {"name": WEBHOOK_CONFIGURATION}, "webhooks": webhooks})).unwrap()
    }

    #[test]
    fn what_the_api_server_would_make_of_our_certificate() {
        let (issuer, other, now) = (issuer(), issuer(), SystemTime::now());
        let leaf = leaf(&issuer);
        let (own, foreign) = (issuer.bundle().to_pem(), other.bundle().to_pem());
        // During a rotation it is one of several.
        let both = format!("{foreign}{own}");
        let seen = |bundles: [&str; 2]| look(Some(&configuration(bundles)), &leaf, now);
        assert_eq!(seen([&own, &both]), Look::Right);
        for (bundle, expected) in
            [("", "no caBundle from mesh-identity yet"), ("x", "that is no trust bundle"), (&foreign, "is refused: ")]
        {
            let Look::Wrong(reason) = seen([&own, bundle]) else { panic!("{bundle}") };
            assert!(reason.starts_with("namespaces has ") && reason.contains(expected), "{reason}");
        }
        assert_eq!(look(None, &leaf, now), Look::Missing);
        let late = look(Some(&configuration([&own, &own])), &leaf, leaf.not_after() + EVERY);
        assert!(matches!(late, Look::Wrong(reason) if reason.contains("expired")));
    }

    #[test]
    fn it_is_waited_for_once_and_then_told() {
        let (readiness, trusted, mut told) = (Readiness::new(), Trusted::default(), Told::default());
        let wrong = || Look::Wrong("pods has none".to_owned());
        for (look, is_ready, gauge) in [
            (wrong(), false, 0),
            (Look::Missing, true, 0),
            (wrong(), false, 0),
            (Look::Right, true, 1),
            (wrong(), true, 0),
            (Look::Right, true, 1),
        ] {
            told.tell(look.clone(), &readiness, &trusted);
            assert_eq!((readiness.is_ready(), trusted.in_force.get()), (is_ready, gauge), "{look:?}");
        }
    }
}
