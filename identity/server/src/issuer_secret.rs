//! The issuer in a Kubernetes Secret: found, or made by whoever comes first, and followed.
//!
//! The Secret is a `kubernetes.io/tls` one as cert-manager writes it (`tls.crt`, `tls.key`, `ca.crt`), so one made by
//! cert-manager or brought along is taken as it is, and never written to. Creating it is the one write there is: of
//! several replicas that find none, the API server lets one succeed, and the others take that one's.
//!
//! `ca.crt` names the issuer's root there, and is replaced by programs; what the mesh trusts while roots change is our
//! business. Only with the annotation `meshctl.io/anchors: exact` is `ca.crt` the whole bundle, in force at once: the way
//! to stop trusting a root whose key is lost.

use std::time::{Duration, SystemTime};

use controller_runtime::health::Readiness;
use controller_runtime::kubernetes::{describe, is_conflict, is_not_found, watch_named};
use futures_util::StreamExt;
use identity::{Issuer, IssuerFiles, TrustBundle, TrustDomain};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use proto::names::{BUNDLE_CONFIG_MAP, BUNDLE_KEY, IDENTITY_ACCOUNT, ISSUER_SECRET};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::custody::KeptIssuer;
use crate::rotation::{Anchors, Published};

/// What a replica begins with.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) issuer: KeptIssuer,
    /// The bundle that is published already.
    pub(crate) published: Option<Published>,
}

/// The Secret of one system namespace.
#[derive(Clone)]
pub(crate) struct IssuerSecret {
    client: Client,
    namespace: String,
    trust_domain: TrustDomain,
}

impl IssuerSecret {
    pub(crate) fn new(client: Client, namespace: String, trust_domain: TrustDomain) -> Self {
        Self { client, namespace, trust_domain }
    }

    /// Waits for an issuer that can sign, and makes one if there is none. `/ready` says what it waits for.
    pub(crate) async fn obtain(&self, readiness: &Readiness) -> Beginning {
        let mut told = String::new();
        loop {
            let error = match timeout(PATIENCE, self.begin()).await {
                Ok(Ok(beginning)) => {
                    readiness.met(CONDITION);
                    return beginning;
                }
                Ok(Err(error)) => error,
                Err(_) => "the Kubernetes API takes too long to answer".to_owned(),
            };
            readiness.wait_for(CONDITION, error.as_str());
            if told != error {
                tracing::error!(error, "no issuer yet, trying again");
                told = error;
            }
            sleep(RETRY).await;
        }
    }

    /// Follows the Secret; never returns. What is not an issuer, or is gone, changes nothing.
    pub(crate) async fn follow(self, sender: watch::Sender<KeptIssuer>) {
        let mut objects = std::pin::pin!(watch_named(self.secrets(), ISSUER_SECRET, "the issuer's Secret"));
        while let Some(object) = objects.next().await {
            match object.as_ref().map(kept) {
                Some(Ok(kept)) => {
                    sender.send_if_modified(|before| {
                        let changed = *before != kept;
                        *before = kept;
                        changed
                    });
                }
                Some(Err(error)) => tracing::error!(error, "going on with the issuer of before"),
                None => tracing::error!(
                    secret = ISSUER_SECRET,
                    "the issuer's Secret was deleted, going on with it; after a restart there will be a new root"
                ),
            }
        }
    }

    async fn begin(&self) -> Result<Beginning, String> {
        let issuer = self.get_or_create().await?;
        let now = SystemTime::now();
        let checked = Issuer::from_pem(&issuer.files, now).map_err(|error| in_secret(&error))?;
        if now >= checked.not_after() {
            return Err(in_secret(&"its certificate has expired; replace it, or delete the Secret to have a new root"));
        }
        let config_maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let published = config_maps.get_opt(BUNDLE_CONFIG_MAP).await.map_err(|error| describe(&error))?;
        Ok(Beginning { issuer, published: published.as_ref().and_then(bundle_of) })
    }

    async fn get_or_create(&self) -> Result<KeptIssuer, String> {
        let secrets = self.secrets();
        match secrets.get(ISSUER_SECRET).await {
            Ok(secret) => return kept(&secret),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(describe(&error)),
        }
        let created = Issuer::create(&self.trust_domain, SystemTime::now()).map_err(|error| error.to_string())?;
        match secrets.create(&PostParams::default(), &secret(created)).await {
            Ok(secret) => {
                tracing::info!(secret = ISSUER_SECRET, namespace = self.namespace, "there was no issuer, made one");
                kept(&secret)
            }
            // Another replica was quicker: its issuer is the one.
            Err(error) if is_conflict(&error) => {
                kept(&secrets.get(ISSUER_SECRET).await.map_err(|error| describe(&error))?)
            }
            Err(error) => Err(describe(&error)),
        }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// The bundle a ConfigMap publishes. What can't be read of when anchors go counts as not written.
pub(crate) fn bundle_of(config_map: &ConfigMap) -> Option<Published> {
    let bundle = TrustBundle::from_pem(config_map.data.as_ref()?.get(BUNDLE_KEY)?.as_bytes()).ok()?;
    let until = config_map.metadata.annotations.as_ref().and_then(|map| map.get(ANCHORS_UNTIL));
    let until = until.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Some(Published { bundle, until })
}

fn secret((issuer, files): (Issuer, IssuerFiles)) -> Secret {
    let data = [(CERTIFICATE, files.certificate), (KEY, files.key), (ANCHORS, issuer.bundle().to_pem())];
    Secret {
        metadata: ObjectMeta {
            name: Some(ISSUER_SECRET.to_owned()),
            labels: Some([(MANAGED_BY.to_owned(), IDENTITY_ACCOUNT.to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()),
        ..Secret::default()
    }
}

/// The issuer of a Secret, not yet tried out. Never says anything of its content.
fn kept(secret: &Secret) -> Result<KeptIssuer, String> {
    let read = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.map(|bytes| String::from_utf8(bytes.0.clone()));
        text.transpose().map_err(|_| in_secret(&format!("{key} is not text")))
    };
    let need = |key: &str| read(key)?.ok_or_else(|| in_secret(&format!("{key} is missing")));
    let anchors = read(ANCHORS)?.filter(|text| !text.trim().is_empty());
    let files = IssuerFiles { certificate: need(CERTIFICATE)?, key: need(KEY)?, anchors };
    let exact = secret.metadata.annotations.as_ref().and_then(|all| all.get(ANCHORS_ANNOTATION));
    let anchors = if exact.is_some_and(|value| value == "exact") { Anchors::Explicit } else { Anchors::Derived };
    Ok(KeptIssuer { files, anchors })
}

fn in_secret(error: &dyn std::fmt::Display) -> String {
    format!("the issuer in Secret {ISSUER_SECRET} cannot be used: {error}")
}

/// Label of objects that mesh-identity makes; uninstalling finds them by it.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// On the system namespace's bundle: when retired anchors go, as a JSON object of seconds since 1970 by fingerprint.
pub(crate) const ANCHORS_UNTIL: &str = "meshctl.io/anchors-until";
const ANCHORS_ANNOTATION: &str = "meshctl.io/anchors";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ANCHORS: &str = "ca.crt";
const CONDITION: &str = "issuer";
const PATIENCE: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_read_back() {
        let trust_domain = "cluster.local".parse().unwrap();
        let (issuer, files) = Issuer::create(&trust_domain, SystemTime::now()).unwrap();
        let bundle = issuer.bundle().clone();
        let mut object = secret((issuer, files.clone()));
        let read = kept(&object).unwrap();
        assert_eq!((read.files.certificate.as_str(), read.anchors), (files.certificate.as_str(), Anchors::Derived));
        assert_eq!(*Issuer::from_pem(&read.files, SystemTime::now()).unwrap().bundle(), bundle);
        object.metadata.annotations = Some([(ANCHORS_ANNOTATION.to_owned(), "exact".to_owned())].into());
        assert_eq!(kept(&object).unwrap().anchors, Anchors::Explicit);
    }

    #[test]
    fn secrets_of_others_are_taken_without_ca_crt_and_refused_without_a_key() {
        let made = Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
        let mut object = secret(made);
        let data = object.data.as_mut().unwrap();
        data.insert(ANCHORS.to_owned(), ByteString(Vec::new()));
        assert_eq!(kept(&object).unwrap().files.anchors, None);
        object.data.as_mut().unwrap().insert(ANCHORS.to_owned(), ByteString(vec![0xff]));
        assert!(kept(&object).unwrap_err().ends_with("ca.crt is not text"));
        object.data.as_mut().unwrap().remove(KEY);
        object.data.as_mut().unwrap().remove(ANCHORS);
        assert!(kept(&object).unwrap_err().ends_with("tls.key is missing"));
        assert!(kept(&Secret::default()).unwrap_err().ends_with("tls.crt is missing"));
    }
}
