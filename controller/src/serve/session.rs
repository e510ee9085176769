//! One stream's state, pure: what the proxy holds, what it must still be told, and in which order.
//!
//! The mailbox is the set of subscriptions itself: each knows the version sent last and at most one newer version, so a
//! proxy that reads slowly costs no more than one that keeps up, and what it then reads is the latest. Versions that take
//! endpoints away go first. Facts that are behind the proxy's mark answer nothing.
//!
//! Keys for which there is no room wait in a line and are not answered yet; to the proxy that is a controller that takes its
//! time, and what it holds stays in force. What every proxy needs never waits.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use policy::ServicePort;
use proto::discovery as wire;
use resolve::Caller;
use tokio::time::Instant;

use crate::progress::Progress;
use crate::serve::encode;
use crate::world::{Key, Value, World};

/// What one proxy is told over one stream.
#[derive(Debug)]
pub struct Session {
    caller: Caller,
    mark: Progress,
    as_of: Progress,
    behind: bool,
    subscriptions: BTreeMap<Key, Subscription>,
    /// Keys with something to send, by urgency, then in the order they came up.
    queue: BTreeMap<(Urgency, u64), Key>,
    /// Keys for which there was no room yet, in the order they came.
    line: BTreeMap<u64, Key>,
    left_out: bool,
    next_order: u64,
}

/// How much more a stream may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Keys of its line that it may be served from now on.
    pub keys: usize,
    /// Keys that may stay in its line; those beyond are forgotten.
    pub line: usize,
    /// Whether there is room for more than that.
    pub is_spare: bool,
}

#[derive(Debug)]
struct Subscription {
    sent: Sent,
    waiting: Option<Waiting>,
    /// Its place in the line while there is no room for it.
    in_line: Option<u64>,
}

/// A version to be sent.
#[derive(Debug)]
struct Waiting {
    place: (Urgency, u64),
    value: Arc<Value>,
    since: Option<Instant>,
}

/// A version that is sent.
#[derive(Debug)]
pub struct Push {
    /// The message.
    pub update: wire::Update,
    /// When the change arrived that made it; none where it answers a question.
    pub since: Option<Instant>,
}

#[derive(Debug)]
enum Sent {
    Nothing,
    /// Came with the proxy: the version is known, its content is not.
    Held(Vec<u8>),
    Version(Arc<Value>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    RemovesEndpoints,
    Usual,
}

/// What a proxy said that others want to know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Only the subscriptions changed.
    Nothing,
    /// It put the version sent last in force.
    Acknowledged,
    /// It refuses a version.
    Rejected {
        /// For which key.
        key: Key,
        /// In its words.
        reason: String,
    },
}

/// Why a stream must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolViolation {
    /// Hello must be first.
    #[error("the first message of a discovery stream must be Hello")]
    NoHello,
    /// Hello can't come again.
    #[error("Hello may only be the first message of a discovery stream")]
    SecondHello,
    /// More keys than a proxy can need.
    #[error("more than {MAX_SUBSCRIPTIONS} subscriptions on one stream; unsubscribe what is not used")]
    TooManySubscriptions,
    /// A key, hash or address no proxy of ours would send.
    #[error("{0}")]
    Malformed(&'static str),
}

impl Session {
    /// A stream's state after its Hello, for a peer whose certificate names `namespace` and `service_account`.
    pub fn open(hello: wire::Hello, namespace: &str, service_account: &str) -> Result<Self, ProtocolViolation> {
        if hello.addresses.len() > MAX_ADDRESSES {
            return Err(ProtocolViolation::Malformed("Hello names more than 16 addresses"));
        }
        let addresses = hello.addresses.iter().map(|bytes| ip(bytes).map(|ip| ip.to_canonical()));
        let mut addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        addresses.sort_unstable();
        addresses.dedup();
        let caller = Caller {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            name: hello.workload.chars().take(MAX_NAME).collect(),
            addresses,
        };
        let mut session = Self {
            caller,
            mark: Progress::from_wire(hello.mark),
            as_of: Progress::default(),
            // Until the first world is seen there is nothing to say.
            behind: true,
            subscriptions: BTreeMap::new(),
            queue: BTreeMap::new(),
            line: BTreeMap::new(),
            left_out: false,
            next_order: 0,
        };
        for held in hello.held {
            if held.hash.len() > MAX_HASH {
                return Err(ProtocolViolation::Malformed("a held version's hash is longer than 32 bytes"));
            }
            if let Some(key) = key(held.key)? {
                session.add(key, Sent::Held(held.hash.to_vec()))?;
            }
        }
        Ok(session)
    }

    /// Takes in one message after Hello; a new key [waits in line](Self::take_in).
    pub fn receive(
        &mut self,
        request: wire::DiscoverRequest,
        world: Option<&World>,
    ) -> Result<Heard, ProtocolViolation> {
        use wire::discover_request::Kind;
        match request.kind {
            Some(Kind::Hello(_)) => return Err(ProtocolViolation::SecondHello),
            Some(Kind::Subscribe(subscribe)) => {
                if let Some(key) = key(subscribe.key)?
                    && self.add(key.clone(), Sent::Nothing)?
                    && let Some(world) = world
                {
                    // The world may be newer than the one observed last; then all keys are looked at anew anyway.
                    self.look(&key, world);
                }
            }
            Some(Kind::Unsubscribe(unsubscribe)) => {
                if let Some(key) = key(unsubscribe.key)? {
                    self.remove(&key);
                }
            }
            Some(Kind::Acknowledge(_)) => return Ok(Heard::Acknowledged),
            Some(Kind::Reject(reject)) => {
                let reason = reject.reason.chars().take(MAX_REASON).collect();
                let key = key(reject.key)?.filter(|key| self.subscriptions.contains_key(key));
                return Ok(key.map_or(Heard::Nothing, |key| Heard::Rejected { key, reason }));
            }
            // A message of a newer proxy.
            None => {}
        }
        Ok(Heard::Nothing)
    }

    /// From now on that world is the one that counts: [`look`](Self::look) at these, at all of them.
    pub fn turn_to(&mut self, world: &World) -> Vec<Key> {
        self.behind = world.is_behind(&self.mark);
        if self.behind {
            return Vec::new();
        }
        self.as_of = world.progress().clone();
        let served = self.subscriptions.iter().filter(|(_, subscription)| subscription.in_line.is_none());
        served.map(|(key, _)| key.clone()).collect()
    }

    /// Serves those of the line that there is room for: [`look`](Self::look) at these.
    pub fn take_in(&mut self, room: Room) -> Vec<Key> {
        let mut keys = Vec::new();
        while keys.len() < room.keys
            && let Some((_, key)) = self.line.pop_first()
        {
            self.subscriptions.get_mut(&key).expect("what is in line is subscribed").in_line = None;
            keys.push(key);
        }
        while self.line.len() > room.line
            && let Some((_, key)) = self.line.pop_last()
        {
            self.subscriptions.remove(&key);
            self.left_out = true;
        }
        keys
    }

    /// What to send next, and takes it as sent.
    pub fn next_update(&mut self) -> Option<Push> {
        if self.behind {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        let subscription = self.subscriptions.get_mut(&key).expect("what is queued is subscribed");
        let Waiting { value, since, .. } = subscription.waiting.take().expect("what is queued waits");
        let update = wire::Update {
            key: Some(wire_key(&key)),
            hash: value.hash.to_vec().into(),
            as_of: Some(self.as_of.to_wire()),
            value: Some(value.message(&key)),
        };
        subscription.sent = Sent::Version(value);
        Some(Push { update, since })
    }

    /// Whether [`next_update`](Self::next_update) has something.
    pub fn has_update(&self) -> bool {
        !self.behind && !self.queue.is_empty()
    }

    /// Whether the proxy has seen facts that the world observed last had not come to.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// How far the proxy has seen.
    pub fn mark(&self) -> &Progress {
        &self.mark
    }

    /// Number of subscriptions that are served.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len() - self.line.len()
    }

    /// Number of subscriptions for which there is no room yet.
    pub fn in_line(&self) -> usize {
        self.line.len()
    }

    /// Whether the proxy asked for keys that were forgotten, because the line had no room for them either.
    pub fn left_out(&self) -> bool {
        self.left_out
    }

    /// Subscribes; `false` if it already was.
    fn add(&mut self, key: Key, sent: Sent) -> Result<bool, ProtocolViolation> {
        if self.subscriptions.contains_key(&key) {
            return Ok(false);
        }
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(ProtocolViolation::TooManySubscriptions);
        }
        let in_line = match &key {
            Key::Bundle | Key::Settings | Key::Inbound => None,
            Key::Outbound(_) | Key::Endpoints(_) => {
                self.next_order += 1;
                self.line.insert(self.next_order, key.clone());
                Some(self.next_order)
            }
        };
        self.subscriptions.insert(key, Subscription { sent, waiting: None, in_line });
        Ok(true)
    }

    fn remove(&mut self, key: &Key) {
        let Some(subscription) = self.subscriptions.remove(key) else { return };
        if let Some(Waiting { place, .. }) = subscription.waiting {
            self.queue.remove(&place);
        }
        if let Some(place) = subscription.in_line {
            self.line.remove(&place);
        }
    }

    /// Queues the world's version of a key if it is another than the one sent last, and unqueues an older one.
    pub fn look(&mut self, key: &Key, world: &World) {
        if self.behind {
            return;
        }
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if subscription.in_line.is_some() {
            return;
        }
        let value = world.value(key, &self.caller);
        let before = subscription.waiting.take();
        if let Some(before) = &before {
            self.queue.remove(&before.place);
        }
        let urgency = match &subscription.sent {
            Sent::Version(sent) if sent.hash == value.hash => return,
            Sent::Held(hash) if *hash == value.hash => return,
            Sent::Version(sent) if !value.removes_endpoints_of(sent) => Urgency::Usual,
            Sent::Nothing => Urgency::Usual,
            Sent::Held(_) | Sent::Version(_) => Urgency::RemovesEndpoints,
        };
        // What has been waiting keeps its place, whatever it is now.
        let place = match &before {
            Some(Waiting { place: (before, order), .. }) => (*before.min(&urgency), *order),
            None => (urgency, self.next_order),
        };
        // Neither what a proxy asks first nor what it missed while it was away is pushed to it because of a change.
        let pushed = matches!(subscription.sent, Sent::Version(_));
        let since = before.and_then(|before| before.since).or_else(|| world.heard().filter(|_| pushed));
        self.next_order += 1;
        self.queue.insert(place, key.clone());
        subscription.waiting = Some(Waiting { place, value, since });
    }
}

/// The key of a message; `None` for kinds of a newer proxy.
fn key(key: Option<wire::Key>) -> Result<Option<Key>, ProtocolViolation> {
    use wire::key::Kind;
    Ok(Some(match key.and_then(|key| key.kind) {
        None => return Ok(None),
        Some(Kind::Bundle(_)) => Key::Bundle,
        Some(Kind::Settings(_)) => Key::Settings,
        Some(Kind::Inbound(_)) => Key::Inbound,
        Some(Kind::Outbound(address)) => Key::Outbound(SocketAddr::new(ip(&address.ip)?, port(address.port)?)),
        Some(Kind::Endpoints(id)) => {
            if id.namespace.len() > MAX_NAME || id.name.len() > MAX_NAME {
                return Err(ProtocolViolation::Malformed("a Service's name is longer than 253 bytes"));
            }
            Key::Endpoints(ServicePort::new(id.namespace, id.name, port(id.port)?))
        }
    }))
}

fn wire_key(key: &Key) -> wire::Key {
    use wire::key::Kind;
    let kind = match key {
        Key::Bundle => Kind::Bundle(wire::Unit {}),
        Key::Settings => Kind::Settings(wire::Unit {}),
        Key::Inbound => Kind::Inbound(wire::Unit {}),
        Key::Outbound(address) => Kind::Outbound(encode::socket_address(*address)),
        Key::Endpoints(id) => Kind::Endpoints(encode::service_port(id)),
    };
    wire::Key { kind: Some(kind) }
}

fn ip(bytes: &[u8]) -> Result<IpAddr, ProtocolViolation> {
    let address =
        <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    address.map_err(|_| ProtocolViolation::Malformed("an address has neither 4 nor 16 bytes"))
}

fn port(port: u32) -> Result<u16, ProtocolViolation> {
    u16::try_from(port).map_err(|_| ProtocolViolation::Malformed("a port is above 65535"))
}

/// A proxy's own limit is lower; this one keeps a broken one from filling our memory.
const MAX_SUBSCRIPTIONS: usize = 8192;
const MAX_ADDRESSES: usize = 16;
const MAX_HASH: usize = 32;
const MAX_NAME: usize = 253;
const MAX_REASON: usize = 200;

#[cfg(test)]
pub(crate) mod tests;
