//! A data path to be measured: 100 backends, and tables that have been in use.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    Address, Backend, Bucket, Entry, Features, Forward, Hop, NatSet, State, bench::MAX_ANSWERS, flow::WAYS,
    map, nat::PORTS_PER_GROUP,
};
use lb_userspace::{
    core::{
        deny::{DenyList, Prefix, Rule},
        image::{Image, diff},
        maglev::{self, Candidate},
    },
    dataplane::{Dataplane, Sizes, Wrapper},
};

use super::{
    frames::{Order, denied_clients, frames},
    matrix::{self, DENIED, FEW, MOST_KNOWN, Row, Traffic},
};
use crate::{
    chunks::Copied,
    run::change_words,
    world::{self, BACKEND_PORT, Case, FRONT, NODE_FRONT, PORT, TCP4, TCP6, UDP4, UDP6, World},
};

/// Flows for which the tables are made.
const FLOWS: u32 = 1_000_000;

const BACKENDS: u16 = 100;

/// The one service's number.
const SERVICE: u32 = 1;

/// Idle limit in ticks, 3 hours: no flow grows too old while the benchmark runs.
const IDLE: u16 = 10_000;

/// Known flows are from before this tick, the older ones from up to so many ticks earlier.
const OLDER: u16 = 3_000;

/// Packets of new flows, each another, after which the free places are taken.
const NEW_FLOWS: u32 = 2_000_000;

/// A data path of its own for one way to forward, family and protocol; with a deny list, for all families and
/// protocols.
pub(super) struct Bed {
    dataplane: Dataplane,
    sizes: Sizes,
    /// Index of the first flow that was never seen.
    unseen: u32,
    answers: Vec<u32>,
}

impl Bed {
    /// Loads the data path and fills its tables: a flow table at its configured size with proven flows,
    /// half of them the known ones, and new flows in all other places.
    pub(super) fn new(forward: Forward, case: Case, wrapper: &mut Wrapper) -> Result<Bed> {
        let sizes = Sizes::new(FLOWS, 1_000, forward == Forward::Nat, 1, SERVICE, u32::from(BACKENDS));
        let mut bed = Bed::load(sizes, matrix::features(forward), &image(case, forward, sizes))?;
        bed.fill(case, wrapper)?;
        if forward == Forward::Nat {
            bed.answers = bed.answers_of_known(case)?;
            ensure!(!bed.answers.is_empty(), "no NAT record of a known flow");
        }
        Ok(bed)
    }

    /// Loads a data path that looks at a deny list of 1,000,000 addresses, half of each family. Its other tables
    /// are empty: a denied packet does not reach them.
    pub(super) fn with_deny_list(forward: Forward) -> Result<Bed> {
        let sizes = Sizes::new(1_000, 1_000, forward == Forward::Nat, 4, 4, 1);
        let mut world = World::empty();
        for (number, case) in (1..).zip([TCP4, TCP6, UDP4, UDP6]) {
            world = world.with_service(case, SocketAddr::new(case.vip(), PORT), number, forward);
        }
        let mut bed = Bed::load(sizes, matrix::features(forward) | Features::DENY, &world.image)?;
        let clients = denied_clients(TCP4).chain(denied_clients(TCP6));
        let rules: Vec<_> = clients.map(|client| Rule { prefix: Prefix::of(client), denied: true }).collect();
        bed.dataplane.deny(&DenyList::new(&rules, &[])?.all())?;
        Ok(bed)
    }

    fn load(sizes: Sizes, features: Features, image: &Image) -> Result<Bed> {
        let mut dataplane = Dataplane::load(sizes, features)?;
        dataplane.apply(&diff(&Image::default(), image))?;
        Ok(Bed { dataplane, sizes, unseen: FLOWS, answers: Vec::new() })
    }

    fn fill(&mut self, case: Case, wrapper: &mut Wrapper) -> Result<()> {
        wrapper.aim_at(Some(&self.dataplane))?;
        self.settle(case, wrapper, MOST_KNOWN, |tag| 2 + tag as u16 % OLDER)?;
        self.settle(case, wrapper, 0, |_| 1)?;
        pass(wrapper, case, Traffic::New, self.unseen, NEW_FLOWS)?;
        self.unseen += NEW_FLOWS;
        Ok(())
    }

    /// Half of the flows for which the tables are made, proven. A few at a time, as it happens: until they are
    /// proven, new flows displace each other.
    fn settle(&self, case: Case, wrapper: &mut Wrapper, first: u32, age: impl Fn(u32) -> u16) -> Result<()> {
        const STEP: u32 = FLOWS / 2 / 10;
        for step in 0..10 {
            pass(wrapper, case, Traffic::New, first + step * STEP, STEP)?;
            self.prove(&age)?;
        }
        Ok(())
    }

    /// Takes all new flows for proven ones, of so many ticks ago.
    fn prove(&self, age: impl Fn(u32) -> u16) -> Result<()> {
        let now = self.dataplane.tick()?;
        let proven = |entry: Entry| match entry.state() {
            State::New => {
                let tick = now.wrapping_sub(age(entry.tag()));
                Entry::new(entry.tag(), State::Proven, tick, entry.backend())
            }
            _ => entry,
        };
        let flows = self.flow_table()?;
        change_words(flows.items().iter().flat_map(|bucket| &bucket.0), proven);
        flows.write_to(self.dataplane.map_fd(map::FLOWS)?)?;
        let records = self.nat_table()?;
        change_words(records.items().iter().flat_map(|set| &set.words.0), proven);
        records.write_to(self.dataplane.map_fd(map::NAT)?)
    }

    fn flow_table(&self) -> Result<Copied<Bucket>> {
        Copied::read(self.dataplane.map_fd(map::FLOWS)?, self.sizes.flow_table)
    }

    fn nat_table(&self) -> Result<Copied<NatSet>> {
        Copied::read(self.dataplane.map_fd(map::NAT)?, self.sizes.nat_table)
    }

    /// The list of answers: what backends send for the first known flows.
    fn answers_of_known(&self, case: Case) -> Result<Vec<u32>> {
        let plan = frames(case, Traffic::New, Order::From(0)).plan;
        let known: std::collections::HashSet<_> = (0..FEW).map(|index| plan.client(index)).collect();
        let mut answers = Vec::new();
        for set in self.nat_table()?.items() {
            for way in 0..WAYS {
                let entry = Entry(set.words.0[way].load());
                let tuple = set.record(way).tuple();
                let client = (tuple.client.words32()[3].swap_bytes(), tuple.client_port);
                if entry.state() == State::Proven && known.contains(&client) {
                    let port = world::settings().nat_port_first + tuple.group * PORTS_PER_GROUP + way as u16;
                    answers.push(u32::from(entry.backend()) << 16 | u32::from(port));
                }
            }
        }
        answers.truncate(MAX_ANSWERS);
        Ok(answers)
    }

    /// The next frames of a row: `seed` makes the random ones others.
    pub(super) fn frames(&mut self, row: &Row, seed: u64, count: u32) -> super::frames::Frames {
        let order = match row.traffic {
            Traffic::Known(flows) => Order::Random(u64::from(flows), seed),
            Traffic::NotOurs => Order::Random(u64::from(FEW), seed),
            Traffic::Reply => Order::Random(self.answers.len() as u64, seed),
            Traffic::Flood => Order::Random(1 << 32, seed),
            Traffic::Denied => Order::Random(u64::from(DENIED), seed),
            Traffic::New => {
                self.unseen += count;
                Order::From(self.unseen - count)
            }
        };
        frames(row.case, row.traffic, order)
    }

    /// Lets the wrapper call this data path, with packets of known flows in the caches as far as they fit.
    pub(super) fn warm_up(&self, wrapper: &mut Wrapper, row: &Row) -> Result<()> {
        if row.traffic == Traffic::Reply {
            wrapper.set_answers(&self.answers)?;
        }
        wrapper.aim_at(Some(&self.dataplane))?;
        match row.traffic {
            Traffic::Known(flows) => pass(wrapper, row.case, row.traffic, 0, flows),
            _ => Ok(()),
        }
    }

    /// Checks on some flows that known ones are known, and new ones are not.
    pub(super) fn check(&mut self, row: &Row) -> Result<()> {
        const SAMPLE: u32 = 100;
        let (first, flows, known) = match row.traffic {
            Traffic::Known(flows) => (0, flows.min(SAMPLE), true),
            Traffic::New => (self.unseen, SAMPLE, false),
            _ => return Ok(()),
        };
        let frames = frames(row.case, row.traffic, Order::From(first));
        let mut right = 0;
        for index in first..first + flows {
            let trace = self.dataplane.explain_frame(&frames.frame_of(index))?;
            right += u32::from((trace.known != 0) == known);
        }
        ensure!(right * 100 >= flows * 90, "{row}: of {flows} flows only {right} are as they should be");
        Ok(())
    }

    /// Packets by reason.
    pub(super) fn reasons(&self) -> Result<Vec<u64>> {
        Ok(self.dataplane.reasons()?)
    }

    /// Instructions that the verifier walked.
    pub(super) fn verified_instructions(&mut self) -> Result<u32> {
        Ok(self.dataplane.verified_instructions(lb_common::program::USHER)?)
    }
}

/// One packet of each of these flows.
fn pass(wrapper: &mut Wrapper, case: Case, traffic: Traffic, first: u32, count: u32) -> Result<()> {
    let frames = frames(case, traffic, Order::From(first));
    wrapper.run(&frames.plan, &frames.frame, count)?;
    Ok(())
}

/// One service with 100 backends, all beside the clients' router: packets leave where they came in.
fn image(case: Case, forward: Forward, sizes: Sizes) -> Image {
    let mut image =
        World::empty().with_service(case, SocketAddr::new(case.vip(), PORT), SERVICE, forward).image;
    let settings = world::settings_of(&mut image);
    settings.flow_table = sizes.flow_table;
    settings.nat_table = sizes.nat_table;
    settings.longest_idle = IDLE;
    image.services.values_mut().for_each(|service| service.idle = IDLE);
    for number in 1..=BACKENDS {
        let mac = [2, 0, 0, 0, 1, number as u8];
        let backend = Backend {
            address: Address::from(case.backend(number)),
            hop: Hop::new(FRONT, mac, NODE_FRONT),
            service: SERVICE,
            port: BACKEND_PORT.to_be_bytes(),
            idle: IDLE,
            flags: Backend::UP,
            ..Backend::default()
        };
        image.backends.insert(number, backend);
    }
    image.tables.insert(SERVICE, maglev::build(&candidates(&image)));
    image
}

fn candidates(image: &Image) -> Vec<Candidate> {
    let candidate = |(number, backend): (&u16, &Backend)| {
        let mut identity = [0; 18];
        identity[..16].copy_from_slice(&backend.address.octets_v6());
        identity[16..].copy_from_slice(&backend.port);
        Candidate { number: *number, identity, weight: 1 }
    };
    image.backends.iter().map(candidate).collect()
}

/// Reads the benchmark's object.
///
/// # Errors
/// When it was not built.
pub(super) fn wrapper() -> Result<Wrapper> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/bpfel-unknown-none/release/usher-bench");
    let object = std::fs::read(path)
        .with_context(|| format!("cannot read {path}; `cargo xtask build-ebpf` makes it"))?;
    Ok(Wrapper::load(&object)?)
}
