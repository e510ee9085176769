//! [`Store`]: every subscribed key with its latest value, shared by the data path (which asks and reads) and the
//! discovery stream (which fills).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use policy::{Endpoints, Inbound, Outbound, ServicePort, Settings};
use prost::Message as _;
use proto::admin::Subscription;
use proto::discovery::{self as wire, Progress};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::decode::{self, Value};
use super::key::Key;
use super::progress;
use super::{IDLE, Known, Slot};

/// The keys and values of one proxy.
#[derive(Debug)]
pub(crate) struct Store {
    inbound: Arc<Slot<Inbound>>,
    settings: Arc<Slot<Settings>>,
    bundle: Arc<Slot<String>>,
    table: Mutex<Table>,
    /// There are [`Change`]s to tell the controller.
    changed: Notify,
    capacity: usize,
}

/// What the controller has not been told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Subscribe(Key),
    Unsubscribe(Key),
}

/// What became of an update.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// In force.
    Accepted(Key),
    /// Cannot be used; the value before stays.
    Rejected(Key, String),
    /// From before the mark; names the watch that is behind.
    Behind(Key, String),
    /// Nobody asked, or not any more.
    Unwanted,
}

impl Store {
    pub(crate) fn new(capacity: usize) -> Self {
        let (inbound, settings, bundle) = (Slot::new(false), Slot::new(false), Slot::new(false));
        let rows = HashMap::from([
            (Key::Inbound, Row::new(AnySlot::Inbound(inbound.clone()))),
            (Key::Settings, Row::new(AnySlot::Settings(settings.clone()))),
            (Key::Bundle, Row::new(AnySlot::Bundle(bundle.clone()))),
        ]);
        let table = Table { rows, changes: Vec::new(), streaming: false, mark: Progress::default(), unsaved: false };
        Self { inbound, settings, bundle, table: Mutex::new(table), changed: Notify::new(), capacity }
    }

    pub(crate) fn inbound(&self) -> &Arc<Slot<Inbound>> {
        &self.inbound
    }

    pub(crate) fn settings(&self) -> &Arc<Slot<Settings>> {
        &self.settings
    }

    pub(crate) fn bundle(&self) -> &Arc<Slot<String>> {
        &self.bundle
    }

    pub(crate) fn outbound(&self, destination: SocketAddr) -> Arc<Slot<Outbound>> {
        let found = |slot: &AnySlot| match slot {
            AnySlot::Outbound(slot) => Some(slot.clone()),
            _ => None,
        };
        self.subscribe(Key::Outbound(destination), AnySlot::Outbound, found)
    }

    pub(crate) fn endpoints(&self, backend: &ServicePort) -> Arc<Slot<Endpoints>> {
        let found = |slot: &AnySlot| match slot {
            AnySlot::Endpoints(slot) => Some(slot.clone()),
            _ => None,
        };
        self.subscribe(Key::Endpoints(backend.clone()), AnySlot::Endpoints, found)
    }

    /// The slot of `key`, made and announced to the controller if there is none. Where there is no room, even after
    /// giving up something nobody uses, the slot is one that says so.
    fn subscribe<T>(
        &self,
        key: Key,
        wrap: impl FnOnce(Arc<Slot<T>>) -> AnySlot,
        found: impl FnOnce(&AnySlot) -> Option<Arc<Slot<T>>>,
    ) -> Arc<Slot<T>> {
        let mut table = self.table.lock();
        if let Some(row) = table.rows.get_mut(&key) {
            row.touched = true;
            return found(&row.slot).expect("a key's kind decides its slot's kind");
        }
        if table.rows.len() >= self.capacity && !table.make_room() {
            return Slot::new(true);
        }
        let slot = Slot::new(false);
        table.rows.insert(key.clone(), Row::new(wrap(slot.clone())));
        table.note(Change::Subscribe(key));
        drop(table);
        self.changed.notify_one();
        slot
    }

    /// Resolves when [`Store::take_changes`] has something. May be cancelled.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What the controller has not been told, oldest first.
    pub(crate) fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.table.lock().changes)
    }

    /// What a new stream begins with: what is held, and the mark. Keys without a value follow as the second part.
    pub(crate) fn begin(&self) -> (Vec<wire::Held>, Progress, Vec<Key>) {
        let mut table = self.table.lock();
        table.changes.clear();
        table.streaming = true;
        let (mut held, mut wanted) = (Vec::new(), Vec::new());
        for (key, row) in &table.rows {
            match row.hash.is_empty() {
                true => wanted.push(key.clone()),
                false => held.push(wire::Held { key: Some(key.to_wire()), hash: row.hash.clone() }),
            }
        }
        // The own workload, anchors and settings first: readiness waits for them.
        wanted.sort();
        (held, table.mark.clone(), wanted)
    }

    /// The stream that began with [`Store::begin`] has ended.
    pub(crate) fn end(&self) {
        let mut table = self.table.lock();
        table.streaming = false;
        table.changes = Vec::new();
    }

    /// Puts an update in force, unless it is from before `floor` or cannot be used.
    pub(crate) fn apply(&self, update: wire::Update, floor: &Progress) -> Verdict {
        let Some(key) = update.key.as_ref().and_then(Key::from_wire) else { return Verdict::Unwanted };
        let as_of = update.as_of.clone().unwrap_or_default();
        if let Some(watch) = progress::behind(&as_of, floor) {
            return Verdict::Behind(key, watch.to_owned());
        }
        let encoded = update.encode_to_vec().into();
        let decoded = decode::value(&key, update.value);
        let mut table = self.table.lock();
        let Some(row) = table.rows.get_mut(&key) else { return Verdict::Unwanted };
        match decoded {
            Ok(value) => row.slot.set(value),
            Err(error) => {
                let reason = error.to_string();
                row.rejected = Some(reason.clone());
                return Verdict::Rejected(key, reason);
            }
        }
        row.hash = update.hash;
        row.encoded = encoded;
        row.rejected = None;
        progress::merge(&mut table.mark, &as_of);
        table.unsaved = true;
        Verdict::Accepted(key)
    }

    /// Takes note of how far a controller has come.
    pub(crate) fn advance(&self, as_of: &Progress) {
        progress::merge(&mut self.table.lock().mark, as_of);
    }

    /// Gives up the mark, so that a controller whose sources began anew is believed again.
    pub(crate) fn forget_mark(&self) {
        self.table.lock().mark = Progress::default();
    }

    /// Unsubscribes what nobody has used for [`IDLE`]. Called every [`SWEEP`].
    pub(crate) fn sweep(&self, now: Instant) {
        let mut table = self.table.lock();
        let mut idle = Vec::new();
        for (key, row) in &mut table.rows {
            let used = std::mem::take(&mut row.touched) || row.slot.in_use();
            let since = *row.idle_since.get_or_insert(now);
            if used {
                row.idle_since = None;
            } else if now.duration_since(since) >= IDLE {
                idle.push(key.clone());
            }
        }
        for key in idle {
            table.remove(key);
        }
        let any = !table.changes.is_empty();
        drop(table);
        if any {
            self.changed.notify_one();
        }
    }

    /// Every key, for the admin port.
    pub(crate) fn list(&self) -> Vec<Subscription> {
        let table = self.table.lock();
        let mut rows: Vec<_> = table.rows.iter().collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        rows.into_iter()
            .map(|(key, row)| Subscription {
                key: key.to_string(),
                version: hex(&row.hash),
                rejected: row.rejected.clone(),
            })
            .collect()
    }

    /// The accepted updates as they came, if any is new since the last call.
    pub(crate) fn take_unsaved(&self) -> Option<(Progress, Vec<Bytes>)> {
        let mut table = self.table.lock();
        if !std::mem::take(&mut table.unsaved) {
            return None;
        }
        let updates = table.rows.values().map(|row| row.encoded.clone()).filter(|bytes| !bytes.is_empty()).collect();
        Some((table.mark.clone(), updates))
    }

    /// Takes over what an earlier process saved; returns how many values it was.
    pub(crate) fn restore(&self, mark: &Progress, updates: Vec<wire::Update>) -> usize {
        let mut restored = 0;
        for update in updates {
            match update.key.as_ref().and_then(Key::from_wire) {
                Some(Key::Outbound(destination)) => drop(self.outbound(destination)),
                Some(Key::Endpoints(backend)) => drop(self.endpoints(&backend)),
                Some(Key::Inbound | Key::Bundle | Key::Settings) => {}
                None => continue,
            }
            restored += usize::from(matches!(self.apply(update, &Progress::default()), Verdict::Accepted(_)));
        }
        let mut table = self.table.lock();
        progress::merge(&mut table.mark, mark);
        table.unsaved = false;
        restored
    }
}

#[derive(Debug)]
struct Table {
    rows: HashMap<Key, Row>,
    changes: Vec<Change>,
    /// There is a stream, or one is being opened.
    streaming: bool,
    mark: Progress,
    /// A value was accepted since the picture was last saved.
    unsaved: bool,
}

#[derive(Debug)]
struct Row {
    slot: AnySlot,
    /// Of the value in force; empty while there is none.
    hash: Bytes,
    /// The update in force as it came, for the picture on disk.
    encoded: Bytes,
    rejected: Option<String>,
    /// Somebody asked since the last sweep.
    touched: bool,
    idle_since: Option<Instant>,
}

#[derive(Debug)]
enum AnySlot {
    Outbound(Arc<Slot<Outbound>>),
    Endpoints(Arc<Slot<Endpoints>>),
    Inbound(Arc<Slot<Inbound>>),
    Settings(Arc<Slot<Settings>>),
    Bundle(Arc<Slot<String>>),
}

impl Table {
    /// Gives up the row that was idle longest among those nobody uses; false if there is none.
    fn make_room(&mut self) -> bool {
        let unused = self.rows.iter().filter(|(_, row)| !row.slot.in_use());
        // Never idle at a sweep yet means used lately: those go last.
        let victim = unused.min_by_key(|(_, row)| (row.touched, row.idle_since.is_none(), row.idle_since));
        let Some(key) = victim.map(|(key, _)| key.clone()) else { return false };
        self.remove(key);
        true
    }

    fn remove(&mut self, key: Key) {
        self.rows.remove(&key);
        self.note(Change::Unsubscribe(key));
    }

    /// Without a stream nobody is told, and the next one begins with everything.
    fn note(&mut self, change: Change) {
        if self.streaming {
            self.changes.push(change);
        }
    }
}

impl Row {
    fn new(slot: AnySlot) -> Self {
        Self { slot, hash: Bytes::new(), encoded: Bytes::new(), rejected: None, touched: true, idle_since: None }
    }
}

impl AnySlot {
    /// Whether anybody but the table holds it. What every proxy needs always counts as in use.
    fn in_use(&self) -> bool {
        match self {
            Self::Outbound(slot) => Arc::strong_count(slot) > 1,
            Self::Endpoints(slot) => Arc::strong_count(slot) > 1,
            Self::Inbound(_) | Self::Settings(_) | Self::Bundle(_) => true,
        }
    }

    fn set(&self, value: Value) {
        match (self, value) {
            (Self::Outbound(slot), Value::Outbound(value)) => slot.set(Known::Value(Arc::new(value))),
            (Self::Endpoints(slot), Value::Endpoints(value)) => slot.set(Known::Value(Arc::new(value))),
            (Self::Inbound(slot), Value::Inbound(value)) => slot.set(Known::Value(Arc::new(value))),
            (Self::Settings(slot), Value::Settings(value)) => slot.set(Known::Value(Arc::new(value))),
            (Self::Bundle(slot), Value::Bundle(value)) => slot.set(Known::Value(Arc::new(value))),
            (Self::Outbound(slot), _) => slot.set(Known::Absent),
            (Self::Endpoints(slot), _) => slot.set(Known::Absent),
            (Self::Inbound(slot), _) => slot.set(Known::Absent),
            (Self::Settings(slot), _) => slot.set(Known::Absent),
            (Self::Bundle(slot), _) => slot.set(Known::Absent),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How often idle subscriptions are looked for.
pub(crate) const SWEEP: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
