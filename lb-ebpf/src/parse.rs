//! From bytes to a packet: the fields that decide, or the reason why it is not for us.
//!
//! [`plain`] knows the usual packets only, whose headers have fixed places; [`odd`] knows them all.

mod icmp;
mod odd;

use lb_common::{Address, Reason};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{Frame, frame::Header};

pub use icmp::{ICMP_HEADER, icmp};
pub use odd::{TAG, odd};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Where the IP header of a plain packet begins.
pub const L3: usize = EthHdr::LEN;

/// Bounds of where an IP header and a TCP or UDP header begin, one less than a power of 2: 14 bytes of
/// Ethernet and 8 of tags; then 40 of IPv6 and 449 of extension headers.
const LAST_L3: usize = 31;
const LAST_L4: usize = 511;

/// In memory order, as frames have it.
pub const ETHERTYPE_IPV4: u16 = EtherType::Ipv4 as u16;
/// As above.
pub const ETHERTYPE_IPV6: u16 = EtherType::Ipv6 as u16;
/// A customer's VLAN tag (IEEE 802.1Q), and a provider's around it (802.1ad).
const ETHERTYPE_VLAN: u16 = EtherType::Ieee8021q as u16;
const ETHERTYPE_PROVIDER_VLAN: u16 = EtherType::Ieee8021ad as u16;

/// Version 4 and a header of five words: no options.
const IPV4_WITHOUT_OPTIONS: u8 = 0x45;

/// More fragments (bit 13) and the fragment offset (bits 0 to 12) of IPv4, RFC 791 section 3.1.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// IPv6 extension headers (RFC 8200 section 4; mobility, HIP and Shim6 of RFC 6275, 7401 and 5533 have the
/// same form).
mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;

    /// Whether there is a header of this number that another one follows.
    #[inline(always)]
    pub fn is(number: u8) -> bool {
        matches!(
            number,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
        )
    }
}

/// Bytes of the shortest TCP header, and of a UDP header.
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = UdpHdr::LEN;

/// Where a TCP header has its flags.
const FLAGS: usize = 13;

/// A TCP or UDP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// 1 for IPv6, 0 for IPv4.
    family: u8,
    /// IP protocol number: [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// TCP flags; 0 for UDP.
    pub flags: TcpFlags,
    /// TTL or hop limit.
    pub hops: u8,
    /// Which part of an IP packet it is.
    pub part: Part,
    /// Length of the IP packet, headers included, as the packet says.
    pub length: u16,
    /// The number of its (inner) VLAN; 0 when it has no tag.
    pub vlan: u16,
    /// Identification of the packet of which it is a part; of no meaning for whole ones.
    pub id: u32,
    l3: usize,
    l4: usize,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port; 0 in later fragments.
    pub source_port: u16,
    /// Destination port; 0 in later fragments.
    pub destination_port: u16,
}

/// Which part of an IP packet a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment, which has the ports.
    First,
    /// Another fragment.
    Later,
}

/// The flags byte of a TCP header (RFC 9293 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// A connection begins.
    pub const SYN: u8 = 0x02;
    /// A connection is broken off.
    pub const RST: u8 = 0x04;
    /// Data to be passed on at once.
    pub const PSH: u8 = 0x08;
    /// Data was received.
    pub const ACK: u8 = 0x10;

    /// Whether any of these flags is set.
    #[inline(always)]
    pub fn has(self, flags: u8) -> bool {
        self.0 & flags != 0
    }

    /// A connection begins: SYN without ACK.
    #[inline(always)]
    pub fn starts(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// The answer to a SYN.
    #[inline(always)]
    pub fn is_syn_ack(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN | Self::ACK
    }

    /// Only within a connection is there such a packet: ACK or RST, and no opening.
    #[inline(always)]
    pub fn goes_on(self) -> bool {
        self.has(Self::ACK | Self::RST) && !self.starts()
    }

    /// The connection is broken off: RST.
    #[inline(always)]
    pub fn resets(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// The connection ends: FIN or RST.
    #[inline(always)]
    pub fn ends(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }
}

impl Packet {
    /// Whether the packet belongs to a connection that is already under way, which only the backend
    /// that knows it can continue.
    #[inline(always)]
    pub fn is_mid_stream(&self) -> bool {
        self.protocol == TCP && !self.flags.starts()
    }

    /// Whether it is IPv6.
    #[inline(always)]
    pub fn v6(&self) -> bool {
        self.family() != 0
    }

    /// 1 for IPv6, 0 for IPv4. An odd packet is read from a map, and the verifier wants to see a bound.
    #[inline(always)]
    pub fn family(&self) -> usize {
        (self.family & 1) as usize
    }

    /// Where the IP header begins, in bytes from the frame's start. (The bound as above.)
    #[inline(always)]
    pub fn l3(&self) -> usize {
        self.l3 & LAST_L3
    }

    /// Where the TCP or UDP header begins, in bytes from the frame's start.
    #[inline(always)]
    pub fn l4(&self) -> usize {
        self.l4 & LAST_L4
    }

    /// Bytes of VLAN tags.
    #[inline(always)]
    pub fn tags(&self) -> usize {
        self.l3 - L3
    }
}

/// The beginning of a plain packet: one check of bounds for all of it. An empty datagram is shorter, and
/// odd.
#[repr(C)]
struct Plain<Ip> {
    ethernet: EthHdr,
    ip: Ip,
    l4: [u8; TCP_HEADER],
}

// SAFETY: headers one after another, without padding, with the alignment of the first.
unsafe impl<Ip: Header> Header for Plain<Ip> {}

const _: () = assert!(size_of::<Plain<Ipv4Hdr>>() == 54 && size_of::<Plain<Ipv6Hdr>>() == 74);

/// Reads the headers of a plain packet: the usual ones only, all of which have their fixed places. Any
/// other packet that may be for us is [`Reason::Odd`] and for [`odd`].
#[inline(always)]
pub fn plain(frame: &mut Frame) -> Result<Packet, Reason> {
    match frame.at::<EthHdr>(0)?.ether_type {
        ETHERTYPE_IPV4 => ipv4(frame),
        ETHERTYPE_IPV6 => ipv6(frame),
        ETHERTYPE_VLAN | ETHERTYPE_PROVIDER_VLAN => Err(Reason::Odd),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn ipv4(frame: &mut Frame) -> Result<Packet, Reason> {
    let Ok(Plain { ip, l4, .. }) = frame.at::<Plain<Ipv4Hdr>>(0) else { return Err(Reason::Odd) };
    let fragment = u16::from_be_bytes(ip.frags) & (MORE_FRAGMENTS | FRAGMENT_OFFSET);
    if ip.vihl != IPV4_WITHOUT_OPTIONS || fragment != 0 {
        return Err(Reason::Odd);
    }
    if !matches!(ip.proto, TCP | UDP) {
        return Err(if ip.proto == ICMP { Reason::Icmp } else { Reason::NotTcpUdp });
    }
    let length = u16::from_be_bytes(ip.tot_len);
    let (source, destination) = (Address::v4(ip.src_addr), Address::v4(ip.dst_addr));
    packet(false, ip.proto, ip.ttl, length, source, destination, l4)
}

#[inline(always)]
fn ipv6(frame: &mut Frame) -> Result<Packet, Reason> {
    let Ok(Plain { ip, l4, .. }) = frame.at::<Plain<Ipv6Hdr>>(0) else { return Err(Reason::Odd) };
    if !matches!(ip.next_hdr, TCP | UDP) {
        return Err(match ip.next_hdr {
            ICMPV6 => Reason::Icmp,
            other if extension::is(other) => Reason::Odd,
            _ => Reason::NotTcpUdp,
        });
    }
    let (source, destination) = addresses_v6(ip)?;
    packet(true, ip.next_hdr, ip.hop_limit, length_v6(ip), source, destination, l4)
}

/// A whole packet without tags. Its length is checked against the IP packet's own: a short packet in a
/// padded frame has no ports in the padding.
#[inline(always)]
fn packet(
    v6: bool,
    protocol: u8,
    hops: u8,
    length: u16,
    source: Address,
    destination: Address,
    l4: &[u8; TCP_HEADER],
) -> Result<Packet, Reason> {
    let header = if v6 { Ipv6Hdr::LEN } else { Ipv4Hdr::LEN };
    let (needed, flags) =
        if protocol == TCP { (TCP_HEADER, TcpFlags(l4[FLAGS])) } else { (UDP_HEADER, TcpFlags(0)) };
    if (length as usize) < header + needed {
        return Err(Reason::Malformed);
    }
    Ok(Packet {
        family: v6 as u8,
        protocol,
        flags,
        hops,
        part: Part::Whole,
        length,
        vlan: 0,
        id: 0,
        l3: L3,
        l4: L3 + header,
        source,
        destination,
        source_port: u16::from_be_bytes([l4[0], l4[1]]),
        destination_port: u16::from_be_bytes([l4[2], l4[3]]),
    })
}

/// Source and destination. A mapped address on the wire (forbidden by RFC 4038 section 4.2) would look like
/// an IPv4 flow.
#[inline(always)]
fn addresses_v6(ip: &Ipv6Hdr) -> Result<(Address, Address), Reason> {
    let (source, destination) = (Address::v6(ip.src_addr), Address::v6(ip.dst_addr));
    if ip.vcf[0] >> 4 != 6 || source.is_mapped() || destination.is_mapped() {
        return Err(Reason::Malformed);
    }
    Ok((source, destination))
}

#[inline(always)]
fn length_v6(ip: &Ipv6Hdr) -> u16 {
    u16::from_be_bytes(ip.payload_len).saturating_add(Ipv6Hdr::LEN as u16)
}
