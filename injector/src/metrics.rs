//! What the injector counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::Skipped;

/// Counters of the webhooks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    injections: Family<Labels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
    reason: &'static str,
}

impl Metrics {
    /// Puts `mesh_injections_total{result,reason}` and `mesh_build_info{version}` into the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "mesh_injections",
            "Pods seen by the webhook, by result (injected, skipped, error) and reason",
            metrics.injections.clone(),
        );
        // From zero, so that the first of each is an increase as well.
        for reason in Skipped::REASONS {
            drop(metrics.injections.get_or_create(&Labels { result: "skipped", reason }));
        }
        for reason in ["namespace_unknown", "malformed"] {
            drop(metrics.injections.get_or_create(&Labels { result: "error", reason }));
        }
        let version = Family::<[(&str, &str); 1], prometheus_client::metrics::gauge::Gauge>::default();
        version.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("mesh_build_info", "1, with the version in a label", version);
        metrics
    }

    /// A pod got its proxy, because of `asked`: pod or namespace.
    pub fn injected(&self, asked: &'static str) {
        self.count("injected", asked);
    }

    /// A pod stays as it is.
    pub fn skipped(&self, reason: &'static str) {
        self.count("skipped", reason);
    }

    /// A question that could not be answered properly.
    pub fn failed(&self, reason: &'static str) {
        self.count("error", reason);
    }

    /// How often, for tests.
    pub fn read(&self, result: &'static str, reason: &'static str) -> u64 {
        self.injections.get_or_create(&Labels { result, reason }).get()
    }

    fn count(&self, result: &'static str, reason: &'static str) {
        self.injections.get_or_create(&Labels { result, reason }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_begins_at_zero() {
        let mut registry = Registry::default();
        Metrics::register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let words = include_str!("decision.rs").split("fn reason(").nth(1).unwrap().split("    }\n").next().unwrap();
        let words: Vec<_> = words.split('"').skip(1).step_by(2).collect();
        assert_eq!(words.len(), Skipped::REASONS.len());
        for word in words {
            assert!(text.contains(&format!("{{result=\"skipped\",reason=\"{word}\"}} 0\n")), "{word}\n{text}");
        }
    }
}
