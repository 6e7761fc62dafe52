//! The packet table through the library on the host. Needs no privilege.

use lb_common::{Fate, Hop, Reason};
use usher_tests::{
    host::{AlignedFrame, HostPath, HostTables},
    packet::NatPorts,
    run::run,
    table::scenarios,
    world::{BACK, BUCKETS, FRONT, NAT_SETS, NODE_BACK, ROUTER, TCP4, World},
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
fn every_reason_occurs() {
    let mut path = HostPath::new(&World::empty().image, 0).unwrap();
    for scenario in scenarios() {
        run(&mut path, &scenario).unwrap();
    }
    use usher_tests::run::DataPath as _;
    let counted = path.reasons().unwrap();
    let missing: Vec<_> = Reason::ALL.iter().filter(|reason| counted[**reason as usize] == 0).collect();
    assert!(missing.is_empty(), "no scenario ends with {missing:?}");
}
