//! The parser and etherparse read the same in any valid packet: tags, options, extension headers, fragments.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, TcpHeader,
    UdpHeader,
};
use proptest::prelude::*;
use usher_tests::oracle::{self, Read};

/// TPIDs of VLAN tags: customer, service (IEEE 802.1Q).
const TPIDS: [u16; 2] = [0x8100, 0x88a8];

/// Numbers of IPv6 extension headers of the usual shape: routing, destination options (RFC 8200).
const EXTENSIONS: [u8; 2] = [43, 60];
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A valid packet.
#[derive(Debug, Clone)]
struct Packet {
    /// TPID and the tag itself, the outer one first.
    tags: Vec<(u16, u16)>,
    ip: Ip,
    /// Offset in units of 8 bytes, and whether more follow; of IPv6 also whether there is a header at all.
    fragment: Option<(u16, bool)>,
    hops: u8,
    transport: Transport,
    ports: (u16, u16),
    payload: Vec<u8>,
    padding: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Ip {
    V4 { from: [u8; 4], to: [u8; 4], options: Vec<u8> },
    V6 { from: [u8; 16], to: [u8; 16], extensions: Vec<(u8, Vec<u8>)> },
}

#[derive(Debug, Clone)]
enum Transport {
    Tcp {
        flags: u8,
        options: Vec<u8>,
    },
    Udp,
    /// ICMP of the family.
    Icmp,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for (tpid, tag) in &self.tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        let inner = [self.transport(), self.payload.clone()].concat();
        match &self.ip {
            Ip::V4 { from, to, options } => {
                frame.extend([0x08, 0x00]);
                frame.extend(self.ipv4(*from, *to, options, inner.len() as u16));
            }
            Ip::V6 { from, to, extensions } => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.ipv6(*from, *to, extensions, inner.len()));
            }
        }
        [frame, inner, self.padding.clone()].concat()
    }

    fn ipv4(&self, from: [u8; 4], to: [u8; 4], options: &[u8], payload: u16) -> Vec<u8> {
        let protocol = IpNumber(self.protocol());
        let mut header = Ipv4Header::new(payload, self.hops, protocol, from, to).unwrap();
        header.options = options.try_into().unwrap();
        header.total_len = header.header_len() as u16 + payload;
        if let Some((offset, more)) = self.fragment {
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            header.more_fragments = more;
            header.dont_fragment = false;
        }
        header.header_checksum = header.calc_header_checksum();
        header.to_bytes().to_vec()
    }

    /// The header and its extensions, which name what follows them.
    fn ipv6(&self, from: [u8; 16], to: [u8; 16], extensions: &[(u8, Vec<u8>)], payload: usize) -> Vec<u8> {
        let mut next = self.protocol();
        let mut chain = Vec::new();
        if let Some((offset, more)) = self.fragment {
            let offset = IpFragOffset::try_new(offset).unwrap();
            let header = Ipv6FragmentHeader::new(IpNumber(next), offset, more, 7);
            chain = header.to_bytes().to_vec();
            next = FRAGMENT;
        }
        for (number, content) in extensions.iter().rev() {
            let mut header = Vec::new();
            Ipv6RawExtHeader::new_raw(IpNumber(next), content).unwrap().write(&mut header).unwrap();
            chain.splice(..0, header);
            next = *number;
        }
        let header = Ipv6Header {
            payload_length: (chain.len() + payload) as u16,
            next_header: IpNumber(next),
            hop_limit: self.hops,
            source: from,
            destination: to,
            ..Ipv6Header::default()
        };
        [&header.to_bytes()[..], &chain].concat()
    }

    fn protocol(&self) -> u8 {
        match (&self.transport, &self.ip) {
            (Transport::Tcp { .. }, _) => 6,
            (Transport::Udp, _) => 17,
            (Transport::Icmp, Ip::V4 { .. }) => ICMP,
            (Transport::Icmp, Ip::V6 { .. }) => ICMPV6,
        }
    }

    /// The header; neither parser looks at its checksum.
    fn transport(&self) -> Vec<u8> {
        let (from, to) = self.ports;
        match &self.transport {
            Transport::Tcp { flags, options } => {
                let mut header = TcpHeader::new(from, to, 1, 4_096);
                header.set_options_raw(options).unwrap();
                let mut bytes = header.to_bytes().to_vec();
                bytes[13] = *flags;
                bytes
            }
            Transport::Udp => {
                let length = (UdpHeader::LEN + self.payload.len()) as u16;
                let header = UdpHeader { source_port: from, destination_port: to, length, checksum: 0 };
                header.to_bytes().to_vec()
            }
            // An echo request.
            Transport::Icmp => {
                vec![if matches!(self.ip, Ip::V4 { .. }) { 8 } else { 128 }, 0, 0, 0, 0, 1, 0, 1]
            }
        }
    }

    /// Whether TCP or UDP with its ports is in it.
    fn has_ports(&self) -> bool {
        let whole = self.fragment.is_none_or(|fragment| fragment == (0, false));
        whole && !matches!(self.transport, Transport::Icmp)
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    let tags = prop::collection::vec((prop::sample::select(TPIDS.to_vec()), any::<u16>()), 0..=2);
    let fragment = prop_oneof![
        6 => Just(None),
        1 => (0_u16..0x1fff, any::<bool>()).prop_map(Some),
        1 => any::<bool>().prop_map(|more| Some((0, more))),
    ];
    let transport = prop_oneof![
        4 => (any::<u8>(), 0_usize..=10).prop_map(|(flags, words)| Transport::Tcp {
            flags,
            options: vec![1; 4 * words],
        }),
        4 => Just(Transport::Udp),
        1 => Just(Transport::Icmp),
    ];
    let bytes = |most: usize| prop::collection::vec(any::<u8>(), 0..most);
    let parts = (tags, ip(), fragment, any::<u8>(), transport, any::<(u16, u16)>(), bytes(64), bytes(20));
    parts.prop_map(|(tags, ip, fragment, hops, transport, ports, payload, padding)| {
        // All fragments but the last carry units of 8 bytes.
        let payload = if fragment.is_some() { payload[..payload.len() / 8 * 8].to_vec() } else { payload };
        Packet { tags, ip, fragment, hops, transport, ports, payload, padding }
    })
}

fn ip() -> impl Strategy<Value = Ip> {
    // No option at all, half of the time.
    let options = prop_oneof![Just(0), 0_usize..=10].prop_map(|words| vec![1_u8; 4 * words]);
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>(), options).prop_map(|(from, to, options)| Ip::V4 {
        from,
        to,
        options,
    });
    // Mapped addresses are refused on the wire.
    let address = any::<u128>().prop_filter("no IPv4", |bits| bits >> 32 != 0xffff);
    let address = || address.clone().prop_map(|bits| Ipv6Addr::from(bits).octets());
    let content = || (0_usize..3).prop_map(|units| vec![0_u8; 6 + 8 * units]);
    let hop_by_hop = prop::option::weighted(0.2, content().prop_map(|content| (HOP_BY_HOP, content)));
    let others = prop::collection::vec((prop::sample::select(EXTENSIONS.to_vec()), content()), 0..=2);
    let v6 = (address(), address(), hop_by_hop, prop_oneof![Just(Vec::new()), others]).prop_map(
        |(from, to, first, others)| Ip::V6 {
            from,
            to,
            extensions: first.into_iter().chain(others).collect(),
        },
    );
    prop_oneof![v4, v6]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn parser_agrees_with_etherparse_on_any_valid_packet(packet in packet()) {
        let frame = packet.bytes();
        if let Err(difference) = oracle::compare(&frame) {
            return Err(TestCaseError::fail(difference));
        }
        // What was put in is what etherparse finds: the generator makes no nonsense.
        match oracle::read(&frame) {
            Read::Packet(fields) => {
                prop_assert!(packet.has_ports());
                prop_assert_eq!((fields.source.1, fields.destination.1), packet.ports);
                let addresses: [IpAddr; 2] = match packet.ip {
                    Ip::V4 { from, to, .. } => [from.into(), to.into()],
                    Ip::V6 { from, to, .. } => [from.into(), to.into()],
                };
                prop_assert_eq!([fields.source.0, fields.destination.0], addresses);
            }
            other => prop_assert!(!packet.has_ports(), "{:?} for a packet with ports", other),
        }
    }
}
