//! Links, addresses and routes of the demo, over rtnetlink: one bridge, and one veth pair to every pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// The network namespace that holds the bridge: what a node is to its pods.
#[derive(Debug)]
pub(super) struct Node {
    handle: Handle,
    bridge: u32,
}

impl Node {
    /// Makes the bridge in the network namespace of this process.
    pub(super) async fn create() -> anyhow::Result<Self> {
        let handle = connect()?;
        up(&handle, "lo").await?;
        // A bridge without an address of its own takes that of a port, and another one with each port that comes.
        let link = LinkBridge::new(BRIDGE).address(vec![0x02, 0x6d, 0x65, 0x73, 0x68, 0x01]).build();
        handle
            .link()
            .add(link)
            .execute()
            .await
            .context("the bridge cannot be made; is the kernel module 'bridge' there?")?;
        let bridge = up(&handle, BRIDGE).await?;
        for address in GATEWAYS {
            add_address(&handle, bridge, address).await?;
        }
        Ok(Self { handle, bridge })
    }

    /// Links a pod's network namespace, held by process `pid`, to the bridge. `number` tells its link from the others'.
    pub(super) async fn attach(&self, number: usize, pid: u32) -> anyhow::Result<()> {
        let name = format!("pod{number}");
        let peer = LinkMessageBuilder::<LinkUnspec>::default().name(POD_LINK).setns_by_pid(pid).build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(&name, POD_LINK)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(self.bridge)
            .up()
            .build();
        self.handle.link().add(pair).execute().await.with_context(|| format!("the link {name} cannot be made"))
    }
}

/// Brings up the pod's side in the network namespace of this process: loopback, addresses, default routes.
pub(super) async fn configure_pod(addresses: &[IpAddr]) -> anyhow::Result<()> {
    let handle = connect()?;
    up(&handle, "lo").await?;
    let link = up(&handle, POD_LINK).await?;
    for address in addresses {
        add_address(&handle, link, *address).await?;
    }
    // Addresses of Services have to be routable: the rules that redirect a connection see it only after the route is chosen.
    for gateway in GATEWAYS {
        let added = match gateway {
            IpAddr::V4(gateway) => {
                handle.route().add(RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build()).execute().await
            }
            IpAddr::V6(gateway) => {
                handle.route().add(RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build()).execute().await
            }
        };
        added.with_context(|| format!("the default route by {gateway} cannot be added"))?;
    }
    Ok(())
}

fn connect() -> anyhow::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn up(handle: &Handle, name: &str) -> anyhow::Result<u32> {
    let found = handle.link().get().match_name(name).execute().try_next().await;
    let link = found.ok().flatten().with_context(|| format!("there is no link {name}"))?;
    let index = link.header.index;
    let message = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(message).execute().await.with_context(|| format!("the link {name} cannot be brought up"))?;
    Ok(index)
}

async fn add_address(handle: &Handle, link: u32, address: IpAddr) -> anyhow::Result<()> {
    let prefix = if address.is_ipv4() { 16 } else { 64 };
    let mut request = handle.address().add(link, address, prefix);
    // Nobody else is on this bridge: waiting for duplicates would make IPv6 unusable for its first seconds.
    request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    request.execute().await.with_context(|| format!("the address {address} cannot be added"))
}

/// Addresses of the bridge, the gateways of every pod.
pub(super) const GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 244, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1))];

const BRIDGE: &str = "mesh0";
const POD_LINK: &str = "eth0";
