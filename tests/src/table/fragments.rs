//! Fragments: the first one has the ports, and the others follow it.

use lb_common::{Forward, Reason, State::New};

use super::{
    Scenario, Step, answered, direct, dropped, flows, nat, nat_flows, nat_reply, nothing, out_of, passed,
    scenario, sent, sent_with, via_kernel,
};
use crate::{
    packet::{Ip, Packet, flag},
    scenario::{After, Verdict},
    world::{Case, Flow, PORT, World, backend},
};

const PAYLOAD: [u8; 100] = [0x5a; 100];

/// A client's packet in three parts.
fn there(flow: &Flow, id: u32) -> [Packet; 3] {
    parts(&flow.from_client(flag::ACK, &PAYLOAD), id)
}

fn back(flow: &Flow, id: u32) -> [Packet; 3] {
    parts(&flow.from_backend(1, flag::PSH | flag::ACK, &PAYLOAD), id)
}

fn parts(packet: &Packet, id: u32) -> [Packet; 3] {
    packet.cut(id, &[40, 80]).try_into().unwrap()
}

/// For every family and protocol.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let [first, middle, last] = there(&flow, 1);
    let by_nat = |what: &str, steps, after| Scenario {
        id: scenario(case, what),
        world: World::service(case, Forward::Nat),
        steps,
        after,
    };
    let proven = || nat_flows(&[(New, 1)]).with_nat(answered(case));
    let mut all = vec![
        by_nat(
            "A10 fragments follow their first one by NAT, there and back",
            steps_by_nat(&flow),
            After { sent: vec![(1, sent_with(&there(&flow, 1), 1))], ..proven() },
        ),
        by_nat(
            "A10 a fragment that comes before the first is dropped, and one of another packet",
            vec![
                dropped(middle.clone(), Reason::FragmentEarly),
                nat(&flow, first.clone(), 1),
                nat(&flow, last.clone(), 1),
                dropped(there(&flow, 2)[1].clone(), Reason::FragmentEarly),
                nat(&flow, middle.clone(), 1),
            ],
            nat_flows(&[(New, 1)]),
        ),
        by_nat(
            "A10 fragments of an answer that come before the first are dropped",
            vec![
                nat(&flow, flow.opens(), 1),
                dropped(back(&flow, 1)[1].clone(), Reason::FragmentEarly),
                nat_reply(&flow, back(&flow, 1)[0].clone()),
                nat_reply(&flow, back(&flow, 1)[1].clone()),
            ],
            proven(),
        ),
        by_nat(
            "A10 a first fragment is forgotten after 30 seconds",
            vec![
                nat(&flow, first.clone(), 1),
                // 30.06 seconds at most.
                Step::Later(28),
                nat(&flow, middle.clone(), 1),
                Step::Later(1),
                dropped(last.clone(), Reason::FragmentEarly),
            ],
            nat_flows(&[(New, 1)]),
        ),
        by_nat(
            "A10 a later fragment has hops of its own",
            vec![
                nat(&flow, first.clone(), 1),
                dropped(Packet { hops: 1, ..middle.clone() }, Reason::Unanswered),
            ],
            nat_flows(&[(New, 1)]),
        ),
        by_nat(
            "A10 A14 fragments in a VLAN, there and back",
            vec![
                untagged_by_nat(&flow, first.clone()),
                untagged_by_nat(&flow, middle.clone()),
                tagged_back(&flow, back(&flow, 1)[0].clone()),
                tagged_back(&flow, back(&flow, 1)[1].clone()),
            ],
            proven(),
        ),
        Scenario {
            world: World::service(case, Forward::Nat)
                .with(|image| backend(image, 1).hop = Default::default()),
            ..by_nat(
                "A10 without a next hop, the host's stack sends all fragments on",
                vec![
                    via_kernel(first.clone(), flow.translated(&first, 1)),
                    via_kernel(middle.clone(), flow.translated(&middle, 1)),
                ],
                nat_flows(&[(New, 1)]),
            )
        },
        Scenario {
            world: World::service(case, Forward::DsrL2),
            ..by_nat(
                "A10 fragments follow their first one by direct return",
                vec![
                    dropped(middle.clone(), Reason::FragmentEarly),
                    direct(first.clone(), 1),
                    direct(middle.clone(), 1),
                    direct(Packet { hops: 1, ..last.clone() }, 1),
                ],
                flows(&[(New, 1)]),
            )
        },
        Scenario {
            world: World::service(case, Forward::Nat).with_slots(1, 0),
            ..by_nat(
                "A10 without a backend, no fragment is answered",
                vec![
                    dropped(first.clone(), Reason::Unanswered),
                    dropped(middle.clone(), Reason::FragmentEarly),
                ],
                nothing(),
            )
        },
        by_nat(
            "A10 H68 fragments that are for no service pass as they are",
            for_no_service(&flow),
            nothing(),
        ),
    ];
    if !case.udp {
        all.push(by_nat(
            "A10 a first fragment without the whole TCP header decides nothing",
            {
                let cut = flow.from_client(flag::ACK, &PAYLOAD).cut(1, &[16]);
                vec![
                    passed(cut[0].clone(), Reason::Malformed),
                    dropped(cut[1].clone(), Reason::FragmentEarly),
                ]
            },
            nothing(),
        ));
    }
    if case.v6 {
        let whole = flow.opens().cut(1, &[]).swap_remove(0);
        all.push(by_nat(
            "A10 A11 a packet with a fragment header, but in one piece, is whole",
            vec![nat(&flow, whole, 1), dropped(middle, Reason::FragmentEarly)],
            nat_flows(&[(New, 1)]),
        ));
        let ip = Ip { extensions: vec![(0, vec![0; 8]), (60, vec![0; 8])], ..Ip::default() };
        let extended = Packet { ip, ..flow.from_client(flag::ACK, &PAYLOAD) };
        let [first, middle, last] = parts(&extended, 9);
        all.push(by_nat(
            "A10 A11 fragments with other extension headers",
            vec![nat(&flow, first, 1), nat(&flow, middle, 1), nat(&flow, last, 1)],
            nat_flows(&[(New, 1)]),
        ));
    }
    all
}

fn steps_by_nat(flow: &Flow) -> Vec<Step> {
    let there = there(flow, 1).map(|part| nat(flow, part, 1));
    let back = back(flow, 0xfedc).map(|part| nat_reply(flow, part));
    there.into_iter().chain(back).collect()
}

fn tag(packet: Packet) -> Packet {
    Packet { tags: vec![(0x8100, 5)], ..packet }
}

fn untagged_by_nat(flow: &Flow, packet: Packet) -> Step {
    sent(Reason::Nat, out_of(1), flow.translated(&packet, 1), tag(packet))
}

fn tagged_back(flow: &Flow, packet: Packet) -> Step {
    sent(Reason::NatReply, Verdict::Tx, tag(flow.translated_back(&packet)), packet)
}

/// To another port of the VIP, to another address, and what is neither TCP nor UDP.
fn for_no_service(flow: &Flow) -> Vec<Step> {
    let case = flow.case;
    let ssh = there(&Flow { service: (case.vip(), PORT + 1).into(), ..*flow }, 1);
    let resolver = there(&Flow { service: (case.nat(), 53).into(), ..*flow }, 2);
    let stranger = there(&Flow { service: (case.other_vip(), PORT).into(), ..*flow }, 3);
    let mut steps = Vec::new();
    for [first, middle, last] in [ssh, resolver] {
        steps.push(passed(first, Reason::NotService));
        steps.push(passed(middle, Reason::Fragment));
        steps.push(passed(last, Reason::Fragment));
    }
    let [first, middle, _] = stranger;
    steps.push(passed(middle.clone(), Reason::Fragment));
    steps.push(passed(first, Reason::NotService));
    steps.push(passed(middle, Reason::Fragment));
    steps
}
