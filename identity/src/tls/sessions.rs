//! Session tickets, on both ends, each forgotten when what it was granted under is gone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use rustls_pki_types::ServerName;

use super::State;

/// A server's ticket key: rustls' own (fresh every six hours), thrown away when an anchor goes.
pub(super) struct ServerTickets {
    state: Arc<State>,
    current: ArcSwapOption<Keyed>,
}

struct Keyed {
    anchors_gone: u64,
    ticketer: Arc<dyn ProducesTickets>,
}

impl ServerTickets {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state, current: ArcSwapOption::empty() }
    }

    fn current(&self) -> Option<Arc<Keyed>> {
        let anchors_gone = self.state.anchors_gone.load(Ordering::Acquire);
        let current = self.current.load_full();
        if current.as_ref().is_some_and(|keyed| keyed.anchors_gone == anchors_gone) {
            return current;
        }
        // Without randomness there are no tickets, and every handshake is a full one. Two workers at once make two keys
        // and one of them wins: a ticket of the other is merely not accepted.
        let keyed = Ticketer::new().ok().map(|ticketer| Arc::new(Keyed { anchors_gone, ticketer }));
        self.current.store(keyed.clone());
        keyed
    }
}

impl ProducesTickets for ServerTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.current().map_or(0, |keyed| keyed.ticketer.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.current()?.ticketer.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.current()?.ticketer.decrypt(cipher)
    }
}

impl fmt::Debug for ServerTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTickets")
    }
}

/// The tickets of one endpoint, few and young.
///
/// A ticket that arrives after a renewal of our own leaf, on a connection opened before it, counts as the new leaf's: the
/// server refuses it once the old leaf has ended, and the caller's [`forget`](Self::forget) makes the next handshake full.
pub(super) struct EndpointSessions {
    state: Arc<State>,
    tickets: Mutex<Tickets>,
}

#[derive(Default)]
struct Tickets {
    generation: u64,
    /// When the certificate the server showed, or our own at that time, ends.
    valid_until: Option<SystemTime>,
    group: Option<NamedGroup>,
    queue: Vec<(ServerName<'static>, Tls13ClientSessionValue)>,
}

impl EndpointSessions {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state, tickets: Mutex::default() }
    }

    /// A full handshake with a server whose chain ends at `valid_until`: tickets of an earlier one are of no use.
    pub(super) fn begin(&self, valid_until: SystemTime) {
        let own = self.state.leaf.load().as_ref().map_or(valid_until, |leaf| leaf.not_after());
        let mut tickets = self.tickets.lock();
        tickets.generation = self.state.generation.load(Ordering::Acquire);
        tickets.valid_until = Some(valid_until.min(own));
        tickets.queue.clear();
    }

    pub(super) fn forget(&self) {
        self.tickets.lock().queue = Vec::new();
    }

    fn usable(&self, tickets: &Tickets) -> bool {
        tickets.generation == self.state.generation.load(Ordering::Acquire)
            && tickets.valid_until.is_some_and(|end| self.state.now() < end)
    }
}

impl ClientSessionStore for EndpointSessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.tickets.lock().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.tickets.lock().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut tickets = self.tickets.lock();
        if !self.usable(&tickets) {
            return;
        }
        if tickets.queue.len() >= MAX_TICKETS {
            tickets.queue.remove(0);
        }
        tickets.queue.push((name, value));
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut tickets = self.tickets.lock();
        if !self.usable(&tickets) {
            tickets.queue = Vec::new();
            return None;
        }
        let index = tickets.queue.iter().rposition(|(of, _)| of == name)?;
        Some(tickets.queue.remove(index).1)
    }
}

impl fmt::Debug for EndpointSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointSessions").field("tickets", &self.tickets.lock().queue.len()).finish()
    }
}

/// About 1.5 KB each.
const MAX_TICKETS: usize = 4;
