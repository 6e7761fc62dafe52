//! What the decapsulation program of backend hosts does with which frame: packets made by etherparse, a table,
//! and the program's library on the host.

use std::{collections::BTreeMap, net::IpAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder,
    SingleVlanHeader, UdpHeader,
};
use ipnet::IpNet;
use lb_common::{
    Address, DecapSettings, Verdict,
    decap::{Action, Role},
};
use lb_ebpf::{
    Frame,
    decap::{DecapTables, Decapsulated, decapsulate},
};
use lb_userspace::dataplane::Unpack;

use crate::host::AlignedFrame;

/// The backend host's own addresses.
pub const HOST: [&str; 2] = ["203.0.113.21", "2001:db8:2::21"];
/// Another host's.
pub const STRANGER: [&str; 2] = ["203.0.113.99", "2001:db8:2::99"];
/// The VIPs.
pub const VIP: [&str; 2] = ["192.0.2.11", "2001:db8:1::11"];
/// Outer sources: of a node, and not.
pub const NODE: [&str; 2] = ["203.0.113.11", "2001:db8:2::11"];
/// Of the client.
pub const CLIENT: [&str; 2] = ["198.51.100.7", "2001:db8:100::7"];
/// UDP port of GUE.
pub const GUE_PORT: u16 = 6080;

/// What the program is told in the table.
pub fn unpack() -> Unpack {
    let own = HOST.map(|address| (address, Role::Own));
    let vips = VIP.map(|address| (address, Role::Vip));
    Unpack {
        settings: DecapSettings { gue_port: GUE_PORT, ipip: 1, any_source: 0 },
        roles: own.into_iter().chain(vips).map(|(text, role)| (address(text), role as u8)).collect(),
        sources: ["203.0.113.0/26", "2001:db8:2::/122"].map(|prefix| prefix.parse().unwrap()).into(),
    }
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// How the inner packet is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrap {
    /// IP in IP.
    Ipip,
    /// GUE: source port, destination port, with or without a checksum.
    Gue(u16, u16, bool),
}

/// A frame with an outer packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outer {
    /// Tag of a VLAN.
    pub vlan: Option<u16>,
    /// Source.
    pub from: IpAddr,
    /// Destination.
    pub to: IpAddr,
    /// DSCP and ECN.
    pub class: u8,
    /// IPv4 options; a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// More fragments, and the offset in units of 8 bytes.
    pub fragment: (bool, u16),
    /// How.
    pub wrap: Wrap,
    /// The inner packet, and whether it is IPv6 as the outer header says.
    pub inner: (Vec<u8>, bool),
    /// What follows the packet in its frame.
    pub padding: usize,
}

/// An inner packet: UDP from the client to `to`, with this DSCP and ECN.
pub fn inner(to: IpAddr, class: u8, payload: &[u8]) -> (Vec<u8>, bool) {
    let v6 = to.is_ipv6();
    let (source, destination): (IpAddr, IpAddr) = (CLIENT[usize::from(v6)].parse().unwrap(), to);
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 63)
                .udp(40_000, 80)
                .write(&mut packet, payload)
                .unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 63)
                .udp(40_000, 80)
                .write(&mut packet, payload)
                .unwrap();
        }
        _ => panic!("mixed families"),
    }
    (with_class(&packet, class), v6)
}

/// The packet with another DSCP and ECN, its checksum made anew by etherparse.
pub fn with_class(packet: &[u8], class: u8) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        let (mut ip, rest) = Ipv4Header::from_slice(packet).unwrap();
        ip.dscp = (class >> 2).try_into().unwrap();
        ip.ecn = (class & 3).try_into().unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        return [&ip.to_bytes()[..], rest].concat();
    }
    let (mut ip, rest) = Ipv6Header::from_slice(packet).unwrap();
    ip.traffic_class = class;
    [&ip.to_bytes()[..], rest].concat()
}

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0x11]);

/// An Ethernet header with its tag, if any.
pub fn link(vlan: Option<u16>, v6: bool) -> Vec<u8> {
    let kind = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let ethernet =
        |ether_type| Ethernet2Header { destination: MACS.0, source: MACS.1, ether_type }.to_bytes();
    match vlan {
        None => ethernet(kind).to_vec(),
        Some(id) => {
            let tag =
                SingleVlanHeader { vlan_id: id.try_into().unwrap(), ether_type: kind, ..Default::default() };
            [&ethernet(EtherType::VLAN_TAGGED_FRAME)[..], &tag.to_bytes()].concat()
        }
    }
}

impl Outer {
    /// A plain outer packet from a node to the host; `v6` is the outer family.
    pub fn new(v6: bool, wrap: Wrap, inner: (Vec<u8>, bool)) -> Outer {
        let of = |pair: [&str; 2]| pair[usize::from(v6)].parse().unwrap();
        Outer {
            vlan: None,
            from: of(NODE),
            to: of(HOST),
            class: 0,
            options: vec![],
            fragment: (false, 0),
            wrap,
            inner,
            padding: 0,
        }
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let (protocol, payload) = self.payload();
        let ip = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip =
                    Ipv4Header::new(payload.len() as u16, 64, protocol, from.octets(), to.octets()).unwrap();
                ip.options = self.options[..].try_into().unwrap();
                ip.total_len = (ip.header_len() + payload.len()) as u16;
                ip.dscp = (self.class >> 2).try_into().unwrap();
                ip.ecn = (self.class & 3).try_into().unwrap();
                ip.dont_fragment = false;
                ip.more_fragments = self.fragment.0;
                ip.fragment_offset = IpFragOffset::try_new(self.fragment.1).unwrap();
                ip.header_checksum = ip.calc_header_checksum();
                ip.to_bytes().to_vec()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => Ipv6Header {
                traffic_class: self.class,
                payload_length: payload.len() as u16,
                next_header: protocol,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            }
            .to_bytes()
            .to_vec(),
            _ => panic!("mixed families"),
        };
        [link(self.vlan, self.to.is_ipv6()), ip, payload, vec![0; self.padding]].concat()
    }

    fn payload(&self) -> (IpNumber, Vec<u8>) {
        let (inner, v6) = &self.inner;
        match self.wrap {
            Wrap::Ipip => (if *v6 { IpNumber::IPV6 } else { IpNumber::IPV4 }, inner.clone()),
            Wrap::Gue(source_port, destination_port, has_checksum) => {
                let length = (UdpHeader::LEN + inner.len()) as u16;
                let mut udp = UdpHeader { source_port, destination_port, length, checksum: 0 };
                if has_checksum {
                    udp.checksum = match (self.from, self.to) {
                        (IpAddr::V4(from), IpAddr::V4(to)) => {
                            udp.calc_checksum_ipv4_raw(from.octets(), to.octets(), inner).unwrap()
                        }
                        (IpAddr::V6(from), IpAddr::V6(to)) => {
                            udp.calc_checksum_ipv6_raw(from.octets(), to.octets(), inner).unwrap()
                        }
                        _ => panic!("mixed families"),
                    };
                }
                (IpNumber::UDP, [&udp.to_bytes()[..], inner].concat())
            }
        }
    }

    /// The frame that is left when it is unpacked, its inner packet with this DSCP and ECN.
    pub fn unpacked(&self, class: u8) -> Vec<u8> {
        let inner = with_class(&self.inner.0, class);
        [link(self.vlan, self.inner.1), inner, vec![0; self.padding]].concat()
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// What it is about.
    pub name: String,
    /// The frame.
    pub frame: Vec<u8>,
    /// How it ends.
    pub verdict: Verdict,
    /// The frame that is left, where it is unpacked; else it stays as it is.
    pub unpacked: Option<Vec<u8>>,
}

impl Row {
    /// The frame that the host's stack gets; `None` when it is dropped.
    pub fn expected(&self) -> Option<&[u8]> {
        match self.verdict.action() {
            Action::Drop => None,
            Action::Pass => Some(&self.frame),
            Action::Unpack => Some(self.unpacked.as_ref().unwrap()),
        }
    }
}

const GUE: Wrap = Wrap::Gue(51_234, GUE_PORT, false);

/// The table.
pub fn rows() -> Vec<Row> {
    [unpacked_rows(), ecn_rows(), left_alone_rows()].into_iter().flatten().collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn opened(name: impl Into<String>, outer: &Outer) -> Row {
    let verdict = if outer.wrap == Wrap::Ipip { Verdict::Ipip } else { Verdict::Gue };
    let class = if outer.inner.1 {
        Ipv6Header::from_slice(&outer.inner.0).unwrap().0.traffic_class
    } else {
        outer.inner.0[1]
    };
    Row { name: name.into(), frame: outer.bytes(), verdict, unpacked: Some(outer.unpacked(class)) }
}

fn left(name: &str, outer: &Outer, verdict: Verdict) -> Row {
    Row { name: name.to_owned(), frame: outer.bytes(), verdict, unpacked: None }
}

fn unpacked_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for outer_v6 in [false, true] {
        for vip in VIP {
            for wrap in [Wrap::Ipip, GUE, Wrap::Gue(1, GUE_PORT, true)] {
                let plain = Outer::new(outer_v6, wrap, inner(ip(vip), 0x28, b"hello"));
                let family = if outer_v6 { 6 } else { 4 };
                let name = format!("A7: {vip} in IPv{family} by {wrap:?}");
                rows.push(opened(format!("{name}; the inner DSCP stays"), &plain));
                rows.push(opened(format!("{name}, tagged"), &Outer { vlan: Some(7), ..plain.clone() }));
                rows.push(opened(format!("{name}, padded"), &Outer { padding: 9, ..plain }));
            }
        }
    }
    let options = Outer { options: vec![1; 8], ..Outer::new(false, GUE, inner(ip(VIP[1]), 0, b"x")) };
    rows.push(opened("outer IPv4 options", &options));
    let long = Outer {
        options: vec![1; 40],
        vlan: Some(1),
        ..Outer::new(false, Wrap::Ipip, inner(ip(VIP[0]), 0, b""))
    };
    rows.push(opened("the longest outer header", &long));
    rows
}

/// RFC 6040 figure 4, written out: rows are the inner field, columns the outer one: Not-ECT, ECT(0), ECT(1), CE.
const FIGURE_4: [(u8, [Option<u8>; 4]); 4] = [
    (0b00, [Some(0b00), Some(0b00), Some(0b00), None]),
    (0b10, [Some(0b10), Some(0b10), Some(0b01), Some(0b11)]),
    (0b01, [Some(0b01), Some(0b01), Some(0b01), Some(0b11)]),
    (0b11, [Some(0b11), Some(0b11), Some(0b11), Some(0b11)]),
];

fn ecn_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for vip in VIP {
        for (inner_ecn, results) in FIGURE_4 {
            for (outer_ecn, result) in [0b00, 0b10, 0b01, 0b11].into_iter().zip(results) {
                for outer_v6 in [false, true] {
                    let wrapped = Outer {
                        class: 0x48 | outer_ecn,
                        ..Outer::new(outer_v6, GUE, inner(ip(vip), 0xb8 | inner_ecn, b"hello"))
                    };
                    rows.push(Row {
                        name: format!("{vip}: outer ECN {outer_ecn:02b}, inner {inner_ecn:02b}, IPv6 outside: {outer_v6}"),
                        frame: wrapped.bytes(),
                        verdict: if result.is_some() { Verdict::Gue } else { Verdict::Congestion },
                        unpacked: result.map(|ecn| wrapped.unpacked(0xb8 | ecn)),
                    });
                }
            }
        }
    }
    rows
}

fn left_alone_rows() -> Vec<Row> {
    let to_vip = || inner(ip(VIP[0]), 0, b"hello");
    let plain = |wrap| Outer::new(false, wrap, to_vip());
    let mut rows = Vec::new();
    for (v6, wrap) in [(false, Wrap::Ipip), (true, GUE)] {
        let family = usize::from(v6);
        let base = Outer::new(v6, wrap, to_vip());
        let to = |address: &str| Outer { to: ip(address), ..base.clone() };
        rows.push(left("to another host", &to(STRANGER[family]), Verdict::NotOwn));
        rows.push(left("to a VIP", &to(VIP[family]), Verdict::NotOwn));
        let from = Outer { from: ip(STRANGER[family]), ..base.clone() };
        rows.push(left("from where it may not come", &from, Verdict::NotAllowed));
        let other = Outer { inner: inner(ip(STRANGER[0]), 0, b"hello"), ..base.clone() };
        rows.push(left("a packet within for no VIP", &other, Verdict::NotVip));
        let host = Outer { inner: inner(ip(HOST[1]), 0, b"hello"), ..base };
        rows.push(left("a packet within for the host itself", &host, Verdict::NotVip));
    }
    for fragment in [(true, 0), (true, 4), (false, 4)] {
        let verdict = Verdict::OuterFragment;
        rows.push(left("an outer fragment", &Outer { fragment, ..plain(Wrap::Ipip) }, verdict));
        // Without ports it is any UDP fragment.
        let verdict = Verdict::NotTunnel;
        rows.push(left("an outer fragment of UDP", &Outer { fragment, ..plain(GUE) }, verdict));
    }
    rows.push(left("UDP to another port", &plain(Wrap::Gue(GUE_PORT, 6081, false)), Verdict::NotTunnel));
    let version_0 = Outer { inner: (vec![0x00, 4, 0, 0, 0x45, 0], false), ..plain(GUE) };
    rows.push(left("GUE version 0", &version_0, Verdict::NotGue1));
    let mut wrong_family = to_vip();
    wrong_family.1 = true;
    let wrong_family = Outer { inner: wrong_family, ..plain(Wrap::Ipip) };
    rows.push(left("IPv4 in a header that says IPv6", &wrong_family, Verdict::Malformed));
    let mut too_long = to_vip();
    too_long.0[3] += 1;
    rows.push(left(
        "an inner packet longer than its outer one",
        &Outer { inner: too_long, ..plain(GUE) },
        Verdict::Malformed,
    ));
    let mapped = inner(ip("::ffff:192.0.2.11"), 0, b"hello");
    rows.push(left(
        "a mapped VIP on the wire",
        &Outer { inner: mapped, ..plain(Wrap::Ipip) },
        Verdict::Malformed,
    ));
    let (packet, v6) = to_vip();
    let ordinary = [link(None, v6), packet].concat();
    rows.push(Row {
        name: "a packet without a tunnel".to_owned(),
        frame: ordinary,
        verdict: Verdict::NotTunnel,
        unpacked: None,
    });
    let arp = [&link(None, false)[..12], &[8, 6], &[0; 28]].concat();
    rows.push(Row { name: "ARP".to_owned(), frame: arp, verdict: Verdict::NotTunnel, unpacked: None });
    let mut twice = Outer { vlan: Some(7), ..plain(GUE) }.bytes();
    let tag = twice[12..16].to_vec();
    twice.splice(12..12, tag);
    rows.push(Row { name: "two tags".to_owned(), frame: twice, verdict: Verdict::NotTunnel, unpacked: None });
    rows
}

/// The library on the host, with maps in ordinary memory.
#[derive(Debug)]
pub struct HostDecap {
    settings: DecapSettings,
    roles: BTreeMap<Address, u8>,
    sources: Vec<IpNet>,
}

impl HostDecap {
    /// With these settings.
    pub fn new(unpack: Unpack) -> HostDecap {
        let any_source = u8::from(unpack.sources.is_empty());
        HostDecap {
            settings: DecapSettings { any_source, ..unpack.settings },
            roles: unpack.roles,
            sources: unpack.sources.into_iter().collect(),
        }
    }

    /// Runs it on a frame; the verdict, and the frame that the host's stack gets unless it is dropped.
    pub fn run(&self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut memory = AlignedFrame::new(frame);
        let bytes = &mut memory.bytes()[..frame.len()];
        let Decapsulated { verdict, cut } = decapsulate(&mut Frame::new(bytes), self);
        (verdict, bytes[cut..].to_vec())
    }
}

impl DecapTables for HostDecap {
    fn settings(&self) -> Option<DecapSettings> {
        Some(self.settings)
    }

    fn roles(&self, address: &Address) -> u8 {
        self.roles.get(address).copied().unwrap_or(0)
    }

    fn is_source(&self, address: &Address) -> bool {
        let address = IpAddr::from(*address);
        self.sources.iter().any(|prefix| prefix.contains(&address))
    }
}
