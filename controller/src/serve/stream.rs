//! The task behind one open stream.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use controller_runtime::sources::Place;
use identity::SpiffeId;
use proto::discovery as wire;
use proto::names::HEARTBEAT_SECONDS;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tonic::{Status, Streaming};

use crate::hub::Worlds;
use crate::serve::admission::UsedUp;
use crate::serve::session::{Heard, ProtocolViolation, Push, Session};
use crate::serve::shares::Share;
use crate::serve::{OpenStream, own_pause};
use crate::world::{Key, World};

type Outgoing = mpsc::Sender<Result<wire::DiscoverResponse, Status>>;

/// One proxy's stream.
pub(crate) struct DiscoveryStream {
    open: OpenStream,
    incoming: Streaming<wire::DiscoverRequest>,
    outgoing: Outgoing,
    id: SpiffeId,
    address: IpAddr,
    proxy: String,
    counted_subscriptions: usize,
    counted_behind: bool,
    /// It was said that keys wait.
    complained: bool,
}

/// Why a stream ends.
enum End {
    /// The proxy went away.
    Gone,
    /// The proxy broke the protocol.
    Violation(ProtocolViolation),
    /// We end it; a word for the proxy and the metric.
    Goodbye(&'static str, Duration),
}

impl DiscoveryStream {
    pub(crate) fn new(
        open: OpenStream,
        incoming: Streaming<wire::DiscoverRequest>,
        outgoing: Outgoing,
        (id, address): (SpiffeId, IpAddr),
    ) -> Self {
        let proxy = id.to_string();
        let (counted_subscriptions, counted_behind, complained) = (0, false, false);
        Self { open, incoming, outgoing, id, address, proxy, counted_subscriptions, counted_behind, complained }
    }

    /// Serves the stream to its end, or until its place goes to somebody who has fewer.
    pub(crate) async fn run(mut self, mut place: Place) {
        let end = tokio::select! {
            Err(end) = self.serve() => end,
            () = place.taken_away() => {
                self.open.shared.complain(UsedUp::Streams, self.address, &self.id);
                End::Goodbye("overloaded", own_pause())
            }
        };
        match end {
            End::Gone => tracing::debug!(proxy = self.proxy, "stream ended"),
            End::Violation(violation) => {
                self.open.shared.metrics.goodbye("protocol");
                tracing::warn!(proxy = self.proxy, id = %self.id, %violation, "stream ended");
                let status = Err(Status::invalid_argument(violation.to_string()));
                let _ = timeout(FAREWELL, self.outgoing.send(status)).await;
            }
            End::Goodbye(reason, retry_after) => {
                self.open.shared.metrics.goodbye(reason);
                tracing::debug!(proxy = self.proxy, reason, "stream ended");
                let _ = timeout(FAREWELL, self.outgoing.send(Ok(goodbye(reason, retry_after)))).await;
            }
        }
        self.count(0, false);
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        let (mut session, mut share) = self.greet().await?;
        let mut worlds = self.open.shared.hub.worlds();
        let mut reached = self.open.shared.hub.reached();
        let life = self.open.shared.config.stream_life.mul_f64(0.5 + rand::random::<f64>());
        let ends = Instant::now() + life;
        let (mut behind_since, mut rejected) = (None, BTreeSet::new());
        let mut heartbeats = interval(Duration::from_secs(HEARTBEAT_SECONDS));
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat_due = false;
        let shutdown = self.open.shared.shutdown.clone().requested();
        tokio::pin!(shutdown);
        observe(&mut session, &mut worlds).await;
        loop {
            let behind = session.is_behind() && worlds.borrow().is_some();
            self.count(session.subscriptions(), behind);
            self.note_line(&session);
            self.note_behind(&session, behind, &mut behind_since);
            let patience = behind_since.map_or(ends, |since: Instant| ends.min(since + BEHIND_PATIENCE));
            tokio::select! {
                message = self.incoming.message() => {
                    let message = message.map_err(|_| End::Gone)?.ok_or(End::Gone)?;
                    let world = worlds.borrow().clone();
                    let heard = session.receive(message, world.as_deref()).map_err(End::Violation)?;
                    self.note(&heard, &mut rejected);
                    Self::take_in(&mut session, &mut share, &worlds).await;
                }
                changed = worlds.changed() => {
                    changed.map_err(|_| End::Goodbye("draining", draining_pause()))?;
                    observe(&mut session, &mut worlds).await;
                }
                Ok(()) = reached.changed(), if behind => observe(&mut session, &mut worlds).await,
                _ = heartbeats.tick() => {
                    heartbeat_due = true;
                    let is_spare = Self::take_in(&mut session, &mut share, &worlds).await;
                    if is_spare && session.left_out() {
                        // It asks for all it needs when it comes back, at once.
                        return Err(End::Goodbye("rebalance", Duration::ZERO));
                    }
                }
                // Only when there is room is the next message made: it is then the latest.
                permit = self.outgoing.reserve(), if heartbeat_due || session.has_update() => {
                    let permit = permit.map_err(|_| End::Gone)?;
                    if let Some(Push { update, since }) = session.next_update() {
                        self.open.shared.metrics.updates.inc();
                        if let Some(since) = since {
                            self.open.shared.metrics.push_duration.observe(Instant::now() - since);
                        }
                        permit.send(Ok(response(wire::discover_response::Kind::Update(update))));
                    } else if heartbeat_due {
                        heartbeat_due = false;
                        permit.send(Ok(self.heartbeat(&worlds)));
                    }
                }
                () = &mut shutdown => return Err(End::Goodbye("draining", draining_pause())),
                () = sleep_until(patience) => {
                    let reason = if behind_since.is_some() && Instant::now() < ends { "behind" } else { "rebalance" };
                    return Err(End::Goodbye(reason, if reason == "behind" { BEHIND_PAUSE } else { Duration::ZERO }));
                }
            }
        }
    }

    async fn greet(&mut self) -> Result<(Session, Share), End> {
        let first = timeout(HELLO_TIMEOUT, self.incoming.message()).await;
        let first = first.map_err(|_| End::Violation(ProtocolViolation::NoHello))?;
        let kind = first.map_err(|_| End::Gone)?.ok_or(End::Gone)?.kind;
        let Some(wire::discover_request::Kind::Hello(hello)) = kind else {
            return Err(End::Violation(ProtocolViolation::NoHello));
        };
        // Names for people, as far as a log line should go.
        self.proxy = format!("{}/{}", hello.namespace, hello.workload).chars().take(253).collect();
        tracing::debug!(proxy = self.proxy, id = %self.id, held = hello.held.len(), "stream opened");
        let mut session =
            Session::open(hello, self.id.namespace(), self.id.service_account()).map_err(End::Violation)?;
        // What it holds is taken in before its first look at the world.
        let mut share = self.open.shared.shares.enter(self.address);
        Self::take_in(&mut session, &mut share, &self.open.shared.hub.worlds()).await;
        // Last: only who has said all of this takes what is everybody's.
        let admitted = self.open.shared.admission.lock().admit(Instant::now());
        admitted.map_err(|retry_after| {
            // Nobody's fault: so it is for a moment whenever replicas begin anew.
            self.open.shared.metrics.used_up(UsedUp::StreamsPerSecond);
            End::Goodbye("overloaded", retry_after)
        })?;
        Ok((session, share))
    }

    /// Serves those keys of the line for which its address has room by now; returns whether it has room for more.
    async fn take_in(session: &mut Session, share: &mut Share, worlds: &Worlds) -> bool {
        let room = share.hold(session.subscriptions(), session.in_line());
        let keys = session.take_in(room);
        let world = worlds.borrow().clone();
        if let Some(world) = world {
            look(session, &keys, &world).await;
        }
        room.is_spare
    }

    fn heartbeat(&self, worlds: &Worlds) -> wire::DiscoverResponse {
        let shared = &self.open.shared;
        let as_of = worlds.borrow().as_deref().map(|world| world.progress().to_wire()).unwrap_or_default();
        let age = shared.hub.age(Instant::now()).as_millis();
        response(wire::discover_response::Kind::Heartbeat(wire::Heartbeat {
            as_of: Some(as_of),
            watch_age_ms: u64::try_from(age).unwrap_or(u64::MAX),
            controller: shared.config.replica.clone(),
        }))
    }

    fn note(&self, heard: &Heard, rejected: &mut BTreeSet<Key>) {
        match heard {
            Heard::Nothing => {}
            Heard::Acknowledged => {
                self.open.shared.metrics.acknowledged.inc();
            }
            Heard::Rejected { key, reason } => {
                self.open.shared.metrics.rejected.inc();
                // Said of each key once.
                if rejected.contains(key) || !self.open.shared.may_note(self.address) {
                    return;
                }
                rejected.insert(key.clone());
                tracing::warn!(proxy = self.proxy, ?key, reason, "proxy rejects a version and keeps the one before");
            }
        }
    }

    /// Says once of a stream that keys of it wait.
    fn note_line(&mut self, session: &Session) {
        if session.in_line() > 0 && !std::mem::replace(&mut self.complained, true) {
            self.open.shared.complain(UsedUp::KeysOfAddress, self.address, &self.id);
        }
    }

    fn note_behind(&self, session: &Session, behind: bool, since: &mut Option<Instant>) {
        if !behind {
            *since = None;
        } else if since.is_none() {
            *since = Some(Instant::now());
            let mark = session.mark();
            self.open.shared.hub.want(mark);
            if !self.open.shared.may_note(self.address) {
                return;
            }
            tracing::warn!(proxy = self.proxy, %mark, "this replica is behind what the proxy has seen; it answers nothing");
        }
    }

    fn count(&mut self, subscriptions: usize, behind: bool) {
        let metrics = &self.open.shared.metrics;
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.subscriptions.inc_by(signed(subscriptions) - signed(self.counted_subscriptions));
        metrics.behind.inc_by(i64::from(behind) - i64::from(self.counted_behind));
        (self.counted_subscriptions, self.counted_behind) = (subscriptions, behind);
    }
}

/// The controller ends a stream.
pub(crate) fn goodbye(reason: &str, retry_after: Duration) -> wire::DiscoverResponse {
    let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
    response(wire::discover_response::Kind::Goodbye(wire::Goodbye { reason: reason.to_owned(), retry_after_ms }))
}

/// Takes in the newest world, and lets others have their turn between.
async fn observe(session: &mut Session, worlds: &mut Worlds) {
    let world: Option<Arc<World>> = worlds.borrow_and_update().clone();
    let Some(world) = world else { return };
    let keys = session.turn_to(&world);
    look(session, &keys, &world).await;
}

async fn look(session: &mut Session, keys: &[Key], world: &World) {
    for keys in keys.chunks(KEYS_AT_ONCE) {
        keys.iter().for_each(|key| session.look(key, world));
        tokio::task::yield_now().await;
    }
}

fn response(kind: wire::discover_response::Kind) -> wire::DiscoverResponse {
    wire::DiscoverResponse { kind: Some(kind) }
}

/// One to three seconds, so that a restarted replica is not met by everybody at once.
fn draining_pause() -> Duration {
    Duration::from_millis(1000 + rand::random_range(0..2000))
}

/// A fraction of a millisecond's work.
const KEYS_AT_ONCE: usize = 100;
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a proxy waits for a replica that is behind before it should try another.
const BEHIND_PATIENCE: Duration = Duration::from_secs(10);
const BEHIND_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::hub::Hub;
    use crate::progress::Progress;
    use crate::serve::session::tests::{PLENTY, facts, mesh};

    #[tokio::test]
    async fn a_stream_with_thousands_of_keys_lets_others_have_their_turn() {
        let hub = Hub::new(mesh(), Instant::now());
        let held = |port| {
            let id = wire::ServicePort { namespace: "shop".to_owned(), name: "web".to_owned(), port };
            let key = Some(wire::Key { kind: Some(wire::key::Kind::Endpoints(id)) });
            wire::Held { key, hash: vec![1].into() }
        };
        let hello = wire::Hello { held: (1..=5000).map(held).collect(), ..wire::Hello::default() };
        let mut session = Session::open(hello, "shop", "web").unwrap();
        session.take_in(PLENTY);
        hub.publish(facts(&[1]), Progress::of("directory", 1), Instant::now());
        let turns = Arc::new(AtomicUsize::new(0));
        let counting = turns.clone();
        let other = tokio::spawn(async move {
            loop {
                counting.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        observe(&mut session, &mut hub.worlds()).await;
        assert!(turns.load(Ordering::Relaxed) >= 49, "{turns:?}");
        assert_eq!(std::iter::from_fn(|| session.next_update()).count(), 5000);
        other.abort();
    }
}
