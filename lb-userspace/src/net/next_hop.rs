//! From a destination to the frame that reaches it: route, interface, neighbour.

use std::{collections::HashMap, fmt, io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::LinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage,
        NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
};

use super::{NetError, link::Link, netlink::Netlink};

/// Where frames to a destination go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// The outgoing interface.
    pub interface_index: u32,
    /// That interface's own hardware address.
    pub source_mac: [u8; 6],
    /// The hardware address of the destination, or of the gateway to it.
    pub destination_mac: [u8; 6],
    /// The gateway; `None` when the destination is on the interface's own network. May be IPv6 for an IPv4
    /// destination (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The address from which the kernel would connect.
    pub source: Option<IpAddr>,
    /// The longest IP packet in bytes that the route and the interface take.
    pub mtu: u16,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.destination_mac;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")?;
        match nix::net::if_::if_indextoname(self.interface_index) {
            // nix 0.31 takes the null pointer of an unknown index for success and gives an empty name.
            Ok(name) if !name.is_empty() => write!(f, " on {}", name.to_string_lossy())?,
            _ => write!(f, " on interface {}", self.interface_index)?,
        }
        self.gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))
    }
}

/// Why a destination has no next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Not looked up yet.
    #[error("not looked up yet")]
    Unknown,
    /// The kernel's answer did not come, or cannot be decoded.
    #[error("no readable answer from the kernel")]
    NoAnswer,
    /// The kernel has no route to it; the number is the kernel's errno.
    #[error("no route ({})", io::Error::from_raw_os_error(*.0))]
    NoRoute(i32),
    /// It is an address of this host.
    #[error("an address of this host")]
    OwnAddress,
    /// It is a broadcast or multicast address, or the route drops.
    #[error("not a unicast destination")]
    NotUnicast,
    /// The outgoing interface is gone, switched off or without carrier.
    #[error("the outgoing interface is down")]
    InterfaceDown,
    /// The outgoing interface has no hardware addresses (a tunnel): XDP cannot send there.
    #[error("the outgoing interface is not Ethernet")]
    NotEthernet,
    /// The neighbour has not answered, or not yet.
    #[error("no answer from the neighbour")]
    NoNeighbour,
}

/// A neighbour's place: interface and address.
pub(super) type NeighbourKey = (u32, IpAddr);

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// The address is known. `stale`: the kernel will not check it until someone uses it.
    Usable { mac: [u8; 6], stale: bool },
    /// No entry, or the kernel is asking right now.
    Unanswered { asking: bool },
    /// The kernel asked and nobody answered.
    Failed,
}

/// Everything found on the way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) neighbour_key: NeighbourKey,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) source_mac: [u8; 6],
    pub(super) mtu: u16,
    pub(super) neighbour: Neighbour,
}

impl Path {
    pub(super) fn next_hop_with(&self, destination_mac: [u8; 6]) -> NextHop {
        NextHop {
            interface_index: self.neighbour_key.0,
            source_mac: self.source_mac,
            destination_mac,
            gateway: self.gateway,
            source: self.source,
            mtu: self.mtu,
        }
    }
}

/// What one pass over the destinations has met: many are reached through few interfaces and gateways.
#[derive(Default)]
pub(super) struct Seen {
    /// Hardware addresses and MTUs of interfaces.
    interfaces: HashMap<u32, Result<([u8; 6], u32), Unresolved>>,
    neighbours: HashMap<NeighbourKey, Neighbour>,
}

impl Seen {
    /// The kernel is about to learn something else about the neighbour.
    pub(super) fn forget(&mut self, key: NeighbourKey) {
        self.neighbours.remove(&key);
    }
}

/// Looks up route, interface and neighbour. An error means that netlink failed, not that the destination
/// cannot be reached.
pub(super) async fn path_to(
    netlink: &Netlink,
    seen: &mut Seen,
    destination: IpAddr,
) -> Result<Result<Path, Unresolved>, NetError> {
    answered(find_path(netlink, seen, destination).await)
}

/// A missing answer concerns one destination: the library drops what it cannot decode, and the socket is as
/// good as before.
fn answered<T>(found: Result<Result<T, Unresolved>, NetError>) -> Result<Result<T, Unresolved>, NetError> {
    match found {
        Err(NetError::Timeout { .. }) => Ok(Err(Unresolved::NoAnswer)),
        other => other,
    }
}

async fn find_path(
    netlink: &Netlink,
    seen: &mut Seen,
    destination: IpAddr,
) -> Result<Result<Path, Unresolved>, NetError> {
    let route = match route_to(netlink, destination).await? {
        Ok(route) => route,
        Err(unresolved) => return Ok(Err(unresolved)),
    };
    if route.kind != RouteType::Unicast {
        let local = route.kind == RouteType::Local;
        return Ok(Err(if local { Unresolved::OwnAddress } else { Unresolved::NotUnicast }));
    }
    let (source_mac, link_mtu) = match mac_of(netlink, seen, route.interface).await? {
        Ok(found) => found,
        Err(unresolved) => return Ok(Err(unresolved)),
    };
    let neighbour_key = (route.interface, route.gateway.unwrap_or(destination));
    let neighbour = neighbour(netlink, seen, neighbour_key).await?;
    let mtu = route.mtu.map_or(link_mtu, |mtu| mtu.min(link_mtu));
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    Ok(Ok(Path { neighbour_key, gateway: route.gateway, source: route.source, source_mac, mtu, neighbour }))
}

/// The kernel's choice of route to a destination.
pub(super) struct Route {
    pub(super) kind: RouteType,
    pub(super) interface: u32,
    pub(super) gateway: Option<IpAddr>,
    /// The address from which the kernel would connect.
    pub(super) source: Option<IpAddr>,
    /// The route's own MTU, if it has one.
    pub(super) mtu: Option<u32>,
}

pub(super) async fn route_to(
    netlink: &Netlink,
    destination: IpAddr,
) -> Result<Result<Route, Unresolved>, NetError> {
    let mut query = RouteMessage::default();
    query.header.address_family = family(destination);
    query.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
    query.attributes.push(RouteAttribute::Destination(destination.into()));
    let request = format!("look up the route to {destination}");
    // The kernel gives an unreachable, prohibited or blackhole route as an error of its own each.
    match netlink.get(&request, RouteNetlinkMessage::GetRoute(query)).await {
        Ok(Some(RouteNetlinkMessage::NewRoute(route))) => Ok(Ok(read_route(&route))),
        Ok(_) => Ok(Err(Unresolved::NoRoute(libc::ENETUNREACH))),
        Err(error) => answered(refusal(error).map(|errno| Err(Unresolved::NoRoute(errno)))),
    }
}

fn read_route(message: &RouteMessage) -> Route {
    let mut route = Route { kind: message.header.kind, interface: 0, gateway: None, source: None, mtu: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = *index,
            RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => route.gateway = Some((*gateway).into()),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => route.gateway = Some((*gateway).into()),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            _ => {}
        }
    }
    route
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

async fn mac_of(
    netlink: &Netlink,
    seen: &mut Seen,
    index: u32,
) -> Result<Result<([u8; 6], u32), Unresolved>, NetError> {
    if let Some(known) = seen.interfaces.get(&index) {
        return Ok(*known);
    }
    let mac = match link(netlink, index).await? {
        Some(link) if link.up => link.mac.map(|mac| (mac, link.mtu)).ok_or(Unresolved::NotEthernet),
        _ => Err(Unresolved::InterfaceDown),
    };
    seen.interfaces.insert(index, mac);
    Ok(mac)
}

/// The interface, `None` when it is gone.
async fn link(netlink: &Netlink, index: u32) -> Result<Option<Link>, NetError> {
    let mut query = LinkMessage::default();
    query.header.index = index;
    let request = format!("describe interface {index}");
    match netlink.get(&request, RouteNetlinkMessage::GetLink(query)).await {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(link.into())),
        Ok(_) => Ok(None),
        Err(error) => refusal(error).map(|_gone| None),
    }
}

async fn neighbour(netlink: &Netlink, seen: &mut Seen, key: NeighbourKey) -> Result<Neighbour, NetError> {
    if let Some(known) = seen.neighbours.get(&key) {
        return Ok(*known);
    }
    let neighbour = neighbour_entry(netlink, key).await?;
    seen.neighbours.insert(key, neighbour);
    Ok(neighbour)
}

/// The neighbour's entry. Asking for a single one needs Linux 5.0.
async fn neighbour_entry(netlink: &Netlink, key: NeighbourKey) -> Result<Neighbour, NetError> {
    let request = format!("look up the neighbour {}", key.1);
    match netlink.get(&request, RouteNetlinkMessage::GetNeighbour(neighbour_message(key))).await {
        Ok(Some(RouteNetlinkMessage::NewNeighbour(neighbour))) => Ok(read_neighbour(&neighbour)),
        Ok(_) => Ok(Neighbour::Unanswered { asking: false }),
        Err(error) => refusal(error).map(|_no_entry| Neighbour::Unanswered { asking: false }),
    }
}

fn read_neighbour(message: &NeighbourMessage) -> Neighbour {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
        _ => None,
    });
    match (message.header.state, mac) {
        (NeighbourState::Stale, Some(mac)) => Neighbour::Usable { mac, stale: true },
        (
            NeighbourState::Reachable
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp,
            Some(mac),
        ) => Neighbour::Usable { mac, stale: false },
        (NeighbourState::Failed, _) => Neighbour::Failed,
        (NeighbourState::Incomplete, _) => Neighbour::Unanswered { asking: true },
        _ => Neighbour::Unanswered { asking: false },
    }
}

/// Makes the kernel ask the neighbour for its address, as if it had a packet for it (`NTF_USE`). The answer
/// comes as a notification.
///
/// Never for a permanent entry: that makes it an ordinary one (seen on Linux 6.18).
///
/// For IPv6 the interface needs a link-local address that has passed duplicate detection (one or two seconds
/// after the link came up): the kernel solicits from that one, and without it stays silent.
pub(super) async fn ask_neighbour(netlink: &Netlink, key: NeighbourKey) -> Result<(), NetError> {
    let mut message = neighbour_message(key);
    message.header.flags = NeighbourFlags::Use;
    let request = format!("resolve the neighbour {}", key.1);
    netlink.put(&request, RouteNetlinkMessage::NewNeighbour(message)).await
}

fn neighbour_message((interface, address): NeighbourKey) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header =
        NeighbourHeader { family: family(address), ifindex: interface, ..NeighbourHeader::default() };
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

/// Which neighbour a notification is about.
pub(super) fn key_of(message: &NeighbourMessage) -> Option<NeighbourKey> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
            Some((message.header.ifindex, (*address).into()))
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
            Some((message.header.ifindex, (*address).into()))
        }
        _ => None,
    })
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The errno of a refusal, which is an answer; other errors are failures of netlink.
fn refusal(error: NetError) -> Result<i32, NetError> {
    match error {
        NetError::Refused { source, .. } => Ok(source.raw_os_error().unwrap_or(libc::EIO)),
        other => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn entry(state: NeighbourState, mac: Option<&[u8]>) -> Neighbour {
        let mut message = NeighbourMessage::default();
        message.header.state = state;
        message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
        read_neighbour(&message)
    }

    #[test]
    fn neighbour_states() {
        use NeighbourState::*;
        for state in [Reachable, Delay, Probe, Permanent, Noarp] {
            assert_eq!(entry(state, Some(&MAC)), Neighbour::Usable { mac: MAC, stale: false }, "{state:?}");
        }
        assert_eq!(entry(Stale, Some(&MAC)), Neighbour::Usable { mac: MAC, stale: true });
        // A failed entry still carries the old address.
        assert_eq!(entry(Failed, Some(&MAC)), Neighbour::Failed);
        assert_eq!(entry(Incomplete, Option::None), Neighbour::Unanswered { asking: true });
        assert_eq!(entry(None, Option::None), Neighbour::Unanswered { asking: false });
        assert_eq!(entry(Reachable, Some(&[1, 2, 3, 4])), Neighbour::Unanswered { asking: false });
    }

    #[test]
    fn a_next_hop_reads_as_a_sentence() {
        let hop = NextHop {
            interface_index: u32::MAX >> 1,
            source_mac: [0; 6],
            destination_mac: [0x52, 0x54, 0, 0, 0, 0xa],
            gateway: Some("192.0.2.1".parse().unwrap()),
            source: None,
            mtu: 1_500,
        };
        assert_eq!(hop.to_string(), "52:54:00:00:00:0a on interface 2147483647 via 192.0.2.1");
    }
}
