//! What the node answers itself: resets and ICMP errors, built by the etherparse crate.

use std::net::IpAddr;

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader,
    icmpv4::{self, DestUnreachableHeader},
    icmpv6,
};
use lb_common::{Forward, Reason};

use super::{Scenario, Step, dropped, nothing, scenario};
use crate::{
    packet::{NatPorts, Packet, Transport, flag},
    scenario::{Made, Out, Verdict},
    world::{Case, World, settings_of},
};

/// For every family and protocol.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let empty = || World::service(case, Forward::Nat).with_slots(1, 0);
    let mut all = vec![
        Scenario {
            id: scenario(case, "C35 above the limit nothing is answered"),
            world: empty().with(|image| settings_of(image).icmp_limit = 0),
            steps: vec![dropped(flow.opens(), Reason::AnswerLimited)],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "C35 a refusal quotes no more than it may"),
            world: empty(),
            steps: [1_300, 1_301, 547, 548, 549]
                .map(|n| {
                    let payload = vec![0xab; n];
                    refused(case, flow.from_client(flag::ACK, &payload), Reason::NoBackend)
                })
                .into(),
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "A15 NAT with one hop left: time exceeded"),
            world: World::service(case, Forward::Nat),
            steps: vec![expired(Packet { hops: 1, ..flow.opens() })],
            after: nothing(),
        },
    ];
    if !case.udp {
        all.push(Scenario {
            id: scenario(case, "C35 a reset is never answered"),
            world: empty(),
            steps: vec![dropped(flow.resets(), Reason::Unanswered)],
            after: nothing(),
        });
    }
    all
}

/// The client is refused: by a reset under TCP, by "port unreachable" under UDP.
pub(super) fn refused(case: Case, packet: Packet, reason: Reason) -> Step {
    let v4 = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    let v6 = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
    let about = packet.clone();
    answered(packet, reason, move |ports| match case.udp {
        true => error(&about, ports, v4.clone(), v6),
        false => reset(&about, ports),
    })
}

/// The client is told how long packets may be.
pub(super) fn too_big(packet: Packet, mtu: u16) -> Step {
    let v4 = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
    let v4 = Icmpv4Type::DestinationUnreachable(v4);
    let v6 = Icmpv6Type::PacketTooBig { mtu: mtu.into() };
    let about = packet.clone();
    answered(packet, Reason::TooBig, move |ports| error(&about, ports, v4.clone(), v6))
}

/// The sender is told that the packet had no hops left.
pub(super) fn expired(packet: Packet) -> Step {
    let v4 = Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit);
    let v6 = Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded);
    let about = packet.clone();
    answered(packet, Reason::HopLimit, move |ports| error(&about, ports, v4.clone(), v6))
}

fn answered(packet: Packet, reason: Reason, out: impl Fn(&NatPorts) -> Vec<u8> + 'static) -> Step {
    let out = Out::Made(Made::by(out));
    Step::Packet { frame: packet.into(), verdict: Verdict::Answered, reason, out }
}

/// The reset that answers a packet (RFC 9293 section 3.10.7.1).
fn reset(packet: &Packet, nat_ports: &NatPorts) -> Vec<u8> {
    let Transport::Tcp { flags, sequence } = packet.transport else { panic!("not TCP") };
    let mut tcp = TcpHeader::new(packet.to.port(nat_ports), packet.from.port(nat_ports), 0, 0);
    tcp.rst = true;
    if flags & flag::ACK != 0 {
        tcp.sequence_number = 0x0bad_cafe;
    } else {
        let length = packet.payload.len() as u32
            + u32::from(flags & flag::SYN != 0)
            + u32::from(flags & flag::FIN != 0);
        tcp.ack = true;
        tcp.acknowledgment_number = sequence + length;
    }
    let ethernet = PacketBuilder::ethernet2(packet.mac_to, packet.mac_from);
    let mut out = Vec::new();
    match (packet.to.address, packet.from.address) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = Ipv4Header::new(0, 64, IpNumber::TCP, from.octets(), to.octets()).unwrap();
            ip.dont_fragment = true;
            ethernet
                .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
                .tcp_header(tcp)
                .write(&mut out, &[])
                .unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            ethernet.ipv6(from.octets(), to.octets(), 64).tcp_header(tcp).write(&mut out, &[]).unwrap();
        }
        mixed => panic!("{mixed:?}"),
    }
    out
}

/// The ICMP error about a packet.
fn error(packet: &Packet, nat_ports: &NatPorts, v4: Icmpv4Type, v6: Icmpv6Type) -> Vec<u8> {
    let bytes = packet.bytes(nat_ports);
    let whole = packet.ip_length() as usize;
    let ethernet = PacketBuilder::ethernet2(packet.mac_to, packet.mac_from);
    let mut out = Vec::new();
    match (packet.to.address, packet.from.address) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let quoted = &bytes[14..14 + whole.min(576 - Ipv4Header::MIN_LEN - 8)];
            let mut ip = Ipv4Header::new(0, 64, IpNumber::ICMP, from.octets(), to.octets()).unwrap();
            ip.dont_fragment = true;
            ethernet
                .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
                .icmpv4(v4)
                .write(&mut out, quoted)
                .unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let quoted = &bytes[14..14 + whole.min(1_280 - Ipv6Header::LEN - 8)];
            ethernet.ipv6(from.octets(), to.octets(), 64).icmpv6(v6).write(&mut out, quoted).unwrap();
        }
        mixed => panic!("{mixed:?}"),
    }
    out
}
