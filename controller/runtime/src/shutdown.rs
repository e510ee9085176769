//! Stopping: SIGTERM and SIGINT, told to everybody who holds a [`Shutdown`].

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells when the process should stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    stopping: watch::Receiver<bool>,
}

/// Says that it is time to stop, for tests and for programs with another reason than a signal.
#[derive(Debug)]
pub struct ShutdownTrigger {
    stopping: watch::Sender<bool>,
}

impl Shutdown {
    /// A pair for callers who decide themselves.
    pub fn pair() -> (ShutdownTrigger, Self) {
        let (sender, stopping) = watch::channel(false);
        (ShutdownTrigger { stopping: sender }, Self { stopping })
    }

    /// Follows SIGTERM and SIGINT. Must be called within a runtime; fails only if signals can't be had.
    pub fn on_signals() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (trigger, shutdown) = Self::pair();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping");
            trigger.stop();
            // Held open, so that receivers keep seeing the value rather than a closed channel.
            std::future::pending::<()>().await;
        });
        Ok(shutdown)
    }

    /// Returns when it is time to stop; at once if it already is.
    pub async fn requested(mut self) {
        // An error means that the trigger is gone, which is a reason to stop as well.
        let _ = self.stopping.wait_for(|stopping| *stopping).await;
    }

    /// Whether it is time to stop.
    pub fn is_requested(&self) -> bool {
        *self.stopping.borrow()
    }
}

impl ShutdownTrigger {
    /// It is time to stop.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_hears_it_early_or_late() {
        let (trigger, shutdown) = Shutdown::pair();
        let early = tokio::spawn(shutdown.clone().requested());
        assert!(!shutdown.is_requested());
        trigger.stop();
        early.await.unwrap();
        assert!(shutdown.is_requested());
        shutdown.requested().await;
    }
}
