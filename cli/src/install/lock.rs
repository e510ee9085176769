//! One at a time: a Lease that exists while an installation, an upgrade or an uninstallation is under way.
//!
//! Whoever finds it looks on for a while. A holder that lives renews it every two seconds, and then there is nothing to do but
//! to say so. One that was killed does not: after ten seconds of silence, by the clock of whoever looks on, it is taken over,
//! so that running the command again finishes what was interrupted.

use std::time::Duration;

use anyhow::{anyhow, bail};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, Preconditions};
use proto::names;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use crate::kubernetes::{explain, is_missing};
use crate::table;

use super::apply::{MANAGED_BY, MANAGER};
use crate::progress::Progress;

/// The Lease, held by us.
#[derive(Debug)]
pub struct Lock {
    api: Api<Lease>,
    lease: Lease,
}

/// What is known of a Lease that somebody else holds, after a look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It is gone.
    Gone,
    /// Its holder has renewed it.
    Alive,
    /// Nothing has happened for this long.
    Silent(Duration),
}

/// What that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Finished,
    UnderWay,
    TakeOver,
    LookOn,
}

impl Lock {
    /// Takes it, from a holder that is dead if need be.
    pub async fn take(client: &Client, progress: &mut Progress) -> anyhow::Result<Self> {
        let api: Api<Lease> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
        let ours = ours();
        match api.create(&PostParams::default(), &ours).await {
            Ok(lease) => return Ok(Self { api, lease }),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => bail!("Lease {}/{NAME} cannot be made: {}", names::SYSTEM_NAMESPACE, explain(&error)),
        }
        let first = look(&api).await?;
        let since = Instant::now();
        loop {
            let Some(held) = &first else { bail!("{FINISHED}") };
            let found = match look(&api).await? {
                None => Found::Gone,
                Some(now) if now.metadata.resource_version != held.metadata.resource_version => Found::Alive,
                Some(_) => Found::Silent(Instant::now() - since),
            };
            match verdict(found) {
                Verdict::Finished => bail!("{FINISHED}"),
                Verdict::UnderWay => bail!("{}", under_way(held)),
                Verdict::TakeOver => break,
                Verdict::LookOn => {}
            }
            progress.wait(&format!("looking whether {} is still at work", holder(held)));
            sleep(PAUSE).await;
        }
        let held = first.unwrap_or_default();
        let mut taken = ours;
        taken.metadata.resource_version = held.metadata.resource_version.clone();
        match api.replace(NAME, &PostParams::default(), &taken).await {
            Ok(lease) => {
                progress.done(&format!("going on with what {} left unfinished", holder(&held)));
                Ok(Self { api, lease })
            }
            Err(kube::Error::Api(status)) if status.code == 409 => bail!("{}", under_way(&held)),
            Err(error) => bail!("Lease {}/{NAME} cannot be taken over: {}", names::SYSTEM_NAMESPACE, explain(&error)),
        }
    }

    /// Does `work` while it is held. An interrupt gives it back, so that the next run need not wait.
    pub async fn hold<T>(mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let interrupted = || anyhow!("interrupted; run the same command again to go on");
        let result = tokio::select! {
            // Work that ends with the namespace ends the Lease as well.
            biased;
            result = work => result,
            lost = self.keep() => Err(lost),
            _ = interrupt.recv() => Err(interrupted()),
            _ = terminate.recv() => Err(interrupted()),
        };
        self.release().await;
        result
    }

    /// Renews it until it is lost, and says how that was.
    async fn keep(&mut self) -> anyhow::Error {
        let mut last = Instant::now();
        loop {
            sleep(RENEW).await;
            let mut next = self.lease.clone();
            next.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
            let replaced = timeout(LASTS, self.api.replace(NAME, &PostParams::default(), &next)).await;
            match replaced {
                Ok(Ok(lease)) => {
                    self.lease = lease;
                    last = Instant::now();
                }
                Ok(Err(kube::Error::Api(status))) if [404, 409].contains(&status.code) => {
                    return anyhow!(
                        "another meshctl has taken over; wait for it to end, and run the same command again"
                    );
                }
                _ if Instant::now() - last >= LASTS => {
                    return anyhow!(
                        "the API server has not answered for {} s; run the same command again to go on",
                        LASTS.as_secs()
                    );
                }
                _ => {}
            }
        }
    }

    /// Who cannot give it back lets it run out.
    async fn release(self) {
        let preconditions = Preconditions {
            resource_version: self.lease.metadata.resource_version.clone(),
            uid: self.lease.metadata.uid.clone(),
        };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        timeout(LASTS, self.api.delete(NAME, &parameters)).await.ok();
    }
}

async fn look(api: &Api<Lease>) -> anyhow::Result<Option<Lease>> {
    match api.get_opt(NAME).await {
        Err(error) if is_missing(&error) => Ok(None),
        other => other
            .map_err(|error| anyhow!("Lease {}/{NAME} cannot be read: {}", names::SYSTEM_NAMESPACE, explain(&error))),
    }
}

fn verdict(found: Found) -> Verdict {
    match found {
        Found::Gone => Verdict::Finished,
        Found::Alive => Verdict::UnderWay,
        Found::Silent(silence) if silence >= LASTS => Verdict::TakeOver,
        Found::Silent(_) => Verdict::LookOn,
    }
}

fn ours() -> Lease {
    let labels = [(MANAGED_BY, MANAGER), ("app.kubernetes.io/part-of", "mesh")];
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("an unknown machine");
    let now = MicroTime(Timestamp::now());
    Lease {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(names::SYSTEM_NAMESPACE.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(format!("meshctl of {user} on {host}, process {}", std::process::id())),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

fn holder(lease: &Lease) -> String {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    table::one_line(holder.unwrap_or("another meshctl"))
}

fn under_way(lease: &Lease) -> String {
    let since = lease.spec.as_ref().and_then(|spec| spec.acquire_time.as_ref());
    let since = since.and_then(|time| Timestamp::from_second(time.0.as_second()).ok());
    let since = since.map(|since| format!(", since {since}")).unwrap_or_default();
    format!(
        "another installation is under way ({}{since}); this one changed nothing: wait for that to end, and run the same \
         command again",
        holder(lease)
    )
}

/// Name of the Lease.
pub const NAME: &str = "mesh-install";
const FINISHED: &str = "another installation has finished just now; this one changed nothing: see what that did with meshctl \
                        upgrade --plan, and run the same command again";
const RENEW: Duration = Duration::from_secs(2);
const LASTS: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_silent_holder_is_dead() {
        for (found, expected) in [
            (Found::Gone, Verdict::Finished),
            (Found::Alive, Verdict::UnderWay),
            (Found::Silent(RENEW * 2), Verdict::LookOn),
            (Found::Silent(LASTS), Verdict::TakeOver),
        ] {
            assert_eq!(verdict(found), expected, "{found:?}");
        }
    }

    #[test]
    fn who_comes_second_is_told_in_one_line_who_was_first() {
        let text = under_way(&ours());
        assert!(text.contains(&format!("process {}, since 20", std::process::id())) && !text.contains('\n'), "{text}");
        assert!(under_way(&Lease::default()).contains("(another meshctl)"));
    }
}
