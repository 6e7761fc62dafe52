//! Direct server return through a tunnel: the packet travels to its backend unchanged, in an IP packet from
//! the node. The backend takes it out, finds the VIP in it, which it holds, and answers the client itself.
//!
//! The outer header's DSCP and ECN are the inner one's (RFC 6040 section 4.1, normal mode). Its source address
//! or port depends on the flow, so that a backend's receive queues share the flows between them.

use lb_common::{Address, FlowHash, Hop, Reason, Settings};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    Frame, Outcome,
    checksum::fold,
    mtu::fits,
    parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, UDP},
    select::Choice,
    tables::Tables,
    tags,
};

/// A kind of tunnel.
pub struct Tunnel {
    /// Bytes of the UDP header between the two IP headers, or 0.
    udp: usize,
}

/// IP in IP (RFC 2003, RFC 4213, RFC 2473).
pub const IPIP: Tunnel = Tunnel { udp: 0 };
/// GUE version 1 (draft-ietf-intarea-gue section 4): the IP packet follows the UDP header.
pub const GUE: Tunnel = Tunnel { udp: UdpHdr::LEN };

/// IP protocol number of IPv4 packets in packets.
pub const IPV4_IN_IP: u8 = 4;
/// IP protocol number of IPv6 packets in packets.
pub const IPV6_IN_IP: u8 = 41;

/// Hops that the outer packet has to live.
const HOPS: u8 = 64;

/// "Don't fragment" (bit 14 of the flags and fragment offset, RFC 791 section 3.1).
pub const DONT_FRAGMENT: u16 = 0x4000;

/// GUE's source ports: the dynamic ones (RFC 6335 section 6).
const FIRST_PORT: u16 = 0xc000;

impl Tunnel {
    /// Bytes by which packets to this address grow.
    #[inline(always)]
    fn overhead(&self, to: &Address) -> usize {
        self.udp + if to.is_mapped() { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN }
    }
}

/// Puts a client's packet into one to its backend; where that goes next.
#[inline(always)]
pub fn forward<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    choice: &Choice,
    tables: &T,
    tunnel: &Tunnel,
    outcome: &mut Outcome,
) -> Result<Hop, Reason> {
    if choice.is_lost {
        choice.close::<T>();
        return Err(Reason::FlowLost);
    }
    let hop = carry(frame, packet, choice, tables, tunnel, outcome)?;
    choice.remember::<T>(packet, choice.is_from_earlier_tick());
    Ok(hop)
}

/// The same for any packet, which says nothing of the flow.
#[inline(always)]
pub fn carry<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    choice: &Choice,
    tables: &T,
    tunnel: &Tunnel,
    outcome: &mut Outcome,
) -> Result<Hop, Reason> {
    let backend = choice.backend;
    let hop = backend.hop;
    // The host's stack would take the packet for its own, since the VIP is the node's address.
    if !hop.is_known() {
        return Err(Reason::NoNextHop);
    }
    fits(packet, backend.mtu, tunnel.overhead(&backend.address) as u16, outcome)?;
    if !T::DRY_RUN {
        let from = source(choice.flow.settings, &choice.flow.hash, &backend.address, tunnel);
        let outer = Outer { from, to: backend.address, mark: choice.flow.hash.identity };
        encapsulate(frame, packet, &outer, choice.flow.settings, tables, tunnel)?;
    }
    Ok(hop)
}

/// Where the outer packet comes from.
#[inline(always)]
fn source(settings: &Settings, hash: &FlowHash, to: &Address, tunnel: &Tunnel) -> Address {
    let v6 = !to.is_mapped() as usize;
    let first = settings.tunnel_source[v6];
    let hosts = u32::from_ne_bytes(settings.tunnel_hosts[v6]);
    if tunnel.udp != 0 { first } else { first.with_last_bits((hosts & hash.identity).to_ne_bytes()) }
}

/// What the outer headers are made of, beside the inner one.
pub struct Outer {
    /// Source address.
    pub from: Address,
    /// Destination address.
    pub to: Address,
    /// Of the flow: the lower half gives GUE's source port, and the upper one, with what tells the inner packet from
    /// others, the identification of an outer IPv4 packet that may be fragmented.
    pub mark: u32,
}

/// Makes room for a header before the IP header. VLAN tags keep their place; the MAC addresses and the type after
/// the tags are to be written.
#[inline(always)]
pub fn make_room<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    bytes: usize,
    tables: &T,
) -> Result<(), Reason> {
    if !tables.grow(frame, bytes) {
        return Err(Reason::NoHeadroom);
    }
    tags::take_along(frame, packet, bytes)
}

/// What the outer header takes from the inner one.
struct Inner {
    /// DSCP and ECN.
    class: u8,
    /// In host order.
    fragments: u16,
    /// What tells an IPv4 packet or fragment from others of its flow: its identification and place.
    id: u16,
    /// IP protocol number.
    protocol: u8,
}

#[inline(always)]
fn inner(frame: &mut Frame, packet: &Packet) -> Result<Inner, Reason> {
    if packet.v6() {
        let [first, second] = *frame.at::<[u8; 2]>(packet.l3())?;
        let class = first << 4 | second >> 4;
        return Ok(Inner { class, fragments: DONT_FRAGMENT, id: 0, protocol: IPV6_IN_IP });
    }
    let ip = frame.at::<Ipv4Hdr>(packet.l3())?;
    let fragments = u16::from_be_bytes(ip.frags);
    let id = u16::from_be_bytes(ip.id) ^ fragments;
    Ok(Inner { class: ip.tos, fragments: fragments & DONT_FRAGMENT, id, protocol: IPV4_IN_IP })
}

/// Puts the outer headers before the packet.
#[inline(always)]
pub fn encapsulate<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    outer: &Outer,
    settings: &Settings,
    tables: &T,
    tunnel: &Tunnel,
) -> Result<(), Reason> {
    let inner = inner(frame, packet)?;
    let Outer { from, to, mark } = outer;
    let overhead = tunnel.overhead(to);
    make_room(frame, packet, overhead, tables)?;
    let v6 = !to.is_mapped();
    let ether_type = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    tags::set_type(frame, packet, ether_type)?;

    let gue = tunnel.udp != 0;
    let protocol = if gue { UDP } else { inner.protocol };
    let length = packet.length + tunnel.udp as u16;
    let l4 = if v6 {
        let ip = ipv6(from, to, inner.class, protocol, length);
        *frame.at::<Ipv6Hdr>(packet.l3())? = ip;
        packet.l3() + Ipv6Hdr::LEN
    } else {
        let id = if inner.fragments == 0 { (mark >> 16) as u16 ^ inner.id } else { 0 };
        let length = length + Ipv4Hdr::LEN as u16;
        let ip = ipv4(from, to, inner.class, inner.fragments, protocol, id, length);
        *frame.at::<Ipv4Hdr>(packet.l3())? = ip;
        packet.l3() + Ipv4Hdr::LEN
    };
    if gue {
        *frame.at::<UdpHdr>(l4)? = UdpHdr {
            src: (FIRST_PORT | *mark as u16).to_be_bytes(),
            dst: settings.gue_port.to_be_bytes(),
            len: length.to_be_bytes(),
            // None, which RFC 6935 allows over IPv6 too: the inner packet has its own.
            check: [0, 0],
        };
    }
    Ok(())
}

/// An IPv4 header. `length` is the whole packet's; `fragments` are its flags and fragment offset.
#[inline(always)]
pub fn ipv4(
    from: &Address,
    to: &Address,
    class: u8,
    fragments: u16,
    protocol: u8,
    id: u16,
    length: u16,
) -> Ipv4Hdr {
    const VERSION_AND_WORDS: u8 = 0x45;
    let (from, to) = (from.octets_v4(), to.octets_v4());
    let sum = ((VERSION_AND_WORDS as u64) << 8 | class as u64)
        + length as u64
        + id as u64
        + fragments as u64
        + ((HOPS as u64) << 8 | protocol as u64)
        + u32::from_be_bytes(from) as u64
        + u32::from_be_bytes(to) as u64;
    Ipv4Hdr {
        vihl: VERSION_AND_WORDS,
        tos: class,
        tot_len: length.to_be_bytes(),
        id: id.to_be_bytes(),
        frags: fragments.to_be_bytes(),
        ttl: HOPS,
        proto: protocol,
        check: (!fold(sum)).to_be_bytes(),
        src_addr: from,
        dst_addr: to,
    }
}

/// An IPv6 header. `length` is that of what follows.
#[inline(always)]
pub fn ipv6(from: &Address, to: &Address, class: u8, protocol: u8, length: u16) -> Ipv6Hdr {
    Ipv6Hdr {
        vcf: [6 << 4 | class >> 4, class << 4, 0, 0],
        payload_len: length.to_be_bytes(),
        next_hdr: protocol,
        hop_limit: HOPS,
        src_addr: from.octets_v6(),
        dst_addr: to.octets_v6(),
    }
}
