//! How the proxy ends: phases that everything with a connection follows, and a count of what is still open.
//!
//! A native sidecar's preStop hook runs when the application gets its SIGTERM, and the sidecar's own SIGTERM comes
//! only when the application is gone. So `mesh-proxy drain` begins [`Phase::Draining`] and returns; after the delay
//! in which endpoint removal spreads, [`Phase::Announcing`] tells clients to go elsewhere; SIGTERM is
//! [`Phase::Closing`], in which what is under way has a second to finish.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};

use tokio::sync::watch;

/// How far the end has come; later phases are greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Everything is served.
    #[default]
    Serving,
    /// No new work is wanted, but whatever comes is served as before.
    Draining,
    /// Every inbound response says `Connection: close`, HTTP/2 connections get GOAWAY. Outbound stays open.
    Announcing,
    /// Listeners are closed, idle connections close now, requests under way may finish.
    Closing,
}

/// The phase and the open connections of this proxy. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Drain(Arc<Shared>);

/// One open connection; dropping it takes it off the count.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<Shared>);

impl Drain {
    /// A proxy that serves and has no connections.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            phase: AtomicU8::new(Phase::Serving as u8),
            open: AtomicUsize::new(0),
            changed: watch::Sender::new(Phase::Serving),
            emptied: watch::Sender::new(()),
        }))
    }

    /// The phase: one atomic load, for use per request.
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(SeqCst) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            2 => Phase::Announcing,
            _ => Phase::Closing,
        }
    }

    /// Whether responses should tell their clients to go elsewhere.
    pub fn announces(&self) -> bool {
        self.phase() >= Phase::Announcing
    }

    /// Resolves once `phase` or a later one has begun.
    pub async fn reached(&self, phase: Phase) {
        let mut changed = self.0.changed.subscribe();
        // The sender lives in `self`, so this ends only by the phase.
        let _ = changed.wait_for(|now| *now >= phase).await;
    }

    /// Goes on to `phase`; going back is ignored.
    pub fn advance(&self, phase: Phase) {
        self.0.changed.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
                self.0.phase.store(phase as u8, SeqCst);
            }
            forward
        });
    }

    /// Counts a connection as open until the guard goes.
    pub fn connection(&self) -> ConnectionGuard {
        self.0.open.fetch_add(1, SeqCst);
        ConnectionGuard(self.0.clone())
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.0.open.load(SeqCst)
    }

    /// Resolves once no connection is open.
    pub async fn closed(&self) {
        let mut emptied = self.0.emptied.subscribe();
        while self.open() > 0 {
            // The sender lives in `self`; an error cannot happen.
            let _ = emptied.changed().await;
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, SeqCst) == 1 {
            self.0.emptied.send_replace(());
        }
    }
}

#[derive(Debug)]
struct Shared {
    phase: AtomicU8,
    open: AtomicUsize,
    changed: watch::Sender<Phase>,
    emptied: watch::Sender<()>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_go_forward_and_wake_whoever_waits() {
        let drain = Drain::new();
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.reached(Phase::Announcing).await }
        });
        drain.advance(Phase::Draining);
        assert!(!drain.announces());
        drain.advance(Phase::Closing);
        drain.advance(Phase::Draining);
        assert_eq!(drain.phase(), Phase::Closing);
        waiting.await.unwrap();
        drain.reached(Phase::Draining).await;
    }

    #[tokio::test]
    async fn closed_waits_for_the_last_connection() {
        let drain = Drain::new();
        drain.closed().await;
        let (first, second) = (drain.connection(), drain.connection());
        assert_eq!(drain.open(), 2);
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.closed().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
    }
}
