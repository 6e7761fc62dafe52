//! Any frame is handled; what is not ours stays as it is; NAT there and back is right for all packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{Address, Fate, Forward, Reason, nat::PORTS_PER_GROUP};
use proptest::prelude::*;
use usher_tests::{
    host::{AlignedFrame, HostTables},
    packet::{Endpoint, Ip, NatPorts, Packet, Port, Transport, flag},
    run::nat_groups,
    world::{
        Case, FRONT, Flow, TCP4, TCP6, UDP4, UDP6, World, hash_key, hop, nat_sources, set_nat_groups,
        settings_of,
    },
};

const CASES: [Case; 4] = [TCP4, TCP6, UDP4, UDP6];

/// Bytes around a frame that must stay as they are.
const FENCE: usize = 64;
const FENCE_BYTE: u8 = 0xa5;

/// Services of all kinds.
fn tables(forward: Forward) -> HostTables {
    let mut image = World::empty().image;
    for (number, case) in (1..).zip(CASES) {
        let world = World { image }
            .with_service(case, case.flow(0).service, number, forward)
            .with_backend(case, number as u16, number)
            .with_slots(number, number as u16);
        image = world.image;
    }
    HostTables::new(&image).unwrap()
}

/// Processes a frame between two fences; the frame afterwards.
fn process(tables: &HostTables, frame: &[u8]) -> (lb_ebpf::Outcome, Vec<u8>) {
    let mut memory = vec![FENCE_BYTE; FENCE + frame.len() + FENCE];
    memory[FENCE..FENCE + frame.len()].copy_from_slice(frame);
    let mut memory = AlignedFrame::new(&memory);
    let outcome = tables.process(&mut memory.bytes()[FENCE..FENCE + frame.len()], FRONT);
    let (before, rest) = memory.bytes().split_at(FENCE);
    let (after, behind) = rest.split_at(frame.len());
    assert!(before.iter().chain(behind).all(|byte| *byte == FENCE_BYTE), "written outside of the frame");
    (outcome, after.to_vec())
}

/// What holds for any frame.
fn check_any(tables: &HostTables, frame: &[u8]) {
    let (outcome, after) = process(tables, frame);
    let sent_on = outcome.reason.fate() == Fate::Forward || outcome.reason == Reason::ViaKernel;
    // There is no room in front of these frames.
    let cut_off = outcome.reason == Reason::NoHeadroom;
    assert!(sent_on || cut_off || after == frame, "{:?}, and the frame was changed", outcome.reason);
    assert_eq!(sent_on && outcome.reason != Reason::ViaKernel, outcome.interface != 0);
    // Only answers ever grow.
    assert_eq!(outcome.sent_to().is_some(), sent_on && outcome.reason != Reason::NatReply);
}

/// A packet of one of the services or from a backend, with some bytes changed, cut or lengthened.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let packet = (0..CASES.len(), any::<bool>(), any::<u8>(), oddities(true), oddities(false), 0_usize..3)
        .prop_map(|(case, from_client, flags, v6, v4, part)| {
            let flow = CASES[case].flow(0);
            let packet = if from_client {
                flow.from_client(flags, b"payload")
            } else {
                flow.from_backend(case as u16 + 1, flags, b"payload")
            };
            let (tags, ip) = if CASES[case].v6 { v6 } else { v4 };
            let packet = Packet { tags, ip, ..packet };
            let packet = if part < 2 { packet.cut(1, &[8]).swap_remove(part) } else { packet };
            packet.bytes(&NatPorts::from([(0, 20_000)]))
        });
    // The headers are the first 78 bytes at most.
    let changes = prop::collection::vec((0_usize..90, any::<u8>()), 0..4);
    (packet, changes, prop::option::of(0_usize..120)).prop_map(|(mut frame, changes, length)| {
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if let Some(length) = length {
            frame.resize(length, 0);
        }
        frame
    })
}

/// Everything that a NAT flow is made of.
#[derive(Debug, Clone)]
struct Nat {
    case: Case,
    client: SocketAddr,
    service: SocketAddr,
    source: IpAddr,
    backend: SocketAddr,
    first_port: u16,
    groups: u16,
    key: u64,
    payload: Vec<u8>,
    hops: u8,
    flags: u8,
    checksum: bool,
    /// Lets one of the checksums come out as zero.
    zero: bool,
    /// What makes the packet odd, if anything does.
    tags: Vec<(u16, u16)>,
    ip: Ip,
}

/// Up to two tags, and IPv4 options or up to four extension headers.
fn oddities(v6: bool) -> impl Strategy<Value = (Vec<(u16, u16)>, Ip)> {
    let tag = (prop::sample::select(vec![0x8100_u16, 0x88a8]), any::<u16>());
    let options = prop::collection::vec(any::<[u8; 4]>(), 0..=10);
    let kind = prop::sample::select(vec![0_u8, 43, 51, 60, 135, 139, 140]);
    let extensions = prop::collection::vec((kind, 1_u8..8), 0..=4);
    (prop::collection::vec(tag, 0..=2), options, extensions).prop_map(move |(tags, options, extensions)| {
        let extension = |(kind, eights): (u8, u8)| {
            // The length of an authentication header counts in words of 4 bytes.
            let length = if kind == 51 { eights * 2 - 2 } else { eights - 1 };
            (kind, [vec![0, length], vec![0; usize::from(eights) * 8 - 2]].concat())
        };
        let ip = Ip {
            options: if v6 { vec![] } else { options.concat() },
            extensions: if v6 { extensions.into_iter().map(extension).collect() } else { vec![] },
            ..Ip::default()
        };
        (tags, ip)
    })
}

fn address(v6: bool) -> BoxedStrategy<IpAddr> {
    // Mapped addresses are refused on the wire, and a source of zeros means "no NAT".
    if v6 {
        let native = |bits: u128| bits >> 32 != 0xffff && bits != 0;
        any::<u128>()
            .prop_filter("no IPv4", move |bits| native(*bits))
            .prop_map(|b| Ipv6Addr::from(b).into())
            .boxed()
    } else {
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()).boxed()
    }
}

fn endpoint(v6: bool) -> impl Strategy<Value = SocketAddr> {
    (address(v6), any::<u16>()).prop_map(|(address, port)| SocketAddr::new(address, port))
}

fn nat() -> impl Strategy<Value = Nat> {
    (any::<bool>(), any::<bool>()).prop_flat_map(|(v6, udp)| {
        let ends = (endpoint(v6), endpoint(v6), address(v6), endpoint(v6));
        let ports = (0_u16..8_191, 1_u16..8_192)
            .prop_map(|(first, groups)| (first * PORTS_PER_GROUP, groups.min(8_192 - first)));
        let payload = prop::collection::vec(any::<u8>(), 0..100);
        let flags = prop::sample::select(vec![
            flag::SYN,
            flag::ACK,
            flag::FIN | flag::ACK,
            flag::RST,
            flag::RST | flag::ACK,
        ]);
        let rest = (any::<u64>(), payload, 2_u8.., flags, any::<bool>(), any::<bool>(), oddities(v6));
        (ends, ports, rest).prop_map(move |(ends, ports, rest)| {
            let ((client, service, source, backend), (first_port, groups)) = (ends, ports);
            let (key, payload, hops, flags, checksum, zero, (tags, ip)) = rest;
            let case = Case { v6, udp };
            Nat {
                case,
                client,
                service,
                source,
                backend,
                first_port,
                groups,
                key,
                payload,
                hops,
                flags,
                checksum,
                zero,
                tags,
                ip,
            }
        })
    })
}

impl Nat {
    fn tables(&self) -> HostTables {
        let world = World::empty()
            .with_service(self.case, self.service, 1, Forward::Nat)
            .with_backend(self.case, 1, 1)
            .with_slots(1, 1)
            .with(|image| {
                let settings = settings_of(image);
                settings.hash_key = hash_key(self.key);
                settings.nat_sources[usize::from(self.case.v6)] = nat_sources(&[self.source]);
                settings.nat_port_first = self.first_port;
                set_nat_groups(settings, self.groups);
                let backend = image.backends.get_mut(&1).unwrap();
                backend.address = Address::from(self.backend.ip());
                backend.port = self.backend.port().to_be_bytes();
                // Back where it came from, so that tags stay.
                backend.hop = hop(2);
            });
        HostTables::new(&world.image).unwrap()
    }

    fn packet(&self, from: Endpoint, to: Endpoint, payload: Vec<u8>) -> Packet {
        let flow = Flow { client: self.client, service: self.service, ..self.case.flow(0) };
        let transport = if self.case.udp {
            // IPv6 has no packets without a checksum.
            Transport::Udp { checksum: self.checksum || self.case.v6 }
        } else {
            Transport::Tcp { flags: self.flags, sequence: self.key as u32 }
        };
        let (ip, tags) = (self.ip.clone(), self.tags.clone());
        Packet { from, to, hops: self.hops, transport, payload, ip, tags, ..flow.opens() }
    }
}

/// The packet, with a payload that makes its checksum zero: all ones in UDP.
fn summing_up_to_zero(packet: &Packet, nat_ports: &NatPorts) -> Vec<u8> {
    let packet = Packet { payload: [vec![0, 0], packet.payload.clone()].concat(), ..packet.clone() };
    let bytes = packet.bytes(nat_ports);
    let l4 = bytes.len() - packet.payload.len();
    let checksum = if matches!(packet.transport, Transport::Udp { .. }) { l4 - 2 } else { l4 - 4 };
    let mut payload = packet.payload;
    payload[..2].copy_from_slice(&bytes[checksum..checksum + 2]);
    payload
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_handled(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        check_any(&tables(Forward::Nat), &frame);
    }

    #[test]
    fn any_bytes_after_a_good_ethernet_header_are_handled(
        v6 in any::<bool>(),
        frame in prop::collection::vec(any::<u8>(), 14..200),
    ) {
        let mut frame = frame;
        frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        check_any(&tables(Forward::Nat), &frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn mangled_packets_are_handled(
        direct in any::<bool>(),
        frames in prop::collection::vec(mangled(), 1..100),
    ) {
        let tables = tables(if direct { Forward::DsrL2 } else { Forward::Nat });
        for frame in frames {
            check_any(&tables, &frame);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    /// etherparse builds the packets that must come out, full checksums included. A9 A11 A14: tags, options and
    /// extension headers make no difference.
    #[test]
    fn nat_is_right_there_and_back(nat in nat()) {
        // A service on the NAT address and port would be the service's.
        prop_assume!(nat.service.ip() != nat.source && nat.client.ip() != nat.source);
        let tables = nat.tables();
        let (client, service) = (Endpoint::from(nat.client), Endpoint::from(nat.service));
        let source = Endpoint { address: nat.source, port: Port::Nat(0) };
        let backend = Endpoint::from(nat.backend);
        let none = NatPorts::new();

        let mut there = nat.packet(client, service, nat.payload.clone());
        if nat.zero {
            there.payload = summing_up_to_zero(&there, &none);
        }
        let plain = Packet { tags: vec![], ip: Ip::default(), ..there.clone() };
        let foretold = tables.explain(AlignedFrame::new(&plain.bytes(&none)).bytes(), FRONT);
        let (outcome, out) = process(&tables, &there.bytes(&none));
        prop_assert_eq!(outcome.reason, Reason::Nat);
        prop_assert_eq!(outcome.trace(), foretold.trace());
        let l4 = there.l4();
        let port = u16::from_be_bytes([out[l4], out[l4 + 1]]);
        let [first, second] = nat_groups(&tables.settings, &there);
        let group = (port - nat.first_port) / PORTS_PER_GROUP;
        prop_assert!(group == first || group == second);
        let ports = NatPorts::from([(0, port)]);
        let translated = |packet: &Packet| Packet {
            from: source,
            to: backend,
            hops: packet.hops - 1,
            mac_to: hop(2).mac(),
            mac_from: hop(2).node_mac(),
            ..packet.clone()
        };
        prop_assert_eq!(out, translated(&there).bytes(&ports));

        // The port is known now: another packet, whose checksum comes out as zero.
        if nat.zero {
            let payload = summing_up_to_zero(&translated(&there), &ports);
            let again = Packet { payload, ..there.clone() };
            let (_, out) = process(&tables, &again.bytes(&none));
            prop_assert_eq!(out, translated(&again).bytes(&ports));
        }

        let translated_back = |packet: &Packet| Packet {
            from: service,
            to: client,
            hops: packet.hops - 1,
            mac_to: packet.mac_from,
            mac_from: packet.mac_to,
            ..packet.clone()
        };
        let mut back = nat.packet(backend, source, nat.payload.clone());
        if nat.zero {
            back.payload = summing_up_to_zero(&translated_back(&back), &ports);
        }
        let (outcome, out) = process(&tables, &back.bytes(&ports));
        prop_assert_eq!(outcome.reason, Reason::NatReply);
        prop_assert_eq!(out, translated_back(&back).bytes(&ports));
    }
}
