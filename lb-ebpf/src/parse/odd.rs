//! Packets with VLAN tags, IPv4 options, IPv6 extension headers, and fragments.

use lb_common::{Address, Reason};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_PROVIDER_VLAN, ETHERTYPE_VLAN, FLAGS, FRAGMENT_OFFSET, ICMP,
    ICMPV6, L3, LAST_L3, LAST_L4, MORE_FRAGMENTS, Packet, Part, TCP, TCP_HEADER, TcpFlags, UDP, UDP_HEADER,
    addresses_v6, extension, length_v6,
};
use crate::{Frame, frame::forgotten};

/// Bytes of a VLAN tag.
pub const TAG: usize = 4;

/// The number of the VLAN in a tag (the rest is priority).
const VLAN_BITS: u16 = 0x0fff;

/// Extension headers that are followed. Linux sends three at the most.
const MOST_EXTENSIONS: u32 = 6;

/// What the headers up to TCP or UDP say.
struct Ip {
    v6: bool,
    hops: u8,
    length: u16,
    source: Address,
    destination: Address,
    what: Payload,
}

/// What an IP packet carries, and where.
#[derive(Clone, Copy)]
struct Payload {
    protocol: u8,
    at: usize,
    part: Part,
    id: u32,
}

/// Reads the headers of any packet. Everything is checked against the IP packet's own length too.
#[inline(always)]
pub fn odd(frame: &mut Frame) -> Result<Packet, Reason> {
    let Link { l3, vlan, ether_type } = link(frame)?;
    let ip = match ether_type {
        ETHERTYPE_IPV4 => ipv4(frame, l3)?,
        ETHERTYPE_IPV6 => ipv6(frame, l3)?,
        _ => return Err(Reason::NotIp),
    };
    let what = ip.what;
    if !matches!(what.protocol, TCP | UDP) {
        let icmp = if ip.v6 { ICMPV6 } else { ICMP };
        let whole = what.part == Part::Whole;
        return Err(if whole && what.protocol == icmp { Reason::Icmp } else { Reason::NotTcpUdp });
    }
    let header = what.at - l3;
    let (needed, flags, ports) = match what.part {
        Part::Later => (0, 0, [0; 4]),
        _ if what.protocol == TCP => {
            let tcp = frame.at_variable::<[u8; TCP_HEADER]>(what.at)?;
            (TCP_HEADER, tcp[FLAGS], [tcp[0], tcp[1], tcp[2], tcp[3]])
        }
        _ => {
            let udp = frame.at_variable::<[u8; UDP_HEADER]>(what.at)?;
            (UDP_HEADER, 0, [udp[0], udp[1], udp[2], udp[3]])
        }
    };
    if (ip.length as usize) < header + needed {
        return Err(Reason::Malformed);
    }
    Ok(Packet {
        family: ip.v6 as u8,
        protocol: what.protocol,
        flags: TcpFlags(flags),
        hops: ip.hops,
        part: what.part,
        length: ip.length,
        vlan,
        id: what.id,
        l3,
        l4: what.at,
        source: ip.source,
        destination: ip.destination,
        source_port: u16::from_be_bytes([ports[0], ports[1]]),
        destination_port: u16::from_be_bytes([ports[2], ports[3]]),
    })
}

/// What the Ethernet header and up to two tags say.
pub(super) struct Link {
    /// Where the IP header begins.
    pub(super) l3: usize,
    /// The number of the (inner) VLAN; 0 without a tag.
    pub(super) vlan: u16,
    /// What follows, in memory order.
    pub(super) ether_type: u16,
}

#[inline(always)]
pub(super) fn link(frame: &mut Frame) -> Result<Link, Reason> {
    let (mut l3, mut vlan) = (L3, 0);
    let mut ether_type = *frame.at::<[u8; 2]>(L3 - 2)?;
    let mut tags = 0;
    while tags < 2 && is_tag(ether_type) {
        let tag = *frame.at::<[u8; TAG]>(l3)?;
        vlan = u16::from_be_bytes([tag[0], tag[1]]) & VLAN_BITS;
        ether_type = [tag[2], tag[3]];
        l3 += TAG;
        tags += 1;
    }
    // What follows is walked once then, and not for each number of tags.
    let l3 = forgotten(l3, u32::from_ne_bytes(*frame.at(0)?) as u64) & LAST_L3;
    Ok(Link { l3, vlan, ether_type: u16::from_ne_bytes(ether_type) })
}

#[inline(always)]
fn is_tag(ether_type: [u8; 2]) -> bool {
    matches!(u16::from_ne_bytes(ether_type), ETHERTYPE_VLAN | ETHERTYPE_PROVIDER_VLAN)
}

#[inline(always)]
fn ipv4(frame: &mut Frame, l3: usize) -> Result<Ip, Reason> {
    let ip = frame.at_variable::<Ipv4Hdr>(l3)?;
    let header = ((ip.vihl & 0x0f) as usize) * 4;
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
        return Err(Reason::Malformed);
    }
    let flags = u16::from_be_bytes(ip.frags);
    let part = part(flags & FRAGMENT_OFFSET, flags & MORE_FRAGMENTS);
    let id = u16::from_be_bytes(ip.id) as u32;
    Ok(Ip {
        v6: false,
        hops: ip.ttl,
        length: u16::from_be_bytes(ip.tot_len),
        source: Address::v4(ip.src_addr),
        destination: Address::v4(ip.dst_addr),
        what: Payload { protocol: ip.proto, at: l3 + header, part, id },
    })
}

#[inline(always)]
fn part(offset: u16, more: u16) -> Part {
    match (offset, more) {
        // A packet that is its own and only fragment is treated as whole (RFC 6946).
        (0, 0) => Part::Whole,
        (0, _) => Part::First,
        _ => Part::Later,
    }
}

#[inline(always)]
fn ipv6(frame: &mut Frame, l3: usize) -> Result<Ip, Reason> {
    let ip = *frame.at_variable::<Ipv6Hdr>(l3)?;
    let (source, destination) = addresses_v6(&ip)?;
    let what = payload_v6(frame, l3 + Ipv6Hdr::LEN, ip.next_hdr)?;
    Ok(Ip { v6: true, hops: ip.hop_limit, length: length_v6(&ip), source, destination, what })
}

/// Follows the extension headers, of which the first begins at `at`.
#[inline(always)]
fn payload_v6(frame: &mut Frame, at: usize, first: u8) -> Result<Payload, Reason> {
    let mut what = Payload { protocol: first, at, part: Part::Whole, id: 0 };
    let mut count = 0;
    while extension::is(what.protocol) {
        if count == MOST_EXTENSIONS {
            return Err(Reason::NotTcpUdp);
        }
        let h = *frame.at_variable::<[u8; 8]>(what.at)?;
        let length = match what.protocol {
            extension::FRAGMENT => {
                let word = u16::from_be_bytes([h[2], h[3]]);
                what.part = part(word >> 3, word & 1);
                what.id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
                8
            }
            extension::AUTHENTICATION => (h[1] as usize + 2) * 4,
            // With segments left, the destination is but a stage on the way (RFC 8200 section 4.4).
            extension::ROUTING if h[3] != 0 => return Err(Reason::NotTcpUdp),
            _ => (h[1] as usize + 1) * 8,
        };
        what.protocol = h[0];
        what.at += length;
        if what.at > LAST_L4 {
            return Err(Reason::NotTcpUdp);
        }
        // What follows is in the first fragment only.
        if what.part == Part::Later {
            if extension::is(what.protocol) {
                what.protocol = UDP;
            }
            break;
        }
        count += 1;
    }
    Ok(what)
}
