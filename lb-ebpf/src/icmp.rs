//! ICMP: errors about our flows, and echo requests to VIPs. Everything else is the host's own.
//!
//! An error quotes the packet that it is about. Turned round, that packet is one of the flow in the other
//! direction, so the flow is found as usual: by service and flow table, or by NAT record.

use lb_common::{Address, Budget, Features, Forward, Hop, Reason, Service, ServiceKey};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    Frame, Outcome,
    answer::{allowed, is_host, turn_round},
    checksum::Change,
    nat,
    parse::{self, ICMP_HEADER, Packet, TCP, TcpFlags, UDP},
    select::{self, Choice, Flow},
    send,
    tables::Tables,
    tags,
    translate::Translation,
    tunnel,
};

/// Hops that our answers have to live.
const HOPS: u8 = 64;

/// The fragment offset (RFC 791 section 3.1).
const OFFSET_BITS: u16 = 0x1fff;

/// Bytes of the quoted TCP or UDP header that are always there (RFC 792).
const QUOTED: usize = 8;

/// Offsets of the checksum in a TCP (RFC 9293) and a UDP (RFC 768) header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Types of echo requests (RFC 792, RFC 4443 section 4.1) and of the answers.
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

#[inline(always)]
pub fn steps<T: Tables>(
    frame: &mut Frame,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Reason, Reason> {
    let packet = tables.keep(parse::icmp(frame)?).ok_or(Reason::NotReady)?;
    outcome.length = packet.length;
    let [kind, _] = *frame.at_variable::<[u8; 2]>(packet.l4())?;
    match (packet.v6(), kind) {
        (false, ECHO) | (true, ECHO_V6) => echo(frame, packet, kind, ingress, tables, outcome),
        // Unreachable, time exceeded, parameter problem; ICMPv6 also too big.
        (false, 3 | 11 | 12) | (true, 1..=4) => error(frame, packet, ingress, tables, outcome),
        _ => Err(Reason::NotTcpUdp),
    }
}

/// Answers an echo request to a VIP.
#[inline(always)]
fn echo<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    kind: u8,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Reason, Reason> {
    let key = ServiceKey::new(packet.destination, 0, packet.protocol);
    if tables.service(&key).is_none() {
        return Err(Reason::NotTcpUdp);
    }
    if !is_host(packet) {
        return Err(Reason::Unanswered);
    }
    allowed(Budget::Echo, tables)?;
    let reply = if packet.v6() { ECHO_REPLY_V6 } else { ECHO_REPLY };
    let header = frame.at_variable::<[u8; 4]>(packet.l4())?;
    // The type is the first byte of its 16-bit word; the code beside it stays.
    let [c0, c1] = Change::default().word(kind as u16, reply as u16).apply([header[2], header[3]]);
    *header = [reply, header[1], c0, c1];
    address(frame, packet, &packet.destination, &packet.source, HOPS)?;
    turn_round(frame)?;
    outcome.interface = ingress;
    Ok(Reason::Echo)
}

/// The quoted packet.
struct Quote {
    /// Where its IP header begins.
    l3: usize,
    /// Where its TCP or UDP header begins.
    l4: usize,
    /// The packet that it answers, or that answers it: its addresses and ports the other way round.
    flow: Packet,
}

#[inline(always)]
fn error<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    ingress: u32,
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Reason, Reason> {
    let quote = quote(frame, packet)?;
    let flow = &quote.flow;
    // An error goes to the sender of what it is about.
    if flow.destination != packet.destination {
        return Err(Reason::NotTcpUdp);
    }
    let key = ServiceKey::new(flow.destination, flow.destination_port, flow.protocol);
    let (hop, reason) = if let Some((place, service)) = tables.service(&key) {
        let hop = to_backend(frame, packet, &quote, (place, service), tables, outcome)?;
        (tags::on_link(hop, packet, ingress), Reason::IcmpToBackend)
    } else if tables.features().has(Features::NAT) {
        (to_client(frame, packet, &quote, ingress, tables)?, Reason::IcmpToClient)
    } else {
        return Err(Reason::NotTcpUdp);
    };
    if hop.is_known() {
        tags::set(frame, packet, &hop, ingress, tables)?;
    }
    send(frame, &hop, reason, outcome)
}

/// The packet that is quoted, as far as it is there. What it says of its own length is not asked.
#[inline(always)]
fn quote(frame: &mut Frame, packet: &Packet) -> Result<Quote, Reason> {
    let l3 = packet.l4() + ICMP_HEADER;
    let (header, protocol, source, destination) = if packet.v6() {
        let ip = frame.at_variable::<Ipv6Hdr>(l3)?;
        (Ipv6Hdr::LEN, ip.next_hdr, Address::v6(ip.src_addr), Address::v6(ip.dst_addr))
    } else {
        let ip = frame.at_variable::<Ipv4Hdr>(l3)?;
        if ip.vihl >> 4 != 4 || u16::from_be_bytes(ip.frags) & OFFSET_BITS != 0 {
            return Err(Reason::NotTcpUdp);
        }
        let header = ((ip.vihl & 0x0f) as usize) * 4;
        (header, ip.proto, Address::v4(ip.src_addr), Address::v4(ip.dst_addr))
    };
    let l4 = l3 + header;
    let quoted_to = l4 + QUOTED - packet.l3();
    if header < Ipv4Hdr::LEN || quoted_to > packet.length as usize || (protocol != TCP && protocol != UDP) {
        return Err(Reason::NotTcpUdp);
    }
    let ports = *frame.at_variable::<[u8; 4]>(l4)?;
    let mut flow = *packet;
    flow.protocol = protocol;
    // Within a connection: its own backend is meant, even if it takes no new ones.
    flow.flags = TcpFlags(if protocol == TCP { TcpFlags::ACK } else { 0 });
    (flow.source, flow.destination) = (destination, source);
    flow.source_port = u16::from_be_bytes([ports[2], ports[3]]);
    flow.destination_port = u16::from_be_bytes([ports[0], ports[1]]);
    Ok(Quote { l3, l4, flow })
}

/// An error about a packet from a service to a client is for the flow's backend, which sent it.
#[inline(always)]
fn to_backend<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    quote: &Quote,
    (place, service): (u32, &Service),
    tables: &T,
    outcome: &mut Outcome,
) -> Result<Hop, Reason> {
    outcome.service = service.number;
    let flow = Flow::of(&quote.flow, place, service, tables)?;
    let choice =
        select::select(None, &quote.flow, service, flow, tables, outcome).or(Err(Reason::NotTcpUdp))?;
    outcome.backend = choice.number;
    let by = |forward: Forward, feature| tables.features().has(feature) && service.forward == forward as u8;
    if by(Forward::Nat, Features::NAT) {
        return rewritten(frame, packet, quote, &choice, tables);
    }
    allowed(Budget::Related, tables)?;
    if by(Forward::DsrIpip, Features::DSR_IPIP) {
        tunnel::carry(frame, packet, &choice, tables, &tunnel::IPIP, outcome)
    } else if by(Forward::DsrGue, Features::DSR_GUE) {
        tunnel::carry(frame, packet, &choice, tables, &tunnel::GUE, outcome)
    } else if choice.backend.hop.is_known() {
        Ok(choice.backend.hop)
    } else {
        Err(Reason::NoNextHop)
    }
}

#[inline(always)]
fn rewritten<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    quote: &Quote,
    choice: &Choice,
    tables: &T,
) -> Result<Hop, Reason> {
    let there = nat::known(&quote.flow, choice, tables).or(Err(Reason::NotTcpUdp))?;
    allowed(Budget::Related, tables)?;
    // What the backend sent went from it to the node.
    let sent = Translation {
        source: there.destination,
        destination: there.source,
        source_port: there.destination_port,
        destination_port: there.source_port,
    };
    rewrite(frame, packet, quote, &sent, &packet.source, &sent.source)?;
    let hop = choice.backend.hop;
    Ok(if hop.is_known() { hop } else { tables.route(frame, packet.l3()) })
}

/// An error about a NAT packet to a backend is for the client, whose packet it was.
#[inline(always)]
fn to_client<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    quote: &Quote,
    ingress: u32,
    tables: &T,
) -> Result<Hop, Reason> {
    let flow = nat::waiting(&quote.flow, tables).or(Err(Reason::NotTcpUdp))?;
    allowed(Budget::Related, tables)?;
    let (tuple, vip) = (flow.tuple, flow.vip);
    let sent = Translation {
        source: tuple.client,
        destination: vip.address,
        source_port: tuple.client_port,
        destination_port: vip.port(),
    };
    // The client knows the backend as the service.
    let from = if packet.source == quote.flow.source { vip.address } else { packet.source };
    rewrite(frame, packet, quote, &sent, &from, &tuple.client)?;
    if flow.hop.is_known() {
        return Ok(flow.hop);
    }
    Ok(tags::on_link(tables.route(frame, packet.l3()), packet, ingress))
}

/// Gives the quoted packet the addresses and ports that it had when its sender sent it, and the error new
/// addresses; updates all checksums.
#[inline(always)]
fn rewrite(
    frame: &mut Frame,
    packet: &Packet,
    quote: &Quote,
    sent: &Translation,
    from: &Address,
    to: &Address,
) -> Result<(), Reason> {
    if packet.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    let flow = &quote.flow;
    let addresses =
        Change::default().address(&flow.destination, &sent.source).address(&flow.source, &sent.destination);
    let transport = addresses
        .word(flow.destination_port.swap_bytes(), sent.source_port.swap_bytes())
        .word(flow.source_port.swap_bytes(), sent.destination_port.swap_bytes());
    let mut change = transport;

    // The checksum of the quoted header, if so much is quoted.
    let place = quote.l4 + if flow.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    if place + 2 - packet.l3() <= packet.length as usize {
        let check = frame.at_variable::<[u8; 2]>(place)?;
        let old = *check;
        if flow.protocol == TCP || old != [0, 0] {
            let new = transport.apply(old);
            *check = if flow.protocol == UDP && new == [0, 0] { [0xff, 0xff] } else { new };
            change = change.word(u16::from_le_bytes(old), u16::from_le_bytes(*check));
        }
    }
    let (s, d) = (sent.source_port.to_be_bytes(), sent.destination_port.to_be_bytes());
    *frame.at_variable::<[u8; 4]>(quote.l4)? = [s[0], s[1], d[0], d[1]];
    if packet.v6() {
        let ip = frame.at_variable::<Ipv6Hdr>(quote.l3)?;
        ip.src_addr = sent.source.octets_v6();
        ip.dst_addr = sent.destination.octets_v6();
        // ICMPv6 counts the addresses of its own packet too (RFC 4443 section 2.3).
        change = change.address(&packet.source, from).address(&packet.destination, to);
    } else {
        let ip = frame.at_variable::<Ipv4Hdr>(quote.l3)?;
        let old = ip.check;
        ip.check = addresses.apply(old);
        ip.src_addr = sent.source.octets_v4();
        ip.dst_addr = sent.destination.octets_v4();
        change = change.word(u16::from_le_bytes(old), u16::from_le_bytes(ip.check));
    }
    let check = frame.at_variable::<[u8; 2]>(packet.l4() + 2)?;
    *check = change.apply(*check);
    address(frame, packet, from, to, packet.hops - 1)
}

/// Gives the ICMP packet itself new addresses and hops.
#[inline(always)]
fn address(frame: &mut Frame, packet: &Packet, from: &Address, to: &Address, hops: u8) -> Result<(), Reason> {
    if packet.v6() {
        let ip = frame.at_variable::<Ipv6Hdr>(packet.l3())?;
        ip.src_addr = from.octets_v6();
        ip.dst_addr = to.octets_v6();
        ip.hop_limit = hops;
    } else {
        let change = Change::default().address(&packet.source, from).address(&packet.destination, to);
        let ip = frame.at_variable::<Ipv4Hdr>(packet.l3())?;
        ip.src_addr = from.octets_v4();
        ip.dst_addr = to.octets_v4();
        ip.ttl = hops;
        // TTL is the first byte of its 16-bit word, the protocol beside it stays.
        ip.check = change.word(packet.hops as u16, hops as u16).apply(ip.check);
    }
    Ok(())
}
