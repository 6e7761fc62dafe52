//! Rewrites a packet's addresses and ports, and all that depends on them.

use lb_common::{Address, Reason};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    Frame,
    checksum::Change,
    parse::{Packet, UDP},
};

/// New addresses and ports.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    /// Source address, of the packet's family.
    pub source: Address,
    /// Destination address, of the packet's family.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// Offsets of the checksum in a TCP (RFC 9293) and a UDP (RFC 768) header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Gives the packet new addresses and ports and one hop less to live; updates the checksums.
///
/// The caller has made sure that a hop is left.
#[inline(always)]
pub fn translate(frame: &mut Frame, packet: &Packet, to: &Translation) -> Result<(), Reason> {
    let addresses =
        Change::default().address(&packet.source, &to.source).address(&packet.destination, &to.destination);
    let ports = addresses
        .word(packet.source_port.swap_bytes(), to.source_port.swap_bytes())
        .word(packet.destination_port.swap_bytes(), to.destination_port.swap_bytes());
    checksum(frame, packet, ports)?;
    *frame.at::<[u8; 4]>(packet.l4())? = ports_in_network_order(to);
    network(frame, packet, &to.source, &to.destination, addresses)
}

/// As [`translate`], for a later fragment: it has addresses only.
#[inline(always)]
pub fn translate_rest(
    frame: &mut Frame,
    packet: &Packet,
    source: &Address,
    destination: &Address,
) -> Result<(), Reason> {
    let change = Change::default().address(&packet.source, source).address(&packet.destination, destination);
    network(frame, packet, source, destination, change)
}

/// Rewrites the IP header; `addresses` is what changes in it, but for the hops.
#[inline(always)]
fn network(
    frame: &mut Frame,
    packet: &Packet,
    source: &Address,
    destination: &Address,
    addresses: Change,
) -> Result<(), Reason> {
    if packet.v6() {
        let ip = frame.at::<Ipv6Hdr>(packet.l3())?;
        ip.src_addr = source.octets_v6();
        ip.dst_addr = destination.octets_v6();
        ip.hop_limit = packet.hops - 1;
    } else {
        let ip = frame.at::<Ipv4Hdr>(packet.l3())?;
        ip.src_addr = source.octets_v4();
        ip.dst_addr = destination.octets_v4();
        ip.ttl = packet.hops - 1;
        // TTL is the first byte of its 16-bit word, the protocol beside it stays.
        ip.check = addresses.word(packet.hops as u16, packet.hops as u16 - 1).apply(ip.check);
    }
    Ok(())
}

/// Updates the TCP or UDP checksum. In UDP over IPv4, 0 means "none" and stays (RFC 768); a checksum
/// that comes out as 0 is sent as its other form, all ones.
#[inline(always)]
fn checksum(frame: &mut Frame, packet: &Packet, change: Change) -> Result<(), Reason> {
    if packet.protocol == UDP {
        let check = frame.at::<[u8; 2]>(packet.l4() + UDP_CHECKSUM)?;
        if *check != [0, 0] {
            let new = change.apply(*check);
            *check = if new == [0, 0] { [0xff, 0xff] } else { new };
        }
    } else {
        let check = frame.at::<[u8; 2]>(packet.l4() + TCP_CHECKSUM)?;
        *check = change.apply(*check);
    }
    Ok(())
}

#[inline(always)]
fn ports_in_network_order(to: &Translation) -> [u8; 4] {
    let (source, destination) = (to.source_port.to_be_bytes(), to.destination_port.to_be_bytes());
    [source[0], source[1], destination[0], destination[1]]
}
