//! What the etherparse crate reads in a frame: the second opinion on the data path's parser and checksums.

use std::net::IpAddr;

use etherparse::{
    IpNumber, Ipv4Header, Ipv6ExtensionSlice, Ipv6ExtensionsSlice, LaxNetSlice, LaxSlicedPacket, NetSlice,
    SlicedPacket, TcpSlice, TransportSlice, UdpSlice,
};
use lb_common::{Address, Reason};
use lb_ebpf::{
    Frame,
    parse::{self, Packet, Part, TCP, UDP},
};

use crate::host::AlignedFrame;

/// What parsers must agree about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// IP protocol number.
    pub protocol: u8,
    /// Source and its port.
    pub source: (IpAddr, u16),
    /// Destination and its port.
    pub destination: (IpAddr, u16),
    /// SYN, ACK, FIN, RST as in the header; 0 for UDP.
    pub flags: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// Length of the IP packet.
    pub length: usize,
    /// Where the TCP or UDP header begins in the frame.
    pub l4: usize,
}

/// Flags that decide: FIN, SYN, RST, ACK.
const FLAGS: u8 = 0x17;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// TCP or UDP with its ports.
    Packet(Fields),
    /// Valid, but neither TCP nor UDP, or a fragment without ports: never a packet.
    Other,
    /// Not valid as far as the ports, or of a kind on which parsers may differ.
    Unclear,
}

/// What etherparse reads beyond ours: more tags, more extension headers (which are a constant of the
/// parser), and headers that begin further behind.
const MOST_TAGS: usize = 2;
const MOST_EXTENSIONS: usize = 6;
const LAST_L4: usize = 511;

/// Numbers of all IPv6 extension headers that ours follows (RFC 7045 section 4, without ESP).
const EXTENSIONS: [u8; 8] = [0, 43, 44, 51, 60, 135, 139, 140];

/// Whether ours stops at these headers: they are too many, or the packet is on its way to another address
/// than its destination.
fn reads_less(extensions: &Ipv6ExtensionsSlice) -> bool {
    let on_the_way = |one: &Ipv6ExtensionSlice| match one {
        Ipv6ExtensionSlice::Routing(routing) => routing.slice()[3] != 0,
        _ => false,
    };
    let all: Vec<_> = extensions.clone().into_iter().collect();
    all.len() > MOST_EXTENSIONS || all.iter().any(on_the_way)
}

/// Whether IP follows the Ethernet header and tags of IEEE 802.1Q and 802.1ad. Etherparse also reads MACsec, and tags of the
/// type 0x9100 that some vendors used before; what is behind those is never a packet to ours.
fn leads_to_ip(frame: &[u8]) -> bool {
    let types = (12..).step_by(4).map_while(|at| Some([*frame.get(at)?, *frame.get(at + 1)?]));
    let mut behind = types.skip_while(|kind| matches!(kind, [0x81, 0] | [0x88, 0xa8]));
    matches!(behind.next(), Some([8, 0] | [0x86, 0xdd]))
}

/// What etherparse reads, strictly: anything that contradicts itself is [`Read::Unclear`].
pub fn read(frame: &[u8]) -> Read {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return Read::Unclear };
    if !leads_to_ip(frame) {
        return Read::Other;
    }
    let Some(net) = &sliced.net else { return Read::Other };
    let Some(payload) = net.ip_payload_ref() else { return Read::Other };
    let (addresses, hops, header) = match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let addresses: [IpAddr; 2] = [header.source_addr().into(), header.destination_addr().into()];
            // Authentication headers: ours does not look behind them, which is right as well.
            if !ip.extensions().is_empty() {
                return Read::Unclear;
            }
            (addresses, header.ttl(), header.slice().len())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let addresses: [IpAddr; 2] = [header.source_addr().into(), header.destination_addr().into()];
            let extended = ip.extensions().slice().len();
            if reads_less(ip.extensions()) {
                return Read::Unclear;
            }
            // A jumbogram (RFC 2675) to etherparse: as long as the frame. To ours it is nothing.
            if header.payload_length() == 0 {
                return Read::Unclear;
            }
            (addresses, header.hop_limit(), header.slice().len() + extended)
        }
        NetSlice::Arp(_) => return Read::Other,
    };
    // Such an address would look like IPv4; ours refuses it.
    if addresses.iter().any(|one| matches!(one, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())) {
        return Read::Unclear;
    }
    let l4 = payload.payload.as_ptr() as usize - frame.as_ptr() as usize;
    let length = header + payload.payload.len();
    let fields = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => fields(TCP, tcp.header_slice(), addresses, hops),
        Some(TransportSlice::Udp(udp)) => fields(UDP, udp.header_slice(), addresses, hops),
        // The first fragment holds its packet's ports, though etherparse does not look: ours may read them.
        None if payload.fragmented && is_first_fragment(net) => return Read::Unclear,
        // These end etherparse's reading, but not ours.
        None if EXTENSIONS.contains(&payload.ip_number.0) => return Read::Unclear,
        _ => return Read::Other,
    };
    if sliced.link_exts.len() > MOST_TAGS || l4 > LAST_L4 {
        return Read::Unclear;
    }
    let fields = Fields { l4, length, ..fields };
    Read::Packet(fields)
}

fn is_first_fragment(net: &NetSlice) -> bool {
    match net {
        NetSlice::Ipv4(ip) => ip.header().fragments_offset().value() == 0,
        // Which of the extension headers says so is not worth the code here.
        NetSlice::Ipv6(_) => true,
        NetSlice::Arp(_) => false,
    }
}

fn fields(protocol: u8, header: &[u8], [source, destination]: [IpAddr; 2], hops: u8) -> Fields {
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Fields {
        protocol,
        source: (source, port(0)),
        destination: (destination, port(2)),
        flags: if protocol == TCP { header[13] & FLAGS } else { 0 },
        hops,
        length: 0,
        l4: 0,
    }
}

/// What our parser reads: both parts of it, one after the other, as the programs do.
pub fn parsed(frame: &[u8]) -> Result<Fields, Reason> {
    let mut memory = AlignedFrame::new(frame);
    let mut frame = Frame::new(memory.bytes());
    let packet = match parse::plain(&mut frame) {
        Err(Reason::Odd) => parse::odd(&mut frame)?,
        other => other?,
    };
    // Its ports are in the first fragment.
    if packet.part == Part::Later {
        return Err(Reason::Fragment);
    }
    Ok(our_fields(&packet))
}

fn our_fields(packet: &Packet) -> Fields {
    let ip = |address: Address| IpAddr::from(address);
    Fields {
        protocol: packet.protocol,
        source: (ip(packet.source), packet.source_port),
        destination: (ip(packet.destination), packet.destination_port),
        flags: packet.flags.0 & FLAGS,
        hops: packet.hops,
        length: usize::from(packet.length),
        l4: packet.l4(),
    }
}

/// Checks that our parser and etherparse agree on a frame.
///
/// # Errors
/// Says what each of them reads.
pub fn compare(frame: &[u8]) -> Result<(), String> {
    let (ours, theirs) = (parsed(frame), read(frame));
    let agree = match (&theirs, &ours) {
        (Read::Packet(expected), Ok(found)) => found == expected,
        (Read::Packet(_), Err(_)) => false,
        (Read::Other, ours) => ours.is_err(),
        // Headers are right as far as ours reads; what lies behind need not be.
        (Read::Unclear, Ok(found)) => agrees_with_lax(frame, found),
        (Read::Unclear, Err(_)) => true,
    };
    if agree { Ok(()) } else { Err(format!("ours: {ours:?}; etherparse: {theirs:?}")) }
}

/// Whether etherparse finds the same addresses, protocol and ports, however broken the rest is.
fn agrees_with_lax(frame: &[u8], found: &Fields) -> bool {
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(frame) else { return false };
    let (addresses, payload): ([IpAddr; 2], _) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            ([header.source_addr().into(), header.destination_addr().into()], ip.payload())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            ([header.source_addr().into(), header.destination_addr().into()], ip.payload())
        }
        _ => return false,
    };
    let l4 = payload.payload.as_ptr() as usize - frame.as_ptr() as usize;
    // Where it follows no further, ours may.
    if found.source.0.is_ipv6() && EXTENSIONS.contains(&payload.ip_number.0) {
        return [found.source.0, found.destination.0] == addresses && found.l4 > l4;
    }
    let Some(ports) = payload.payload.get(..4) else { return false };
    [found.source.0, found.destination.0] == addresses
        && (payload.ip_number.0, l4) == (found.protocol, found.l4)
        && found.source.1.to_be_bytes() == ports[..2]
        && found.destination.1.to_be_bytes() == ports[2..]
}

/// Where the IP header begins: behind the EtherType, which follows any VLAN tags (IEEE 802.1Q).
pub fn l3(frame: &[u8]) -> usize {
    let tagged = |at: usize| matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
    let mut ether_type = 12;
    while tagged(ether_type) {
        ether_type += 4;
    }
    (ether_type + 2).min(frame.len())
}

/// Source and destination of a valid IP packet.
pub fn ends(frame: &[u8]) -> Option<[IpAddr; 2]> {
    match SlicedPacket::from_ethernet(frame).ok()?.net? {
        NetSlice::Ipv4(ip) => Some([ip.header().source_addr().into(), ip.header().destination_addr().into()]),
        NetSlice::Ipv6(ip) => Some([ip.header().source_addr().into(), ip.header().destination_addr().into()]),
        NetSlice::Arp(_) => None,
    }
}

/// The IP packet in a valid frame, without padding.
pub fn ip_packet(frame: &[u8]) -> Option<&[u8]> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let payload = sliced.net?.ip_payload_ref()?.payload.as_ptr_range();
    frame.get(l3(frame)..payload.end as usize - frame.as_ptr() as usize)
}

/// The packet that a valid frame carries in another IP packet, or in a UDP datagram of one.
pub fn carried(frame: &[u8]) -> Option<&[u8]> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    if let NetSlice::Ipv4(ip) = sliced.net.as_ref()? {
        let header = ip.header().to_header();
        if header.header_checksum != header.calc_header_checksum() {
            return None;
        }
    }
    match (sliced.net.as_ref()?.ip_payload_ref()?, &sliced.transport) {
        (_, Some(TransportSlice::Udp(udp))) => Some(udp.payload()),
        (outer, _) if [IpNumber::IPV4, IpNumber::IPV6].contains(&outer.ip_number) => Some(outer.payload),
        _ => None,
    }
}

/// Whether all checksums of a frame are right; `None` for what [`SlicedPacket`] finds invalid, and for
/// fragments.
pub fn sums_are_right(frame: &[u8]) -> Option<bool> {
    let sums = sums(frame)?;
    Some(sums.into_iter().all(|sum| sum.is_right(frame)))
}

/// The frame with right checksums; as it is where they cannot be told. A UDP packet over IPv4 that has
/// none keeps none.
pub fn mend(frame: &mut [u8]) {
    for sum in sums(frame).unwrap_or_default() {
        if !(sum.optional && frame[sum.at..sum.at + 2] == [0, 0]) {
            frame[sum.at..sum.at + 2].copy_from_slice(&sum.right.to_be_bytes());
        }
    }
}

/// A checksum in a frame.
struct Sum {
    at: usize,
    right: u16,
    /// Zeros mean that there is none.
    optional: bool,
}

impl Sum {
    /// Zero and all ones are the same number in these sums; only in UDP they differ.
    fn is_right(&self, frame: &[u8]) -> bool {
        let found = u16::from_be_bytes([frame[self.at], frame[self.at + 1]]);
        let canonical = |sum: u16| if sum == 0xffff { 0 } else { sum };
        self.optional && found == 0 || canonical(found) == canonical(self.right)
    }
}

fn sums(frame: &[u8]) -> Option<Vec<Sum>> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let at = |part: &[u8], offset: usize| part.as_ptr() as usize - frame.as_ptr() as usize + offset;
    let mut sums = Vec::new();
    let net = sliced.net.as_ref()?;
    if let NetSlice::Ipv4(ip) = net {
        let header: Ipv4Header = ip.header().to_header();
        sums.push(Sum {
            at: at(ip.header().slice(), 10),
            right: header.calc_header_checksum(),
            optional: false,
        });
    }
    match sliced.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => {
            sums.push(Sum { at: at(tcp.slice(), 16), right: tcp_sum(net, tcp)?, optional: false });
        }
        TransportSlice::Udp(udp) => {
            let (right, optional) = (udp_sum(net, udp)?, matches!(net, NetSlice::Ipv4(_)));
            sums.push(Sum { at: at(udp.slice(), 6), right, optional });
        }
        TransportSlice::Icmpv4(icmp) => {
            let right = icmp.icmp_type().calc_checksum(icmp.payload());
            sums.push(Sum { at: at(icmp.slice(), 2), right, optional: false });
        }
        TransportSlice::Icmpv6(icmp) => {
            let NetSlice::Ipv6(ip) = net else { return None };
            let (source, destination) = (ip.header().source(), ip.header().destination());
            let right = icmp.icmp_type().calc_checksum(source, destination, icmp.payload()).ok()?;
            sums.push(Sum { at: at(icmp.slice(), 2), right, optional: false });
        }
        TransportSlice::Igmp(_) => return None,
    }
    Some(sums)
}

fn tcp_sum(net: &NetSlice, tcp: &TcpSlice) -> Option<u16> {
    let header = tcp.to_header();
    match net {
        NetSlice::Ipv4(ip) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            header.calc_checksum_ipv4_raw(source, destination, tcp.payload()).ok()
        }
        NetSlice::Ipv6(ip) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            header.calc_checksum_ipv6_raw(source, destination, tcp.payload()).ok()
        }
        NetSlice::Arp(_) => None,
    }
}

fn udp_sum(net: &NetSlice, udp: &UdpSlice) -> Option<u16> {
    let header = udp.to_header();
    match net {
        NetSlice::Ipv4(ip) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            header.calc_checksum_ipv4_raw(source, destination, udp.payload()).ok()
        }
        NetSlice::Ipv6(ip) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            header.calc_checksum_ipv6_raw(source, destination, udp.payload()).ok()
        }
        NetSlice::Arp(_) => None,
    }
}
