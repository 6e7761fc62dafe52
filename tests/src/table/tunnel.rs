//! Direct server return through tunnels. Outer headers are built by the etherparse crate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{EtherType, Ethernet2Header, IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6Header, UdpHeader};
use lb_common::{
    Address, FlowHash, Forward, Hop, Reason,
    State::{New, Proven},
};

use super::{
    After, Scenario, Sent, Step, dropped, flows, new_flows_go_to, nothing, out_of, scenario, sent_with,
    too_big,
};
use crate::{
    packet::{Ip, NatPorts, Packet},
    scenario::{Made, Out},
    world::{Case, Flow, GUE_PORT, PORT, TUNNEL_HOSTS, World, backend, hop, settings},
};

/// For every family and protocol: through both kinds of tunnel, to backends of both families.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let kinds = [(Forward::DsrIpip, Reason::DsrIpip, "IPIP"), (Forward::DsrGue, Reason::DsrGue, "GUE")];
    let outers = [(false, "IPv4"), (true, "IPv6")];
    let tunnels = kinds.into_iter().flat_map(|(forward, reason, kind)| {
        outers.into_iter().map(move |(v6, outer)| Tunnel {
            case,
            forward,
            reason,
            outer: Case { v6, ..case },
            name: format!("{kind} over {outer}"),
        })
    });
    tunnels.flat_map(|tunnel| tunnel.scenarios()).collect()
}

/// A service whose packets go through a tunnel.
struct Tunnel {
    case: Case,
    forward: Forward,
    reason: Reason,
    /// The family of the backends.
    outer: Case,
    name: String,
}

impl Tunnel {
    fn scenarios(&self) -> Vec<Scenario> {
        let flow = self.case.flow(0);
        let id = |what: &str| scenario(self.case, &format!("{what}: {}", self.name));
        let classes = |packet: Packet| {
            [0x00, 0x01, 0x02, 0x03, 0x2e << 2 | 1, 0xff].map(|class| {
                let ip = Ip { class, dont_fragment: class & 1 != 0, ..Ip::default() };
                self.sent(&flow, Packet { ip, ..packet.clone() }, 1)
            })
        };
        let overhead = self.overhead();
        let (one, two) = ([(0x8100, 5)], [(0x88a8, 7), (0x8100, 5)]);
        vec![
            Scenario {
                id: id("A7 the packet travels unchanged in another one"),
                world: self.world(),
                steps: vec![self.sent(&flow, flow.opens(), 1), self.sent(&flow, flow.goes_on(), 1)],
                after: After {
                    sent: vec![(1, sent_with(&[flow.opens(), flow.goes_on()], 1)), (2, Sent::default())],
                    ..flows(&[(New, 1)])
                },
            },
            Scenario {
                id: id("A7 out of the interface the packet came in on"),
                world: self.world().with_slots(1, 2),
                steps: vec![self.sent(&flow, flow.opens(), 2)],
                after: flows(&[(New, 2)]),
            },
            Scenario {
                id: id("A7 DSCP and ECN are carried over, and \"don't fragment\""),
                world: self.world(),
                steps: classes(flow.goes_on()).into(),
                after: flows(&[(New, 1)]),
            },
            Scenario {
                id: id("A7 padding is carried too, but no length counts it"),
                world: self.world(),
                steps: vec![self.sent(&flow, Packet { padding: vec![0xee; 23], ..flow.opens() }, 1)],
                after: flows(&[(New, 1)]),
            },
            Scenario {
                id: id("A8 the outer source varies with the flow and stays within one"),
                world: self.world(),
                steps: (0..24)
                    .flat_map(|port| {
                        let mut flow = flow;
                        flow.client.set_port(50_000 + port);
                        [self.sent(&flow, flow.opens(), 1), self.sent(&flow, flow.goes_on(), 1)]
                    })
                    .collect(),
                after: flows(&[(New, 1); 24]),
            },
            Scenario {
                id: id("a known flow keeps its backend, and a later packet proves it"),
                world: self.world(),
                steps: vec![
                    self.sent(&flow, flow.opens(), 1),
                    new_flows_go_to(2),
                    Step::Later(1),
                    self.sent(&flow, flow.goes_on(), 1),
                ],
                after: flows(&[(Proven, 1)]),
            },
            Scenario {
                id: id("a backend whose next hop is not known"),
                world: self.world().with(|image| backend(image, 1).hop = Hop::default()),
                steps: vec![dropped(flow.opens(), Reason::NoNextHop)],
                after: After { sent: vec![(1, Sent::default())], ..nothing() },
            },
            Scenario {
                id: id("A14 tagged packets leave by another interface without their tags"),
                world: self.world(),
                steps: [&one[..], &two].map(|tags| self.tagged(&flow.opens(), tags, 1, &[])).into(),
                after: flows(&[(New, 1)]),
            },
            Scenario {
                id: id("A14 tagged packets leave by the interface that they came in on with their tags"),
                world: self.world().with_slots(1, 2),
                steps: [&one[..], &two].map(|tags| self.tagged(&flow.opens(), tags, 2, tags)).into(),
                after: flows(&[(New, 2)]),
            },
            Scenario {
                id: id("packets that may be fragmented keep what tells them apart"),
                world: self.world(),
                steps: [1, 0xfffe].map(|id| self.sent(&flow, identified(&flow, id), 1)).into(),
                after: flows(&[(New, 1)]),
            },
            Scenario {
                id: id("E54 a packet that does not fit into the tunnel"),
                world: self.world().with(move |image| backend(image, 1).mtu = 1_400),
                steps: vec![too_big(long(&flow, 1_400 - overhead + 1), 1_400 - overhead)],
                after: nothing(),
            },
            Scenario {
                id: id("E54 a packet that just fits into the tunnel"),
                world: self.world().with(move |image| backend(image, 1).mtu = 1_400),
                steps: vec![self.sent(&flow, long(&flow, 1_400 - overhead), 1)],
                after: flows(&[(New, 1)]),
            },
        ]
    }

    fn world(&self) -> World {
        let vip = std::net::SocketAddr::new(self.case.vip(), PORT);
        World::empty()
            .with_service(self.case, vip, 1, self.forward)
            .with_backend(self.outer, 1, 1)
            .with_backend(self.outer, 2, 1)
            .with_slots(1, 1)
    }

    fn overhead(&self) -> u16 {
        let udp = if self.forward == Forward::DsrGue { UdpHeader::LEN } else { 0 };
        let ip = if self.outer.v6 { Ipv6Header::LEN } else { Ipv4Header::MIN_LEN };
        (ip + udp) as u16
    }

    fn sent(&self, flow: &Flow, packet: Packet, to: u16) -> Step {
        let (forward, outer, flow, inner) = (self.forward, self.outer, *flow, packet.clone());
        let made = Made::by(move |_| tunnelled(forward, outer, &flow, &inner, to));
        Step::Packet { frame: packet.into(), verdict: out_of(to), reason: self.reason, out: Out::Made(made) }
    }

    /// A client's packet comes in with the tags `came`, and leaves with the tags `left`.
    fn tagged(&self, packet: &Packet, came: &[(u16, u16)], to: u16, left: &[(u16, u16)]) -> Step {
        let (forward, outer, flow) = (self.forward, self.outer, self.case.flow(0));
        let (inner, left) = (packet.clone(), left.to_vec());
        let made = Made::by(move |_| with_tags(&tunnelled(forward, outer, &flow, &inner, to), &left));
        let packet = Packet { tags: came.to_vec(), ..packet.clone() };
        Step::Packet { frame: packet.into(), verdict: out_of(to), reason: self.reason, out: Out::Made(made) }
    }
}

/// The frame with these VLAN tags.
fn with_tags(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let tags: Vec<_> =
        tags.iter().flat_map(|(kind, number)| [kind.to_be_bytes(), number.to_be_bytes()].concat()).collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// A packet with this identification, if it is IPv4.
fn identified(flow: &Flow, id: u16) -> Packet {
    let mut packet = flow.goes_on();
    packet.ip.id = id;
    packet
}

/// A packet of the flow's client that is this many bytes long, headers included.
pub(super) fn long(flow: &Flow, length: u16) -> Packet {
    let short = flow.goes_on();
    let headers = short.ip_length() as usize - short.payload.len();
    let payload = vec![0xda; usize::from(length) - headers];
    Packet { payload, ..short }
}

/// The frame that brings a client's packet to a backend, whose address is of the family of `outer`.
fn tunnelled(forward: Forward, outer: Case, flow: &Flow, inner: &Packet, to: u16) -> Vec<u8> {
    let frame = inner.bytes(&NatPorts::new());
    let hash = hash(flow);
    let (udp, protocol) = match forward {
        Forward::DsrGue => {
            let length = (UdpHeader::LEN as u64 + inner.ip_length()) as u16;
            let source_port = 49_152 + (hash.identity & 0x3fff) as u16;
            let udp = UdpHeader { source_port, destination_port: GUE_PORT, length, checksum: 0 };
            (udp.to_bytes().to_vec(), IpNumber::UDP)
        }
        _ if flow.case.v6 => (vec![], IpNumber::IPV6),
        _ => (vec![], IpNumber::IPV4),
    };
    let host = if forward == Forward::DsrGue { 0 } else { hash.identity };
    let length = udp.len() as u16 + inner.ip_length() as u16;
    let (ether_type, ip) = match (source(outer, host), outer.backend(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = Ipv4Header::new(length, 64, protocol, from.octets(), to.octets()).unwrap();
            ip.dscp = IpDscp::try_new(inner.ip.class >> 2).unwrap();
            ip.ecn = IpEcn::try_new(inner.ip.class & 3).unwrap();
            ip.dont_fragment = flow.case.v6 || inner.ip.dont_fragment;
            ip.identification = if ip.dont_fragment { 0 } else { (hash.identity >> 16) as u16 ^ inner.ip.id };
            ip.header_checksum = ip.calc_header_checksum();
            (EtherType::IPV4, ip.to_bytes().to_vec())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                traffic_class: inner.ip.class,
                payload_length: length,
                next_header: protocol,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            (EtherType::IPV6, ip.to_bytes().to_vec())
        }
        mixed => panic!("{mixed:?} are of two families"),
    };
    let hop = hop(to);
    let ethernet = Ethernet2Header { source: hop.node_mac(), destination: hop.mac(), ether_type };
    [&ethernet.to_bytes(), &ip[..], &udp, &frame[Ethernet2Header::LEN..]].concat()
}

/// The flow's hash, from which hosts of the source network and ports are taken.
fn hash(flow: &Flow) -> FlowHash {
    let client = Address::from(flow.client.ip());
    settings().hash_key.flow(&client, flow.client.port(), flow.service.port(), flow.case.protocol())
}

/// An address of the source network: the free bits in network order are those of the hash in memory.
fn source(outer: Case, hash: u32) -> IpAddr {
    let free = u32::from_ne_bytes(TUNNEL_HOSTS[usize::from(outer.v6)]);
    let host = u32::from_be_bytes((hash & free).to_ne_bytes());
    match outer.tunnel() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) | host).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) | u128::from(host)).into(),
    }
}
