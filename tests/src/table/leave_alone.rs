//! What is not ours passes untouched.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, icmpv6};
use lb_common::{Forward, Reason, Shape, State::New};

use super::{Scenario, Step, nat, nat_flows, nat_reply, nothing, passed, scenario};
use crate::{
    packet::{Endpoint, NatPorts, Packet, Port, flag},
    scenario::Frame,
    world::{BACKEND_PORT, Case, Flow, NODE_FRONT, PORT, ROUTER, TCP4, TCP6, World, settings_of},
};

/// For every family and protocol.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let to = |address: IpAddr, port: u16| Flow { service: SocketAddr::new(address, port), ..flow }.opens();
    let scenario = |what: &str, steps| Scenario {
        id: scenario(case, what),
        world: World::service(case, Forward::Nat),
        steps,
        after: nothing(),
    };
    let mut all = vec![
        scenario(
            "A3 another address, port or protocol is no service; ssh and DNS of the node work",
            vec![
                passed(to(case.other_vip(), PORT), Reason::NotService),
                passed(to(case.vip(), PORT + 1), Reason::NotService),
                passed(to(case.vip(), 22), Reason::NotService),
                passed(to(case.vip(), 53), Reason::NotService),
                passed(Case { udp: !case.udp, ..case }.flow(0).opens(), Reason::NotService),
            ],
        ),
        scenario(
            "A3 what comes to the NAT address, but answers no flow, is the node's own: its checks, say",
            [0, 22, 1_023, 1_024, 20_000, 32_767, 32_768, 65_535]
                .into_iter()
                .map(|port| passed(answer_to(&flow, port), Reason::NotService))
                .collect(),
        ),
        scenario("headers that contradict themselves", contradictions(&flow.opens())),
        Scenario {
            id: super::scenario(case, "A5 only the very backend may answer a flow, and only to its port"),
            // With one set for all, it is what the record says that keeps strangers out, not where it lies.
            world: World::service(case, Forward::Nat)
                .with_backend(case, 3, 2)
                .with(|image| settings_of(image).nat_table = Shape::small(1)),
            steps: strangers(&flow),
            after: nat_flows(&[(New, 1)]),
        },
    ];
    if case.v6 {
        let mapped = |address| Endpoint { address, port: Port::Number(PORT) };
        let v4 = mapped(Ipv6Addr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 11]).into());
        all.push(Scenario {
            id: super::scenario(case, "a mapped address on the wire does not reach the IPv4 service"),
            world: World::service(Case { v6: false, ..case }, Forward::Nat),
            steps: vec![
                passed(Packet { to: v4, ..flow.opens() }, Reason::Malformed),
                passed(Packet { from: v4, ..flow.opens() }, Reason::Malformed),
                passed(Packet { from: v4, to: v4, ..flow.opens() }, Reason::Malformed),
            ],
            after: nothing(),
        });
    }
    all
}

/// Frames that hold neither TCP nor UDP.
pub(super) fn other_frames() -> Vec<Scenario> {
    let frames = [
        ("A3 ARP", arp(), Reason::NotIp),
        ("A3 neighbour discovery", neighbour_solicitation(), Reason::NotTcpUdp),
        ("A3 ping over IPv4", ping(TCP4), Reason::NotTcpUdp),
        ("A3 ping over IPv6", ping(TCP6), Reason::NotTcpUdp),
        ("A3 a frame with nothing but its header", Frame::Bytes(ethernet(EtherType(0x88b5))), Reason::NotIp),
    ];
    let world = World::service(TCP4, Forward::Nat);
    let scenarios = frames.into_iter().map(|(id, frame, reason)| Scenario {
        id: id.to_owned(),
        world: world.clone(),
        steps: vec![passed(frame, reason)],
        after: nothing(),
    });
    scenarios.collect()
}

/// A packet from backend 1 to a port of the NAT address.
fn answer_to(flow: &Flow, port: u16) -> Packet {
    let to = Endpoint { address: flow.case.nat(), port: Port::Number(port) };
    Packet { to, ..flow.answered_by(1) }
}

/// Packets to a flow's NAT port that are no answers to it.
fn strangers(flow: &Flow) -> Vec<Step> {
    let answer = flow.answered_by(1);
    let from = |address, port| Endpoint { address, port: Port::Number(port) };
    let next_group = Endpoint { port: Port::NatNextGroup(flow.index), ..answer.to };
    let other_protocol = Flow { case: Case { udp: !flow.case.udp, ..flow.case }, ..*flow };
    let stranger = |from| passed(Packet { from, ..answer.clone() }, Reason::NotService);
    vec![
        nat(flow, flow.opens(), 1),
        stranger(from(flow.case.backend(2), BACKEND_PORT)),
        stranger(from(flow.case.backend(3), BACKEND_PORT)),
        stranger(from(flow.case.client(0), BACKEND_PORT)),
        stranger(from(flow.case.backend(1), BACKEND_PORT + 1)),
        passed(other_protocol.answered_by(1), Reason::NotService),
        passed(Packet { to: next_group, ..answer.clone() }, Reason::NotService),
        nat_reply(flow, flow.from_backend(1, flag::SYN | flag::ACK, b"")),
    ]
}

fn contradictions(packet: &Packet) -> Vec<Step> {
    let with_first_byte = |byte| {
        let mut bytes = packet.bytes(&NatPorts::new());
        bytes[14] = byte;
        passed(Frame::Bytes(bytes), Reason::Malformed)
    };
    let of_other_family = if packet.from.address.is_ipv4() { 0x65 } else { 0x45 };
    let mut steps = vec![with_first_byte(of_other_family), with_first_byte(0x05)];
    if packet.from.address.is_ipv4() {
        // A header shorter than the shortest: IHL 4; and one longer than the packet: IHL 15.
        steps.extend([with_first_byte(0x44), with_first_byte(0x4f)]);
    }
    steps
}

fn ethernet(kind: EtherType) -> Vec<u8> {
    etherparse::Ethernet2Header { source: ROUTER, destination: NODE_FRONT, ether_type: kind }
        .to_bytes()
        .to_vec()
}

pub(super) fn arp() -> Frame {
    let (sender, target) = ([192, 0, 2, 1], [192, 0, 2, 11]);
    let request = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &ROUTER,
        &sender,
        &[0; 6],
        &target,
    );
    let request = request.expect("addresses of the right lengths");
    Frame::Bytes([ethernet(EtherType::ARP), request.to_bytes().to_vec()].concat())
}

fn neighbour_solicitation() -> Frame {
    let (IpAddr::V6(from), IpAddr::V6(target)) = (TCP6.client(0), TCP6.vip()) else { unreachable!() };
    let message = PacketBuilder::ethernet2(ROUTER, NODE_FRONT)
        .ipv6(from.octets(), target.octets(), 255)
        .icmpv6_raw(icmpv6::TYPE_NEIGHBOR_SOLICITATION, 0, [0; 4]);
    written(|frame| message.write(frame, &target.octets()))
}

fn ping(case: Case) -> Frame {
    let ethernet = PacketBuilder::ethernet2(ROUTER, NODE_FRONT);
    match (case.client(0), case.vip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ping = ethernet.ipv4(from.octets(), to.octets(), 64).icmpv4_echo_request(1, 1);
            written(|frame| ping.write(frame, b"ping"))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ping = ethernet.ipv6(from.octets(), to.octets(), 64).icmpv6_echo_request(1, 1);
            written(|frame| ping.write(frame, b"ping"))
        }
        _ => unreachable!("one family"),
    }
}

fn written<E: std::fmt::Debug>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Frame {
    let mut frame = Vec::new();
    write(&mut frame).expect("a vector takes everything");
    Frame::Bytes(frame)
}
