//! [`ControlState`]: how the proxy's own affairs stand (stream, certificate, readiness), for admin, metrics and the
//! command line. Written by the discovery and identity clients, read by anybody.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::TrustBundle;
use parking_lot::Mutex;
use proto::admin::{DiscoveryStatus, IdentityStatus};
use proto::discovery::Progress;
use proto::names::metric;
use tokio::time::Instant;

use super::store::hex;
use super::{Discovery, Known};
use crate::telemetry::exposition::Text;

/// Shared by everything on the control thread. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ControlState(Arc<Mutex<Affairs>>);

impl ControlState {
    /// Nothing has happened yet.
    pub fn new(id: &str) -> Self {
        let identity = IdentityStatus { id: id.to_owned(), ..IdentityStatus::default() };
        Self(Arc::new(Mutex::new(Affairs {
            connected: false,
            controller: String::new(),
            live_at: Instant::now(),
            live_before: Duration::ZERO,
            as_of: Progress::default(),
            last_error: None,
            streams: 0,
            rejected: 0,
            identity,
            renewal_failures: 0,
        })))
    }

    /// `/discovery`.
    pub fn discovery(&self, discovery: &Discovery) -> DiscoveryStatus {
        let affairs = self.0.lock();
        DiscoveryStatus {
            connected: affairs.connected,
            controller: affairs.controller.clone(),
            age_ms: milliseconds(affairs.age(Instant::now())),
            as_of: affairs.as_of.positions.clone(),
            last_error: affairs.last_error.clone(),
            streams: affairs.streams,
            subscriptions: discovery.store().list(),
        }
    }

    /// `/identity`.
    pub fn identity(&self) -> IdentityStatus {
        self.0.lock().identity.clone()
    }

    /// What is missing before the application may start; empty means ready.
    pub fn missing(&self, discovery: &Discovery, now: SystemTime) -> Vec<String> {
        let affairs = self.0.lock();
        let mut missing = Vec::new();
        if affairs.identity.not_after_ms <= since_1970(now) {
            let why = affairs.identity.last_error.as_deref().unwrap_or("asked for, not answered yet");
            missing.push(format!("no valid certificate: {why}"));
        }
        for (what, waiting) in [
            ("the workload", matches!(discovery.inbound().current(), Known::Waiting)),
            ("the mesh's settings", matches!(discovery.settings().current(), Known::Waiting)),
        ] {
            if waiting {
                let why = affairs.last_error.as_deref().unwrap_or("no answer yet");
                missing.push(format!("no controller has told about {what}: {why}"));
            }
        }
        missing
    }

    /// Metrics of the proxy's own affairs.
    pub fn write_metrics(&self, text: &mut Text) {
        let affairs = self.0.lock();
        let age = affairs.age(Instant::now()).as_secs_f64();
        let identity = &affairs.identity;
        let expiry = identity.not_after_ms / 1000;
        text.single(
            metric::DISCOVERY_AGE,
            "gauge",
            "Seconds since the picture of the world was known to be live.",
            age,
        );
        let connected = u8::from(affairs.connected);
        text.single(metric::DISCOVERY_CONNECTED, "gauge", "Whether a discovery stream is up.", connected);
        let rejected = affairs.rejected;
        text.single(metric::DISCOVERY_REJECTED, "counter", "Values that this proxy could not use.", rejected);
        text.single(metric::CERTIFICATE_EXPIRY, "gauge", "End of the certificate, seconds since 1970.", expiry);
        text.family(metric::CERTIFICATE_RENEWALS, "counter", "Certificates asked for.");
        text.sample(metric::CERTIFICATE_RENEWALS, &[("result", "success")], identity.renewals);
        text.sample(metric::CERTIFICATE_RENEWALS, &[("result", "failure")], affairs.renewal_failures);
    }

    /// A stream to `controller` is up.
    pub(crate) fn connected(&self, controller: &str) {
        let mut affairs = self.0.lock();
        affairs.connected = true;
        affairs.streams += 1;
        controller.clone_into(&mut affairs.controller);
    }

    /// The stream ended, or none came about. Says whether there was one.
    pub(crate) fn disconnected(&self, error: &str) -> bool {
        let mut affairs = self.0.lock();
        affairs.last_error = Some(error.to_owned());
        std::mem::take(&mut affairs.connected)
    }

    /// A controller said how far it is, and that its own sources were live `age` ago.
    pub(crate) fn heartbeat(&self, controller: &str, as_of: Progress, age: Duration) {
        let mut affairs = self.0.lock();
        if !controller.is_empty() {
            controller.clone_into(&mut affairs.controller);
        }
        affairs.as_of = as_of;
        // A replica whose sources are older must not make the picture look older than it is known to be.
        let now = Instant::now();
        if age <= affairs.age(now) {
            affairs.live_at = now;
            affairs.live_before = age;
        }
        affairs.last_error = None;
    }

    pub(crate) fn rejected(&self) {
        self.0.lock().rejected += 1;
    }

    /// How long ago the picture was last known to be live.
    pub(crate) fn age(&self) -> Duration {
        self.0.lock().age(Instant::now())
    }

    /// When the picture was last known to be live, by the clock on the wall.
    pub(crate) fn live_at(&self, now: SystemTime) -> SystemTime {
        now.checked_sub(self.0.lock().age(Instant::now())).unwrap_or(UNIX_EPOCH)
    }

    /// The picture was taken over from an earlier process that knew it to be live `age` ago.
    pub(crate) fn restored(&self, age: Duration, mark: &Progress) {
        let mut affairs = self.0.lock();
        affairs.live_before = age;
        affairs.live_at = Instant::now();
        affairs.as_of = mark.clone();
    }

    pub(crate) fn certificate(&self, not_before: SystemTime, not_after: SystemTime, renew_at: SystemTime, new: bool) {
        let identity = &mut self.0.lock().identity;
        identity.not_before_ms = since_1970(not_before);
        identity.not_after_ms = since_1970(not_after);
        identity.renew_at_ms = since_1970(renew_at);
        identity.renewals += u64::from(new);
        identity.last_error = None;
    }

    /// Why there is no new certificate. False where the same was said before.
    pub(crate) fn certificate_failed(&self, error: &str) -> bool {
        let mut affairs = self.0.lock();
        affairs.renewal_failures += 1;
        affairs.identity.last_error.replace(error.to_owned()).as_deref() != Some(error)
    }

    pub(crate) fn bundle(&self, bundle: &TrustBundle) {
        let identity = &mut self.0.lock().identity;
        identity.bundle = hex(bundle.fingerprint().as_bytes());
        identity.anchors = bundle.subjects();
    }
}

#[derive(Debug)]
struct Affairs {
    connected: bool,
    controller: String,
    /// When a controller last spoke, or the process started.
    live_at: Instant,
    /// How old its sources were then.
    live_before: Duration,
    as_of: Progress,
    last_error: Option<String>,
    streams: u64,
    rejected: u64,
    identity: IdentityStatus,
    renewal_failures: u64,
}

impl Affairs {
    fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.live_at) + self.live_before
    }
}

pub(crate) fn since_1970(time: SystemTime) -> u64 {
    milliseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
