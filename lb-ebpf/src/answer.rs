//! Answers of our own to packets that cannot be sent on: TCP resets and ICMP errors. They leave where the packet
//! came in, by the frame's MAC addresses, and come from the address that the packet was sent to.

use lb_common::{Budget, Fate, Reason, budget};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    Frame, Outcome,
    checksum::Sum,
    parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMP_HEADER, ICMPV6, Packet, Part, TCP, TcpFlags},
    tables::Tables,
    tags,
    tunnel::{ipv4, ipv6, make_room},
};

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

/// Longest ICMP errors, IP header included: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
const MOST_V4: usize = 576;
const MOST_V6: usize = 1_280;

/// Answers a packet that ended with `outcome`, whose fate says how. The reason changes when there is no answer.
#[inline(always)]
pub fn answer<T: Tables>(frame: &mut Frame, outcome: &Outcome, tables: &T) -> Outcome {
    let reason = match steps(frame, outcome, tables) {
        Ok(()) => outcome.reason,
        Err(Reason::AnswerLimited) => Reason::AnswerLimited,
        // It cannot be read, or is ICMP itself.
        Err(_) => Reason::Unanswered,
    };
    Outcome { reason, ..*outcome }
}

#[inline(always)]
fn steps<T: Tables>(frame: &mut Frame, outcome: &Outcome, tables: &T) -> Result<(), Reason> {
    let packet = parse::odd(frame)?;
    if !is_host(&packet) {
        return Err(Reason::Unanswered);
    }
    let fate = outcome.reason.fate();
    // Of a later fragment nobody is told (RFC 1122 section 3.2.2); and how much a whole segment has is not in its
    // first one.
    if packet.part == Part::Later || packet.part == Part::First && fate == Fate::Refuse {
        return Err(Reason::Unanswered);
    }
    if fate == Fate::Refuse && packet.protocol == TCP {
        return reset(frame, &packet, tables);
    }
    let kind = match (fate, packet.v6()) {
        // Port unreachable (RFC 792; RFC 4443 section 3.1).
        (Fate::Refuse, false) => [3, 3],
        (Fate::Refuse, true) => [1, 4],
        // Fragmentation needed (RFC 1191 section 4), packet too big (RFC 4443 section 3.2).
        (Fate::TooBig, false) => [3, 4],
        (Fate::TooBig, true) => [2, 0],
        // Time exceeded in transit (RFC 792; RFC 4443 section 3.3).
        (_, false) => [11, 0],
        (_, true) => [3, 0],
    };
    error(frame, &packet, kind, outcome.mtu, tables)
}

/// Whether there may be one more packet of this kind now; counts it.
#[inline(always)]
pub fn allowed<T: Tables>(kind: Budget, tables: &T) -> Result<(), Reason> {
    if T::DRY_RUN {
        return Ok(());
    }
    let word = tables.budget(kind).ok_or(Reason::AnswerLimited)?;
    let limit = tables.settings().ok_or(Reason::AnswerLimited)?.icmp_limit;
    let spent = budget::spend(word.load(), tables.tick(), limit).ok_or(Reason::AnswerLimited)?;
    word.store(spent);
    Ok(())
}

/// Whether the source is an address that one host has (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
#[inline(always)]
pub fn is_host(packet: &Packet) -> bool {
    if packet.v6() {
        packet.source.octets_v6()[0] != 0xff && packet.source.words() != [0, 0]
    } else {
        let first = packet.source.octets_v4()[0];
        first != 0 && first != 127 && first < 224
    }
}

/// A reset (RFC 9293 section 3.10.7.1), in the packet's place.
#[inline(always)]
fn reset<T: Tables>(frame: &mut Frame, packet: &Packet, tables: &T) -> Result<(), Reason> {
    if packet.flags.has(TcpFlags::RST) {
        return Err(Reason::Unanswered);
    }
    let tcp = *frame.at_variable::<[u8; TCP_HEADER]>(packet.l4())?;
    let (sequence, acknowledgment, flags) = if packet.flags.has(TcpFlags::ACK) {
        ([tcp[8], tcp[9], tcp[10], tcp[11]], [0; 4], TcpFlags::RST)
    } else {
        let headers = (packet.l4() - packet.l3()) as u32 + (tcp[12] >> 4) as u32 * 4;
        let length = (packet.length as u32).saturating_sub(headers)
            + packet.flags.has(TcpFlags::SYN) as u32
            + packet.flags.has(TcpFlags::FIN) as u32;
        let next = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(length);
        ([0; 4], next.to_be_bytes(), TcpFlags::RST | TcpFlags::ACK)
    };
    allowed(Budget::Reset, tables)?;

    /// Five 32-bit words: no options.
    const WORDS: u8 = 5 << 4;
    let [c0, c1] = Sum::default()
        .address(&packet.source)
        .address(&packet.destination)
        .number(TCP as u16)
        .number(TCP_HEADER as u16)
        .number(packet.source_port)
        .number(packet.destination_port)
        .bytes(sequence)
        .bytes(acknowledgment)
        .bytes([WORDS, flags, 0, 0])
        .checksum();
    let ([f0, f1], [t0, t1]) = (packet.destination_port.to_be_bytes(), packet.source_port.to_be_bytes());
    let ([s0, s1, s2, s3], [a0, a1, a2, a3]) = (sequence, acknowledgment);
    let l4 = packet.l3() + ip_header(packet);
    *frame.at_variable::<[u8; TCP_HEADER]>(l4)? =
        [f0, f1, t0, t1, s0, s1, s2, s3, a0, a1, a2, a3, WORDS, flags, 0, 0, c0, c1, 0, 0];
    address_back(frame, packet, TCP, TCP_HEADER)?;
    turn_round(frame)?;
    if tables.cut(frame, l4 + TCP_HEADER) { Ok(()) } else { Err(Reason::Unanswered) }
}

/// An ICMP error that quotes the packet.
#[inline(always)]
fn error<T: Tables>(
    frame: &mut Frame,
    packet: &Packet,
    [kind, code]: [u8; 2],
    mtu: u16,
    tables: &T,
) -> Result<(), Reason> {
    allowed(Budget::Error, tables)?;
    let (protocol, most) = if packet.v6() { (ICMPV6, MOST_V6) } else { (ICMP, MOST_V4) };
    let room = ip_header(packet) + ICMP_HEADER;
    let whole = packet.length as usize;
    let quoted = if whole > most - room { most - room } else { whole };
    if !tables.cut(frame, packet.l3() + quoted) {
        return Err(Reason::Unanswered);
    }
    let macs = *frame.mac_addresses()?;
    make_room(frame, packet, room, tables)?;
    *frame.mac_addresses()? = macs;
    turn_round(frame)?;
    let ether_type = if packet.v6() { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    tags::set_type(frame, packet, ether_type)?;

    let l4 = packet.l3() + ip_header(packet);
    let length = ICMP_HEADER + quoted;
    let [high, low] = mtu.to_be_bytes();
    let quotation = tables.sum(frame, (l4 + ICMP_HEADER) as u32, quoted as u32);
    let mut sum =
        Sum::default().bytes([kind, code, 0, 0]).bytes([0, 0, high, low]).bytes(quotation.to_le_bytes());
    if packet.v6() {
        let pseudo = sum.address(&packet.source).address(&packet.destination);
        sum = pseudo.number(length as u16).number(protocol as u16);
    }
    let [c0, c1] = sum.checksum();
    *frame.at_variable::<[u8; ICMP_HEADER]>(l4)? = [kind, code, c0, c1, 0, 0, high, low];
    address_back(frame, packet, protocol, length)
}

#[inline(always)]
fn ip_header(packet: &Packet) -> usize {
    if packet.v6() { Ipv6Hdr::LEN } else { Ipv4Hdr::LEN }
}

/// Writes an IP header that leads back to where the packet came from, with `length` bytes after it.
#[inline(always)]
fn address_back(frame: &mut Frame, packet: &Packet, protocol: u8, length: usize) -> Result<(), Reason> {
    const DONT_FRAGMENT: u16 = 0x4000;
    if packet.v6() {
        let ip = ipv6(&packet.destination, &packet.source, 0, protocol, length as u16);
        *frame.at_variable::<Ipv6Hdr>(packet.l3())? = ip;
    } else {
        let length = (Ipv4Hdr::LEN + length) as u16;
        let ip = ipv4(&packet.destination, &packet.source, 0, DONT_FRAGMENT, protocol, 0, length);
        *frame.at_variable::<Ipv4Hdr>(packet.l3())? = ip;
    }
    Ok(())
}

/// Sends the frame back to the MAC address that it came from.
#[inline(always)]
pub fn turn_round(frame: &mut Frame) -> Result<(), Reason> {
    let ethernet = frame.at::<EthHdr>(0)?;
    let (to, from) = (ethernet.dst_addr, ethernet.src_addr);
    ethernet.dst_addr = from;
    ethernet.src_addr = to;
    Ok(())
}
