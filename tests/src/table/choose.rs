//! Which backend a flow is given, and which flows are given none: hash inputs, affinity, connection ids,
//! lost backends, limits.

use lb_common::{
    Backend, Forward, QuicKey, Reason, SLOTS, Service,
    State::{Closing, New, Proven},
    flow::scale,
};
use lb_userspace::core::image::Image;

use super::{
    After, Scenario, Step, answered, direct, dropped, flows, nat, nat_flows, nat_reply, new_flows_go_to,
    nothing, passed, refused, scenario,
};
use crate::{
    packet::{Packet, flag},
    world::{Case, Flow, UDP_IDLE, World, backend, each_service, settings, settings_of},
};

/// Ticks for which a client's backend is remembered.
const AFFINITY: u16 = 50;

/// For every family and protocol.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let from_port = |port| Flow { client: (flow.client.ip(), port).into(), ..flow };
    let others = [50_001, 50_002, 50_003].map(from_port);
    let neighbour = Flow { client: (case.client(1), 40_001).into(), ..flow };
    vec![
        Scenario {
            id: scenario(case, "B23 the backend is chosen by the client's address alone"),
            world: World::service(case, Forward::DsrL2)
                .with(|image| each_service(image, |service| service.flags = Service::CLIENT_HASH))
                .with(|image| slot_of_client(image, case, 2)),
            steps: [flow].iter().chain(&others).map(|flow| direct(flow.opens(), 2)).collect(),
            after: flows(&[(New, 2); 4]),
        },
        Scenario {
            id: scenario(case, "B24 a client's next flow goes where its last went"),
            world: with_affinity(case),
            steps: vec![
                direct(flow.opens(), 1),
                new_flows_go_to(2),
                direct(others[0].opens(), 1),
                direct(neighbour.opens(), 2),
                Step::Later(AFFINITY),
                direct(others[1].opens(), 1),
                Step::Later(AFFINITY + 1),
                direct(others[2].opens(), 2),
            ],
            // UDP's flows are older than their own limit by then.
            after: match case.udp {
                true => After { idle: Some(UDP_IDLE), ..flows(&[(New, 1), (New, 2)]) },
                false => flows(&[(New, 1), (New, 1), (New, 1), (New, 2), (New, 2)]),
            },
        },
        Scenario {
            id: scenario(case, "B24 affinity ends with its backend, and a draining backend gets no new flow"),
            world: with_affinity(case),
            steps: vec![
                direct(flow.opens(), 1),
                new_flows_go_to(2),
                Step::Configure(Box::new(|image| backend(image, 1).flags = Backend::UP)),
                direct(others[0].opens(), 2),
                direct(flow.goes_on(), 1),
                Step::Configure(Box::new(|image| backend(image, 1).flags = Backend::UP | Backend::ACCEPTS)),
                direct(others[1].opens(), 2),
                Step::Configure(Box::new(|image| backend(image, 2).flags = Backend::ACCEPTS)),
                new_flows_go_to(1),
                direct(others[2].opens(), 1),
            ],
            after: flows(&[(New, 1), (New, 1), (New, 2), (New, 2)]),
        },
        Scenario {
            id: scenario(case, "C38 above the limit on new flows they are forwarded and not stored"),
            world: World::service(case, Forward::DsrL2).with(|image| settings_of(image).new_per_tick = 0),
            steps: vec![direct(flow.opens(), 1), new_flows_go_to(2), direct(flow.goes_on(), 2)],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "C38 above the limit on new flows NAT works by its record alone"),
            world: World::service(case, Forward::Nat).with(|image| settings_of(image).new_per_tick = 0),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                nat(&flow, flow.goes_on(), 1),
            ],
            after: After { nat: vec![(answered(case), 1)], ..nothing() },
        },
        Scenario {
            id: scenario(case, "F62 the longest prefix decides who is denied"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                Step::Deny(&["198.51.100.0/24", "!198.51.100.8", "2001:db8:100::/48", "!2001:db8:100::8"]),
                dropped(flow.opens(), Reason::Denied),
                direct(neighbour.opens(), 1),
                // To the node itself, not to a service.
                passed(Flow { service: (case.vip(), 22).into(), ..flow }.opens(), Reason::NotService),
                Step::Deny(&["198.51.100.8", "2001:db8:100::8"]),
                direct(flow.opens(), 1),
                dropped(neighbour.goes_on(), Reason::Denied),
                Step::Deny(&[]),
                direct(neighbour.goes_on(), 1),
                // All of the other family.
                Step::Deny(if case.v6 { &["0.0.0.0/0"] } else { &["::/0"] }),
                direct(flow.goes_on(), 1),
            ],
            after: flows(&[(New, 1), (New, 1)]),
        },
        Scenario {
            id: scenario(case, "F62 a source that opens too many flows is refused new ones only"),
            world: World::service(case, Forward::DsrL2).with(|image| {
                each_service(image, |service| (service.source_rate, service.source_burst) = (1, 2));
            }),
            steps: vec![
                direct(flow.opens(), 1),
                direct(others[0].opens(), 1),
                dropped(others[1].opens(), Reason::RateLimited),
                direct(flow.goes_on(), 1),
                // Another source, unless it is of the same IPv6 network.
                match case.v6 {
                    true => dropped(neighbour.opens(), Reason::RateLimited),
                    false => direct(neighbour.opens(), 1),
                },
            ],
            after: flows(&[(New, 1); 3][..if case.v6 { 2 } else { 3 }]),
        },
        Scenario {
            id: scenario(case, "C37 answers alone keep a NAT flow alive"),
            world: World::service(case, Forward::Nat),
            steps: {
                let idle = case.idle();
                vec![
                    nat(&flow, flow.opens(), 1),
                    nat_reply(&flow, flow.answered_by(1)),
                    new_flows_go_to(2),
                    Step::Later(idle),
                    nat_reply(&flow, flow.answered_by(1)),
                    Step::Later(idle),
                    nat_reply(&flow, flow.answered_by(1)),
                    nat(&flow, flow.goes_on(), 1),
                ]
            },
            after: After { idle: Some(case.idle()), ..nat_flows(&[(Proven, 1)]) },
        },
    ]
}

/// For TCP over both families.
pub(super) fn tcp_scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let lost =
        || Step::Configure(Box::new(|image| backend(image, 1).flags = Backend::ACCEPTS | Backend::LOST));
    let neighbours = [50_001, 50_002].map(|port| Flow { client: (flow.client.ip(), port).into(), ..flow });
    vec![
        Scenario {
            id: scenario(case, "F62 a packet within a connection that is not known opens nothing"),
            world: World::service(case, Forward::DsrL2).with(|image| {
                each_service(image, |service| (service.source_rate, service.source_burst) = (1, 1));
            }),
            steps: vec![
                direct(flow.opens(), 1),
                // It came from another node.
                direct(neighbours[0].goes_on(), 1),
                direct(neighbours[0].goes_on(), 1),
                dropped(neighbours[1].opens(), Reason::RateLimited),
                // No connection has such packets.
                dropped(neighbours[1].from_client(flag::SYN | flag::RST, b""), Reason::RateLimited),
                dropped(neighbours[1].from_client(flag::PSH, b""), Reason::RateLimited),
            ],
            after: flows(&[(New, 1); 2]),
        },
        Scenario {
            id: scenario(
                case,
                "H74 the backend is lost: its connections are refused, and a SYN finds another",
            ),
            world: World::service(case, Forward::DsrL2),
            steps: vec![
                direct(flow.opens(), 1),
                lost(),
                new_flows_go_to(2),
                refused(case, flow.goes_on(), Reason::FlowLost),
                refused(case, flow.goes_on(), Reason::FlowLost),
                // A reset is never answered: it goes where the connection was.
                direct(flow.resets(), 1),
                direct(flow.opens(), 2),
            ],
            after: flows(&[(New, 2)]),
        },
        Scenario {
            id: scenario(case, "H74 likewise by NAT, from both sides; entry and record are closed"),
            world: World::service(case, Forward::Nat),
            steps: vec![
                nat(&flow, flow.opens(), 1),
                nat_reply(&flow, flow.answered_by(1)),
                lost(),
                new_flows_go_to(2),
                refused(case, flow.answered_by(1), Reason::FlowLost),
                refused(case, flow.goes_on(), Reason::FlowLost),
                nat_reply(&flow, flow.from_backend(1, flag::RST, b"")),
            ],
            after: nat_flows(&[(Closing, 1)]),
        },
    ]
}

/// For UDP over both families.
pub(super) fn udp_scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let moved = Flow { index: 1, client: (case.client(3), 50_000).into(), ..flow };
    let short = |flow: &Flow, id: &[u8]| quic(flow, &[&[0x40], id].concat());
    let long = |flow: &Flow, first: u8, version: u32, id: &[u8]| {
        quic(flow, &[&[first], &version.to_be_bytes()[..], &[id.len() as u8], id].concat())
    };
    let of_2 = [0x00, 0x0a, 0x0b, 0x0c, 0x0d, 0x99, 0x98];
    let config_1 = [0x20, 0x0a, 0x0b, 0x0c, 0x0d, 0x99, 0x98];
    let unroutable = [0xe0, 0x0a, 0x0b, 0x0c, 0x0d, 0x99, 0x98];
    let unknown = [0x00, 0x0a, 0x0b, 0x0c, 0x0e, 0x99, 0x98];
    let world = |forward| {
        World::service(case, forward).with(|image| {
            each_service(image, |service| service.quic_id_length = 4);
            image.quic_ids.insert(QuicKey::new(1, [0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 0, 0], 4), 2);
        })
    };
    let mut all = Vec::new();
    for (name, forward) in [("direct return", Forward::DsrL2), ("NAT", Forward::Nat)] {
        let to = |flow: &Flow, packet: Packet, backend| match forward {
            Forward::Nat => nat(flow, packet, backend),
            _ => direct(packet, backend),
        };
        let at = |flow: &Flow, index| Flow { index, ..*flow };
        all.push(Scenario {
            id: scenario(case, &format!("QUIC by {name}: the connection id decides, wherever the client is")),
            world: world(forward),
            steps: vec![
                to(&flow, short(&flow, &of_2), 2),
                to(&flow, long(&flow, HANDSHAKE_1, 1, &of_2), 2),
                to(&flow, long(&flow, HANDSHAKE_2, VERSION_2, &of_2), 2),
                to(&moved, short(&moved, &of_2), 2),
            ],
            after: match forward {
                Forward::Nat => nat_flows(&[(New, 2), (New, 2)]),
                _ => flows(&[(New, 2), (New, 2)]),
            },
        });
        all.push(Scenario {
            id: scenario(
                case,
                &format!("QUIC by {name}: an id that the client may have chosen follows the flow"),
            ),
            world: world(forward),
            steps: vec![
                to(&flow, long(&flow, INITIAL_1, 1, &of_2), 1),
                to(&flow, long(&flow, ZERO_RTT_1, 1, &of_2), 1),
                to(&flow, long(&flow, INITIAL_2, VERSION_2, &of_2), 1),
                to(&flow, long(&flow, ZERO_RTT_2, VERSION_2, &of_2), 1),
                // Types of one version in another's packets, and a version that nobody knows.
                to(&flow, long(&flow, HANDSHAKE_2, 1, &of_2), 1),
                to(&flow, long(&flow, HANDSHAKE_1, 3, &of_2), 1),
                to(&at(&flow, 1), long(&flow, HANDSHAKE_1, 1, &of_2), 2),
                // The flow is there now.
                to(&at(&flow, 1), long(&flow, INITIAL_1, 1, &unknown), 2),
            ],
            after: match forward {
                Forward::Nat => After { nat: vec![(New, 1), (New, 2)], ..flows(&[(New, 2)]) },
                _ => flows(&[(New, 2)]),
            },
        });
        all.push(Scenario {
            id: scenario(case, &format!("QUIC by {name}: an id that names nobody follows the flow")),
            world: world(forward),
            steps: vec![
                to(&flow, short(&flow, &unknown), 1),
                to(&flow, short(&flow, &config_1), 1),
                to(&flow, short(&flow, &unroutable), 1),
                to(&flow, long(&flow, HANDSHAKE_1, 1, &of_2[..4]), 1),
                // Too short to be QUIC.
                to(&flow, Packet { payload: [&[0x40][..], &of_2].concat(), ..flow.opens() }, 1),
                Step::Configure(Box::new(|image| backend(image, 2).flags = Backend::ACCEPTS)),
                to(&flow, short(&flow, &of_2), 1),
                Step::Configure(Box::new(|image| backend(image, 2).flags = Backend::UP)),
                to(&at(&flow, 1), short(&flow, &of_2), 2),
            ],
            after: match forward {
                Forward::Nat => After { nat: vec![(New, 1), (New, 2)], ..flows(&[(New, 2)]) },
                _ => flows(&[(New, 2)]),
            },
        });
    }
    all
}

/// First bytes of long headers, by version.
const INITIAL_1: u8 = 0xc0;
const ZERO_RTT_1: u8 = 0xd0;
const HANDSHAKE_1: u8 = 0xe0;
const INITIAL_2: u8 = 0xd0;
const ZERO_RTT_2: u8 = 0xe0;
const HANDSHAKE_2: u8 = 0xf0;

const VERSION_2: u32 = 0x6b33_43cf;

/// A datagram of the client that begins with these bytes and is long enough for QUIC.
fn quic(flow: &Flow, start: &[u8]) -> Packet {
    let mut payload = start.to_vec();
    payload.resize(40, 0x55);
    Packet { payload, ..flow.opens() }
}

fn with_affinity(case: Case) -> World {
    World::service(case, Forward::DsrL2)
        .with(|image| each_service(image, |service| service.affinity = AFFINITY))
}

/// Leads only the slot of the first client's address to the backend.
fn slot_of_client(image: &mut Image, case: Case, number: u16) {
    let mut slots = vec![1; SLOTS];
    let hash = settings().hash_key.flow(&case.client(0).into(), 0, 0, 0);
    slots[scale(hash.place, SLOTS as u32) as usize] = number;
    image.tables.insert(1, slots.into());
}
