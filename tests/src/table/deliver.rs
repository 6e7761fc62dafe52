//! Packets of a service find a backend.

use std::net::SocketAddr;

use lb_common::{Backend, Forward, Hop, Reason, Service, State::New};

use super::{
    After, Scenario, Sent, Step, cut, direct, dropped, flows, nat, nat_flows, nat_reply, new_flows_go_to,
    nothing, passed, refused, scenario, sent_with, set_slots,
};
use crate::{
    packet::{Ip, Packet, Transport},
    world::{Case, Flow, PORT, World, backend, each_service},
};

/// For every family and protocol.
pub(super) fn scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    vec![
        Scenario {
            id: scenario(case, "A1 direct return: only the MAC addresses change"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![direct(flow.opens(), 1), direct(flow.goes_on(), 1)],
            after: After {
                sent: vec![(1, sent_with(&[flow.opens(), flow.goes_on()], 1)), (2, Sent::default())],
                ..flows(&[(New, 1)])
            },
        },
        Scenario {
            id: scenario(case, "A1 direct return, out of the interface the packet came in on"),
            world: World::service(case, Forward::DsrL2).with_slots(1, 2),
            steps: vec![direct(flow.opens(), 2)],
            after: flows(&[(New, 2)]),
        },
        Scenario {
            id: scenario(case, "A1 direct return asks for no hop: the packet stays on the link"),
            world: World::service(case, Forward::DsrL2),
            steps: vec![direct(Packet { hops: 1, ..flow.opens() }, 1)],
            after: flows(&[(New, 1)]),
        },
        Scenario {
            id: scenario(
                case,
                "A1 NAT: addresses, ports, hop count and checksums change; the payload does not",
            ),
            world: World::service(case, Forward::Nat),
            steps: vec![nat(&flow, flow.opens(), 1), nat(&flow, flow.goes_on(), 1)],
            after: After {
                sent: vec![(1, sent_with(&[flow.opens(), flow.goes_on()], 1)), (2, Sent::default())],
                ..nat_flows(&[(New, 1)])
            },
        },
        Scenario {
            id: scenario(case, "A1 NAT, out of the interface the packet came in on"),
            world: World::service(case, Forward::Nat).with_slots(1, 2),
            steps: vec![nat(&flow, flow.opens(), 2)],
            after: nat_flows(&[(New, 2)]),
        },
        Scenario {
            id: scenario(
                case,
                "A2 B26 C35 without an up backend the client is refused, and nothing is stored",
            ),
            world: World::service(case, Forward::Nat).with_slots(1, 0),
            steps: vec![
                refused(case, flow.opens(), Reason::NoBackend),
                refused(case, flow.goes_on(), Reason::NoBackend),
                refused(case, flow.ends(), Reason::NoBackend),
            ],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "A2 without an up backend the client is told nothing, if so configured"),
            world: World::service(case, Forward::Nat)
                .with(|image| each_service(image, |service| service.flags = Service::DROPS))
                .with_slots(1, 0),
            steps: vec![
                dropped(flow.opens(), Reason::NoBackendDropped),
                dropped(flow.goes_on(), Reason::NoBackendDropped),
                new_flows_go_to(2),
                nat(&flow, flow.opens(), 2),
            ],
            after: nat_flows(&[(New, 2)]),
        },
        all_backends_go_down(case),
        Scenario {
            id: scenario(case, "A4 a service without a Maglev table"),
            world: World::empty().with_service(
                case,
                SocketAddr::new(case.vip(), PORT),
                NEVER_INITIALISED,
                Forward::Nat,
            ),
            steps: vec![passed(flow.opens(), Reason::NotReady)],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "A4 a Maglev table that names a backend which was never written"),
            world: World::service(case, Forward::Nat).with_slots(1, 9),
            steps: vec![passed(flow.opens(), Reason::NotReady)],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "A4 a Maglev table that names another service's backend"),
            world: World::service(case, Forward::Nat).with_backend(case, 3, 2).with_slots(1, 3),
            steps: vec![passed(flow.opens(), Reason::NotReady)],
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "direct return to a backend whose MAC address is not known"),
            world: World::service(case, Forward::DsrL2).with(|image| backend(image, 1).hop = Hop::default()),
            steps: vec![dropped(flow.opens(), Reason::NoNextHop)],
            // What was not sent is not counted as sent.
            after: After { sent: vec![(1, Sent::default())], ..nothing() },
        },
        Scenario {
            id: scenario(case, "A13 a padded frame: the IP length decides, and the padding stays"),
            world: World::service(case, Forward::Nat),
            steps: vec![nat(&flow, Packet { padding: vec![0xee; 23], ..flow.opens() }, 1)],
            after: After { sent: vec![(1, sent_with(&[flow.opens()], 1))], ..nat_flows(&[(New, 1)]) },
        },
        Scenario {
            id: scenario(case, "A13 a header that would reach into the padding is none"),
            world: World::service(case, Forward::Nat),
            steps: too_short_for_its_header(case, &flow.opens()),
            after: nothing(),
        },
        Scenario {
            id: scenario(case, "A18 one VIP, one port, TCP and UDP: two services"),
            world: World::service(case, Forward::Nat)
                .with_service(other_protocol(case), SocketAddr::new(case.vip(), PORT), 2, Forward::Nat)
                .with_backend(case, 3, 2)
                .with_slots(2, 3),
            steps: {
                let other = other_protocol(case).flow(1);
                vec![
                    nat(&flow, flow.opens(), 1),
                    nat(&other, other.opens(), 3),
                    nat(&flow, flow.goes_on(), 1),
                    nat(&other, other.goes_on(), 3),
                ]
            },
            after: nat_flows(&[(New, 1), (New, 3)]),
        },
    ]
}

/// For UDP over both families.
pub(super) fn udp_scenarios(case: Case) -> Vec<Scenario> {
    let flow = case.flow(0);
    let without_checksum = |packet| Packet { transport: Transport::Udp { checksum: false }, ..packet };
    // Over IPv4 that is allowed (RFC 768); over IPv6 the backend discards the packet, which is not to be
    // made valid on the way (RFC 8200 section 8.1).
    vec![Scenario {
        id: scenario(case, "A16 a UDP checksum of 0 stays 0"),
        world: World::service(case, Forward::Nat),
        steps: vec![
            nat(&flow, without_checksum(flow.opens()), 1),
            nat_reply(&flow, without_checksum(flow.answered_by(1))),
            nat(&flow, flow.goes_on(), 1),
        ],
        after: nat_flows(&[(New, 1)]),
    }]
}

/// The policy: new flows are refused, connections under way stay where they are, and all is well again afterwards.
fn all_backends_go_down(case: Case) -> Scenario {
    let flow = case.flow(0);
    let other = Flow { client: (case.client(1), 40_001).into(), ..flow };
    let up = |flags: u8| {
        Step::Configure(Box::new(move |image| {
            image.backends.values_mut().for_each(|backend| backend.flags = flags);
            set_slots(image, 1, if flags == 0 { 0 } else { 1 });
        }))
    };
    Scenario {
        id: scenario(
            case,
            "B26 all backends go down: flows under way stay, others are refused until one is up",
        ),
        world: World::service(case, Forward::DsrL2),
        steps: vec![
            direct(flow.opens(), 1),
            up(0),
            refused(case, other.opens(), Reason::NoBackend),
            match case.udp {
                // A datagram says nothing of a connection.
                true => refused(case, flow.goes_on(), Reason::NoBackend),
                false => direct(flow.goes_on(), 1),
            },
            up(Backend::UP | Backend::ACCEPTS),
            direct(other.opens(), 1),
            direct(flow.goes_on(), 1),
        ],
        after: flows(&[(New, 1), (New, 1)]),
    }
}

/// A service number that no scenario gives a table.
const NEVER_INITIALISED: u32 = 7;

fn other_protocol(case: Case) -> Case {
    Case { udp: !case.udp, ..case }
}

/// A packet, cut after every byte of its headers: a plain one, one with tags and options or extension headers,
/// and a first fragment. Each is a scenario of its own, to be through within a tick.
pub(super) fn cut_anywhere(case: Case) -> Vec<Scenario> {
    let ip = Ip {
        options: if case.v6 { vec![] } else { vec![1; 40] },
        extensions: if case.v6 {
            vec![(0, vec![0; 8]), (60, [vec![0, 1], vec![0; 14]].concat())]
        } else {
            vec![]
        },
        ..Ip::default()
    };
    let plain = case.flow(0).opens();
    let odd = Packet { ip, tags: vec![(0x88a8, 7), (0x8100, 5)], ..plain.clone() };
    let fragment = Packet { payload: vec![0; 64], ..odd.clone() }.cut(1, &[40]).swap_remove(0);
    let packets = [("plain packet", plain), ("packet with odd headers", odd), ("first fragment", fragment)];
    let scenarios = packets.map(|(what, packet)| {
        let headers = packet.l4() + if case.udp { 8 } else { 20 };
        Scenario {
            id: scenario(case, &format!("A12 cut after every byte of its headers: a {what}")),
            world: World::service(case, Forward::Nat),
            steps: (0..headers).map(|length| passed(cut(&packet, length), Reason::Malformed)).collect(),
            after: nothing(),
        }
    });
    scenarios.into()
}

/// The whole header is there, but the IP packet ends before it does.
fn too_short_for_its_header(case: Case, packet: &Packet) -> Vec<Step> {
    let header = if case.udp { 8 } else { 20 };
    let ip_header = packet.ip_length() - packet.payload.len() as u64 - header;
    let first = if case.v6 { ip_header } else { 0 };
    let steps = (first..ip_header + header).map(|length| {
        let ip = Ip { length: Some(length as u16), ..Ip::default() };
        passed(Packet { ip, padding: vec![0; 20], ..packet.clone() }, Reason::Malformed)
    });
    steps.collect()
}
