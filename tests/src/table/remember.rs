//! The flow table: what is remembered of a flow, and for how long.

use std::net::SocketAddr;

use lb_common::{
    Backend, Forward, Reason,
    State::{Closing, New, Proven},
};

use super::{
    After, Scenario, Sent, Step, answered, direct, flows, nat, nat_flows, nat_reply, new_flows_go_to,
    nothing, passed, scenario, sent_with,
};
use crate::{
    packet::flag,
    world::{CLOSING_IDLE, Case, Flow, UDP_IDLE, World, backend, each_service},
};

/// For every family and protocol.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let again = Flow { index: 1, ..flow };
    let idle = case.idle();
    vec![
        Scenario {
            id: scenario(case, "direct return: a flow is proven by a packet in a later tick"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                direct(flow.goes_on(), 1),
                direct(flow.goes_on(), 1),
                Step::Later(1),
                direct(flow.goes_on(), 1),
            ],
            after: After {
                sent: vec![(
                    1,
                    sent_with(&[flow.opens(), flow.goes_on(), flow.goes_on(), flow.goes_on()], 1),
                )],
                ..flows(&[(Proven, 1)])
            },
        },
        Scenario {
            id: scenario(case, "NAT: a flow is not proven by itself, however long it goes on"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                Step::Later(1),
                nat(&flow, flow.goes_on(), 1),
                Step::Later(1),
                nat(&flow, flow.goes_on(), 1),
            ],
            after: nat_flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "a change of weights moves no known flow, by direct return"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                new_flows_go_to(2),
                direct(flow.goes_on(), 1),
                Step::Later(2),
                direct(flow.goes_on(), 1),
            ],
            after: flows(&[(Proven, 1)]),
        },
        Scenario {
            id: scenario(case, "a change of weights moves no known flow, by NAT"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                new_flows_go_to(2),
                nat(&flow, flow.goes_on(), 1),
                Step::Later(2),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
            ],
            after: After {
                // Answers are not counted to the backend.
                sent: vec![(1, sent_with(&[flow.opens(), flow.goes_on(), flow.goes_on()], 1))],
                ..nat_flows(&[(answered(case), 1)]).with_nat(Proven)
            },
        },
        Scenario {
            id: scenario(case, "a known flow outlives its service's last slot"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![direct(flow.opens(), 1), new_flows_go_to(0), direct(flow.goes_on(), 1)],
            after: flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "D45 a flow whose backend now belongs to another service is a new one"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                Step::Configure(Box::new(|image| backend(image, 1).service = 2)),
                new_flows_go_to(2),
                direct(flow.goes_on(), 2),
            ],
            after: After {
                sent: vec![(1, sent_with(&[flow.opens()], 1)), (2, sent_with(&[flow.goes_on()], 1))],
                ..flows(&[(New, 2)])
            },
        },
        Scenario {
            id: scenario(case, "C33 C37 flow and NAT record live until the idle limit, and end together"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.goes_on(), 1),
                new_flows_go_to(2),
                Step::Later(idle),
                nat(&flow, flow.goes_on(), 1),
                Step::Later(idle + 1),
                nat(&again, flow.goes_on(), 2),
            ],
            after: After { idle: Some(idle), ..nat_flows(&[(New, 2)]) },
        },
        Scenario {
            // Its record is still there: others are judged by the longest limit of all.
            id: scenario(case, "C37 a flow that was idle for longer than its service allows comes back"),
            world: World::service(case, Forward::Nat)
                .with(|image| each_service(image, |service| service.idle = UDP_IDLE)),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                Step::Later(UDP_IDLE + 1),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.goes_on(), 1),
            ],
            after: After {
                idle: Some(UDP_IDLE),
                // It begins again.
                sent: vec![(
                    1,
                    Sent { begun: 2, ..sent_with(&[flow.opens(), flow.goes_on(), flow.goes_on()], 1) },
                )],
                ..nat_flows(&[(answered(case), 1)])
            },
        },
        Scenario {
            id: scenario(case, "C37 each service has an idle limit of its own"),
            world: World::service(case, Forward::Nat)
                .with_service(case, SocketAddr::new(case.vip(), 443), 2, Forward::Nat)
                .with_backend(case, 3, 2)
                .with_slots(2, 3)
                .with(|image| each_service(image, |service| service.idle *= service.number as u16)),
            steps: {
                let other = Flow { index: 2, service: SocketAddr::new(case.vip(), 443), ..flow };
                vec![
                    nat(&flow, flow.opens(), 1),
                    nat(&other, other.opens(), 3),
                    new_flows_go_to(2),
                    Step::Later(idle + 1),
                    nat(&other, other.goes_on(), 3),
                    nat_reply(&other, other.answered_by(3)),
                    nat(&again, flow.goes_on(), 2),
                ]
            },
            after: After {
                idle: Some(idle),
                nat: vec![(Proven, 3), (New, 2)],
                ..flows(&[(New, 2), (New, 3)])
            },
        },
        Scenario {
            id: scenario(
                case,
                "C37 a connection that was opened and not used yet is remembered as long as any open one",
            ),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                new_flows_go_to(2),
                Step::Later(CLOSING_IDLE + 1),
                direct(flow.goes_on(), 1),
            ],
            after: flows(&[(Proven, 1)]),
        },
        Scenario {
            id: scenario(case, "C33 the flow's entry is lost: its NAT record, found by Maglev, heals it"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                Step::Disturb(|memory| memory.clear_flows()),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.ends(), 1),
                nat_reply(&flow, flow.from_backend(1, flag::FIN | flag::ACK, b"")),
            ],
            after: nat_flows(&[(if case.udp { New } else { Closing }, 1)]),
        },
        Scenario {
            id: scenario(case, "C33 the NAT record is lost: FIN and RST still go out, by a record made anew"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.goes_on(), 1),
                new_flows_go_to(2),
                Step::Disturb(|memory| memory.clear_nat()),
                passed(flow.answered_by(1), Reason::NotService),
                nat(&again, flow.ends(), 1),
                nat(&again, flow.resets(), 1),
                nat_reply(&again, flow_answer(&again)),
            ],
            after: nat_flows(&[(if case.udp { New } else { Closing }, 1)]),
        },
        Scenario {
            id: scenario(case, "C39 a flow that moves to another CPU keeps its backend and port"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                new_flows_go_to(2),
                Step::OnCpu(1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.goes_on(), 1),
                Step::OnCpu(0),
                nat(&flow, flow.goes_on(), 1),
            ],
            after: nat_flows(&[(answered(case), 1)]),
        },
    ]
}

/// For TCP over both families.
pub(super) fn tcp_scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    vec![
        Scenario {
            id: scenario(case, "C29 a SYN sent again, by direct return: same backend, no other entry"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                new_flows_go_to(2),
                direct(flow.opens(), 1),
                Step::Later(1),
                direct(flow.opens(), 1),
            ],
            after: flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "C29 a SYN sent again, by NAT: same backend and port, no other entry"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                new_flows_go_to(2),
                nat(&flow, flow.opens(), 1),
                Step::Later(1),
                nat(&flow, flow.opens(), 1),
            ],
            after: nat_flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "C30 a stray SYN|ACK never makes a flow"),
            world: World::service(case, Forward::Nat),
            steps: vec![passed(flow.from_client(flag::SYN | flag::ACK, b""), Reason::StraySynAck)],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "C34 a client's port used again after FIN: a fresh flow, to the same backend"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.ends(), 1),
                nat_reply(&flow, flow.from_backend(1, flag::FIN | flag::ACK, b"")),
                nat(&flow, flow.opens(), 1),
            ],
            after: nat_flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "a connection under way is picked up without its SYN, but not as proven"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![direct(flow.goes_on(), 1)],
            after: flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(case, "a FIN or RST of no known flow reaches a backend and is forgotten soon"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![direct(flow.resets(), 1)],
            after: flows(&[(Closing, 1)]),
        },
        Scenario {
            id: scenario(case, "D44 the backend is down: a connection under way stays, a SYN finds another"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                backend_1_is_down(),
                new_flows_go_to(2),
                direct(flow.goes_on(), 1),
                direct(flow.opens(), 2),
                direct(flow.goes_on(), 2),
            ],
            after: flows(&[(New, 2)]),
        },
        Scenario {
            id: scenario(
                case,
                "D42 the backend is drained: what is open stays, what opens where another ended does not",
            ),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                backend_1_is_drained(),
                new_flows_go_to(2),
                direct(flow.opens(), 1),
                direct(flow.goes_on(), 1),
                direct(flow.resets(), 1),
                direct(flow.opens(), 2),
                direct(flow.goes_on(), 2),
            ],
            after: flows(&[(New, 2)]),
        },
        Scenario {
            id: scenario(case, "D42 likewise by NAT"),
            world: World::service(case, Forward::Nat),
            steps: {
                let again = Flow { index: 1, ..flow };
                vec![
                    nat(&flow, flow.opens(), 1),
                    nat_reply(&flow, flow.answered_by(1)),
                    backend_1_is_drained(),
                    new_flows_go_to(2),
                    nat(&flow, flow.goes_on(), 1),
                    nat(&flow, flow.resets(), 1),
                    nat(&again, flow.opens(), 2),
                ]
            },
            after: After { nat: vec![(Closing, 1), (New, 2)], ..flows(&[(New, 2)]) },
        },
        Scenario {
            id: scenario(case, "D44 likewise by NAT"),
            world: World::service(case, Forward::Nat),
            steps: {
                let again = Flow { index: 1, ..flow };
                vec![
                    nat(&flow, flow.opens(), 1),
                    backend_1_is_down(),
                    new_flows_go_to(2),
                    nat(&flow, flow.goes_on(), 1),
                    nat_reply(&flow, flow.answered_by(1)),
                    nat(&again, flow.opens(), 2),
                    nat_reply(&again, again.answered_by(2)),
                ]
            },
            after: After { nat: vec![(Proven, 1), (Proven, 2)], ..flows(&[(New, 2)]) },
        },
    ]
}

/// For UDP over both families.
pub(super) fn udp_scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    vec![
        Scenario {
            id: scenario(case, "C40 UDP state is read again after it was stored, by direct return"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                new_flows_go_to(2),
                direct(flow.goes_on(), 1),
                Step::Later(1),
                direct(flow.goes_on(), 1),
            ],
            after: flows(&[(Proven, 1)]),
        },
        Scenario {
            id: scenario(case, "C40 UDP state is read again after it was stored, by NAT"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                new_flows_go_to(2),
                nat_reply(&flow, flow.answered_by(1)),
                Step::Later(2),
                nat(&flow, flow.goes_on(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.goes_on(), 1),
            ],
            after: nat_flows(&[(Proven, 1)]),
        },
        Scenario {
            id: scenario(case, "D43 the backend is down: UDP from a fixed port finds another"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                Step::Later(1),
                direct(flow.goes_on(), 1),
                backend_1_is_down(),
                new_flows_go_to(2),
                direct(flow.goes_on(), 2),
            ],
            after: flows(&[(New, 2)]),
        },
    ]
}

fn backend_1_is_drained() -> Step {
    Step::Configure(Box::new(|image| backend(image, 1).flags = Backend::UP))
}

fn backend_1_is_down() -> Step {
    Step::Configure(Box::new(|image| backend(image, 1).flags = 0))
}

/// An answer that is data in UDP, and the last packet in TCP.
fn flow_answer(flow: &Flow) -> crate::packet::Packet {
    flow.from_backend(1, flag::FIN | flag::ACK, b"")
}
