//! What fuzzing runs: arbitrary bytes as packets and as what happens between them, and what must hold.
//!
//! The targets in `fuzz/` only call [`packet`] and [`parse`]; the test `fuzz_corpus` runs every input that is
//! kept there through the same functions, without a fuzzer.

mod check;
mod script;
pub mod seeds;

use std::sync::OnceLock;

use lb_common::{Address, Backend, Forward, Hop, Reason, SLOTS, Service, Shape};
use lb_userspace::core::{image::Image, slots::Slots};

pub use script::Operation;
use script::{Reader, Start};

use crate::{
    host::HostTables,
    oracle,
    world::{Case, TCP4, TCP6, UDP4, UDP6, World, backend, set_nat_groups, settings_of},
};

/// The services of the world, numbered from 1. Service n has the backends 2n - 1 and 2n.
pub(crate) const CASES: [Case; 4] = [TCP4, TCP6, UDP4, UDP6];

/// Buckets and NAT sets: so few that flows meet.
const TABLE: Shape = Shape::small(8);

/// How many parts of the configuration [`Operation::Configure`] changes.
pub(crate) const CONFIGURATIONS: u8 = 10;

/// The data path on the host with a script of packets and events: see [`Operation`]. Gives the reasons with
/// which the packets ended.
///
/// # Panics
/// When something does not hold that must.
pub fn packet(data: &[u8]) -> Vec<Reason> {
    let mut reader = Reader::new(data);
    let mut run = Run::new(reader.start());
    let mut reasons = Vec::new();
    while let Some(operation) = reader.operation() {
        reasons.extend(run.apply(operation));
    }
    reasons
}

/// The parser against etherparse.
///
/// # Panics
/// When they do not agree.
pub fn parse(data: &[u8]) {
    if let Err(difference) = oracle::compare(data) {
        panic!("{difference}");
    }
}

/// The world of one script.
struct Run {
    world: World,
    tables: HostTables,
    /// The last packet that went to a backend by NAT, as it left and as it came; `None` as soon as its
    /// answer may find something changed.
    sent: Option<Sent>,
}

struct Sent {
    out: Vec<u8>,
    came: Vec<u8>,
}

impl Run {
    fn new(start: Start) -> Run {
        let mut world = World::empty();
        for (number, case) in (1..).zip(CASES) {
            world = world.with_service(case, case.flow(0).service, number, start.forward(number));
            for backend in script::backends_of(number) {
                world = world.with_backend(case, backend, number);
            }
            world.image.tables.insert(number, slots(script::backends_of(number)[0]));
        }
        give_addresses(&mut world.image);
        let settings = settings_of(&mut world.image);
        (settings.flow_table, settings.nat_table) = (TABLE, TABLE);
        let mut tables = HostTables::new(&world.image).unwrap();
        tables.tick = start.tick;
        Run { world, tables, sent: None }
    }

    /// The reason with which a packet ended, if it was one.
    fn apply(&mut self, operation: Operation) -> Option<Reason> {
        let frame = match operation {
            Operation::Frame(frame) => frame.to_vec(),
            Operation::Mended(frame) => {
                let mut frame = frame.to_vec();
                oracle::mend(&mut frame);
                frame
            }
            Operation::Answer { flags } => return self.answer(flags),
            Operation::Later(ticks) => {
                self.tables.tick = self.tables.tick.wrapping_add(ticks);
                self.sent = None;
                return None;
            }
            Operation::Configure { what, value } => {
                self.configure(what, value);
                self.sent = None;
                return None;
            }
        };
        let (outcome, after) = check::process(&self.tables, &frame);
        self.sent = (outcome.reason == Reason::Nat).then_some(Sent { out: after, came: frame });
        Some(outcome.reason)
    }

    /// The backend's answer to the last packet. It must find its way back to the client.
    fn answer(&mut self, flags: u8) -> Option<Reason> {
        let sent = self.sent.take()?;
        let frame = check::answer_to(&sent.out, flags)?;
        let (outcome, after) = check::process(&self.tables, &frame);
        check::answered(&outcome, &after, &sent.came);
        Some(outcome.reason)
    }

    fn configure(&mut self, what: u8, value: u8) {
        let number = 1 + u16::from(value >> 4) % (2 * CASES.len() as u16);
        let service = u32::from(number).div_ceil(2);
        let image = &mut self.world.image;
        match what % CONFIGURATIONS {
            0 => backend(image, number).flags ^= Backend::UP,
            1 => drop(image.tables.insert(service, slots(number))),
            2 => {
                image.tables.insert(service, slots(0));
                let entry = image.services.values_mut().find(|entry| entry.number == service);
                entry.unwrap().flags = Service::DROPS * (value & 1);
            }
            3 => {
                let entry = image.services.values_mut().find(|entry| entry.number == service);
                entry.unwrap().forward = script::forward(value) as u8;
            }
            4 => backend(image, number).hop = Hop::default(),
            5 => settings_of(image).reply_by_route ^= 1,
            6 => drop(image.tables.remove(&service)),
            7 => {
                let settings = settings_of(image);
                settings.nat_sources = Default::default();
                set_nat_groups(settings, settings.nat_groups);
            }
            8 => backend(image, number).mtu = 8 * u16::from(value),
            _ => {
                let settings = settings_of(image);
                // None at all is for nodes without NAT, which have no source address either.
                set_nat_groups(settings, u16::from(value).max(1));
                settings.nat_port_first = 1_024 + 8 * u16::from(value);
            }
        }
        give_addresses(image);
        self.tables.configure(image).unwrap();
    }
}

/// Through a tunnel, a service's second backend is reached in the other family.
fn give_addresses(image: &mut Image) {
    // 0: the entry of a VIP by itself.
    let services = image.services.values().filter(|entry| entry.number != 0);
    let forwards: Vec<_> = services.map(|entry| (entry.number, entry.forward)).collect();
    for (service, forward) in forwards {
        let case = CASES[service as usize - 1];
        let [first, second] = script::backends_of(service);
        let through_tunnel = [Forward::DsrIpip, Forward::DsrGue].iter().any(|one| *one as u8 == forward);
        let other = Case { v6: case.v6 != through_tunnel, ..case };
        backend(image, first).address = Address::from(case.backend(first));
        backend(image, second).address = Address::from(other.backend(second));
    }
}

/// A Maglev table that leads to one backend. Made once: filling it takes longer than all packets of a script.
fn slots(backend: u16) -> Slots {
    static TABLES: [OnceLock<Slots>; 2 * CASES.len() + 1] = [const { OnceLock::new() }; 2 * CASES.len() + 1];
    TABLES[usize::from(backend)].get_or_init(|| vec![backend; SLOTS].into()).clone()
}
