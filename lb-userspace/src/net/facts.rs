//! What a configuration is checked against: the host's interfaces, addresses, ports and routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    pin::pin,
};

use futures_util::stream::{self, StreamExt as _};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::LinkMessage,
};

use crate::config::host;

use super::{
    NetError,
    link::Link,
    netlink::Netlink,
    next_hop::{NextHop, Route, route_to},
    sysctl,
};

/// Questions about routes that wait for their answers together: one by one, each would wake two tasks. The answers of so
/// many fit into a socket.
const AT_ONCE: usize = 32;

/// The host's network at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// All interfaces of the namespace, loopback included, by index.
    pub interfaces: Vec<Interface>,
    /// Kernel settings by interface name.
    pub settings: BTreeMap<String, host::Settings>,
    /// The ports that the kernel gives to outgoing connections.
    pub ip_local_port_range: RangeInclusive<u16>,
    /// Ports of that range which the kernel leaves alone.
    pub ip_local_reserved_ports: Vec<RangeInclusive<u16>>,
    /// For each destination the kernel's way to it; one without a route is missing.
    pub check_route: BTreeMap<IpAddr, host::Route>,
}

impl HostFacts {
    /// What a configuration is checked against, with what the data path finds the kernel to be.
    pub fn for_config(self, kernel: host::Kernel) -> host::HostFacts {
        let HostFacts { interfaces, settings, ip_local_port_range, ip_local_reserved_ports, check_route } =
            self;
        let interfaces = interfaces.into_iter().map(|have| (have.link.name, have.addresses)).collect();
        host::HostFacts {
            interfaces,
            settings,
            ip_local_port_range,
            ip_local_reserved_ports,
            check_route,
            kernel,
        }
    }
}

/// An interface and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The interface itself.
    pub link: Link,
    /// Its addresses of both families, in the kernel's order; link-local ones too.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// What drives the interface, for messages about XDP: the kind of a virtual one (`veth`), else the
    /// driver's name (`ixgbe`) where sysfs knows it.
    pub fn driver(&self) -> Option<String> {
        self.link.kind.clone().or_else(|| hardware_driver(&self.link.name))
    }
}

/// Reads the host's network. `destinations` are those to which `check_route` is wanted: the backends and
/// peers. The kernel is not asked about those whose next hop is `known`: that takes 13 µs each.
///
/// # Errors
/// Any [`NetError`]; a destination without a route is none.
pub async fn gather(
    destinations: impl IntoIterator<Item = IpAddr>,
    known: &BTreeMap<IpAddr, Option<NextHop>>,
) -> Result<HostFacts, NetError> {
    let netlink = Netlink::open()?;
    let interfaces = interfaces(&netlink).await?;
    let way = |source: Option<IpAddr>, interface: u32, gateway| {
        let out = interfaces.iter().find(|have| have.link.index == interface)?;
        Some(host::Route { source: source?, interface: out.link.name.clone(), gateway })
    };
    let known_way = |destination| {
        let hop = known.get(&destination)?.as_ref()?;
        way(hop.source, hop.interface_index, hop.gateway)
    };
    // Services often share their backends.
    let destinations: BTreeSet<IpAddr> = destinations.into_iter().collect();
    let mut check_route: BTreeMap<_, _> =
        destinations.iter().filter_map(|&destination| Some((destination, known_way(destination)?))).collect();
    let asked: Vec<IpAddr> =
        destinations.into_iter().filter(|destination| !check_route.contains_key(destination)).collect();
    let look_up = async |destination| (destination, route_to(&netlink, destination).await);
    let mut routes = pin!(stream::iter(asked).map(look_up).buffer_unordered(AT_ONCE));
    while let Some((destination, route)) = routes.next().await {
        if let Ok(Route { source, interface, gateway, .. }) = route? {
            check_route.extend(way(source, interface, gateway).map(|way| (destination, way)));
        }
    }
    let settings = |have: &Interface| (have.link.name.clone(), settings(&have.link.name));
    Ok(HostFacts {
        settings: interfaces.iter().map(settings).collect(),
        interfaces,
        ip_local_port_range: sysctl::local_port_range()?,
        ip_local_reserved_ports: sysctl::local_reserved_ports()?,
        check_route,
    })
}

/// Reads all interfaces, any number of times, over one socket.
pub struct Links(Netlink);

impl Links {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`NetError::Open`].
    pub fn open() -> Result<Links, NetError> {
        Netlink::open().map(Links)
    }

    /// All interfaces as they are now.
    ///
    /// # Errors
    /// Any [`NetError`]; open another socket then.
    pub async fn read(&self) -> Result<Vec<Link>, NetError> {
        links_of(&self.0).await
    }

    /// All interfaces as they are now, with their addresses, by index.
    ///
    /// # Errors
    /// As [`Links::read`].
    pub async fn with_addresses(&self) -> Result<Vec<Interface>, NetError> {
        interfaces(&self.0).await
    }
}

async fn links_of(netlink: &Netlink) -> Result<Vec<Link>, NetError> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let links = netlink.dump("list interfaces", request).await?;
    Ok(links
        .into_iter()
        .filter_map(|link| match link {
            RouteNetlinkMessage::NewLink(link) => Some(Link::from(link)),
            _ => None,
        })
        .collect())
}

async fn interfaces(netlink: &Netlink) -> Result<Vec<Interface>, NetError> {
    let links = links_of(netlink).await?;
    let mut interfaces: BTreeMap<u32, Interface> =
        links.into_iter().map(|link| (link.index, Interface { link, addresses: Vec::new() })).collect();
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for address in netlink.dump("list addresses", request).await? {
        if let RouteNetlinkMessage::NewAddress(address) = address
            && let Some(interface) = interfaces.get_mut(&address.header.index)
        {
            interface.addresses.extend(local_address(&address));
        }
    }
    Ok(interfaces.into_values().collect())
}

/// The host's own address. On a point-to-point link `Address` is the other end's and `Local` is ours; IPv6
/// has no `Local` otherwise.
fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// An interface may vanish meanwhile, and a kernel may lack IPv6: what cannot be read is not known.
fn settings(interface: &str) -> host::Settings {
    let read =
        |tree: &str, setting: &str| sysctl::read(&format!("net/{tree}/conf/{interface}/{setting}")).ok();
    let is_on = |value: String| value != "0";
    let rp_filter = |value: &str| value.parse::<u8>().ok();
    let for_all = sysctl::read("net/ipv4/conf/all/rp_filter").ok();
    host::Settings {
        rp_filter: [for_all, read("ipv4", "rp_filter")]
            .iter()
            .flatten()
            .filter_map(|value| rp_filter(value))
            .max(),
        forwarding_v4: read("ipv4", "forwarding").map(is_on),
        forwarding_v6: read("ipv6", "forwarding").map(is_on),
    }
}

fn hardware_driver(interface: &str) -> Option<String> {
    let driver: PathBuf =
        fs::read_link(Path::new("/sys/class/net").join(interface).join("device/driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}
