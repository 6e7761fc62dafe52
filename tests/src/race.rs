//! C31: several CPUs get the same SYN at once. There must be one flow and one NAT port afterwards.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use lb_common::{Entry, Forward, Shape, State, Word};

use crate::{
    packet::NatPorts,
    run::{Memory, Ran},
    world::{Flow, TCP4, World, settings_of},
};

/// Where the source port is in a TCP packet over IPv4 with its Ethernet header.
const SOURCE_PORT: usize = 14 + 20;

/// Sizes of the flow table and of the NAT records: small, because they are cleared before each race.
pub const SMALL: Shape = Shape::small(60);

/// The world in which to race.
pub fn world() -> World {
    World::service(TCP4, Forward::Nat).with(|image| {
        let settings = settings_of(image);
        (settings.flow_table, settings.nat_table, settings.nat_groups) = (SMALL, SMALL, 48);
    })
}

/// What came of a race.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that were dropped because another CPU was writing the record: the racers met.
    pub busy: usize,
    /// Flows that were not given exactly one NAT port.
    pub several_ports: usize,
    /// Flows that have not exactly one entry.
    pub several_flows: usize,
    /// Flows that have not exactly one NAT record.
    pub several_records: usize,
}

/// Lets `threads` treat the first packet of the same flow at the same time, for `rounds` flows. `with_memory` shows the
/// tables, and keeps what is changed in them.
///
/// # Panics
/// When `treat` or `with_memory` does.
pub fn race<F, M>(threads: usize, rounds: u16, with_memory: M, treat: F) -> Tally
where
    F: Fn(&[u8]) -> (Ran, Vec<u8>) + Sync,
    M: Fn(&mut dyn FnMut(&Memory)) + Sync,
{
    let barrier = Barrier::new(threads);
    let waiting = AtomicUsize::new(0);
    let results = thread::scope(|scope| {
        let racers: Vec<_> = (0..threads)
            .map(|racer| {
                let (barrier, waiting, treat, with_memory) = (&barrier, &waiting, &treat, &with_memory);
                scope.spawn(move || {
                    let rounds = (0..rounds).map(|round| {
                        barrier.wait();
                        if racer == 0 {
                            with_memory(&mut |memory| memory.clear());
                            waiting.store(0, SeqCst);
                        }
                        barrier.wait();
                        start_together(waiting, threads);
                        let first = treat(&syn(round));
                        barrier.wait();
                        // One after the other: the client sends again.
                        if racer == 0 {
                            let again = treat(&syn(round));
                            let mut found = (0, 0);
                            with_memory(&mut |memory| found = live(memory));
                            return (vec![first, again], found);
                        }
                        (vec![first], (1, 1))
                    });
                    rounds.collect::<Vec<_>>()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().expect("a racer")).collect::<Vec<_>>()
    });
    let mut tally = Tally::default();
    for round in 0..usize::from(rounds) {
        let runs: Vec<_> = results.iter().flat_map(|racer| &racer[round].0).collect();
        let dropped = runs.iter().filter(|(ran, _)| *ran == Ran::Drop).count();
        let ports: BTreeSet<_> = runs.iter().filter(|(ran, _)| *ran != Ran::Drop).map(port).collect();
        tally.busy += dropped;
        // The first racer's last packet was alone.
        tally.several_ports += usize::from(ports.len() != 1 || results[0][round].0[1].0 == Ran::Drop);
        let (flows, records) = results[0][round].1;
        tally.several_flows += usize::from(flows != 1);
        tally.several_records += usize::from(records != 1);
    }
    tally
}

fn port((_, frame): &&(Ran, Vec<u8>)) -> [u8; 2] {
    [frame[SOURCE_PORT], frame[SOURCE_PORT + 1]]
}

/// Threads that wake from a barrier start too far apart; those that spin do not. The number is bounded
/// for machines with fewer CPUs than racers.
fn start_together(waiting: &AtomicUsize, threads: usize) {
    waiting.fetch_add(1, SeqCst);
    for _ in 0..2_000 {
        if waiting.load(SeqCst) == threads {
            break;
        }
        std::hint::spin_loop();
    }
}

fn syn(round: u16) -> Vec<u8> {
    let client = SocketAddr::new(TCP4.client(0), 1_024 + round);
    Flow { client, ..TCP4.flow(0) }.opens().bytes(&NatPorts::new())
}

/// Flow entries and NAT records that are not free.
fn live(memory: &Memory) -> (usize, usize) {
    let taken = |word: &&Word| Entry(word.load()).state() != State::Empty;
    (
        memory.buckets.iter().flat_map(|bucket| &bucket.0).filter(taken).count(),
        memory.nat_sets.iter().flat_map(|set| &set.words.0).filter(taken).count(),
    )
}
