//! Where the issuer is kept and the trust bundle is published: a directory, or objects of a Kubernetes cluster.

use std::path::PathBuf;
use std::sync::Arc;

use identity::{Issuer, IssuerError, IssuerFiles, TrustBundle, TrustDomain, write_private};
use tokio::sync::watch;

use crate::rotation::{Anchors, Published};

/// The place.
#[derive(Debug)]
pub(crate) enum Custody {
    Directory(Directory),
    Cluster(Cluster),
}

/// A directory of ours alone.
#[derive(Debug)]
pub(crate) struct Directory {
    issuer: PathBuf,
    bundle_file: Option<PathBuf>,
}

/// A cluster's objects, shared with other replicas; tasks of their own read and write them.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The issuer as it was last seen.
    pub(crate) issuer: watch::Receiver<KeptIssuer>,
    /// The bundle that was published when we started.
    pub(crate) before: Option<Published>,
    /// What is to be published.
    pub(crate) wanted: watch::Sender<Option<Arc<Published>>>,
    /// What is published.
    pub(crate) published: watch::Receiver<Option<Arc<Published>>>,
}

/// An issuer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptIssuer {
    pub(crate) files: IssuerFiles,
    pub(crate) anchors: Anchors,
}

impl Directory {
    /// The issuer's directory; one is made there if there is none.
    pub(crate) fn open(
        issuer: PathBuf,
        bundle_file: Option<PathBuf>,
        trust_domain: &TrustDomain,
        now: std::time::SystemTime,
    ) -> Result<Self, IssuerError> {
        Issuer::load_or_create(&issuer, trust_domain, now)?;
        Ok(Self { issuer, bundle_file })
    }
}

impl Custody {
    /// The issuer as it is kept now.
    pub(crate) fn issuer(&self) -> Result<KeptIssuer, IssuerError> {
        match self {
            Self::Directory(directory) => {
                let files = IssuerFiles::read(&directory.issuer)?;
                // Who writes ca.crt into a directory means it.
                let anchors = if files.anchors.is_some() { Anchors::Explicit } else { Anchors::Derived };
                Ok(KeptIssuer { files, anchors })
            }
            Self::Cluster(cluster) => Ok(cluster.issuer.borrow().clone()),
        }
    }

    /// What an earlier run, or another replica, has published.
    pub(crate) fn published_before(&self) -> Option<Published> {
        match self {
            Self::Directory(directory) => {
                let pem = std::fs::read(directory.bundle_file.as_ref()?).ok()?;
                TrustBundle::from_pem(&pem).ok().map(Published::from)
            }
            Self::Cluster(cluster) => cluster.before.clone(),
        }
    }

    /// Whether others use the issuer too, who may have signed with another one a moment ago.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Publishes the bundle, or has it published.
    pub(crate) fn publish(&self, published: &Published, pem: &str) -> Result<(), (PathBuf, std::io::Error)> {
        match self {
            Self::Directory(directory) => match &directory.bundle_file {
                Some(path) => write_private(path, pem.as_bytes(), 0o644).map_err(|error| (path.clone(), error)),
                None => Ok(()),
            },
            Self::Cluster(cluster) => {
                cluster.wanted.send_replace(Some(Arc::new(published.clone())));
                Ok(())
            }
        }
    }

    /// What is published by now, where `ours` was handed to [`Self::publish`].
    pub(crate) fn confirmed(&self, ours: &Published) -> Option<Arc<Published>> {
        match self {
            Self::Directory(_) => Some(Arc::new(ours.clone())),
            Self::Cluster(cluster) => cluster.published.borrow().clone(),
        }
    }
}
