//! [`Key`]: what can be subscribed, here and on the wire.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use policy::ServicePort;
use proto::discovery as wire;

/// One thing a proxy can know.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The proxy's own workload.
    Inbound,
    /// Trust anchors.
    Bundle,
    /// Mesh-wide settings.
    Settings,
    /// Where an application connected to.
    Outbound(SocketAddr),
    /// Who serves a backend.
    Endpoints(ServicePort),
}

impl Key {
    /// As it goes over the wire.
    pub fn to_wire(&self) -> wire::Key {
        use wire::key::Kind;
        let kind = match self {
            Self::Outbound(address) => Kind::Outbound(wire::SocketAddress {
                ip: ip_to_wire(address.ip()).into(),
                port: u32::from(address.port()),
            }),
            Self::Inbound => Kind::Inbound(wire::Unit {}),
            Self::Endpoints(ServicePort { namespace, name, port }) => Kind::Endpoints(wire::ServicePort {
                namespace: namespace.clone(),
                name: name.clone(),
                port: u32::from(*port),
            }),
            Self::Bundle => Kind::Bundle(wire::Unit {}),
            Self::Settings => Kind::Settings(wire::Unit {}),
        };
        wire::Key { kind: Some(kind) }
    }

    /// From the wire; `None` where it is none of ours.
    pub fn from_wire(key: &wire::Key) -> Option<Self> {
        use wire::key::Kind;
        Some(match key.kind.as_ref()? {
            Kind::Outbound(address) => Self::Outbound(address_from_wire(address)?),
            Kind::Inbound(_) => Self::Inbound,
            Kind::Endpoints(service) => Self::Endpoints(service_from_wire(service)?),
            Kind::Bundle(_) => Self::Bundle,
            Kind::Settings(_) => Self::Settings,
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outbound(address) => write!(f, "outbound {address}"),
            Self::Inbound => f.write_str("inbound"),
            Self::Endpoints(service) => write!(f, "endpoints {service}"),
            Self::Bundle => f.write_str("bundle"),
            Self::Settings => f.write_str("settings"),
        }
    }
}

/// An address as bytes in network order.
pub(crate) fn ip_to_wire(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// `None` where bytes are neither 4 nor 16, or the port is no port.
pub(crate) fn address_from_wire(address: &wire::SocketAddress) -> Option<SocketAddr> {
    let ip = match address.ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(&*address.ip).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(&*address.ip).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port_from_wire(address.port)?))
}

/// `None` where it names nothing.
pub(crate) fn service_from_wire(service: &wire::ServicePort) -> Option<ServicePort> {
    let named = !service.namespace.is_empty() && !service.name.is_empty();
    let port = port_from_wire(service.port)?;
    named.then(|| ServicePort::new(&*service.namespace, &*service.name, port))
}

/// 1 to 65535.
pub(crate) fn port_from_wire(port: u32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_wire() {
        for key in [
            Key::Outbound("10.96.0.7:80".parse().unwrap()),
            Key::Outbound("[fd00::7]:443".parse().unwrap()),
            Key::Inbound,
            Key::Endpoints(ServicePort::new("shop", "web", 80)),
            Key::Bundle,
            Key::Settings,
        ] {
            assert_eq!(Key::from_wire(&key.to_wire()), Some(key));
        }
    }

    #[test]
    fn what_names_nothing_is_none() {
        let mut key = Key::Outbound("10.96.0.7:80".parse().unwrap()).to_wire();
        if let Some(wire::key::Kind::Outbound(address)) = &mut key.kind {
            address.port = 65_616;
        }
        assert_eq!(Key::from_wire(&key), None);
        assert_eq!(Key::from_wire(&wire::Key::default()), None);
    }
}
