//! A backend host's side of the tunnels: an outer packet for the host with an inner packet for a VIP in
//! it becomes that inner packet. Everything else stays as it is.
//!
//! IP in IP (RFC 2003, RFC 2473, RFC 4213) in all four combinations of families, and GUE version 1
//! (draft-ietf-intarea-gue section 4: the IP packet follows the UDP header at once).
//!
//! The outer header's checksums are not verified: the frame's own checksum has just been, outer UDP
//! checksums may be absent (RFC 6935), and the inner packet has its own, which the stack verifies.

use lb_common::{Address, DecapSettings, Reason, Verdict, decap::Role};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{Frame, checksum::Change, parse};

/// IP protocol numbers of IPv4 and IPv6 packets within a packet, and of UDP.
const IPV4_WITHIN: u32 = 4;
const IPV6_WITHIN: u32 = 41;
const UDP: u32 = parse::UDP as u32;

const ETHERTYPE_IPV4: u16 = EtherType::Ipv4 as u16;
const ETHERTYPE_IPV6: u16 = EtherType::Ipv6 as u16;
/// VLAN tags, in network order as [`EthHdr`] has them: IEEE 802.1Q and 802.1ad.
const VLAN: [u16; 2] = [0x8100_u16.to_be(), 0x88a8_u16.to_be()];
const TAGGED: usize = EthHdr::LEN + 4;

/// More fragments (bit 13) and the fragment offset (bits 0 to 12), RFC 791 section 3.1.
const FRAGMENT_BITS: u32 = 0x3fff;

/// What the decapsulation looks up. Every method is at most one map lookup.
pub trait DecapTables {
    /// What is unpacked.
    fn settings(&self) -> Option<DecapSettings>;

    /// [`Role`](lb_common::decap::Role) bits of an address; 0 when it is nothing to us.
    fn roles(&self, address: &Address) -> u8;

    /// Whether the outer source is within a listed prefix.
    fn is_source(&self, address: &Address) -> bool;
}

/// What was decided about a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decapsulated {
    /// Why, and with it what to do.
    pub verdict: Verdict,
    /// Bytes to cut off the frame's beginning; 0 unless it is unpacked. What follows them begins with an
    /// Ethernet header that fits the inner packet.
    pub cut: usize,
}

/// Decides about one frame, and prepares it to lose its outer header if it is to be unpacked.
#[inline(always)]
pub fn decapsulate<T: DecapTables>(frame: &mut Frame, tables: &T) -> Decapsulated {
    match steps(frame, tables) {
        Ok(decapsulated) => decapsulated,
        Err(verdict) => Decapsulated { verdict, cut: 0 },
    }
}

#[inline(always)]
fn steps<T: DecapTables>(frame: &mut Frame, tables: &T) -> Result<Decapsulated, Verdict> {
    let link = link(frame)?;
    let outer = outer(frame, &link)?;
    let settings = tables.settings().ok_or(Verdict::NotTunnel)?;
    let (inner_at, inner_v6) = tunnel(frame, &outer, &settings)?;
    if !Role::Own.is_in(tables.roles(&outer.destination)) {
        return Err(Verdict::NotOwn);
    }
    if settings.any_source == 0 && !tables.is_source(&outer.source) {
        return Err(Verdict::NotAllowed);
    }
    // A fragment's length is not the packet's, and a later one has no inner header.
    if outer.fragment != 0 {
        return Err(Verdict::OuterFragment);
    }
    let inner = inner(frame, inner_at, inner_v6)?;
    if inner_at + inner.length > outer.l3 + outer.length {
        return Err(Verdict::Malformed);
    }
    if !Role::Vip.is_in(tables.roles(&inner.destination)) {
        return Err(Verdict::NotVip);
    }
    let ecn = combine(outer.ecn, inner.ecn).ok_or(Verdict::Congestion)?;
    if ecn != inner.ecn {
        mark(frame, inner_at, inner_v6, ecn)?;
    }
    move_link_header(frame, &link, inner_at, inner_v6)?;
    let verdict = if outer.protocol == UDP { Verdict::Gue } else { Verdict::Ipip };
    Ok(Decapsulated { verdict, cut: inner_at - outer.l3 })
}

/// The Ethernet header, with at most one tag.
struct Link {
    /// EtherType of what it carries, as in memory.
    kind: u16,
    length: usize,
}

#[inline(always)]
fn link(frame: &mut Frame) -> Result<Link, Verdict> {
    let kind = frame.at::<EthHdr>(0).map_err(short)?.ether_type;
    if !VLAN.contains(&kind) {
        return Ok(Link { kind, length: EthHdr::LEN });
    }
    let kind = u16::from_ne_bytes(*frame.at::<[u8; 2]>(EthHdr::LEN + 2).map_err(short)?);
    Ok(Link { kind, length: TAGGED })
}

/// What an outer header says. Words: single bytes are copied to odd places of the stack, which the
/// verifier refuses.
struct Outer {
    /// Where it begins.
    l3: usize,
    /// Its length.
    header: usize,
    /// Length of the whole IP packet.
    length: usize,
    protocol: u32,
    ecn: u32,
    /// Not 0 in a fragment.
    fragment: u32,
    source: Address,
    destination: Address,
}

#[inline(always)]
fn outer(frame: &mut Frame, link: &Link) -> Result<Outer, Verdict> {
    let l3 = link.length;
    match link.kind {
        ETHERTYPE_IPV4 => {
            let ip = frame.at::<Ipv4Hdr>(l3).map_err(short)?;
            let header = ((ip.vihl & 0x0f) as usize) * 4;
            if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
                return Err(Verdict::Malformed);
            }
            Ok(Outer {
                l3,
                header,
                length: u16::from_be_bytes(ip.tot_len) as usize,
                protocol: ip.proto as u32,
                ecn: ip.tos as u32 & ECN,
                fragment: u16::from_be_bytes(ip.frags) as u32 & FRAGMENT_BITS,
                source: Address::v4(ip.src_addr),
                destination: Address::v4(ip.dst_addr),
            })
        }
        ETHERTYPE_IPV6 => {
            let ip = frame.at::<Ipv6Hdr>(l3).map_err(short)?;
            if ip.vcf[0] >> 4 != 6 {
                return Err(Verdict::Malformed);
            }
            Ok(Outer {
                l3,
                header: Ipv6Hdr::LEN,
                length: u16::from_be_bytes(ip.payload_len) as usize + Ipv6Hdr::LEN,
                protocol: ip.next_hdr as u32,
                ecn: (ip.vcf[1] >> 4) as u32 & ECN,
                // A fragment has an extension header, and so another protocol than a tunnel's.
                fragment: 0,
                source: Address::v6(ip.src_addr),
                destination: Address::v6(ip.dst_addr),
            })
        }
        _ => Err(Verdict::NotTunnel),
    }
}

/// Where the inner packet begins, and whether it is IPv6.
#[inline(always)]
fn tunnel(frame: &mut Frame, outer: &Outer, settings: &DecapSettings) -> Result<(usize, bool), Verdict> {
    let payload = outer.l3 + outer.header;
    match outer.protocol {
        IPV4_WITHIN if settings.ipip != 0 => Ok((payload, false)),
        IPV6_WITHIN if settings.ipip != 0 => Ok((payload, true)),
        // Ports of a later fragment are not there.
        UDP if settings.gue_port != 0 && outer.fragment == 0 => gue(frame, payload, settings.gue_port),
        _ => Err(Verdict::NotTunnel),
    }
}

#[inline(always)]
fn gue(frame: &mut Frame, udp: usize, port: u16) -> Result<(usize, bool), Verdict> {
    let ports = *frame.at_variable::<[u8; 4]>(udp).map_err(short)?;
    if u16::from_be_bytes([ports[2], ports[3]]) != port {
        return Err(Verdict::NotTunnel);
    }
    let inner = udp + UdpHdr::LEN;
    // The version is in the first two bits; with version 1 they are those of the IP version, 4 or 6.
    match frame.at_variable::<[u8; 2]>(inner).map_err(short)?[0] >> 4 {
        4 => Ok((inner, false)),
        6 => Ok((inner, true)),
        _ => Err(Verdict::NotGue1),
    }
}

/// What an inner header says.
struct Inner {
    /// Length of the whole IP packet.
    length: usize,
    ecn: u32,
    destination: Address,
}

#[inline(always)]
fn inner(frame: &mut Frame, at: usize, v6: bool) -> Result<Inner, Verdict> {
    if v6 {
        let ip = frame.at_variable::<Ipv6Hdr>(at).map_err(short)?;
        let destination = Address::v6(ip.dst_addr);
        // A mapped address on the wire would look like an IPv4 VIP.
        if ip.vcf[0] >> 4 != 6 || destination.is_mapped() {
            return Err(Verdict::Malformed);
        }
        let length = u16::from_be_bytes(ip.payload_len) as usize + Ipv6Hdr::LEN;
        return Ok(Inner { length, ecn: (ip.vcf[1] >> 4) as u32 & ECN, destination });
    }
    let ip = frame.at_variable::<Ipv4Hdr>(at).map_err(short)?;
    let length = u16::from_be_bytes(ip.tot_len) as usize;
    let header = ((ip.vihl & 0x0f) as usize) * 4;
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN || length < header {
        return Err(Verdict::Malformed);
    }
    Ok(Inner { length, ecn: ip.tos as u32 & ECN, destination: Address::v4(ip.dst_addr) })
}

/// The ECN field (RFC 3168 section 5): not capable, capable (two ways), congestion experienced.
const ECN: u32 = 0b11;
const NOT_ECT: u32 = 0b00;
const ECT_1: u32 = 0b01;
const CE: u32 = 0b11;

/// The inner packet's new ECN field, by RFC 6040 figure 4; `None` when the packet is to be dropped.
#[inline(always)]
fn combine(outer: u32, inner: u32) -> Option<u32> {
    match (outer, inner) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(CE),
        (_, NOT_ECT | CE) => Some(inner),
        (ECT_1, _) => Some(ECT_1),
        _ => Some(inner),
    }
}

/// Writes the inner packet's ECN field.
#[inline(always)]
fn mark(frame: &mut Frame, at: usize, v6: bool, ecn: u32) -> Result<(), Verdict> {
    let (ecn, others) = (ecn as u8, !(ECN as u8));
    if v6 {
        let class = &mut frame.at_variable::<Ipv6Hdr>(at).map_err(short)?.vcf[1];
        *class = *class & others.rotate_left(4) | ecn << 4;
    } else {
        let ip = frame.at_variable::<Ipv4Hdr>(at).map_err(short)?;
        let (old, new) = (ip.tos, ip.tos & others | ecn);
        ip.tos = new;
        // It is the second byte of its 16-bit word; the first one stays.
        ip.check = Change::default().word((old as u16) << 8, (new as u16) << 8).apply(ip.check);
    }
    Ok(())
}

/// Puts the link's header before the inner packet, with its EtherType. In words: a copy of bytes within
/// one packet becomes a call of memmove, which BPF does not have.
#[inline(always)]
fn move_link_header(frame: &mut Frame, link: &Link, inner_at: usize, v6: bool) -> Result<(), Verdict> {
    let kind = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    let macs = *frame.mac_addresses().map_err(short)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
    let (first, second) = (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u32::from_ne_bytes([i, j, k, l]));
    let end = if link.length == EthHdr::LEN {
        let header = frame.at_variable::<[u8; EthHdr::LEN]>(inner_at - EthHdr::LEN).map_err(short)?;
        header[..8].copy_from_slice(&first.to_ne_bytes());
        header[8..12].copy_from_slice(&second.to_ne_bytes());
        &mut header[EthHdr::LEN - 2..]
    } else {
        let tag = u32::from_ne_bytes(*frame.at::<[u8; 4]>(EthHdr::LEN - 2).map_err(short)?);
        let header = frame.at_variable::<[u8; TAGGED]>(inner_at - TAGGED).map_err(short)?;
        header[..8].copy_from_slice(&first.to_ne_bytes());
        header[8..12].copy_from_slice(&second.to_ne_bytes());
        header[12..16].copy_from_slice(&tag.to_ne_bytes());
        &mut header[TAGGED - 2..]
    };
    end.copy_from_slice(&kind.to_ne_bytes());
    Ok(())
}

#[inline(always)]
fn short(_: Reason) -> Verdict {
    Verdict::Malformed
}
