//! How many handshakes one worker has under way, in all and for each client: who begins handshakes and does not finish
//! them is in his own way, not in that of others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The handshakes of one worker.
#[derive(Debug)]
pub(super) struct Handshakes {
    all: Arc<Semaphore>,
    sources: Rc<RefCell<HashMap<IpAddr, Source>>>,
}

/// Room for one client, and how many of its handshakes are under way or wait for it.
#[derive(Debug)]
struct Source {
    room: Arc<Semaphore>,
    users: usize,
}

/// A place among the handshakes under way; dropping it gives it to the next.
#[derive(Debug)]
pub(super) struct Place {
    _of_source: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
    _user: User,
}

/// Forgets a client with its last handshake.
#[derive(Debug)]
struct User {
    sources: Rc<RefCell<HashMap<IpAddr, Source>>>,
    ip: IpAddr,
}

impl Handshakes {
    /// Waits for a place; may be cancelled.
    pub(super) async fn begin(&self, ip: IpAddr) -> Place {
        let (room, user) = self.enter(ip);
        let of_source = room.acquire_owned().await.expect("never closed");
        let of_all = Arc::clone(&self.all).acquire_owned().await.expect("never closed");
        Place { _of_source: of_source, _of_all: of_all, _user: user }
    }

    fn enter(&self, ip: IpAddr) -> (Arc<Semaphore>, User) {
        let mut sources = self.sources.borrow_mut();
        let fresh = || Source { room: Arc::new(Semaphore::new(MOST_OF_ONE)), users: 0 };
        let source = sources.entry(ip).or_insert_with(fresh);
        source.users += 1;
        (Arc::clone(&source.room), User { sources: Rc::clone(&self.sources), ip })
    }
}

impl Default for Handshakes {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MOST)), sources: Rc::default() }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut sources = self.sources.borrow_mut();
        if let Some(source) = sources.get_mut(&self.ip) {
            source.users -= 1;
            if source.users == 0 {
                sources.remove(&self.ip);
            }
        }
    }
}

/// Each holds some 30 KB until it is done.
const MOST: usize = 1024;
const MOST_OF_ONE: usize = 128;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_client_that_finishes_none_is_in_nobody_elses_way() {
        let handshakes = Handshakes::default();
        let (slow, quick): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut places = Vec::new();
        for _ in 0..MOST_OF_ONE {
            places.push(handshakes.begin(slow).await);
        }
        let second = Duration::from_secs(1);
        assert!(timeout(second, handshakes.begin(slow)).await.is_err());
        drop(timeout(second, handshakes.begin(quick)).await.expect("kept out"));
        assert_eq!(handshakes.sources.borrow().len(), 1);
        places.pop();
        drop(timeout(second, handshakes.begin(slow)).await.expect("there is room again"));
        drop(places);
        assert!(handshakes.sources.borrow().is_empty());
    }
}
