//! The packet table through the library on the host. Needs no privilege.

use lb_common::{Fate, Forward, Hop, Reason};
use usher_tests::{
    host::{AlignedFrame, HostPath, HostTables},
    packet::{NatPorts, Packet, Port},
    race::{self, Tally},
    run::{DataPath as _, Memory, Ran, run},
    table::scenarios,
    world::{BACK, FRONT, NODE_BACK, TCP4, World},
};

#[test]
fn the_packet_table_holds() {
    // The clock's 16 bits wrap in the middle of the scenarios of the second run.
    for tick in [40_000, u16::MAX] {
        let mut path = HostPath::new(&World::empty().image, tick).unwrap();
        let failures: Vec<String> = scenarios()
            .iter()
            .filter_map(|scenario| run(&mut path, scenario).err())
            .map(|error| format!("{error:#}"))
            .collect();
        assert!(failures.is_empty(), "{} scenarios failed:\n{}", failures.len(), failures.join("\n"));
        let counted = path.reasons().unwrap();
        // Odd packets and ICMP end in the programs that go on with them; that a frame cannot grow has a test of
        // its own.
        let ends = Reason::ALL.iter().filter(|reason| {
            !matches!(reason.fate(), Fate::Odd | Fate::Icmp)
                && !matches!(reason, Reason::NoHeadroom | Reason::FlowLost)
        });
        let missing: Vec<_> = ends.filter(|reason| counted[**reason as usize] == 0).collect();
        assert!(missing.is_empty(), "no scenario ends with {missing:?}");
    }
}

#[test]
fn names_of_scenarios_are_unique() {
    let mut ids: Vec<String> = scenarios().into_iter().map(|scenario| scenario.id).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    println!("{count} scenarios");
}

#[test]
fn a14_a_frame_that_cannot_grow_ends() {
    let tables = HostTables::new(&World::service(TCP4, Forward::Nat).image).unwrap();
    let flow = TCP4.flow(0);
    let tagged = Packet { tags: vec![(0x8100, 5)], ..flow.opens() };
    let mut there = AlignedFrame::new(&tagged.bytes(&NatPorts::new()));
    assert_eq!(tables.process_frame(&mut there, FRONT).reason, Reason::Nat);
    let port = u16::from_be_bytes([there.bytes()[34], there.bytes()[35]]);
    let mut back = AlignedFrame::new(&flow.accepted_by(1).bytes(&NatPorts::from([(0, port)])));
    assert_eq!(tables.process(back.bytes(), FRONT).reason, Reason::NoHeadroom);
}

/// What BPF_PROG_TEST_RUN cannot show: there, every frame comes in on the same interface, and no route
/// leads anywhere.
#[test]
fn a_reply_leaves_where_the_client_is_and_routes_are_asked_without_a_next_hop() {
    let no_hop = World::service(TCP4, Forward::Nat).with(|image| {
        image.backends.get_mut(&1).unwrap().hop = Hop::default();
    });
    let mut tables = HostTables::new(&no_hop.image).unwrap();
    tables.route = Hop::new(BACK, [2, 0, 0, 0, 1, 1], NODE_BACK);
    let flow = TCP4.flow(0);

    let mut there = AlignedFrame::new(&flow.opens().bytes(&NatPorts::new()));
    let outcome = tables.process(there.bytes(), FRONT);
    assert_eq!((outcome.reason, outcome.interface), (Reason::Nat, BACK));
    let port = u16::from_be_bytes([there.bytes()[34], there.bytes()[35]]);
    let ports = NatPorts::from([(0, port)]);
    assert_eq!(flow.translated(&flow.opens(), 1).from.port, Port::Nat(0));
    assert_eq!(there.bytes(), flow.translated(&flow.opens(), 1).bytes(&ports));

    let mut back = AlignedFrame::new(&flow.accepted_by(1).bytes(&ports));
    let outcome = tables.process(back.bytes(), BACK);
    assert_eq!((outcome.reason, outcome.interface), (Reason::NatReply, FRONT));
    assert_eq!(back.bytes(), flow.translated_back(&flow.accepted_by(1)).bytes(&ports));
}

#[test]
fn c31_cpus_that_race_for_a_flow_make_one_entry_and_one_record() {
    let tables = HostTables::new(&race::world().image).unwrap();
    let with_memory = |look: &mut dyn FnMut(&Memory)| look(&tables.memory());
    let tally = race::race(4, 20_000, with_memory, |frame| {
        let mut frame = AlignedFrame::new(frame);
        match tables.process(frame.bytes(), FRONT).reason {
            Reason::Nat => (Ran::Redirect, frame.bytes().to_vec()),
            Reason::NatBusy => (Ran::Drop, frame.bytes().to_vec()),
            other => panic!("{other:?}"),
        }
    });
    println!("C31: {tally:?}");
    assert_eq!(Tally { busy: 0, ..tally }, Tally::default());
}
