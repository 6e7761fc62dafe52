//! The largest table that can be configured. Needs root, and 2.5 GB of memory for a moment.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::{env, net::SocketAddr};

use lb_common::{Features, Forward, Shape, flow::IdleLimits};
use lb_userspace::{
    core::image::{Image, diff},
    dataplane::{Dataplane, DataplaneError, Sizes},
};
use nix::unistd::geteuid;
use usher_tests::{
    packet::NatPorts,
    world::{Flow, TCP4, World, settings_of},
};

/// What `[flows] max` may be at most.
const FLOWS: u32 = 16_000_000;

fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        assert!(env::var_os("USHER_NO_SKIP").is_none(), "loading a BPF program needs root");
        println!("skipped: loading a BPF program needs root");
    }
    root
}

#[test]
fn sixteen_million_flows_load_run_and_show_their_memory() {
    if !is_root() {
        return;
    }
    let sizes = Sizes::new(FLOWS, 1_000, true, 1, 1, 2);
    let mut dataplane = Dataplane::load(sizes, Features::NAT).unwrap();
    let world = World::service(TCP4, Forward::Nat).with(|image| {
        let settings = settings_of(image);
        (settings.flow_table, settings.nat_table) = (sizes.flow_table, sizes.nat_table);
    });
    dataplane.apply(&diff(&Image::default(), &world.image)).unwrap();

    const CLIENTS: u16 = 1_000;
    for port in 1..=CLIENTS {
        let client = SocketAddr::new(TCP4.client(0), port);
        let syn = Flow { client, ..TCP4.flow(0) }.opens().bytes(&NatPorts::new());
        dataplane.test_run(&syn).unwrap();
    }
    let limits = IdleLimits::new(1_000, 1_000);
    assert_eq!(dataplane.count_flows(&limits).unwrap().new, u64::from(CLIENTS));
    let mut records = 0;
    dataplane.shared_tables().each_nat(&limits, |_| records += 1).unwrap();
    assert_eq!(records, CLIENTS);

    let memory = dataplane.memory(1).unwrap();
    println!("memory: {memory:?}");
    assert!(memory.flow_table.abs_diff(u64::from(FLOWS) * 16) < 1 << 20, "{memory:?}");
    assert!(memory.nat.abs_diff(u64::from(FLOWS) * 1_092 / 10) < 1 << 20, "{memory:?}");
}

#[test]
fn tables_without_memory_are_refused_with_their_size() {
    if !is_root() {
        return;
    }
    // More memory than any machine has.
    let nat_table = Shape { chunks: 1 << 26, items: 63 };
    let sizes = Sizes { nat_table, ..Sizes::new(FLOWS, 1_000, true, 1, 1, 2) };
    let error = Dataplane::load(sizes, Features::NAT).map(drop).unwrap_err();
    assert!(matches!(&error, DataplaneError::NoMemory { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the flow table and the NAT records take 2199280 MB, and this host has not as much left; lower `max` in [flows]"
    );
}
