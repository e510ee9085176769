//! [`Backend`]: one backend's endpoints, kept current, as one worker balances over them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use policy::ServicePort;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use super::{Loads, Member, Members};
use crate::Error;
use crate::control::{Known, Watch};

/// One port of a Service with everybody who serves it.
#[derive(Debug)]
pub struct Backend {
    /// Which.
    pub id: ServicePort,
    /// Its name for SNI: `name.namespace`.
    pub server_name: ServerName<'static>,
    watch: Watch<policy::Endpoints>,
    members: RefCell<Members>,
    loads: Rc<Loads>,
}

impl Backend {
    /// Follows `watch`, which must be of `id`.
    pub fn new(id: ServicePort, watch: Watch<policy::Endpoints>, loads: Rc<Loads>) -> Self {
        let name = format!("{}.{}", id.name, id.namespace);
        // A name that is none in DNS is no great loss: it is a hint.
        let server_name = ServerName::try_from(name).unwrap_or(ServerName::from(std::net::IpAddr::from([0, 0, 0, 0])));
        Self { id, server_name, watch, members: RefCell::default(), loads }
    }

    /// Waits until the endpoints are known, at most the time discovery allows for a first answer.
    pub async fn ready(&self) -> Result<(), Error> {
        match self.watch.first().await {
            Ok(_) => Ok(()),
            Err(proto::Reason::Overloaded) => Err(Error::Overloaded("subscriptions")),
            Err(_) => Err(Error::DiscoveryUnavailable(self.id.to_string())),
        }
    }

    /// Chooses an endpoint for a client of this address family, none of `tried`.
    pub fn choose(&self, ipv6: bool, tried: &[SocketAddr], now: Instant) -> Option<Member> {
        let mut members = self.members.borrow_mut();
        match self.watch.current() {
            Known::Value(endpoints) => members.update(&endpoints, &self.loads, now),
            Known::Absent => *members = Members::default(),
            Known::Waiting => {}
        }
        members.choose(ipv6, tried, now, |below| rand::random_range(0..below)).cloned()
    }

    /// How many endpoints a client of this address family can get.
    pub fn count(&self, ipv6: bool) -> usize {
        self.members.borrow().count(ipv6)
    }
}
