//! What the certificate authority counts.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::service::Outcome;

/// The counters, cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    certificates: Family<ResultLabels, Counter>,
    issuer_begin: Gauge<u64, AtomicU64>,
    issuer_expiry: Gauge<u64, AtomicU64>,
    anchors: Gauge<u64, AtomicU64>,
    leader: Gauge<u64, AtomicU64>,
    bundles: Gauge<u64, AtomicU64>,
    bundles_missing: Gauge<u64, AtomicU64>,
    bundles_immutable: Gauge<u64, AtomicU64>,
    bundle_failures: Counter,
    ca_bundle_failures: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

impl Metrics {
    /// Puts them into the registry, every result at zero.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in Outcome::ALL {
            let _ = metrics.certificates.get_or_create(&ResultLabels { result: outcome.as_str() });
        }
        registry.register(
            "mesh_identity_certificates_issued",
            "Certificates asked for, by result: issued, or why not",
            metrics.certificates.clone(),
        );
        registry.register(
            "mesh_identity_issuer_begin_timestamp_seconds",
            "Beginning of the issuer's certificate, seconds since 1970",
            metrics.issuer_begin.clone(),
        );
        registry.register(
            "mesh_identity_issuer_expiry_timestamp_seconds",
            "End of the issuer's certificate, seconds since 1970; it signs nothing after it",
            metrics.issuer_expiry.clone(),
        );
        registry.register("mesh_identity_bundle_anchors", "Anchors in the published bundle", metrics.anchors.clone());
        metrics
    }

    /// Puts those into the registry that only a cluster has.
    pub(crate) fn register_cluster(&self, registry: &mut Registry) {
        registry.register(
            "mesh_identity_leader",
            "1 on the replica that publishes the trust bundle",
            self.leader.clone(),
        );
        registry.register(
            "mesh_identity_bundle_config_maps",
            "ConfigMaps with a trust bundle, in all namespaces",
            self.bundles.clone(),
        );
        registry.register(
            "mesh_identity_bundle_namespaces_missing",
            "Namespaces that lack the trust bundle or hold another",
            self.bundles_missing.clone(),
        );
        registry.register(
            "mesh_identity_bundle_namespaces_immutable",
            "Namespaces whose ConfigMap holds another trust bundle and was made immutable by somebody: it must be deleted",
            self.bundles_immutable.clone(),
        );
        registry.register(
            "mesh_identity_bundle_write_failures",
            "ConfigMaps with the trust bundle that could not be written",
            self.bundle_failures.clone(),
        );
        registry.register(
            "mesh_identity_ca_bundle_write_failures",
            "Attempts to write caBundle of the injector's webhooks that failed",
            self.ca_bundle_failures.clone(),
        );
    }

    pub(crate) fn leading(&self, leading: bool) {
        self.leader.set(leading.into());
    }

    pub(crate) fn bundles(&self, held: usize, missing: usize, immutable: usize) {
        self.bundles_immutable.set(immutable as u64);
        self.bundles.set(held as u64);
        self.bundles_missing.set(missing as u64);
    }

    pub(crate) fn bundle_failed(&self) {
        self.bundle_failures.inc();
    }

    pub(crate) fn ca_bundle_failed(&self) {
        self.ca_bundle_failures.inc();
    }

    /// How often, for tests.
    #[cfg(test)]
    pub(crate) fn ca_bundle_failures(&self) -> u64 {
        self.ca_bundle_failures.get()
    }

    pub(crate) fn outcome(&self, outcome: Outcome) {
        self.certificates.get_or_create(&ResultLabels { result: outcome.as_str() }).inc();
    }

    pub(crate) fn issuer(&self, not_before: SystemTime, not_after: SystemTime, anchors: usize) {
        self.issuer_begin.set(seconds(not_before));
        self.issuer_expiry.set(seconds(not_after));
        self.anchors.set(anchors as u64);
    }
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
