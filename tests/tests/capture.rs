//! F64: capturing packets, and replacing the running programs. Needs root.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::{env, process::Command};

use lb_common::{Address, Features, Forward, Reason, capture::Filter, flow::IdleLimits, program};
use lb_userspace::{
    config::XdpMode,
    core::{
        deny::{DenyList, Prefix, Rule},
        image::{Image, diff},
    },
    dataplane::{Capture, Dataplane, Sizes, TestRun},
};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use usher_tests::{
    packet::{NatPorts, Packet},
    world::{
        AFFINITY_BUCKETS, BACKENDS, FEATURES, FLOW_TABLE, FRONT, NAT_TABLE, SERVICES, TCP4, TCP6, UDP4, UDP6,
        World,
    },
};

// enum xdp_action, include/uapi/linux/bpf.h.
const DROP: u8 = 1;
const PASS: u8 = 2;
const TX: u8 = 3;
const REDIRECT: u8 = 4;

fn dataplane() -> Option<Dataplane> {
    if !geteuid().is_root() {
        assert!(env::var_os("USHER_NO_SKIP").is_none(), "loading a BPF program needs root");
        println!("skipped: loading a BPF program needs root");
        return None;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let sizes = Sizes {
        flow_table: FLOW_TABLE,
        nat_table: NAT_TABLE,
        fragments: 1_000,
        affinity_buckets: AFFINITY_BUCKETS,
        sources: 1_000,
        services: SERVICES + 1,
        service_bits: 5,
        backends: BACKENDS + 1,
    };
    Some(Dataplane::load(sizes, FEATURES).unwrap())
}

fn configure(dataplane: &mut Dataplane, image: &Image) {
    dataplane.apply(&diff(&Image::default(), image)).unwrap();
}

fn frame(packet: &Packet) -> Vec<u8> {
    packet.bytes(&NatPorts::new())
}

/// What was captured of one packet, as far as it does not change from run to run.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    reason: Reason,
    service: u32,
    backend: u16,
    action: u8,
    lengths: [u32; 2],
    before: Vec<u8>,
    after: Vec<u8>,
}

fn read(capture: &mut Capture) -> Vec<Seen> {
    let mut all = Vec::new();
    while let Some(seen) = capture.next(|record| {
        let head = record.head;
        assert!(head.arrived_ns > 0 && head.left_ns >= head.arrived_ns, "{head:?}");
        assert_eq!(head.ingress, FRONT);
        Seen {
            reason: Reason::from_number(head.reason).unwrap(),
            service: head.service,
            backend: head.backend,
            action: head.action,
            lengths: [head.before, head.after],
            before: record.before.to_vec(),
            after: record.after.to_vec(),
        }
    }) {
        all.push(seen);
    }
    all
}

/// A captured packet that was forwarded to backend 1 of service 1 and left as `run` says.
fn forwarded(frame: &[u8], run: TestRun, reason: Reason) -> Seen {
    let (before, after) = (frame.to_vec(), run.frame);
    let lengths = [before.len() as u32, after.len() as u32];
    Seen { reason, service: 1, backend: 1, action: run.action as u8, lengths, before, after }
}

#[test]
fn f64_captured_frames_are_those_that_came_in_and_those_that_left() {
    let Some(mut dataplane) = dataplane() else { return };
    let mut capture = dataplane.start_capture(Filter::all(9_000)).unwrap();
    let mut applied = Image::default();
    for (forward, reason) in [(Forward::Nat, Reason::Nat), (Forward::DsrL2, Reason::DsrL2)] {
        for case in [TCP4, TCP6, UDP4, UDP6] {
            let world = World::service(case, forward);
            dataplane.apply(&diff(&applied, &world.image)).unwrap();
            applied = world.image;
            let opens = frame(&case.flow(0).opens());
            let run = dataplane.test_run(&opens).unwrap();
            assert_eq!(run.action as u8, REDIRECT, "{case}");
            assert_ne!(run.frame, opens);
            assert_eq!(read(&mut capture), [forwarded(&opens, run, reason)], "{case}");
        }
    }
    // By way of the program for odd packets.
    configure(&mut dataplane, &World::service(TCP4, Forward::Nat).image);
    let mut odd = TCP4.flow(0).goes_on();
    odd.ip.options = vec![1; 4];
    let (odd, count) = (frame(&odd), dataplane.reasons().unwrap()[Reason::Odd as usize]);
    let run = dataplane.test_run(&odd).unwrap();
    assert_eq!(dataplane.reasons().unwrap()[Reason::Odd as usize], count, "the tail call works");
    assert_eq!(read(&mut capture), [forwarded(&odd, run, Reason::Nat)]);
    assert_eq!(capture.lost().unwrap(), 0);
}

#[test]
fn f64_packets_that_are_not_sent_on_are_captured_as_they_are() {
    let Some(mut dataplane) = dataplane() else { return };
    configure(&mut dataplane, &World::service(TCP4, Forward::Nat).image);
    let mut capture = dataplane.start_capture(Filter::all(40)).unwrap();
    let arp = [&[0xff; 12][..], &[0x08, 0x06], &[0; 46]].concat();
    let mut last_hop = TCP4.flow(0).opens();
    last_hop.hops = 1;
    // An answer would go to the loopback network.
    let mut unanswered = frame(&last_hop);
    unanswered[26] = 127;
    for (frame, reason, action, service, backend) in
        [(arp, Reason::NotIp, PASS, 0, 0), (unanswered, Reason::Unanswered, DROP, 1, 1)]
    {
        dataplane.test_run(&frame).unwrap();
        let length = frame.len() as u32;
        // No more than was asked for.
        let (before, after) = (frame[..40].to_vec(), frame[..40].to_vec());
        let lengths = [length, length];
        assert_eq!(read(&mut capture), [Seen { reason, service, backend, action, lengths, before, after }]);
    }
}

#[test]
fn f64_answers_of_our_own_are_captured_with_what_they_answer() {
    let Some(mut dataplane) = dataplane() else { return };
    configure(&mut dataplane, &World::service(TCP4, Forward::Nat).image);
    let mut capture = dataplane.start_capture(Filter::all(9_000)).unwrap();
    let mut last_hop = TCP4.flow(0).opens();
    last_hop.hops = 1;
    let last_hop = frame(&last_hop);
    let run = dataplane.test_run(&last_hop).unwrap();
    assert_eq!(run.action as u8, TX);
    assert_eq!(read(&mut capture), [forwarded(&last_hop, run, Reason::HopLimit)]);
}

#[test]
fn f64_only_what_the_filter_wants_is_captured() {
    let Some(mut dataplane) = dataplane() else { return };
    // Service 1 over IPv4, service 2 over IPv6; both have backend numbers of their own.
    let world = World::service(TCP4, Forward::Nat)
        .with_service(TCP6, (TCP6.vip(), usher_tests::world::PORT).into(), 2, Forward::DsrL2)
        .with_backend(TCP6, 3, 2)
        .with_slots(2, 3);
    configure(&mut dataplane, &world.image);
    let frames = [frame(&TCP4.flow(0).opens()), frame(&TCP6.flow(0).opens()), vec![0xff; 60]];
    let all = Filter::all(0);
    let client: Address = TCP4.client(0).into();
    let other: Address = TCP4.client(1).into();
    let cases = [
        (all, vec![1, 2, 0]),
        (all.of_services([2]), vec![2]),
        (all.of_services([1, 2]), vec![1, 2]),
        (all.of_backends([3]), vec![2]),
        (all.with_reason(Reason::Nat), vec![1]),
        (all.with_reason(Reason::NotIp), vec![0]),
        (all.of_clients(client, 128), vec![1]),
        (all.of_clients(other, 128), vec![]),
        (all.of_clients(client, 96 + 24).of_services([2]), vec![]),
    ];
    for (filter, services) in cases {
        let mut capture = dataplane.start_capture(filter).unwrap();
        for frame in &frames {
            dataplane.test_run(frame).unwrap();
        }
        let captured = read(&mut capture);
        assert_eq!(captured.iter().map(|seen| seen.service).collect::<Vec<_>>(), services, "{filter:?}");
        assert!(captured.iter().all(|seen| seen.before.is_empty() && seen.after.is_empty()));
    }
}

#[test]
fn f64_a_full_ring_loses_packets_and_counts_them() {
    let Some(mut dataplane) = dataplane() else { return };
    let mut capture = dataplane.start_capture(Filter::all(9_000)).unwrap();
    let frame = vec![0xff; 3_000];
    const PACKETS: u64 = 2_000;
    for _ in 0..PACKETS {
        dataplane.test_run(&frame).unwrap();
    }
    let captured = read(&mut capture).len() as u64;
    assert!(captured > 0, "nothing was captured");
    assert_eq!(captured + capture.lost().unwrap(), PACKETS);
    assert!(captured < PACKETS, "12 MB found room in a ring of 8 MB");
}

#[test]
fn f64_a_capture_leaves_nothing_behind() {
    let Some(mut dataplane) = dataplane() else { return };
    configure(&mut dataplane, &World::service(TCP4, Forward::Nat).image);
    let instructions =
        |dataplane: &Dataplane| program::ALL.map(|name| dataplane.verified_instructions(name).unwrap());
    let before = instructions(&dataplane);
    let opens = frame(&TCP4.flow(0).opens());
    let first = dataplane.test_run(&opens).unwrap();

    let mut capture = dataplane.start_capture(Filter::all(9_000)).unwrap();
    let with = instructions(&dataplane);
    // Not more in each of them: what the verifier can leave out depends on more than what was added.
    assert_ne!(with, before, "capture adds no code");
    assert_eq!(dataplane.test_run(&opens).unwrap(), first, "the flow keeps its NAT port");
    assert_eq!(read(&mut capture).len(), 1);

    dataplane.set_features(FEATURES).unwrap();
    assert_eq!(dataplane.features(), FEATURES);
    assert_eq!(instructions(&dataplane), before, "without capture its code is not there");
    assert_eq!(dataplane.test_run(&opens).unwrap(), first);
    assert_eq!(read(&mut capture), [], "no records when it is over");

    // Tables and counters went on all the while.
    let limits = IdleLimits::new(1_000, 1_000);
    assert_eq!(dataplane.count_flows(&limits).unwrap().by_backend.into_iter().collect::<Vec<_>>(), [(1, 1)]);
    assert_eq!(dataplane.reasons_of(1).unwrap()[Reason::Nat as usize], 3);
    assert_eq!(dataplane.counters([1]).unwrap()[&1].packets, 3);
    let trace = dataplane.explain_frame(&opens).unwrap();
    assert_eq!((trace.reason, trace.known), (Reason::Nat as u8, 1));
}

/// F63: what a service's backends answer is counted to the service too.
#[test]
fn f63_answers_are_counted_and_captured_with_service_and_backend() {
    let Some(mut dataplane) = dataplane() else { return };
    configure(&mut dataplane, &World::service(TCP4, Forward::Nat).image);
    let flow = TCP4.flow(0);
    let mut capture = dataplane.start_capture(Filter::all(9_000).of_services([1])).unwrap();
    let sent = dataplane.test_run(&frame(&flow.opens())).unwrap();
    // The answer: the packet's ends exchanged.
    let mut answer = sent.frame;
    let (from, to): ([u8; 4], [u8; 4]) =
        (answer[26..30].try_into().unwrap(), answer[30..34].try_into().unwrap());
    answer[26..30].copy_from_slice(&to);
    answer[30..34].copy_from_slice(&from);
    let (from, to): ([u8; 2], [u8; 2]) =
        (answer[34..36].try_into().unwrap(), answer[36..38].try_into().unwrap());
    answer[34..36].copy_from_slice(&to);
    answer[36..38].copy_from_slice(&from);
    let back = dataplane.test_run(&answer).unwrap();
    let captured = read(&mut capture);
    assert_eq!(captured.len(), 2);
    assert_eq!(captured[1], forwarded(&answer, back, Reason::NatReply));
    let reasons = dataplane.reasons_of(1).unwrap();
    assert_eq!((reasons[Reason::Nat as usize], reasons[Reason::NatReply as usize]), (1, 1));
    assert_eq!(dataplane.counters([1]).unwrap()[&1].packets, 1, "answers are not counted to the backend");
    // Any client's packets, in both directions.
    let client: Address = TCP4.client(0).into();
    let mut capture = dataplane.start_capture(Filter::all(0).of_clients(client, 128)).unwrap();
    dataplane.test_run(&answer).unwrap();
    assert_eq!(read(&mut capture).len(), 1);
}

/// The ring of a capture could not outlive another replacement of the programs.
#[test]
fn f62_clients_can_be_denied_while_a_capture_runs() {
    let Some(mut dataplane) = dataplane() else { return };
    dataplane.set_features(FEATURES.without(Features::DENY)).unwrap();
    configure(&mut dataplane, &World::service(TCP4, Forward::DsrL2).image);
    let mut capture = dataplane.start_capture(Filter::all(0)).unwrap();
    let rule = [Rule { prefix: Prefix::of(TCP4.client(0)), denied: true }];
    dataplane.deny(&DenyList::default().add(&rule).unwrap().0).unwrap();
    let opens = frame(&TCP4.flow(0).opens());
    assert_eq!(dataplane.test_run(&opens).unwrap().action as u8, DROP);
    assert_eq!(read(&mut capture)[0].reason, Reason::Denied);
}

#[test]
fn a_replaced_program_stays_attached() {
    let Some(mut dataplane) = dataplane() else { return };
    let ip = |arguments: &str| {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    ip("link add usher-veth type veth peer name usher-peer");
    let interfaces = ["usher-veth".to_owned(), "usher-peer".to_owned()];
    dataplane.attach(&interfaces, XdpMode::Native).unwrap();
    let mut ids = vec![dataplane.program_id().unwrap()];
    for features in [FEATURES | Features::CAPTURE, FEATURES, FEATURES] {
        dataplane.set_features(features).unwrap();
        ids.push(dataplane.program_id().unwrap());
        for interface in &interfaces {
            let shown = ip(&format!("-details link show {interface}"));
            assert!(shown.contains(&format!("prog/xdp id {} ", ids[ids.len() - 1])), "{ids:?}: {shown}");
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 4, "each load is another program");
    drop(dataplane);
    assert!(!ip("-details link show usher-veth").contains("prog/xdp"));
}
