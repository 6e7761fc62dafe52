//! ICMP: errors about flows of ours find their owner, VIPs answer echo requests, all else is left alone. The frames
//! are built by the etherparse crate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, PacketBuilder, icmpv4, icmpv6,
};
use lb_common::{Forward, Mac, Reason, State::New};

use super::{
    After, Scenario, Sent, Step, answered, direct, flows, nat, nat_flows, nat_reply, new_flows_go_to,
    nothing, out_of, passed, scenario, sent,
};
use crate::{
    packet::{NatPorts, Packet},
    scenario::{Frame, Made, Out, Verdict},
    world::{BACK, Case, Flow, NODE_FRONT, ROUTER, World, hop, settings_of},
};

/// For every family and protocol.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let mut all = vec![
        Scenario {
            id: scenario(
                case,
                "E53 H71 direct return: an error goes to the flow's backend, MAC addresses only",
            ),
            world: World::service(case, Forward::DsrL2),
            steps: [vec![direct(flow.opens(), 1), new_flows_go_to(2)], errors(&flow, false)].concat_steps(),
            after: flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "E53 direct return: an error about a flow that is not known begins none"),
            world: World::service(case, Forward::DsrL2),
            steps: errors(&flow, false).into_iter().take(1).collect(),
            after: After {
                // As long as what it quotes, and a header of each kind more.
                sent: vec![(1, Sent { packets: 1, bytes: 2 * quotations(&flow)[0] as u64, begun: 0 })],
                ..nothing()
            },
        },
        Scenario {
            id: scenario(case, "E53 H71 NAT: an error goes to the flow's backend, the quotation rewritten"),
            world: World::service(case, Forward::Nat),
            steps: [
                vec![nat(&flow, flow.opens(), 1), nat_reply(&flow, flow.answered_by(1)), new_flows_go_to(2)],
                errors(&flow, true),
            ]
            .concat_steps(),
            after: nat_flows(&[(New, 1)]).with_nat(answered(case)),
        },
        Scenario {
            id: scenario(case, "E53 NAT: an error about a packet to a backend goes to the client"),
            world: World::service(case, Forward::Nat),
            steps: [vec![nat(&flow, flow.opens(), 1)], errors_of_backends(&flow)].concat_steps(),
            after: nat_flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "E53 an error about no flow is the host's"),
            world: World::service(case, Forward::Nat),
            steps: vec![passed(error_frame(&flow, 0, &about(&flow)), Reason::NotTcpUdp)],
            after: nothing(),
        },
        Scenario {
            id: scenario(
                case,
                "A14 E53 direct return: a tagged error leaves by another interface without its tags",
            ),
            world: World::service(case, Forward::DsrL2),
            steps: [
                vec![direct(flow.opens(), 1), new_flows_go_to(2)],
                [ONE, TWO].into_iter().flat_map(|tags| tagged(errors(&flow, false), tags, &[])).collect(),
            ]
            .concat_steps(),
            after: flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "A14 E53 NAT: a tagged error goes to the flow's backend without its tags"),
            world: World::service(case, Forward::Nat),
            steps: [
                vec![nat(&flow, flow.opens(), 1), nat_reply(&flow, flow.answered_by(1)), new_flows_go_to(2)],
                [ONE, TWO].into_iter().flat_map(|tags| tagged(errors(&flow, true), tags, &[])).collect(),
            ]
            .concat_steps(),
            after: nat_flows(&[(New, 1)]).with_nat(answered(case)),
        },
        Scenario {
            id: scenario(
                case,
                "A14 E53 NAT: an error about a packet to a backend goes to the client in its VLAN",
            ),
            world: World::service(case, Forward::Nat),
            steps: [
                vec![sent(
                    Reason::Nat,
                    out_of(1),
                    flow.translated(&flow.opens(), 1),
                    Packet { tags: vec![(0x8100, 5)], ..flow.opens() },
                )],
                [&[], ONE, TWO]
                    .into_iter()
                    .flat_map(|tags| {
                        tagged(errors_of_backends(&flow), tags, if tags == TWO { TWO } else { ONE })
                    })
                    .collect(),
            ]
            .concat_steps(),
            after: nat_flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "E55 above the limit errors are dropped"),
            world: World::service(case, Forward::DsrL2).with(|image| settings_of(image).icmp_limit = 0),
            steps: vec![super::dropped(error_frame(&flow, 0, &about(&flow)), Reason::AnswerLimited)],
            after: nothing(),
        },
    ];
    if !case.udp {
        all.extend(echoes(case));
    }
    all
}

/// A customer's tag, and with a provider's around it.
const ONE: &[u8] = &[0x81, 0, 0, 5];
const TWO: &[u8] = &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5];

/// The same steps with frames that bear tags when they come and when they leave.
fn tagged(steps: Vec<Step>, come: &'static [u8], leave: &'static [u8]) -> Vec<Step> {
    let with = |frame: Vec<u8>, tags: &[u8]| [&frame[..12], tags, &frame[12..]].concat();
    let step = move |step| match step {
        Step::Packet { frame, verdict, reason, out } => {
            let frame = match frame {
                Frame::Packet(_) => panic!("packets have tags of their own"),
                Frame::Bytes(bytes) => Frame::Bytes(with(bytes, come)),
                Frame::Made(made) => Frame::Made(Made::by(move |ports| with(made.bytes(ports), come))),
            };
            let Out::Made(made) = out else { panic!("a step with another frame") };
            let out = Out::Made(Made::by(move |ports| with(made.bytes(ports), leave)));
            Step::Packet { frame, verdict, reason, out }
        }
        other => other,
    };
    steps.into_iter().map(step).collect()
}

trait Concat {
    fn concat_steps(self) -> Vec<Step>;
}

impl<const N: usize> Concat for [Vec<Step>; N] {
    fn concat_steps(self) -> Vec<Step> {
        self.into_iter().flatten().collect()
    }
}

fn echoes(case: Case) -> Vec<Scenario> {
    let to_vip = || World::service(case, Forward::Nat).with_vip(case);
    let (client, vip, other) = (case.client(0), case.vip(), case.other_vip());
    let reply = Made::by(move |_| echo(ROUTER, NODE_FRONT, vip, client, 64, true));
    let answered = |reply| Step::Packet {
        frame: Frame::Bytes(echo(NODE_FRONT, ROUTER, client, vip, 57, false)),
        verdict: Verdict::Tx,
        reason: Reason::Echo,
        out: Out::Made(reply),
    };
    vec![
        Scenario {
            id: scenario(case, "E56 an echo request to a VIP is answered"),
            world: to_vip(),
            steps: vec![answered(reply.clone())],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "A14 E56 an echo request to a VIP is answered with its tags"),
            world: to_vip(),
            steps: [ONE, TWO]
                .into_iter()
                .flat_map(|tags| tagged(vec![answered(reply.clone())], tags, tags))
                .collect(),
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "E55 E56 above the limit it is dropped"),
            world: to_vip().with(|image| settings_of(image).icmp_limit = 0),
            steps: vec![super::dropped(
                Frame::Bytes(echo(NODE_FRONT, ROUTER, client, vip, 57, false)),
                Reason::AnswerLimited,
            )],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "E56 an echo request from what is no host's address is not answered"),
            world: to_vip(),
            steps: vec![super::dropped(
                Frame::Bytes(echo(NODE_FRONT, ROUTER, no_host(case), vip, 57, false)),
                Reason::Unanswered,
            )],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "H69 an echo request to any other address, or an answer, is the host's"),
            world: to_vip(),
            steps: vec![
                passed(Frame::Bytes(echo(NODE_FRONT, ROUTER, client, other, 57, false)), Reason::NotTcpUdp),
                passed(Frame::Bytes(echo(NODE_FRONT, ROUTER, client, vip, 57, true)), Reason::NotTcpUdp),
            ],
            after: nothing(),
        },
    ]
}

/// An address of many hosts.
fn no_host(case: Case) -> IpAddr {
    if case.v6 { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into() } else { Ipv4Addr::BROADCAST.into() }
}

/// An echo request or reply.
fn echo(mac_to: Mac, mac_from: Mac, from: IpAddr, to: IpAddr, hops: u8, reply: bool) -> Vec<u8> {
    let header = IcmpEchoHeader { id: 0x1234, seq: 7 };
    let v4 = if reply { Icmpv4Type::EchoReply(header) } else { Icmpv4Type::EchoRequest(header) };
    let v6 = if reply { Icmpv6Type::EchoReply(header) } else { Icmpv6Type::EchoRequest(header) };
    icmp(mac_to, mac_from, from, to, hops, &(v4, v6), b"some bytes to be echoed")
}

fn icmp(
    mac_to: Mac,
    mac_from: Mac,
    from: IpAddr,
    to: IpAddr,
    hops: u8,
    (v4, v6): &(Icmpv4Type, Icmpv6Type),
    payload: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(mac_from, mac_to);
    let mut out = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ip = Ipv4Header::new(0, hops, IpNumber::ICMP, from.octets(), to.octets()).unwrap();
            let ip = etherparse::IpHeaders::Ipv4(ip, Default::default());
            ethernet.ip(ip).icmpv4(v4.clone()).write(&mut out, payload).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            ethernet.ipv6(from.octets(), to.octets(), hops).icmpv6(*v6).write(&mut out, payload).unwrap();
        }
        mixed => panic!("{mixed:?}"),
    }
    out
}

/// The kinds of errors.
fn kinds() -> Vec<(Icmpv4Type, Icmpv6Type)> {
    let needed = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_280 };
    vec![
        (Icmpv4Type::DestinationUnreachable(needed), Icmpv6Type::PacketTooBig { mtu: 1_280 }),
        (
            Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
            Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
        ),
        (
            Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host),
            Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address),
        ),
    ]
}

/// A packet of the service to the client, as the client's side sees it.
fn about(flow: &Flow) -> Packet {
    Packet { hops: 50, ..flow.translated_back(&flow.answered_by(1)) }
}

/// A router's address and the bytes to quote: header and 8 bytes, header and a TCP header, everything.
fn quotations(flow: &Flow) -> [usize; 3] {
    let ip = if flow.case.v6 { 40 } else { 20 };
    [ip + 8, ip + 20, usize::MAX]
}

fn router(case: Case) -> IpAddr {
    case.client(9)
}

fn quoted(packet: &Packet, ports: &NatPorts, length: usize) -> Vec<u8> {
    let bytes = packet.bytes(ports);
    bytes[14..].iter().copied().take(length).collect()
}

/// An error of a router about `packet`, to the VIP.
fn error_frame(flow: &Flow, kind: usize, packet: &Packet) -> Frame {
    let quote = quoted(packet, &NatPorts::new(), quotations(flow)[0]);
    Frame::Bytes(icmp(NODE_FRONT, ROUTER, router(flow.case), flow.case.vip(), 60, &kinds()[kind], &quote))
}

/// Errors of all kinds, quoting little and much, about a packet from the service.
fn errors(flow: &Flow, nat: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for kind in kinds() {
        for length in quotations(flow) {
            let (flow, case, kind) = (*flow, flow.case, kind.clone());
            let frame = Frame::Bytes(icmp(
                NODE_FRONT,
                ROUTER,
                router(case),
                case.vip(),
                60,
                &kind,
                &quoted(&about(&flow), &NatPorts::new(), length),
            ));
            let out = Made::by(move |ports| {
                let (to, packet, hops) = if nat {
                    // What the backend sent, but for the hops that it has left.
                    (case.backend(1), Packet { hops: 50, ..flow.answered_by(1) }, 59)
                } else {
                    (case.vip(), about(&flow), 60)
                };
                let hop = hop(1);
                icmp(
                    hop.mac(),
                    hop.node_mac(),
                    router(case),
                    to,
                    hops,
                    &kind,
                    &quoted(&packet, ports, length),
                )
            });
            steps.push(Step::Packet {
                frame,
                verdict: Verdict::Redirect(BACK),
                reason: Reason::IcmpToBackend,
                out: Out::Made(out),
            });
        }
    }
    steps
}

/// Errors of a router and of the backend about a packet from the node to it.
fn errors_of_backends(flow: &Flow) -> Vec<Step> {
    let mut steps = Vec::new();
    for from_backend in [false, true] {
        for length in quotations(flow) {
            let (flow, case) = (*flow, flow.case);
            let from = if from_backend { case.backend(1) } else { router(case) };
            let frame = Made::by(move |ports| {
                let packet = Packet { hops: 50, ..flow.translated(&flow.goes_on(), 1) };
                icmp(NODE_FRONT, ROUTER, from, case.nat(), 60, &kinds()[0], &quoted(&packet, ports, length))
            });
            let out = Made::by(move |ports| {
                let packet = Packet { hops: 50, ..flow.goes_on() };
                let from = if from_backend { case.vip() } else { from };
                icmp(
                    ROUTER,
                    NODE_FRONT,
                    from,
                    case.client(0),
                    59,
                    &kinds()[0],
                    &quoted(&packet, ports, length),
                )
            });
            steps.push(Step::Packet {
                frame: Frame::Made(frame),
                verdict: Verdict::Tx,
                reason: Reason::IcmpToClient,
                out: Out::Made(out),
            });
        }
    }
    steps
}
