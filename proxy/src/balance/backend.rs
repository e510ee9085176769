//! [`Backend`]: one backend's endpoints, kept current, as one worker balances over them.

use std::cell::{OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use policy::ServicePort;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use super::affinity::Affinity;
use super::{Affinities, Loads, Member, Members};
use crate::Error;
use crate::control::{Discovery, Known, Watch};

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
    affinities: Arc<Affinities>,
    /// Of this backend, once it is asked for.
    affinity: OnceCell<Arc<Affinity>>,
}

impl Backend {
    /// Follows what discovery says of `id`.
    pub fn new(id: ServicePort, discovery: &Discovery, loads: Rc<Loads>, affinities: Arc<Affinities>) -> Self {
        let watch = discovery.endpoints(&id);
        let name = format!("{}.{}", id.name, id.namespace);
        // A name that is none in DNS is no great loss: it is a hint.
        let server_name = ServerName::try_from(name).unwrap_or(ServerName::from(std::net::IpAddr::from([0, 0, 0, 0])));
        Self { id, server_name, watch, members: RefCell::default(), loads, affinities, affinity: OnceCell::new() }
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
    pub fn choose(&self, ipv6: bool, tried: &[SocketAddr], now: Instant) -> Result<Member, Error> {
        let mut members = self.members.borrow_mut();
        match self.watch.current() {
            Known::Value(endpoints) => members.update(&endpoints, &self.loads, now),
            Known::Absent => *members = Members::default(),
            Known::Waiting => {}
        }
        let best = || members.choose(ipv6, tried, now, |below| rand::random_range(0..below));
        let chosen = match members.affinity() {
            None => best().cloned(),
            Some(lasts) => {
                let affinity = self.affinity.get_or_init(|| self.affinities.of(&self.id));
                affinity.choose(ipv6, lasts, now, |kept| {
                    kept.and_then(|kept| members.at(kept, ipv6, tried, now)).or_else(best).cloned()
                })
            }
        };
        chosen.ok_or_else(|| match members.is_node_local() {
            true => Error::NoLocalEndpoints(self.id.to_string()),
            false => Error::NoEndpoints(self.id.to_string()),
        })
    }

    /// How many endpoints a client of this address family can get.
    pub fn count(&self, ipv6: bool) -> usize {
        self.members.borrow().count(ipv6)
    }
}
