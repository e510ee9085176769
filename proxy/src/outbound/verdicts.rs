//! Memory of destinations whose server speaks first: their clients are not waited for again.
//!
//! Only a server that did speak first gets in here. A client that was silent and then spoke HTTP leaves no trace, so one
//! slow client can never turn a Service's HTTP into bytes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Destinations, each until a time.
#[derive(Debug, Default)]
pub struct Verdicts {
    until: HashMap<SocketAddr, Instant>,
}

impl Verdicts {
    /// Whether a connection to this destination should be dialled without waiting for its client.
    pub fn is_server_first(&self, destination: SocketAddr, now: Instant) -> bool {
        self.until.get(&destination).is_some_and(|until| now < *until)
    }

    /// The server spoke first.
    pub fn remember(&mut self, destination: SocketAddr, now: Instant) {
        if self.until.len() >= MOST {
            self.until.retain(|_, until| now < *until);
        }
        if self.until.len() < MOST || self.until.contains_key(&destination) {
            self.until.insert(destination, now + LASTS);
        }
    }

    /// The client spoke first after all.
    pub fn forget(&mut self, destination: SocketAddr) {
        self.until.remove(&destination);
    }
}

const LASTS: Duration = Duration::from_secs(600);
const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lasts_ten_minutes_and_stays_small() {
        let (now, mut verdicts) = (Instant::now(), Verdicts::default());
        let database: SocketAddr = "10.96.0.9:3306".parse().unwrap();
        assert!(!verdicts.is_server_first(database, now));
        verdicts.remember(database, now);
        assert!(verdicts.is_server_first(database, now + LASTS - Duration::from_millis(1)));
        assert!(!verdicts.is_server_first(database, now + LASTS));
        for port in 1..=5000 {
            verdicts.remember(SocketAddr::from(([10, 96, 0, 1], port)), now);
        }
        assert_eq!(verdicts.until.len(), MOST);
        verdicts.remember(SocketAddr::from(([10, 96, 0, 2], 1)), now + LASTS);
        assert_eq!(verdicts.until.len(), 1);
        verdicts.forget(database);
        assert!(!verdicts.is_server_first(database, now));
    }
}
