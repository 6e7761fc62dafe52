//! VLAN tags, IPv4 options, IPv6 extension headers, and frames of several buffers.

use lb_common::{
    Forward, Reason,
    State::{New, Proven},
};

use super::{
    Scenario, Step, answered, direct, dropped, flows, leave_alone::arp, nat, nat_flows, nat_reply, nothing,
    out_of, passed, scenario, sent,
};
use crate::{
    packet::{Ip, NatPorts, Packet, flag},
    scenario::{Frame, Verdict},
    world::{Case, Flow, PORT, World, addressed, backend, hop},
};

/// A customer's tag and a provider's.
const TAG: u16 = 0x8100;
const PROVIDER_TAG: u16 = 0x88a8;

/// For every family and protocol.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let mut all = tags(case);
    all.extend(unusual_headers(case));
    all.extend(large_frames(case));
    all
}

fn tagged(packet: Packet, tags: &[(u16, u16)]) -> Packet {
    Packet { tags: tags.to_vec(), ..packet }
}

/// As [`nat`], but the frame leaves with these tags.
fn nat_leaving(flow: &Flow, packet: Packet, backend: u16, tags: &[(u16, u16)]) -> Step {
    sent(Reason::Nat, out_of(backend), tagged(flow.translated(&packet, backend), tags), packet)
}

/// As [`nat_reply`], but the frame leaves with these tags.
fn reply_leaving(flow: &Flow, packet: Packet, tags: &[(u16, u16)]) -> Step {
    sent(Reason::NatReply, Verdict::Tx, tagged(flow.translated_back(&packet), tags), packet)
}

fn tags(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let one = [(TAG, 5)];
    let two = [(PROVIDER_TAG, 7), (TAG, 5)];
    let with_priority = [(TAG, 0x6005)];
    let priority_only = [(TAG, 0x6000)];
    let scenario = |what: &str, forward, steps, after| Scenario {
        id: scenario(case, what),
        world: World::service(case, forward),
        steps,
        after,
    };
    let at_front = |mut scenario: Scenario| {
        scenario.world = scenario.world.with_slots(1, 2);
        scenario
    };
    vec![
        scenario(
            "A14 H72 a tagged frame leaves by another interface without its tag, and the answer gets it back",
            Forward::Nat,
            vec![
                nat_leaving(&flow, tagged(flow.opens(), &one), 1, &[]),
                Step::Later(2),
                reply_leaving(&flow, flow.answered_by(1), &one),
                // Not the backends', but the client's VLAN.
                reply_leaving(&flow, tagged(flow.answered_by(1), &one), &one),
                reply_leaving(&flow, tagged(flow.answered_by(1), &[(TAG, 6)]), &one),
                reply_leaving(&flow, tagged(flow.answered_by(1), &two[..1]), &one),
                reply_leaving(&flow, tagged(flow.answered_by(1), &[(PROVIDER_TAG, 7), (TAG, 6)]), &one),
                // The priority is nobody's to keep.
                nat_leaving(&flow, tagged(flow.goes_on(), &with_priority), 1, &[]),
                reply_leaving(&flow, flow.answered_by(1), &one),
                // The client has moved.
                nat_leaving(&flow, tagged(flow.goes_on(), &[(TAG, 4_094)]), 1, &[]),
                reply_leaving(&flow, flow.answered_by(1), &[(TAG, 4_094)]),
                // Where answers go is looked at once a tick.
                nat(&flow, flow.goes_on(), 1),
                reply_leaving(&flow, flow.answered_by(1), &[(TAG, 4_094)]),
                Step::Later(1),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                reply_leaving(&flow, tagged(flow.answered_by(1), &one), &[]),
                reply_leaving(&flow, tagged(flow.answered_by(1), &two), &[]),
            ],
            nat_flows(&[(Proven, 1)]),
        ),
        at_front(scenario(
            "A14 H72 a tagged frame leaves by the interface it came in on with its tags",
            Forward::Nat,
            vec![
                nat(&flow, tagged(flow.opens(), &with_priority), 2),
                nat_reply(&flow, tagged(flow.answered_by(2), &with_priority)),
                reply_leaving(&flow, flow.answered_by(2), &one),
                nat(&flow, tagged(flow.goes_on(), &two), 2),
                nat_reply(&flow, tagged(flow.answered_by(2), &two)),
                nat(&flow, tagged(flow.goes_on(), &priority_only), 2),
                nat_reply(&flow, tagged(flow.answered_by(2), &priority_only)),
                nat_reply(&flow, flow.answered_by(2)),
            ],
            nat_flows(&[(answered(case), 2)]),
        )),
        scenario(
            "A14 two tags cannot be given back by another interface",
            Forward::Nat,
            vec![dropped(tagged(flow.opens(), &two), Reason::TwoTags)],
            nothing(),
        ),
        scenario(
            "A14 H72 direct return by another interface: no tags",
            Forward::DsrL2,
            [&one[..], &two, &priority_only]
                .map(|tags| {
                    let out = addressed(flow.opens(), hop(1));
                    sent(Reason::DsrL2, out_of(1), out, tagged(flow.opens(), tags))
                })
                .into(),
            flows(&[(New, 1)]),
        ),
        at_front(scenario(
            "A14 H72 direct return by the same interface: the same tags",
            Forward::DsrL2,
            [&one[..], &two, &with_priority, &priority_only]
                .map(|tags| direct(tagged(flow.opens(), tags), 2))
                .into(),
            flows(&[(New, 2)]),
        )),
        Scenario {
            world: World::service(case, Forward::Nat)
                .with(|image| backend(image, 1).hop = Default::default()),
            ..scenario(
                "A14 without a next hop, the host's stack gets the frame with its tag",
                Forward::Nat,
                vec![super::via_kernel(
                    tagged(flow.opens(), &one),
                    flow.translated(&tagged(flow.opens(), &one), 1),
                )],
                nat_flows(&[(New, 1)]),
            )
        },
        scenario(
            "A14 H68 tagged frames that are for no service pass as they are",
            Forward::Nat,
            {
                let elsewhere = elsewhere(case);
                let three = [two[0], two[0], two[1]];
                vec![
                    passed(tagged(elsewhere.clone(), &one), Reason::NotService),
                    passed(tagged(elsewhere.clone(), &two), Reason::NotService),
                    passed(tagged(flow.answered_by_nobody(), &one), Reason::NotService),
                    passed(tagged(flow.opens(), &three), Reason::NotIp),
                    passed(tagged_arp(), Reason::NotIp),
                ]
            },
            nothing(),
        ),
    ]
}

/// A packet for another port of the VIP.
fn elsewhere(case: Case) -> Packet {
    let flow = case.flow(0);
    Flow { service: (case.vip(), PORT + 1).into(), ..flow }.opens()
}

impl Flow {
    /// A packet to the NAT address that no flow waits for.
    fn answered_by_nobody(&self) -> Packet {
        Flow { service: (self.case.nat(), 20_000).into(), ..*self }.opens()
    }
}

fn tagged_arp() -> Frame {
    let Frame::Bytes(mut bytes) = arp() else { unreachable!("a frame of bytes") };
    bytes.splice(12..12, [0x81, 0, 0, 5]);
    Frame::Bytes(bytes)
}

/// An extension header of this many bytes.
fn extension(number: u8, length: usize) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; length];
    bytes[1] = match number {
        51 => length / 4 - 2,
        _ => length / 8 - 1,
    } as u8;
    (number, bytes)
}

fn with(ip: &Ip, packet: Packet) -> Packet {
    Packet { ip: ip.clone(), ..packet }
}

fn extended(extensions: &[(u8, usize)]) -> Ip {
    let extensions = extensions.iter().map(|(number, length)| extension(*number, *length)).collect();
    Ip { extensions, ..Ip::default() }
}

/// Headers that are followed, and what names them.
fn followed(case: Case) -> Vec<(String, Ip)> {
    if case.v6 {
        let chains: [&[(u8, usize)]; 10] = [
            &[(0, 8)],
            &[(60, 8)],
            &[(43, 24)],
            &[(51, 24)],
            &[(135, 8)],
            &[(139, 40)],
            &[(140, 8)],
            &[(0, 16), (60, 8), (43, 40), (51, 16), (60, 24)],
            &[(60, 8); 6],
            // As far as a TCP or UDP header may be away.
            &[(60, 448)],
        ];
        chains.map(|chain| (format!("A11 IPv6 extension headers {chain:?}"), extended(chain))).into()
    } else {
        let options = |bytes: Vec<u8>| Ip { options: bytes, ..Ip::default() };
        vec![
            ("A9 one word of IPv4 options".to_owned(), options(vec![1, 1, 1, 0])),
            (
                "A9 IPv4 options, as many as there can be".to_owned(),
                options([vec![7, 39, 4], vec![0; 37]].concat()),
            ),
        ]
    }
}

fn unusual_headers(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let mut all = Vec::new();
    for (what, ip) in followed(case) {
        let packet = |packet| with(&ip, packet);
        all.push(Scenario {
            id: scenario(case, &format!("{what} are carried along by NAT")),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, packet(flow.opens()), 1),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, packet(flow.answered_by(1))),
                nat_reply(&flow, flow.answered_by(1)),
                nat_leaving(&flow, tagged(packet(flow.goes_on()), &[(TAG, 5)]), 1, &[]),
                reply_leaving(&flow, packet(flow.answered_by(1)), &[(TAG, 5)]),
                passed(packet(elsewhere(case)), Reason::NotService),
            ],
            after: nat_flows(&[(answered(case), 1)]),
        });
        all.push(Scenario {
            id: scenario(case, &format!("{what} are carried along by direct return")),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(packet(flow.opens()), 1),
                direct(tagged(packet(flow.opens()), &[]), 1),
                passed(packet(elsewhere(case)), Reason::NotService),
            ],
            after: flows(&[(New, 1)]),
        });
    }
    if case.v6 {
        all.push(not_followed(case));
    }
    all
}

/// Extension headers beyond which nothing is taken for TCP or UDP.
fn not_followed(case: Case) -> Scenario {
    let flow = case.flow(0);
    let mut segments_left = extended(&[(43, 24)]);
    segments_left.extensions[0].1[3] = 1;
    let far_away = extended(&[(60, 464)]);
    let chains =
        [extended(&[(60, 8); 7]), far_away, extended(&[(50, 8)]), extended(&[(59, 8)]), segments_left];
    let mut steps: Vec<Step> =
        chains.iter().map(|ip| passed(with(ip, flow.opens()), Reason::NotTcpUdp)).collect();
    // The chain says that it is longer than the packet.
    let mut too_long = with(&extended(&[(60, 8)]), flow.opens()).bytes(&NatPorts::new());
    too_long[14 + 40 + 1] = 30;
    steps.push(passed(Frame::Bytes(too_long), Reason::Malformed));
    Scenario {
        id: scenario(case, "A11 IPv6 extension headers that hide what follows pass as they are"),
        world: World::service(case, Forward::Nat),
        steps,
        after: nothing(),
    }
}

/// 6,000 bytes do not fit into one page: the kernel hands such frames over in several buffers.
fn large_frames(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let large: Vec<u8> = (0..6_000).map(|i| (i % 251) as u8).collect();
    let there = flow.from_client(flag::ACK, &large);
    let back = flow.from_backend(1, flag::PSH | flag::ACK, &large);
    let world = World::service(case, Forward::Nat);
    vec![
        Scenario {
            id: scenario(case, "A17 frames of several buffers by NAT"),
            world: world.clone(),
            steps: vec![
                nat(&flow, there.clone(), 1),
                nat_reply(&flow, back.clone()),
                nat_leaving(&flow, tagged(there.clone(), &[(TAG, 5)]), 1, &[]),
                reply_leaving(&flow, back, &[(TAG, 5)]),
            ],
            after: nat_flows(&[(answered(case), 1)]),
        },
        Scenario {
            id: scenario(case, "A17 frames of several buffers by direct return"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![direct(there.clone(), 1)],
            after: flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "A17 frames of several buffers for no service"),
            world,
            steps: vec![passed(
                Flow { service: (case.vip(), PORT + 1).into(), ..flow }.from_client(flag::ACK, &large),
                Reason::NotService,
            )],
            after: nothing(),
        },
    ]
}
