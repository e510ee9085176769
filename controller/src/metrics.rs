//! What the controller counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::serve::admission::UsedUp;

/// The controller's own metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Open discovery streams.
    pub streams: Gauge,
    /// Subscriptions over all streams.
    pub subscriptions: Gauge,
    /// Versions sent.
    pub updates: Counter,
    /// From a change's arrival to its way into a stream, in seconds, for each stream it goes to.
    pub push_duration: PushDuration,
    /// Versions proxies put in force.
    pub acknowledged: Counter,
    /// Versions proxies refused.
    pub rejected: Counter,
    /// Streams the controller ended or did not let in, by reason.
    pub goodbyes: Family<GoodbyeLabels, Counter>,
    /// Streams that were not let in, or had to end, because something was used up, and those of which keys wait for that; by
    /// what it was.
    pub used_up: Family<UsedUpLabels, Counter>,
    /// Streams whose proxy has seen newer facts than this replica.
    pub behind: Gauge,
    /// Objects in force.
    pub objects: Gauge,
    /// Files of the directory that can't be used; their last good content is in force.
    pub broken_files: Gauge,
    /// Changes of facts put in force.
    pub changes: Counter,
    /// Age of the sources in seconds.
    pub source_age: Gauge<f64, AtomicU64>,
    /// Objects in force by kind.
    pub facts: Family<KindLabels, Gauge>,
    /// Seconds since each watch was heard.
    pub watch_age: Family<WatchLabels, Gauge<f64, AtomicU64>>,
    /// Watches begun anew with a list, by reason.
    pub watch_restarts: Family<RestartLabels, Counter>,
    /// Objects that can't be used and so are not in force.
    pub unusable: Family<WatchLabels, Gauge>,
    /// Status of objects written.
    pub status_writes: Counter,
}

/// How long changes take.
#[derive(Debug, Clone)]
pub struct PushDuration(Histogram);

impl PushDuration {
    /// One version, sent so long after its change arrived.
    pub fn observe(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

impl Default for PushDuration {
    fn default() -> Self {
        Self(Histogram::new(PUSH_BUCKETS))
    }
}

/// Objects of which kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// Its plural, as the API has it.
    pub kind: &'static str,
}

/// Which watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WatchLabels {
    /// The plural of its kind.
    pub watch: &'static str,
}

/// Which watch, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RestartLabels {
    /// The plural of its kind.
    pub watch: &'static str,
    /// `behind`: a proxy has seen more; `expired`: the API server has forgotten where the watch was; `silent`: nothing came
    /// for longer than it may last; `stands_still`: the storage had what the watch did not tell in time, which comes again
    /// and again where etcd does not tell the API server of its progress; `unreadable`; `went_back`: the storage is older.
    pub reason: &'static str,
}

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GoodbyeLabels {
    /// Word sent to the proxy.
    pub reason: &'static str,
}

/// What was used up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UsedUpLabels {
    /// A word of [`UsedUp::as_str`].
    pub share: &'static str,
}

impl Metrics {
    /// Puts all of them into the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        let mesh = registry.sub_registry_with_prefix("mesh_controller");
        mesh.register("streams_open", "Discovery streams", it.streams.clone());
        mesh.register("subscriptions_open", "Keys subscribed over all streams", it.subscriptions.clone());
        mesh.register("updates", "Versions sent to proxies", it.updates.clone());
        mesh.register(
            "config_push_duration_seconds",
            "From a change's arrival to its way into a stream, for each stream it goes to",
            it.push_duration.0.clone(),
        );
        mesh.register("acknowledged", "Versions proxies put in force", it.acknowledged.clone());
        mesh.register("rejected", "Versions proxies refused", it.rejected.clone());
        mesh.register("goodbyes", "Streams ended or not let in by this replica", it.goodbyes.clone());
        for used_up in UsedUp::ALL {
            // An increase is only seen of what was there before.
            drop(it.used_up.get_or_create(&UsedUpLabels { share: used_up.as_str() }));
        }
        mesh.register(
            "streams_limited",
            "Streams not let in or ended because a share was used up, and streams of which keys wait, by share",
            it.used_up.clone(),
        );
        mesh.register(
            "streams_behind",
            "Streams whose proxy has seen newer facts than this replica",
            it.behind.clone(),
        );
        mesh.register("objects", "Objects in force", it.objects.clone());
        mesh.register(
            "broken_files",
            "Files that cannot be used; their last good content stays",
            it.broken_files.clone(),
        );
        mesh.register("changes", "Changes of facts put in force", it.changes.clone());
        mesh.register("facts", "Objects in force by kind", it.facts.clone());
        mesh.register("watch_age_seconds", "Since each watch was last heard", it.watch_age.clone());
        mesh.register("watch_restarts", "Watches begun anew with a list, by reason", it.watch_restarts.clone());
        mesh.register("unusable_objects", "Objects that cannot be used and so are not in force", it.unusable.clone());
        mesh.register("status_writes", "Status of objects written by this replica as leader", it.status_writes.clone());
        mesh.register("source_age_seconds", "Since the sources were last known to be live", it.source_age.clone());
        it
    }

    pub(crate) fn used_up(&self, share: UsedUp) {
        self.used_up.get_or_create(&UsedUpLabels { share: share.as_str() }).inc();
    }

    pub(crate) fn goodbye(&self, reason: &'static str) {
        self.goodbyes.get_or_create(&GoodbyeLabels { reason }).inc();
    }
}

/// Seconds; a change should be with every proxy within one.
const PUSH_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
