//! ICMP packets: IP headers with options, but no tags and no extension headers.

use lb_common::{Address, Reason};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use super::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT_OFFSET, ICMP, ICMPV6, L3, MORE_FRAGMENTS, Packet, Part,
    TcpFlags, addresses_v6, length_v6,
};
use crate::Frame;

/// Bytes of an ICMP header.
pub const ICMP_HEADER: usize = 8;

/// Reads the headers of an ICMP packet, which has no flags and no ports.
#[inline(always)]
pub fn icmp(frame: &mut Frame) -> Result<Packet, Reason> {
    let packet = match frame.at::<EthHdr>(0)?.ether_type {
        ETHERTYPE_IPV4 => v4(frame)?,
        ETHERTYPE_IPV6 => v6(frame)?,
        _ => return Err(Reason::NotIp),
    };
    let header = packet.l4() - packet.l3();
    if (packet.length as usize) < header + ICMP_HEADER {
        return Err(Reason::Malformed);
    }
    Ok(packet)
}

#[inline(always)]
fn v4(frame: &mut Frame) -> Result<Packet, Reason> {
    let ip = frame.at::<Ipv4Hdr>(L3)?;
    let header = ((ip.vihl & 0x0f) as usize) * 4;
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
        return Err(Reason::Malformed);
    }
    if ip.proto != ICMP || u16::from_be_bytes(ip.frags) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
        return Err(Reason::NotTcpUdp);
    }
    let ends = (Address::v4(ip.src_addr), Address::v4(ip.dst_addr));
    Ok(packet(false, ip.ttl, u16::from_be_bytes(ip.tot_len), header, ends))
}

#[inline(always)]
fn v6(frame: &mut Frame) -> Result<Packet, Reason> {
    let ip = frame.at::<Ipv6Hdr>(L3)?;
    if ip.next_hdr != ICMPV6 {
        return Err(Reason::NotTcpUdp);
    }
    let ends = addresses_v6(ip)?;
    Ok(packet(true, ip.hop_limit, length_v6(ip), Ipv6Hdr::LEN, ends))
}

#[inline(always)]
fn packet(v6: bool, hops: u8, length: u16, header: usize, ends: (Address, Address)) -> Packet {
    Packet {
        family: v6 as u8,
        protocol: if v6 { ICMPV6 } else { ICMP },
        flags: TcpFlags(0),
        hops,
        part: Part::Whole,
        length,
        vlan: 0,
        id: 0,
        l3: L3,
        l4: L3 + header,
        source: ends.0,
        destination: ends.1,
        source_port: 0,
        destination_port: 0,
    }
}
