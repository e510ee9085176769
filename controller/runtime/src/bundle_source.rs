//! Where a control-plane program reads the trust bundle: a file, or a ConfigMap followed through the Kubernetes API.
//!
//! A pod could mount that ConfigMap, but as an optional volume: one that is written after the pod has started appears
//! up to a minute later, and this is what happens in every first install.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use identity::{BundleError, BundleFile, MeshTls, TrustBundle};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{interval, timeout};

use crate::kubernetes::watch_named;

/// Tells of the bundle in force (PEM) whenever it is another, looking each time `every` has passed; never returns.
pub async fn tell(tls: MeshTls, every: Duration, mut told: impl FnMut(Option<Arc<str>>)) {
    let mut ticks = interval(every);
    let mut before = None;
    loop {
        ticks.tick().await;
        let bundle = tls.bundle();
        let fingerprint = bundle.as_ref().map(|bundle| bundle.fingerprint());
        if before != fingerprint {
            before = fingerprint;
            told(bundle.map(|bundle| bundle.to_pem().into()));
        }
    }
}

/// Where the bundle comes from.
#[derive(Debug, Clone)]
pub enum BundleSource {
    /// What is known at the start, then mesh-identity's answers.
    Answers,
    /// A file that is followed.
    File(PathBuf),
    /// A ConfigMap that is followed, see [`follow`].
    Cluster(watch::Receiver<Option<Arc<TrustBundle>>>),
}

/// The ConfigMap with the bundle.
#[derive(Debug, Clone)]
pub struct BundleConfigMap {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key that holds the PEM.
    pub key: String,
}

/// Follows the ConfigMap for as long as a receiver is left. A bundle stays in force when its ConfigMap is deleted or
/// broken: whoever follows it is better off with the last good one than with none.
pub fn follow(client: Client, config_map: BundleConfigMap) -> watch::Receiver<Option<Arc<TrustBundle>>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = keep_current(client, &config_map, &sender) => {}
        }
    });
    receiver
}

/// A source with what was last told of it.
#[derive(Debug)]
pub(crate) enum OpenBundle {
    Answers,
    File(BundleFile),
    Cluster(watch::Receiver<Option<Arc<TrustBundle>>>),
}

impl OpenBundle {
    pub(crate) fn new(source: &BundleSource) -> Self {
        match source {
            BundleSource::Answers => Self::Answers,
            BundleSource::File(path) => Self::File(BundleFile::new(path)),
            BundleSource::Cluster(receiver) => {
                let mut receiver = receiver.clone();
                receiver.mark_changed();
                Self::Cluster(receiver)
            }
        }
    }

    /// Waits a moment for the first bundle, where it is on its way: the API answers within milliseconds, and without a
    /// bundle nothing else can begin.
    pub(crate) async fn first(&mut self) {
        if let Self::Cluster(receiver) = self {
            let arrived = receiver.wait_for(Option::is_some);
            let bundle = timeout(FIRST_PATIENCE, arrived).await.is_ok_and(|bundle| bundle.is_ok());
            if bundle {
                receiver.mark_changed();
            }
        }
    }

    /// The bundle if it has changed since the last call.
    pub(crate) fn poll(&mut self) -> Result<Option<Arc<TrustBundle>>, BundleError> {
        match self {
            Self::Answers => Ok(None),
            Self::File(file) => file.poll(),
            Self::Cluster(receiver) => Ok(match receiver.has_changed() {
                Ok(true) => receiver.borrow_and_update().clone(),
                Ok(false) | Err(_) => None,
            }),
        }
    }
}

async fn keep_current(client: Client, from: &BundleConfigMap, sender: &watch::Sender<Option<Arc<TrustBundle>>>) {
    let (namespace, name) = (from.namespace.as_str(), from.name.as_str());
    let api = Api::<ConfigMap>::namespaced(client, namespace);
    let mut objects = std::pin::pin!(watch_named(api, name, "the trust bundle"));
    while let Some(object) = objects.next().await {
        match bundle_of(object.as_ref(), from) {
            Ok(bundle) => {
                sender.send_if_modified(|current| {
                    let changed = current.as_ref() != Some(&bundle);
                    *current = Some(bundle);
                    changed
                });
            }
            Err(error) if sender.borrow().is_some() => {
                tracing::error!(error, "keeping the trust bundle of before");
            }
            Err(error) => tracing::warn!(error, "waiting for the trust bundle"),
        }
    }
}

fn bundle_of(object: Option<&ConfigMap>, from: &BundleConfigMap) -> Result<Arc<TrustBundle>, String> {
    let BundleConfigMap { namespace, name, key } = from;
    let object = object
        .ok_or_else(|| format!("there is no ConfigMap {name} in namespace {namespace} yet; mesh-identity writes it"))?;
    let text = object.data.as_ref().and_then(|data| data.get(key));
    let text = text.ok_or_else(|| format!("ConfigMap {name} in namespace {namespace} has no key {key}"))?;
    let bundle = TrustBundle::from_pem(text.as_bytes());
    bundle.map(Arc::new).map_err(|error| format!("ConfigMap {name} in namespace {namespace}: {error}"))
}

const FIRST_PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use identity::Issuer;

    use super::*;

    fn from() -> BundleConfigMap {
        let [namespace, name, key] = ["mesh-system", "mesh-trust-bundle", "bundle.pem"].map(str::to_owned);
        BundleConfigMap { namespace, name, key }
    }

    fn object(key: &str, text: &str) -> ConfigMap {
        ConfigMap { data: Some([(key.to_owned(), text.to_owned())].into()), ..ConfigMap::default() }
    }

    #[test]
    fn what_is_wrong_with_a_config_map_is_said() {
        let issuer = Issuer::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap().0;
        let good = object("bundle.pem", &issuer.bundle().to_pem());
        assert_eq!(*bundle_of(Some(&good), &from()).unwrap(), *issuer.bundle());
        assert!(bundle_of(None, &from()).unwrap_err().contains("mesh-identity writes it"));
        assert!(bundle_of(Some(&object("ca.pem", "")), &from()).unwrap_err().ends_with("has no key bundle.pem"));
        assert!(bundle_of(Some(&object("bundle.pem", "x")), &from()).unwrap_err().contains("no certificate"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_bundle_is_waited_for_but_not_for_ever() {
        let bundle = Arc::new(Issuer::create(&"td".parse().unwrap(), SystemTime::now()).unwrap().0.bundle().clone());
        let (sender, receiver) = watch::channel(None);
        let mut open = OpenBundle::new(&BundleSource::Cluster(receiver));
        open.first().await;
        assert_eq!(open.poll().unwrap(), None);
        let (_, ()) = tokio::join!(open.first(), async { drop(sender.send_replace(Some(bundle.clone()))) });
        assert_eq!(open.poll().unwrap(), Some(bundle));
    }

    #[test]
    fn a_followed_bundle_is_told_once_per_change_and_outlives_its_watch() {
        let bundle = || Arc::new(Issuer::create(&"td".parse().unwrap(), SystemTime::now()).unwrap().0.bundle().clone());
        let (first, second) = (bundle(), bundle());
        let (sender, receiver) = watch::channel(Some(first.clone()));
        let mut open = OpenBundle::new(&BundleSource::Cluster(receiver));
        assert_eq!(open.poll().unwrap(), Some(first));
        assert_eq!(open.poll().unwrap(), None);
        sender.send_replace(Some(second.clone()));
        assert_eq!(open.poll().unwrap(), Some(second));
        drop(sender);
        assert_eq!(open.poll().unwrap(), None);
    }
}
