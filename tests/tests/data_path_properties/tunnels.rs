//! A8: packets in tunnels come from so many sources that a backend's receive queues share them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{Forward, Reason};
use usher_tests::{
    host::{AlignedFrame, HostTables},
    oracle::{self, Read},
    packet::{NatPorts, Packet},
    world::{FRONT, Flow, TCP4, TCP6, World},
};

const FLOWS: u16 = 4_096;
/// The world's source networks have as many addresses; a network card may have as many queues.
const SHARES: u16 = 16;

/// The outer source address and, if there is one, port.
fn source(tables: &HostTables, packet: &Packet) -> (IpAddr, u16) {
    let mut frame = AlignedFrame::new(&packet.bytes(&NatPorts::new()));
    let reason = tables.process_frame(&mut frame, FRONT).reason;
    match reason {
        Reason::DsrGue => {
            let Read::Packet(outer) = oracle::read(frame.bytes()) else { panic!("no datagram") };
            outer.source
        }
        Reason::DsrIpip => (oracle::ends(frame.bytes()).unwrap()[0], 0),
        other => panic!("{other:?}"),
    }
}

/// What queues are chosen by.
fn last_bits((address, port): (IpAddr, u16)) -> u16 {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    (u16::from(last) ^ port) % SHARES
}

#[test]
fn a8_outer_sources_vary_between_flows_and_stay_within_one() {
    for (case, forward) in [TCP4, TCP6]
        .into_iter()
        .flat_map(|case| [Forward::DsrIpip, Forward::DsrGue].map(|forward| (case, forward)))
    {
        let tables = HostTables::new(&World::service(case, forward).image).unwrap();
        let (mut sources, mut shares) = (BTreeSet::new(), BTreeMap::<u16, u16>::new());
        for port in 1_024..1_024 + FLOWS {
            let flow = Flow { client: SocketAddr::new(case.client(0), port), ..case.flow(0) };
            let first = source(&tables, &flow.opens());
            assert_eq!(source(&tables, &flow.goes_on()), first, "{case}, {forward:?}: port {port}");
            sources.insert(first);
            *shares.entry(last_bits(first)).or_default() += 1;
        }
        println!("{case}, {forward:?}: {} sources, {shares:?}", sources.len());
        match forward {
            Forward::DsrIpip => assert_eq!(sources.len(), usize::from(SHARES)),
            // Of 16,384 ports, 4,096 random choices hit 3,624.
            _ => assert!(sources.len() > 3_500, "{}", sources.len()),
        }
        // Five standard deviations.
        let even = FLOWS / SHARES;
        assert!(
            shares.len() == usize::from(SHARES) && shares.values().all(|share| share.abs_diff(even) < 80)
        );
    }
}
