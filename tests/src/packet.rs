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
    fn port(&self, nat_ports: &NatPorts) -> u16 {
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
    /// Data was received.
    pub const ACK: u8 = 16;
}

/// What an IP header has beyond the usual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ip {
    /// IPv4 options; a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// An IPv6 extension header: its protocol number and bytes, the first of which, the number of what
    /// follows, is filled in.
    pub extension: Option<(u8, Vec<u8>)>,
    /// DSCP and ECN.
    pub class: u8,
    /// IPv4: not to be fragmented.
    pub dont_fragment: bool,
    /// IPv4: more fragments follow.
    pub more_fragments: bool,
    /// IPv4: offset of this fragment in units of 8 bytes.
    pub fragment_offset: u16,
    /// A length of the whole IP packet that is not the true one.
    pub length: Option<u16>,
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
        let ethernet = Ethernet2Header { source: self.mac_from, destination: self.mac_to, ether_type: kind };
        [&ethernet.to_bytes(), &packet[..], &self.padding].concat()
    }

    /// Length of the IP packet in bytes.
    pub fn ip_length(&self) -> u64 {
        let extension = self.ip.extension.as_ref().map_or(0, |(_, bytes)| bytes.len());
        let ip = match self.from.address {
            IpAddr::V4(_) => Ipv4Header::MIN_LEN + self.ip.options.len(),
            IpAddr::V6(_) => Ipv6Header::LEN + extension,
        };
        let transport = match self.transport {
            Transport::Tcp { .. } => TcpHeader::MIN_LEN,
            Transport::Udp { .. } => UdpHeader::LEN,
        };
        (ip + transport + self.payload.len()) as u64
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
        let length = (transport.len() + self.payload.len()) as u16;
        let mut ip = Ipv4Header::new(length, self.hops, self.protocol(), from, to).unwrap();
        ip.options = self.ip.options[..].try_into().unwrap();
        ip.total_len = self.ip.length.unwrap_or(ip.header_len() as u16 + length);
        ip.more_fragments = self.ip.more_fragments;
        ip.fragment_offset = IpFragOffset::try_new(self.ip.fragment_offset).unwrap();
        ip.dont_fragment = self.ip.dont_fragment;
        ip.dscp = IpDscp::try_new(self.ip.class >> 2).unwrap();
        ip.ecn = IpEcn::try_new(self.ip.class & 3).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        [&ip.to_bytes(), &transport[..], &self.payload].concat()
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
        let (next_header, extension) = match &self.ip.extension {
            Some((number, bytes)) => {
                (IpNumber(*number), [&[self.protocol().0], bytes.get(1..).unwrap_or_default()].concat())
            }
            None => (self.protocol(), Vec::new()),
        };
        let true_length = (extension.len() + transport.len() + self.payload.len()) as u16;
        let ip = Ipv6Header {
            payload_length: self.ip.length.map_or(true_length, |whole| whole - Ipv6Header::LEN as u16),
            next_header,
            traffic_class: self.ip.class,
            hop_limit: self.hops,
            source: from,
            destination: to,
            ..Ipv6Header::default()
        };
        [&ip.to_bytes(), &extension[..], &transport, &self.payload].concat()
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
