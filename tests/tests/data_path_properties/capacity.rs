//! How many flows the tables hold, and whom a flood drives out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::{Address, Forward, Reason, SLOTS, Shape, flow, nat};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use usher_tests::{
    host::{AlignedFrame, HostTables},
    packet::NatPorts,
    world::{
        BACKEND_PORT, Case, FRONT, TCP4, UDP4, World, each_service, hop, nat_sources, set_nat_groups,
        settings_of,
    },
};

const SOURCE_ADDRESS: usize = 14 + 12;
const SOURCE_PORT: usize = 14 + 20;
const DESTINATION_PORT: usize = SOURCE_PORT + 2;
const TCP_FLAGS: usize = 14 + 20 + 13;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A client's packet that can be given another client, again and again. Its checksums are wrong then,
/// which the data path does not look at.
struct Template(AlignedFrame);

impl Template {
    fn new(case: Case) -> Template {
        Template(AlignedFrame::new(&case.flow(0).opens().bytes(&NatPorts::new())))
    }

    fn from(&mut self, (address, port): Client) -> &mut [u8] {
        let bytes = self.0.bytes();
        bytes[SOURCE_ADDRESS..SOURCE_ADDRESS + 4].copy_from_slice(&address.to_be_bytes());
        bytes[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
        bytes
    }

    fn with_flags(&mut self, client: Client, flags: u8) -> &mut [u8] {
        let bytes = self.from(client);
        bytes[TCP_FLAGS] = flags;
        bytes
    }
}

type Client = (u32, u16);

fn clients(seed: u64, count: usize) -> Vec<Client> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| (random.random(), random.random())).collect()
}

/// Tables of the size for `flows` flows, direct return, long idle limits.
fn flow_tables(flows: u32) -> HostTables {
    let world = World::service(TCP4, Forward::DsrL2).with(|image| {
        let settings = settings_of(image);
        settings.flow_table = flow::shape_for(flows);
        settings.nat_table = Shape::small(1);
        settings.closing_idle = 1_000;
        each_service(image, |service| service.idle = 10_000);
    });
    HostTables::new(&world.image).unwrap()
}

/// The share of these flows that the table knows.
fn held(tables: &HostTables, clients: &[Client]) -> f64 {
    let mut template = Template::new(TCP4);
    let known = |client: &&Client| tables.explain(template.with_flags(**client, ACK), FRONT).known;
    clients.iter().filter(known).count() as f64 / clients.len() as f64
}

/// Opens the flows, and proves them a tick later.
fn prove(tables: &mut HostTables, clients: &[Client]) {
    let mut template = Template::new(TCP4);
    for (tick, flags) in [(1, SYN), (2, ACK), (3, ACK)] {
        tables.tick = tick;
        for client in clients {
            let reason = tables.process(template.with_flags(*client, flags), FRONT).reason;
            assert_eq!(reason, Reason::DsrL2);
        }
    }
}

/// Acceptance of the data path: a table at its configured size holds at least 99 % of the flows.
#[test]
fn the_flow_table_holds_99_percent_of_as_many_flows_as_were_configured() {
    const FLOWS: u32 = 1_000_000;
    for seed in [1, 2] {
        let mut tables = flow_tables(FLOWS);
        let clients = clients(seed, FLOWS as usize);
        prove(&mut tables, &clients);
        let held = held(&tables, &clients);
        println!("{FLOWS} flows: {:.2} % held", held * 100.0);
        assert!(held >= 0.99, "only {held} of the flows are held");
    }
}

/// C38, with SYNs, and with ACKs, which an attacker sends as easily.
#[test]
fn c38_a_flood_of_new_flows_drives_out_no_proven_ones() {
    const FLOWS: u32 = 100_000;
    for flags in [SYN, ACK] {
        let mut tables = flow_tables(FLOWS);
        let known = clients(1, FLOWS as usize / 2);
        prove(&mut tables, &known);
        let before = held(&tables, &known);
        let mut template = Template::new(TCP4);
        // Ten times as many as there are places, over a hundred ticks.
        for (number, client) in clients(2, 10 * 2 * FLOWS as usize).into_iter().enumerate() {
            tables.tick = 4 + (number / 20_000) as u16;
            tables.process(template.with_flags(client, flags), FRONT);
        }
        let after = held(&tables, &known);
        println!("flags {flags}: {:.2} % held, {:.2} % after the flood", before * 100.0, after * 100.0);
        // Of 2 flows to a bucket on average, 1 bucket in 1,000 has 8 or more: it gives one to the flood.
        assert!(before > 0.999, "{before} of the flows are held");
        assert!(before - after < 0.001, "{before} of the flows were held, after the flood {after}");
    }
}

/// NAT tables for `flows` flows to `backends` backends, with ports for `groups` groups.
fn nat_tables(flows: u32, backends: u16, groups: u16) -> HostTables {
    let world = World::service(UDP4, Forward::Nat).with(|image| {
        let settings = settings_of(image);
        settings.flow_table = flow::shape_for(flows);
        settings.nat_table = nat::shape_for(flows);
        set_nat_groups(settings, groups);
        each_service(image, |service| service.idle = 10_000);
    });
    let mut tables = HostTables::new(&world.image).unwrap();
    let model = tables.backends[1];
    let address = |number: u16| IpAddr::from(Ipv4Addr::from(0xcb00_7100 + u32::from(number)));
    tables.backends = vec![lb_common::Backend::default(); usize::from(backends) + 1];
    for number in 1..=backends {
        let backend = &mut tables.backends[usize::from(number)];
        *backend = model;
        backend.address = Address::from(address(number));
        backend.hop = hop(1);
    }
    let slots: Vec<u16> = (0..SLOTS).map(|slot| (slot % usize::from(backends)) as u16 + 1).collect();
    tables.slots.insert(1, slots.into());
    tables
}

/// The share of flows that find a NAT port, when every one of them is answered and so stays.
fn share_with_port(tables: &HostTables, flows: usize) -> f64 {
    let mut template = Template::new(UDP4);
    let answer = UDP4.flow(0).from_backend(1, 0, b"");
    let mut answer = AlignedFrame::new(&answer.bytes(&NatPorts::from([(0, 0)])));
    let mut found = 0;
    for client in clients(3, flows) {
        let frame = template.from(client);
        // The template is rewritten under way.
        let kept = frame.to_vec();
        let outcome = tables.process(frame, FRONT);
        if outcome.reason == Reason::Nat {
            let bytes = answer.bytes();
            bytes[SOURCE_ADDRESS..SOURCE_ADDRESS + 4].copy_from_slice(&frame[30..34]);
            bytes[30..34].copy_from_slice(&frame[SOURCE_ADDRESS..SOURCE_ADDRESS + 4]);
            bytes[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&BACKEND_PORT.to_be_bytes());
            bytes[DESTINATION_PORT..DESTINATION_PORT + 2]
                .copy_from_slice(&frame[SOURCE_PORT..SOURCE_PORT + 2]);
            bytes[14 + 8] = 64;
            assert_eq!(tables.process(bytes, FRONT).reason, Reason::NatReply);
            found += 1;
        } else {
            // The client would be told so; there is no flag and no room for it in these frames.
            assert!(matches!(outcome.reason, Reason::NatFull | Reason::Unanswered), "{:?}", outcome.reason);
        }
        frame.copy_from_slice(&kept);
    }
    found as f64 / flows as f64
}

/// All at a quarter of the default's size, ports included, which leaves the shares as they are.
const QUARTER: u32 = 250_000;
const GROUPS: u16 = 3_968 / 4;

#[test]
fn nat_holds_99_percent_of_as_many_flows_as_were_configured_while_ports_are_not_scarce() {
    for (backends, flows, bound) in [
        (100, QUARTER, 0.99),
        (50, QUARTER * 3 / 4, 0.99),
        (50, QUARTER / 2, 0.999),
        // These need 63 % of all ports there are: it is the ports that are scarce, not the memory.
        (50, QUARTER, 0.93),
    ] {
        let tables = nat_tables(QUARTER, backends, GROUPS);
        let share = share_with_port(&tables, flows as usize);
        let ports = f64::from(flows) / (f64::from(backends) * f64::from(GROUPS) * 8.0);
        println!(
            "{flows} flows to {backends} backends, {:.0} % of their ports: {:.2} % find a port",
            ports * 100.0,
            share * 100.0
        );
        assert!(share >= bound, "{backends} backends: {share}");
    }
}

/// Few backends have few ports, and they can be used.
#[test]
fn nat_uses_four_fifths_of_the_ports_towards_a_few_backends() {
    let flows = 3 * u32::from(GROUPS) * 8 * 4 / 5;
    let share = share_with_port(&nat_tables(QUARTER, 3, GROUPS), flows as usize);
    println!("{flows} flows to 3 backends: {:.2} % find a port", share * 100.0);
    assert!(share >= 0.99, "{share}");
}

/// C36. One address has 64,512 ports at the most, and so has one backend.
#[test]
fn c36_three_source_addresses_carry_90000_connections_to_one_backend() {
    const FLOWS: u32 = 90_000;
    let mut tables = nat_tables(QUARTER, 1, 8_064);
    let sources = [11, 12, 13].map(|last| IpAddr::from([203, 0, 113, last]));
    tables.settings.nat_sources[0] = nat_sources(&sources);
    set_nat_groups(&mut tables.settings, 8_064);
    let share = share_with_port(&tables, FLOWS as usize);
    println!("{FLOWS} flows to 1 backend: {:.2} % find a port", share * 100.0);
    assert!(share >= 0.999, "{share}");
}

/// The clients' addresses that a template takes are IPv4's.
#[test]
fn a_template_is_a_packet_of_its_client() {
    let mut template = Template::new(TCP4);
    let from = SocketAddr::new(TCP4.client(3), 7);
    let IpAddr::V4(address) = from.ip() else { unreachable!() };
    let frame = template.from((address.into(), 7)).to_vec();
    let slice = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = slice.net else { panic!("not IPv4") };
    assert_eq!(IpAddr::from(ip.header().source_addr()), from.ip());
    let Some(etherparse::TransportSlice::Tcp(tcp)) = slice.transport else { panic!("not TCP") };
    assert_eq!(tcp.source_port(), 7);
}
