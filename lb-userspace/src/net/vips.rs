//! A backend host's VIPs on `lo`, and how large the segments are that it asks clients for.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType},
};

use super::{NetError, netlink::Netlink};

/// The kernel's number of `lo` (net/core/dev.c, `LOOPBACK_IFINDEX`).
const LO: u32 = 1;

/// A lifetime without end.
const FOREVER: u32 = u32::MAX;

/// Adds and removes VIPs, over one socket.
pub struct Vips(Netlink);

impl Vips {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`NetError::Open`].
    pub fn open() -> Result<Vips, NetError> {
        Netlink::open().map(Vips)
    }

    /// Puts a VIP on `lo`. An IPv6 one is not checked for duplicates (all backends have it), and is
    /// deprecated: the host's own connections do not choose it as their source (RFC 6724 section 5, rule 3).
    ///
    /// # Errors
    /// [`NetError::Refused`] without CAP_NET_ADMIN, when it is there already, or when `lo` has no IPv6.
    pub async fn add(&self, vip: IpAddr) -> Result<(), NetError> {
        let mut message = message(vip);
        if vip.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, FOREVER);
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        let request = format!("put {vip} on lo");
        self.0.create(&request, RouteNetlinkMessage::NewAddress(message)).await
    }

    /// Takes a VIP from `lo`.
    ///
    /// # Errors
    /// [`NetError::Refused`] without CAP_NET_ADMIN, or when it is not there.
    pub async fn remove(&self, vip: IpAddr) -> Result<(), NetError> {
        let request = format!("take {vip} from lo");
        self.0.delete(&request, RouteNetlinkMessage::DelAddress(message(vip))).await
    }

    /// The default routes of the main table, both families.
    ///
    /// # Errors
    /// Any [`NetError`].
    pub async fn default_routes(&self) -> Result<Vec<DefaultRoute>, NetError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(request);
            for answer in self.0.dump("list routes", request).await? {
                if let RouteNetlinkMessage::NewRoute(route) = answer {
                    found.extend(default_route(&route));
                }
            }
        }
        Ok(found)
    }
}

fn message(vip: IpAddr) -> AddressMessage {
    let (family, prefix_len) = match vip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family,
        prefix_len,
        index: LO,
        scope: AddressScope::Universe,
        ..AddressHeader::default()
    };
    message.attributes = vec![AddressAttribute::Local(vip), AddressAttribute::Address(vip)];
    message
}

/// A default route: the way of most answers to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Whether it is IPv6's.
    pub v6: bool,
    /// The interface's index; `None` for a route over several.
    pub interface: Option<u32>,
    /// The segment size that connections over it announce (`advmss`), in bytes; `None` when the interface's
    /// MTU decides.
    pub advmss: Option<u32>,
}

fn default_route(route: &RouteMessage) -> Option<DefaultRoute> {
    let header = &route.header;
    if header.destination_prefix_length != 0
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
    {
        return None;
    }
    let interface = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let advmss = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Advmss(bytes) => Some(*bytes),
            _ => None,
        }),
        _ => None,
    });
    Some(DefaultRoute { v6: header.address_family == AddressFamily::Inet6, interface, advmss })
}
