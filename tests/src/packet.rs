//! Packets, built by the etherparse crate with full checksums: nothing of what is tested helps to say
//! what is right.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, TcpHeader,
    UdpHeader,
};
use lb_common::Mac;

/// The NAT port that each of a scenario's flows was given.
pub type NatPorts = BTreeMap<usize, u16>;

/// An address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: Port,
}

/// A port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// This one.
    Number(u16),
    /// The NAT port of the scenario's flow with this index, whichever it was given.
    Nat(usize),
    /// The port that has the same place in the next group of eight.
    NatNextGroup(usize),
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint { address: address.ip(), port: Port::Number(address.port()) }
    }
}

impl Endpoint {
    /// The port as its number.
    pub fn port(&self, nat_ports: &NatPorts) -> u16 {
        match self.port {
            Port::Number(number) => number,
            Port::Nat(flow) => nat_ports[&flow],
            Port::NatNextGroup(flow) => nat_ports[&flow] + 8,
        }
    }
}

/// A TCP or UDP packet in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Destination MAC address.
    pub mac_to: Mac,
    /// Source MAC address.
    pub mac_from: Mac,
    /// Source.
    pub from: Endpoint,
    /// Destination.
    pub to: Endpoint,
    /// TTL or hop limit.
    pub hops: u8,
    /// What is particular to the protocol.
    pub transport: Transport,
    /// What the packet carries.
    pub payload: Vec<u8>,
    /// What the IP header has beyond the usual.
    pub ip: Ip,
    /// What follows the IP packet in its frame.
    pub padding: Vec<u8>,
    /// VLAN tags, from the outermost: type and content.
    pub tags: Vec<(u16, u16)>,
}

/// What is particular to the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Its flags, from [`flag`].
        flags: u8,
        /// Sequence number.
        sequence: u32,
    },
    /// UDP.
    Udp {
        /// Whether it has a checksum; RFC 768 allows none over IPv4.
        checksum: bool,
    },
}

/// TCP flags.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// A connection begins.
    pub const SYN: u8 = 2;
    /// A connection is broken off.
    pub const RST: u8 = 4;
    /// Data to be passed on at once.
    pub const PSH: u8 = 8;
    /// Data was received.
    pub const ACK: u8 = 16;
}

/// What an IP header has beyond the usual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ip {
    /// IPv4 options; a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: their protocol numbers and bytes, the first of which, the number of what
    /// follows, is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// DSCP and ECN.
    pub class: u8,
    /// IPv4: the identification of a whole packet.
    pub id: u16,
    /// IPv4: not to be fragmented.
    pub dont_fragment: bool,
    /// The part of the IP packet that this one holds, if not all of it.
    pub fragment: Option<Fragment>,
    /// A length of the whole IP packet that is not the true one.
    pub length: Option<u16>,
}

/// A part of an IP packet. What is cut is what follows the IPv4 header, or the IPv6 fragment header, which
/// comes after all extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Identification of the whole.
    pub id: u32,
    /// Where the part begins, a multiple of 8 bytes.
    pub from: usize,
    /// Where it ends; `None` for the last one.
    pub to: Option<usize>,
}

impl Fragment {
    fn of(fragment: Option<Fragment>, whole: &[u8]) -> &[u8] {
        let Some(Fragment { from, to, .. }) = fragment else { return whole };
        &whole[from..to.unwrap_or(whole.len())]
    }
}

impl Packet {
    /// The frame. `nat_ports` tells the ports that are meant by [`Port::Nat`].
    ///
    /// # Panics
    /// When the parts do not fit together: mixed families, an unknown NAT port, odd options.
    pub fn bytes(&self, nat_ports: &NatPorts) -> Vec<u8> {
        let (kind, packet) = match (self.from.address, self.to.address) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                (EtherType::IPV4, self.ipv4(from.octets(), to.octets(), nat_ports))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                (EtherType::IPV6, self.ipv6(from.octets(), to.octets(), nat_ports))
            }
            mixed => panic!("{mixed:?} are of two families"),
        };
        let mut types = self.tags.iter().map(|(kind, _)| EtherType(*kind)).chain([kind]);
        let ether_type = types.next().unwrap();
        let ethernet = Ethernet2Header { source: self.mac_from, destination: self.mac_to, ether_type };
        let tag = |((_, content), next): (&(u16, u16), EtherType)| {
            [content.to_be_bytes(), next.0.to_be_bytes()].concat()
        };
        let tags: Vec<u8> = self.tags.iter().zip(types).flat_map(tag).collect();
        [&ethernet.to_bytes(), &tags[..], &packet, &self.padding].concat()
    }

    /// Length of the IP packet in bytes.
    pub fn ip_length(&self) -> u64 {
        let ip = match self.from.address {
            IpAddr::V4(_) => Ipv4Header::MIN_LEN + self.ip.options.len(),
            IpAddr::V6(_) => Ipv6Header::LEN + self.extension_length(),
        };
        let transport = match self.transport {
            Transport::Tcp { .. } => TcpHeader::MIN_LEN,
            Transport::Udp { .. } => UdpHeader::LEN,
        };
        let whole = transport + self.payload.len();
        let part = self.ip.fragment.map_or(whole, |part| part.to.unwrap_or(whole) - part.from);
        (ip + part) as u64
    }

    /// Where the TCP or UDP header begins in its frame.
    pub fn l4(&self) -> usize {
        let ip = match self.from.address {
            IpAddr::V4(_) => Ipv4Header::MIN_LEN + self.ip.options.len(),
            IpAddr::V6(_) => Ipv6Header::LEN + self.extension_length(),
        };
        14 + 4 * self.tags.len() + ip
    }

    fn extension_length(&self) -> usize {
        let extensions: usize = self.ip.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        extensions + if self.ip.fragment.is_some() { 8 } else { 0 }
    }

    /// The packet in these parts: what follows the IP header is cut at these places.
    pub fn cut(&self, id: u32, places: &[usize]) -> Vec<Packet> {
        let starts = std::iter::once(0).chain(places.iter().copied());
        let ends = places.iter().copied().map(Some).chain([None]);
        let part = |(from, to)| {
            let fragment = Some(Fragment { id, from, to });
            Packet { ip: Ip { fragment, ..self.ip.clone() }, ..self.clone() }
        };
        starts.zip(ends).map(part).collect()
    }

    fn ipv4(&self, from: [u8; 4], to: [u8; 4], nat_ports: &NatPorts) -> Vec<u8> {
        let transport = match self.header(nat_ports) {
            Header::Tcp(mut tcp) => {
                tcp.checksum = tcp.calc_checksum_ipv4_raw(from, to, &self.payload).unwrap();
                tcp.to_bytes().to_vec()
            }
            Header::Udp(mut udp, false) => {
                udp.checksum = 0;
                udp.to_bytes().to_vec()
            }
            Header::Udp(mut udp, true) => {
                udp.checksum = udp.calc_checksum_ipv4_raw(from, to, &self.payload).unwrap();
                udp.to_bytes().to_vec()
            }
        };
        let whole = [&transport[..], &self.payload].concat();
        let part = Fragment::of(self.ip.fragment, &whole);
        let length = part.len() as u16;
        let mut ip = Ipv4Header::new(length, self.hops, self.protocol(), from, to).unwrap();
        ip.options = self.ip.options[..].try_into().unwrap();
        ip.total_len = self.ip.length.unwrap_or(ip.header_len() as u16 + length);
        ip.identification = self.ip.id;
        if let Some(Fragment { id, from, to }) = self.ip.fragment {
            ip.identification = id as u16;
            ip.more_fragments = to.is_some();
            ip.fragment_offset = IpFragOffset::try_new(from as u16 / 8).unwrap();
        }
        ip.dont_fragment = self.ip.dont_fragment;
        ip.dscp = IpDscp::try_new(self.ip.class >> 2).unwrap();
        ip.ecn = IpEcn::try_new(self.ip.class & 3).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        [&ip.to_bytes(), part].concat()
    }

    fn ipv6(&self, from: [u8; 16], to: [u8; 16], nat_ports: &NatPorts) -> Vec<u8> {
        let transport = match self.header(nat_ports) {
            Header::Tcp(mut tcp) => {
                tcp.checksum = tcp.calc_checksum_ipv6_raw(from, to, &self.payload).unwrap();
                tcp.to_bytes().to_vec()
            }
            Header::Udp(udp, false) => udp.to_bytes().to_vec(),
            Header::Udp(mut udp, true) => {
                udp.checksum = udp.calc_checksum_ipv6_raw(from, to, &self.payload).unwrap();
                udp.to_bytes().to_vec()
            }
        };
        let whole = [&transport[..], &self.payload].concat();
        let part = Fragment::of(self.ip.fragment, &whole);
        let mut headers = self.ip.extensions.clone();
        if let Some(Fragment { id, from, to }) = self.ip.fragment {
            let word = from as u16 | u16::from(to.is_some());
            headers.push((44, [&[0, 0][..], &word.to_be_bytes(), &id.to_be_bytes()].concat()));
        }
        let mut next = self.protocol().0;
        for (number, bytes) in headers.iter_mut().rev() {
            bytes[0] = next;
            next = *number;
        }
        let extensions = headers.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>();
        let true_length = (extensions.len() + part.len()) as u16;
        let ip = Ipv6Header {
            payload_length: self.ip.length.map_or(true_length, |whole| whole - Ipv6Header::LEN as u16),
            next_header: IpNumber(next),
            traffic_class: self.ip.class,
            hop_limit: self.hops,
            source: from,
            destination: to,
            ..Ipv6Header::default()
        };
        [&ip.to_bytes(), &extensions[..], part].concat()
    }

    fn protocol(&self) -> IpNumber {
        match self.transport {
            Transport::Tcp { .. } => IpNumber::TCP,
            Transport::Udp { .. } => IpNumber::UDP,
        }
    }

    /// The TCP or UDP header, its checksum still 0.
    fn header(&self, nat_ports: &NatPorts) -> Header {
        let (from, to) = (self.from.port(nat_ports), self.to.port(nat_ports));
        match self.transport {
            Transport::Tcp { flags, sequence } => {
                let mut tcp = TcpHeader::new(from, to, sequence, 4_096);
                tcp.syn = flags & flag::SYN != 0;
                tcp.fin = flags & flag::FIN != 0;
                tcp.rst = flags & flag::RST != 0;
                tcp.psh = flags & flag::PSH != 0;
                tcp.ack = flags & flag::ACK != 0;
                tcp.acknowledgment_number = if tcp.ack { 0x0bad_cafe } else { 0 };
                Header::Tcp(tcp)
            }
            Transport::Udp { checksum } => {
                let length = (UdpHeader::LEN + self.payload.len()) as u16;
                Header::Udp(
                    UdpHeader { source_port: from, destination_port: to, length, checksum: 0 },
                    checksum,
                )
            }
        }
    }
}

/// A header without its checksum; UDP says whether it shall have one.
enum Header {
    Tcp(TcpHeader),
    Udp(UdpHeader, bool),
}
