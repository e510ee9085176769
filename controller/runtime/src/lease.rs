//! Leader election by a `coordination.k8s.io` Lease: of several replicas one does what must be done once.
//!
//! The rules are those of Kubernetes' own components, so their tools read ours: a lease is good for 15 s from when its
//! last renewal was *seen*, by the clock of whoever looks, so clocks need not agree. It is renewed every 5 s, others look
//! every 2 s, and it is given back on shutdown. Who could not renew for 10 s stops leading, 5 s before anybody else may
//! start. Writes carry the resource version that was read: of two who take a lease at once, one is refused.
//!
//! A leader must bear that its last call reaches the API server late: nothing fences it. What the mesh's leaders write
//! is computed from the cluster's state alone, so two would write the same.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::kubernetes::{describe, is_conflict, is_not_found};
use crate::shutdown::Shutdown;

/// Which lease, and who we are.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// Namespace of the lease.
    pub namespace: String,
    /// Its name, the same for all replicas.
    pub name: String,
    /// This replica, different from all others: the pod's name.
    pub holder: String,
}

/// One replica's candidacy.
pub struct Election {
    api: Api<Lease>,
    config: LeaseConfig,
    leading: watch::Sender<bool>,
    seen: Option<Seen>,
    /// Until when we lead without another renewal.
    leads_until: Option<Instant>,
    /// A write is under way, or its answer was not waited for: whether we hold the lease only a look can tell.
    unanswered: bool,
    failing: bool,
}

/// A lease as it was last read or written.
#[derive(Debug, Clone)]
struct Seen {
    lease: Lease,
    /// When this version of it was first seen.
    since: Instant,
}

/// What is to be done about the lease now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Take,
    Renew,
    Wait,
}

impl Election {
    /// A candidate, and whether it leads. Nothing happens before [`Self::run`].
    pub fn new(client: Client, config: LeaseConfig) -> (Self, watch::Receiver<bool>) {
        let (leading, is_leader) = watch::channel(false);
        let api = Api::namespaced(client, &config.namespace);
        (Self { api, config, leading, seen: None, leads_until: None, unanswered: false, failing: false }, is_leader)
    }

    /// Leads whenever it can, until `shutdown`; returns when the lease is given back.
    pub async fn run(mut self, shutdown: Shutdown) {
        let ends = || async {
            shutdown.clone().requested().await;
            // What is being written is written: without its answer the lease could not be given back.
            sleep(LAST_ANSWER).await;
        };
        loop {
            let pause = tokio::select! {
                pause = self.turn() => pause,
                () = ends() => break,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.clone().requested() => break,
            }
        }
        self.release().await;
    }

    /// One look at the lease, and what follows from it; returns how long to wait for the next.
    async fn turn(&mut self) -> Duration {
        let started = Instant::now();
        let patience = match self.leads_until {
            Some(until) => REQUEST_TIMEOUT.min(until.saturating_duration_since(started)),
            None => REQUEST_TIMEOUT,
        };
        let result = match timeout(patience, self.step(started)).await {
            Ok(Ok(leads)) => Ok(leads),
            Ok(Err(error)) if is_conflict(&error) => {
                // Somebody else has written it: look again before anything else.
                self.seen = None;
                Ok(false)
            }
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err("the API server took too long to answer".to_owned()),
        };
        let name = &self.config.name;
        match &result {
            Ok(true) => self.leads_until = Some(started + LEADS_FOR),
            Ok(false) => {}
            Err(error) if !self.failing => tracing::warn!(lease = name, error, "cannot look after the lease"),
            Err(_) => {}
        }
        self.failing = result.is_err();
        // Without an answer we lead for as long as nobody else can; told that another does, not a moment longer.
        if self.leads_until.is_some_and(|until| Instant::now() >= until) || self.is_anothers() {
            self.leads_until = None;
        }
        let leads = self.leads_until.is_some();
        self.leading.send_if_modified(|leading| {
            let changed = *leading != leads;
            if changed {
                let event = if leads { "leading" } else { "no longer leading" };
                tracing::info!(lease = name, holder = self.config.holder, "{event}");
            }
            std::mem::replace(leading, leads) != leads
        });
        let pause = if result == Ok(true) { RENEW_EVERY } else { RETRY_EVERY };
        self.leads_until.map_or(pause, |until| pause.min(until.saturating_duration_since(Instant::now())))
    }

    fn is_anothers(&self) -> bool {
        let holder = self.seen.as_ref().and_then(|seen| holder(&seen.lease));
        holder.is_some_and(|holder| holder != self.config.holder)
    }

    /// Reads the lease if another may hold it, decides, acts; whether we hold it now.
    async fn step(&mut self, now: Instant) -> Result<bool, kube::Error> {
        if self.leads_until.is_none() || self.seen.is_none() || self.unanswered {
            self.look(now).await?;
            self.unanswered = false;
        }
        let step = decide(self.seen.as_ref(), &self.config.holder, now);
        let parameters = PostParams::default();
        let written = match (step, &self.seen) {
            (Step::Wait, _) => return Ok(false),
            (Step::Create, _) | (_, None) => {
                let metadata = ObjectMeta { name: Some(self.config.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.spec(&Lease::default())) };
                self.unanswered = true;
                self.api.create(&parameters, &lease).await
            }
            (Step::Take | Step::Renew, Some(seen)) => {
                let mut lease = seen.lease.clone();
                lease.spec = Some(self.spec(&lease));
                self.unanswered = true;
                self.api.replace(&self.config.name, &parameters, &lease).await
            }
        };
        self.seen = Some(Seen { lease: written?, since: now });
        self.unanswered = false;
        Ok(true)
    }

    async fn look(&mut self, now: Instant) -> Result<(), kube::Error> {
        match self.api.get(&self.config.name).await {
            Ok(lease) => {
                let version = |lease: &Lease| lease.metadata.resource_version.clone();
                let unchanged = self.seen.take().filter(|seen| version(&seen.lease) == version(&lease));
                self.seen = Some(Seen { since: unchanged.map_or(now, |seen| seen.since), lease });
            }
            Err(error) if is_not_found(&error) => self.seen = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The lease as we hold it; `before` is what it was.
    fn spec(&self, before: &Lease) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mut spec = before.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.config.holder) {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.config.holder.clone());
        spec.lease_duration_seconds = Some(LEASE_SECONDS);
        spec.renew_time = Some(now);
        spec
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    async fn release(mut self) {
        self.leading.send_replace(false);
        let name = self.config.name.clone();
        match timeout(RELEASE_TIMEOUT, self.give_back()).await {
            Ok(Ok(true)) => tracing::info!(lease = name, "lease given back"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(lease = name, error = describe(&error), "lease not given back"),
            Err(_) => tracing::warn!(lease = name, "lease not given back in time"),
        }
    }

    /// Whether it was ours to give.
    async fn give_back(&mut self) -> Result<bool, kube::Error> {
        if self.unanswered {
            self.look(Instant::now()).await?;
        }
        let seen = self.seen.take().map(|seen| seen.lease);
        let Some(mut lease) = seen.filter(|lease| holder(lease) == Some(&self.config.holder)) else {
            return Ok(false);
        };
        let mut spec = lease.spec.unwrap_or_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        lease.spec = Some(spec);
        self.api.replace(&self.config.name, &PostParams::default(), &lease).await?;
        Ok(true)
    }
}

impl std::fmt::Debug for Election {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Election").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What a candidate called `me` does about the lease it sees.
fn decide(seen: Option<&Seen>, me: &str, now: Instant) -> Step {
    let Some(seen) = seen else { return Step::Create };
    let spec = seen.lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(LEASE_SECONDS);
    let life = Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(LONGEST_LEASE_SECONDS));
    match holder(&seen.lease) {
        Some(holder) if holder == me => Step::Renew,
        None => Step::Take,
        Some(_) if now >= seen.since + life => Step::Take,
        Some(_) => Step::Wait,
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    holder.filter(|holder| !holder.is_empty())
}

const LEASE_SECONDS: i32 = 15;
/// A lease that claims more was not written by us, and must not keep everybody out for a year.
const LONGEST_LEASE_SECONDS: u64 = 300;
const RENEW_EVERY: Duration = Duration::from_secs(5);
const RETRY_EVERY: Duration = Duration::from_secs(2);
const LEADS_FOR: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
const LAST_ANSWER: Duration = Duration::from_secs(2);
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
