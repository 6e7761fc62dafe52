//! NAT: there, back, and what must not be mixed up.

use std::net::SocketAddr;

use lb_common::{
    Address, Backend, Entry, Forward, Hop, Reason, Settings,
    State::{Closing, New, Proven},
};

use lb_userspace::core::passive::Openings;

use super::{
    After, Scenario, Step,
    answer::{expired, too_big},
    answered, dropped, nat, nat_flows, nat_reply, new_flows_go_to, nothing, passed, refused, scenario, steps,
    tunnel::long,
    via_kernel,
};
use crate::{
    packet::{NatPorts, Packet, flag},
    run::nat_groups,
    world::{
        BACKEND_PORT, CLOSING_IDLE, Case, Flow, PORT, TCP_IDLE, UDP_IDLE, World, addressed, backend,
        each_service, hop, nat_sources, set_nat_groups, settings, settings_of,
    },
};

/// For every family and protocol.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    vec![
        Scenario {
            id: scenario(case, "A5 there and back again; the backend's answer proves a connection at once"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.accepted_by(1)),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
            ],
            after: nat_flows(&[(answered(case), 1)]),
        },
        Scenario {
            id: scenario(
                case,
                "SYNs of new flows are counted, and what backends answer before a flow is proven",
            ),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.accepted_by(1)),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                Step::Later(2),
                nat_reply(&flow, flow.answered_by(1)),
            ],
            after: After {
                flows: vec![(answered(case), 1)],
                nat: vec![(Proven, 1)],
                openings: vec![(1, of_tcp(case, 1, 2))],
                ..nothing()
            },
        },
        Scenario {
            id: scenario(
                case,
                "a reset is an answer to a SYN; what does not open a flow is not counted as opening it",
            ),
            world: World::service(case, Forward::Nat),
            steps: if case.udp {
                vec![]
            } else {
                vec![
                    nat(&flow, flow.opens(), 1),
                    nat_reply(&flow, flow.from_backend(1, flag::RST | flag::ACK, b"")),
                    nat(
                        &case.flow(1),
                        Flow { client: SocketAddr::new(case.client(1), 40_001), ..case.flow(1) }.goes_on(),
                        1,
                    ),
                ]
            },
            after: if case.udp {
                nothing()
            } else {
                After {
                    nat: vec![(Closing, 1), (New, 1)],
                    openings: vec![(1, of_tcp(case, 1, 1))],
                    ..nat_flows(&[(New, 1), (New, 1)])
                }
            },
        },
        Scenario {
            id: scenario(case, "A5 the backend listens on the service's own port"),
            world: World::service(case, Forward::Nat)
                .with(|image| backend(image, 1).port = PORT.to_be_bytes()),
            steps: {
                let same_port = |mut packet: Packet| {
                    for end in [&mut packet.from, &mut packet.to] {
                        if *end == SocketAddr::new(case.backend(1), BACKEND_PORT).into() {
                            *end = SocketAddr::new(case.backend(1), PORT).into();
                        }
                    }
                    packet
                };
                let there = same_port(flow.translated(&flow.opens(), 1));
                let answer = same_port(flow.answered_by(1));
                vec![
                    super::sent(Reason::Nat, super::out_of(1), there, flow.opens()),
                    nat_reply(&flow, answer),
                ]
            },
            after: nat_flows(&[(New, 1)]).with_nat(answered(case)),
        },
        Scenario {
            id: scenario(case, "A5 a reply goes back to where the client's last packet came from"),
            world: World::service(case, Forward::Nat),
            steps: {
                let other_router = [2, 0, 0, 0, 0, 9];
                let answer = flow.accepted_by(1);
                let back = Packet { mac_to: other_router, ..flow.translated_back(&answer) };
                vec![
                    nat(&flow, flow.opens(), 1),
                    nat_reply(&flow, answer.clone()),
                    Step::Later(2),
                    nat(&flow, Packet { mac_from: other_router, ..flow.goes_on() }, 1),
                    super::sent(Reason::NatReply, crate::scenario::Verdict::Tx, back, answer),
                ]
            },
            after: if case.udp {
                nat_flows(&[(New, 1)]).with_nat(Proven)
            } else {
                // In TCP a SYN|ACK proves nothing.
                nat_flows(&[(New, 1)])
            },
        },
        Scenario {
            id: scenario(case, "A6 the next hop is not known: rewritten, and the kernel sends it on"),
            world: World::service(case, Forward::Nat)
                .with(|image| backend(image, 1).hop = Hop::default())
                .with(|image| settings_of(image).reply_by_route = 1),
            steps: {
                let answer = flow.accepted_by(1);
                vec![
                    via_kernel(flow.opens(), flow.translated(&flow.opens(), 1)),
                    via_kernel(answer.clone(), flow.translated_back(&answer)),
                ]
            },
            after: After { sent: vec![(1, super::sent_with(&[flow.opens()], 1))], ..nat_flows(&[(New, 1)]) },
        },
        Scenario {
            id: scenario(case, "A15 no hop left: dropped in both directions, and nothing stored"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                expired(Packet { hops: 1, ..flow.opens() }),
                expired(Packet { hops: 0, ..flow.opens() }),
                nat(&flow, Packet { hops: 2, ..flow.opens() }, 1),
                expired(Packet { hops: 1, ..flow.accepted_by(1) }),
                nat_reply(&flow, Packet { hops: 2, ..flow.accepted_by(1) }),
            ],
            after: nat_flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "A15 a packet without a hop left leaves no trace"),
            world: World::service(case, Forward::Nat),
            steps: vec![expired(Packet { hops: 1, ..flow.opens() })],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "E54 a packet that is too long for the way to its backend leaves no trace"),
            world: World::service(case, Forward::Nat).with(|image| backend(image, 1).mtu = 1_400),
            steps: vec![too_big(long(&flow, 1_401), 1_400), nat(&flow, long(&flow, 1_400), 1)],
            after: nat_flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "E54 a packet that leaves where it came in is not too long"),
            world: World::service(case, Forward::Nat)
                .with(|image| (backend(image, 2).mtu, settings_of(image).reply_mtu) = (1_400, 1_400))
                .with_slots(1, 2),
            steps: vec![
                nat(&flow, long(&flow, 1_401), 2),
                nat_reply(&flow, Packet { payload: vec![0xda; 1_401], ..flow.answered_by(2) }),
            ],
            after: nat_flows(&[(New, 2)]).with_nat(answered(case)),
        },
        Scenario {
            id: scenario(case, "NAT without a source address of the family"),
            world: World::service(case, Forward::Nat)
                .with(|image| settings_of(image).nat_sources[usize::from(case.v6)] = nat_sources(&[])),
            steps: vec![dropped(flow.opens(), Reason::NoNatSource)],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "C36 several NAT source addresses: the group of ports tells the address too"),
            world: World::service(case, Forward::Nat).with(|image| two_sources(case, settings_of(image))),
            steps: {
                let mut settings = settings();
                two_sources(case, &mut settings);
                let first = flows_in_groups(case, &settings, [0, 1]).next().expect("one of sixteen");
                let second = flows_in_groups(case, &settings, [2, 3]).next().expect("one of sixteen");
                let second = Flow { index: 1, nat: case.other_nat(), ..second };
                let elsewhere = Flow { nat: case.nat(), ..second };
                steps(
                    prove(&[first, second]),
                    // The same port of the other address is another record's.
                    [passed(elsewhere.answered_by(2), Reason::NotService)],
                )
            },
            after: nat_flows(&[(Proven, 1), (Proven, 1)]),
        },
        Scenario {
            id: scenario(case, "C32 C36 NAT full: a flow that finds no port is refused and leaves no entry"),
            world: two_groups(case),
            steps: {
                let flows = flows_with_groups(case, 17);
                steps(prove(&flows[..16]), [refused(case, flows[16].opens(), Reason::NatFull)])
            },
            after: After {
                // Two for each of the sixteen; what found no port was not sent.
                sent: vec![(1, super::sent_with(&[flow.opens(), flow.goes_on()], 16))],
                ..nat_flows(&[(Proven, 1); 16])
            },
        },
        Scenario {
            id: scenario(case, "C27 one client port, two services: two flows, two NAT ports, same backend"),
            world: World::service(case, Forward::Nat)
                .with_service(case, SocketAddr::new(case.vip(), 443), 2, Forward::Nat)
                .with_backend(case, 3, 2)
                .with_slots(2, 3)
                .with(|image| backend(image, 3).address = Address::from(case.backend(1))),
            steps: {
                let other = Flow { index: 1, service: SocketAddr::new(case.vip(), 443), ..flow };
                both_ways(&[flow, other], |packet, flow| {
                    // Backend 3 is the same endpoint as backend 1, so the packets differ in the hop only.
                    let number = if flow.index == 0 { 1 } else { 3 };
                    let out = addressed(flow.translated(packet, 1), hop(number));
                    super::sent(Reason::Nat, super::out_of(number), out, packet.clone())
                })
            },
            after: nat_flows(&[(Proven, 1), (Proven, 3)]),
        },
        Scenario {
            id: scenario(case, "C27 one client port, two VIPs of one service: two flows, two NAT ports"),
            world: World::service(case, Forward::Nat).with_service(
                case,
                SocketAddr::new(case.other_vip(), PORT),
                1,
                Forward::Nat,
            ),
            steps: {
                let other = Flow { index: 1, service: SocketAddr::new(case.other_vip(), PORT), ..flow };
                prove(&[flow, other])
            },
            after: nat_flows(&[(Proven, 1), (Proven, 1)]),
        },
        Scenario {
            id: scenario(case, "C28 neighbouring addresses and ports: each flow has its own entry and port"),
            world: World::service(case, Forward::Nat),
            steps: prove(&neighbours(case)),
            after: nat_flows(&[(Proven, 1); 16]),
        },
        Scenario {
            id: scenario(
                case,
                "D47 a backend that comes back under another number: the old record gives way",
            ),
            world: World::service(case, Forward::Nat),
            steps: {
                let again = Flow { index: 1, ..flow };
                let out = addressed(again.translated(&flow.goes_on(), 1), hop(3));
                vec![
                    nat(&flow, flow.opens(), 1),
                    Step::Configure(Box::new(|image| {
                        let same = image.backends.remove(&1).expect("backend 1");
                        image.backends.insert(3, Backend { hop: hop(3), ..same });
                    })),
                    new_flows_go_to(3),
                    super::sent(Reason::Nat, super::out_of(3), out, flow.goes_on()),
                    nat_reply(&again, again.answered_by(1)),
                ]
            },
            after: nat_flows(&[(New, 3)]).with_nat(answered(case)),
        },
        Scenario {
            id: scenario(
                case,
                "C31 C32 another CPU is just writing the flow's record: better drop than two ports",
            ),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                Step::Disturb(|memory| {
                    memory.change_nat(|entry| Entry::new(entry.tag(), Proven, entry.tick(), BEING_WRITTEN));
                }),
                dropped(flow.opens(), Reason::NatBusy),
            ],
            after: After { flows: vec![(New, 1)], nat: vec![(Proven, BEING_WRITTEN)], ..nothing() },
        },
    ]
}

/// For TCP over both families.
pub(super) fn tcp_scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    vec![
        Scenario {
            id: scenario(case, "a SYN|ACK proves nothing: it answers a forged SYN too"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.accepted_by(1)),
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.accepted_by(1)),
            ],
            after: nat_flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "C33 FIN and RST are delivered in both directions, also when they come late"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat_reply(&flow, flow.from_backend(1, flag::FIN | flag::ACK, b"")),
                nat(&flow, flow.goes_on(), 1),
                nat(&flow, flow.ends(), 1),
                Step::Later(CLOSING_IDLE),
                nat_reply(&flow, flow.from_backend(1, flag::FIN | flag::ACK, b"")),
                nat(&flow, flow.resets(), 1),
                nat_reply(&flow, flow.from_backend(1, flag::RST, b"")),
            ],
            after: nat_flows(&[(Closing, 1)]),
        },
        Scenario {
            id: scenario(
                case,
                "C36 NAT full: a reset, until a flow that its backend has ended gives its port",
            ),
            world: two_groups(case),
            steps: {
                let flows = flows_with_groups(case, 17);
                steps(
                    prove(&flows[..16]),
                    [
                        // The client has ended its own direction only.
                        nat(&flows[3], flows[3].ends(), 1),
                        refused(case, flows[16].opens(), Reason::NatFull),
                        nat_reply(&flows[3], flows[3].answered_by(1)),
                        nat_reply(&flows[3], flows[3].from_backend(1, flag::FIN | flag::ACK, b"")),
                        nat(&flows[16], flows[16].opens(), 1),
                    ],
                )
            },
            // The ended flow's entry is still there; its record is not.
            after: After {
                flows: [vec![(Proven, 1); 15], vec![(Closing, 1), (New, 1)]].concat(),
                nat: [vec![(Proven, 1); 15], vec![(New, 1)]].concat(),
                ..nothing()
            },
        },
    ]
}

/// For UDP over both families.
pub(super) fn udp_scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    vec![
        Scenario {
            id: scenario(case, "A16 a UDP checksum that comes out as 0 is sent as all ones"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.from_backend(1, 0, &sums_up_to_zero(&flow))),
            ],
            after: nat_flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "an answer two ticks after the flow began proves it, and none before"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                Step::Later(1),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                Step::Later(1),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.goes_on(), 1),
            ],
            after: nat_flows(&[(Proven, 1)]),
        },
        Scenario {
            id: scenario(case, "NAT full of flows that were answered at once and never again: one gives way"),
            world: two_groups(case),
            steps: flows_with_groups(case, 17)
                .iter()
                .flat_map(|flow| [nat(flow, flow.opens(), 1), nat_reply(flow, flow.answered_by(1))])
                .collect(),
            after: After { flows: vec![(New, 1); 17], nat: vec![(New, 1); 16], ..nothing() },
        },
        Scenario {
            id: scenario(case, "NAT full of flows that no backend has answered: one of them gives way"),
            world: two_groups(case),
            steps: flows_with_groups(case, 17).iter().map(|flow| nat(flow, flow.opens(), 1)).collect(),
            after: After { flows: vec![(New, 1); 17], nat: vec![(New, 1); 16], ..nothing() },
        },
        Scenario {
            id: scenario(
                case,
                "NAT full: a flow that was idle for longer than its service allows gives its port",
            ),
            world: two_groups(case),
            steps: gives_its_port_after(case, UDP_IDLE),
            after: After { idle: Some(UDP_IDLE), ..nat_flows(&[(New, 1)]) },
        },
        Scenario {
            id: scenario(case, "NAT full: a flow of a service that allows longer keeps its port for longer"),
            world: two_groups(case).with(|image| {
                each_service(image, |service| service.idle = TCP_IDLE);
                backend(image, 1).idle = TCP_IDLE;
            }),
            steps: gives_its_port_after(case, TCP_IDLE),
            after: After { idle: Some(UDP_IDLE), ..nat_flows(&[(New, 1)]) },
        },
        Scenario {
            id: scenario(case, "an answer to a flow whose record is gone is the node's own"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                Step::Disturb(|memory| memory.clear_nat()),
                passed(flow.answered_by(1), Reason::NotService),
            ],
            after: super::flows(&[(New, 1)]),
        },
    ]
}

/// The backend number in the word of a record that is being written.
const BEING_WRITTEN: u16 = 0;

/// What is counted of a TCP service's new flows; nothing of UDP's.
fn of_tcp(case: Case, opened: u64, answered: u64) -> Openings {
    if case.udp { Openings::default() } else { Openings { opened, answered } }
}

/// Each flow opens, is answered, in UDP two ticks later too, and goes on: so it is proven. All that the flows have in
/// common would show.
fn both_ways(flows: &[Flow], sent: impl Fn(&Packet, &Flow) -> Step) -> Vec<Step> {
    let mut all = Vec::new();
    all.extend(flows.iter().map(|flow| sent(&flow.opens(), flow)));
    all.extend(flows.iter().map(|flow| nat_reply(flow, flow.accepted_by(1))));
    all.extend(flows.iter().map(|flow| nat_reply(flow, flow.answered_by(1))));
    if flows.iter().any(|flow| flow.case.udp) {
        all.push(Step::Later(2));
        all.extend(flows.iter().map(|flow| nat_reply(flow, flow.answered_by(1))));
    }
    all.extend(flows.iter().map(|flow| sent(&flow.goes_on(), flow)));
    all
}

/// The same with backend 1.
fn prove(flows: &[Flow]) -> Vec<Step> {
    both_ways(flows, |packet, flow| nat(flow, packet.clone(), 1))
}

/// Four neighbouring ports of each of four neighbouring clients.
fn neighbours(case: Case) -> Vec<Flow> {
    let ends = (0..4).flat_map(|address| (40_000..40_004).map(move |port| (address, port)));
    let flow = |(index, (address, port))| Flow {
        index,
        client: SocketAddr::new(case.client(address), port),
        ..case.flow(0)
    };
    ends.enumerate().map(flow).collect()
}

/// Sixteen NAT ports in all.
fn two_groups(case: Case) -> World {
    World::service(case, Forward::Nat).with(|image| set_nat_groups(settings_of(image), 2))
}

/// Flows that look first into the first, then into the second of two groups.
fn flows_with_groups(case: Case, count: usize) -> Vec<Flow> {
    let mut settings = settings();
    set_nat_groups(&mut settings, 2);
    let fitting = flows_in_groups(case, &settings, [0, 1]);
    (0..count).zip(fitting).map(|(index, flow)| Flow { index, ..flow }).collect()
}

/// Flows of one client that may have their ports in these groups.
fn flows_in_groups(case: Case, settings: &Settings, groups: [u16; 2]) -> impl Iterator<Item = Flow> {
    let flow = move |port| Flow { client: SocketAddr::new(case.client(0), port), ..case.flow(0) };
    (1_024..).map(flow).filter(move |flow| nat_groups(settings, &flow.opens()) == groups)
}

/// Two NAT source addresses with sixteen ports each: groups 0 and 1, and groups 2 and 3.
fn two_sources(case: Case, settings: &mut Settings) {
    settings.nat_sources[usize::from(case.v6)] = nat_sources(&[case.nat(), case.other_nat()]);
    set_nat_groups(settings, 2);
}

/// A payload with which the checksum of a reply, as the client gets it, is zero: the checksum that it
/// would have otherwise.
fn sums_up_to_zero(flow: &Flow) -> Vec<u8> {
    let checksum_of = |payload: &[u8]| {
        let bytes = flow.translated_back(&flow.from_backend(1, 0, payload)).bytes(&NatPorts::new());
        let checksum = bytes.len() - payload.len() - 2;
        [bytes[checksum], bytes[checksum + 1]]
    };
    let payload = checksum_of(&[0, 0]).to_vec();
    assert_eq!(checksum_of(&payload), [0xff, 0xff], "etherparse agrees");
    payload
}

/// Sixteen proven flows fill all records; another finds room only when they were idle for longer than this.
fn gives_its_port_after(case: Case, idle: u16) -> Vec<Step> {
    let flows = flows_with_groups(case, 17);
    steps(
        prove(&flows[..16]),
        [
            Step::Later(idle),
            refused(case, flows[16].opens(), Reason::NatFull),
            Step::Later(1),
            nat(&flows[16], flows[16].opens(), 1),
            // And its answers find nobody any more.
            nat_reply(&flows[16], flows[16].answered_by(1)),
        ],
    )
}
