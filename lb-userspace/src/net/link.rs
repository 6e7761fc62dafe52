//! One network interface as the kernel describes it.

use netlink_packet_route::link::{
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};

/// A network interface, without its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name: `eth0`.
    pub name: String,
    /// Its hardware address; `None` where frames carry none (tunnels, loopback).
    pub mac: Option<[u8; 6]>,
    /// The largest packet it carries, in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Switched on, and with a carrier.
    pub up: bool,
    /// Whether it answers ARP and neighbour discovery: loopback and dummy interfaces do not.
    pub answers_arp: bool,
    /// The kind of a virtual interface (`veth`, `bond`, `vlan`); `None` for hardware.
    pub kind: Option<String>,
    /// The id of the XDP program on it.
    pub xdp_program: Option<u32>,
    /// Whether that program runs in the kernel's generic path.
    pub xdp_generic: bool,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            answers_arp: !message.header.flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp),
            kind: None,
            xdp_program: None,
            xdp_generic: false,
        };
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(mac) if ethernet => link.mac = mac.try_into().ok(),
                LinkAttribute::Xdp(xdp) => {
                    link.xdp_program = xdp.iter().find_map(program);
                    link.xdp_generic = xdp.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
                }
                LinkAttribute::LinkInfo(info) => link.kind = info.iter().find_map(kind),
                _ => {}
            }
        }
        link
    }
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn program(xdp: &LinkXdp) -> Option<u32> {
    match xdp {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    }
}
