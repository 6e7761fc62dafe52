//! From bytes to a packet: the fields that decide, or the reason why it is not for us.

use lb_common::{Address, Reason};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::Frame;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Where the IP header of a plain packet begins.
pub const L3: usize = EthHdr::LEN;

/// In memory order, as frames have it.
pub const ETHERTYPE_IPV4: u16 = EtherType::Ipv4 as u16;
/// As above.
pub const ETHERTYPE_IPV6: u16 = EtherType::Ipv6 as u16;

/// More fragments (bit 13) and the fragment offset (bits 0 to 12), RFC 791 section 3.1.
const FRAGMENT_BITS: u16 = 0x3fff;

/// Bytes of the shortest TCP header, and of a UDP header.
const TCP_HEADER: u16 = 20;
const UDP_HEADER: u16 = UdpHdr::LEN as u16;

/// Where a TCP header has its flags.
const FLAGS: usize = 13;

/// A TCP or UDP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whether it is IPv6.
    pub v6: bool,
    /// IP protocol number: [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// TCP flags; 0 for UDP.
    pub flags: TcpFlags,
    /// TTL or hop limit.
    pub hops: u8,
    /// Length of the IP packet, headers included, as the packet says.
    pub length: u16,
    /// Where the IP header begins, in bytes from the frame's start.
    pub l3: usize,
    /// Where the TCP or UDP header begins, in bytes from the frame's start.
    pub l4: usize,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// The flags byte of a TCP header (RFC 9293 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;

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
}

/// What an IP header says.
struct Ip {
    v6: bool,
    protocol: u8,
    hops: u8,
    /// Of the whole IP packet.
    length: u16,
    /// Of the IP header.
    header: usize,
    source: Address,
    destination: Address,
}

/// Reads the headers of a plain packet: the usual ones only, all of which have their fixed places. Any
/// other packet is [`Reason::Odd`] and for [`odd`].
#[inline(always)]
pub fn plain(frame: &mut Frame) -> Result<Packet, Reason> {
    let ip = match frame.at::<EthHdr>(0)?.ether_type {
        ETHERTYPE_IPV4 => {
            // Five words: no options.
            if frame.at::<Ipv4Hdr>(L3)?.vihl & 0x0f > 5 {
                return Err(Reason::Odd);
            }
            Ip { header: Ipv4Hdr::LEN, ..ipv4(frame)? }
        }
        ETHERTYPE_IPV6 => ipv6(frame)?,
        _ => return Err(Reason::NotIp),
    };
    transport(frame, &ip)
}

/// Reads the headers of any packet.
#[inline(always)]
pub fn odd(frame: &mut Frame) -> Result<Packet, Reason> {
    let ip = match frame.at::<EthHdr>(0)?.ether_type {
        ETHERTYPE_IPV4 => ipv4(frame)?,
        ETHERTYPE_IPV6 => ipv6(frame)?,
        _ => return Err(Reason::NotIp),
    };
    transport(frame, &ip)
}

/// Reads the TCP or UDP header. Everything is checked against the IP packet's own length too: a short
/// packet in a padded frame has no ports in the padding.
#[inline(always)]
fn transport(frame: &mut Frame, ip: &Ip) -> Result<Packet, Reason> {
    let l4 = L3 + ip.header;
    let (needed, flags) = match ip.protocol {
        TCP => (TCP_HEADER, TcpFlags(frame.at::<[u8; TCP_HEADER as usize]>(l4)?[FLAGS])),
        UDP => {
            frame.at::<UdpHdr>(l4)?;
            (UDP_HEADER, TcpFlags(0))
        }
        _ => return Err(Reason::NotTcpUdp),
    };
    if ip.length < ip.header as u16 + needed {
        return Err(Reason::Malformed);
    }
    let ports = *frame.at::<[u8; 4]>(l4)?;
    Ok(Packet {
        v6: ip.v6,
        protocol: ip.protocol,
        flags,
        hops: ip.hops,
        length: ip.length,
        l3: L3,
        l4,
        source: ip.source,
        destination: ip.destination,
        source_port: u16::from_be_bytes([ports[0], ports[1]]),
        destination_port: u16::from_be_bytes([ports[2], ports[3]]),
    })
}

#[inline(always)]
fn ipv4(frame: &mut Frame) -> Result<Ip, Reason> {
    let header = frame.at::<Ipv4Hdr>(L3)?;
    let header_length = ((header.vihl & 0x0f) as usize) * 4;
    if header.vihl >> 4 != 4 || header_length < Ipv4Hdr::LEN {
        return Err(Reason::Malformed);
    }
    if u16::from_be_bytes(header.frags) & FRAGMENT_BITS != 0 {
        return Err(Reason::Fragment);
    }
    Ok(Ip {
        v6: false,
        protocol: header.proto,
        hops: header.ttl,
        length: u16::from_be_bytes(header.tot_len),
        header: header_length,
        source: Address::v4(header.src_addr),
        destination: Address::v4(header.dst_addr),
    })
}

#[inline(always)]
fn ipv6(frame: &mut Frame) -> Result<Ip, Reason> {
    let header = frame.at::<Ipv6Hdr>(L3)?;
    let (source, destination) = (Address::v6(header.src_addr), Address::v6(header.dst_addr));
    // A mapped address on the wire (forbidden by RFC 4038 section 4.2) would look like an IPv4 flow.
    if header.vcf[0] >> 4 != 6 || source.is_mapped() || destination.is_mapped() {
        return Err(Reason::Malformed);
    }
    Ok(Ip {
        v6: true,
        protocol: header.next_hdr,
        hops: header.hop_limit,
        length: u16::from_be_bytes(header.payload_len).saturating_add(Ipv6Hdr::LEN as u16),
        header: Ipv6Hdr::LEN,
        source,
        destination,
    })
}
