//! ICMP packets: tags and IP headers with options, but no extension headers.

use lb_common::{Address, Reason};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT_OFFSET, ICMP, ICMPV6, MORE_FRAGMENTS, Packet, Part, TcpFlags,
    addresses_v6, length_v6,
    odd::{Link, link},
};
use crate::Frame;

/// Bytes of an ICMP header.
pub const ICMP_HEADER: usize = 8;

/// Reads the headers of an ICMP packet, which has no flags and no ports.
#[inline(always)]
pub fn icmp(frame: &mut Frame) -> Result<Packet, Reason> {
    let link = link(frame)?;
    let (header, packet) = match link.ether_type {
        ETHERTYPE_IPV4 => v4(frame, &link)?,
        ETHERTYPE_IPV6 => v6(frame, &link)?,
        _ => return Err(Reason::NotIp),
    };
    if (packet.length as usize) < header + ICMP_HEADER {
        return Err(Reason::Malformed);
    }
    Ok(packet)
}

#[inline(always)]
fn v4(frame: &mut Frame, link: &Link) -> Result<(usize, Packet), Reason> {
    let ip = frame.at_variable::<Ipv4Hdr>(link.l3)?;
    let header = ((ip.vihl & 0x0f) as usize) * 4;
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
        return Err(Reason::Malformed);
    }
    if ip.proto != ICMP || u16::from_be_bytes(ip.frags) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
        return Err(Reason::NotTcpUdp);
    }
    let ends = (Address::v4(ip.src_addr), Address::v4(ip.dst_addr));
    Ok((header, packet(link, ip.ttl, u16::from_be_bytes(ip.tot_len), header, ends)))
}

#[inline(always)]
fn v6(frame: &mut Frame, link: &Link) -> Result<(usize, Packet), Reason> {
    let ip = frame.at_variable::<Ipv6Hdr>(link.l3)?;
    if ip.next_hdr != ICMPV6 {
        return Err(Reason::NotTcpUdp);
    }
    let ends = addresses_v6(ip)?;
    Ok((Ipv6Hdr::LEN, packet(link, ip.hop_limit, length_v6(ip), Ipv6Hdr::LEN, ends)))
}

#[inline(always)]
fn packet(link: &Link, hops: u8, length: u16, header: usize, ends: (Address, Address)) -> Packet {
    let v6 = link.ether_type == ETHERTYPE_IPV6;
    Packet {
        family: v6 as u8,
        protocol: if v6 { ICMPV6 } else { ICMP },
        flags: TcpFlags(0),
        hops,
        part: Part::Whole,
        length,
        vlan: link.vlan,
        id: 0,
        l3: link.l3,
        l4: link.l3 + header,
        source: ends.0,
        destination: ends.1,
        source_port: 0,
        destination_port: 0,
    }
}
