//! The data path on the host: the library over ordinary memory, which is the second implementation of
//! its seam, [`Tables`].

use std::{cell::OnceCell, collections::BTreeMap, ops::Range, sync::Mutex};

use anyhow::{Context as _, Result};
use lb_common::{
    Address, Backend, Bucket, Budget, Fate, Features, FragmentKey, FragmentPath, Hop, NatSet, NewFlows,
    Openings, QuicKey, Reason, Service, ServiceKey, Settings, Shape, SourceKey, Tokens, Trace, Word,
    chunk::split, flow::TICK_SHIFT,
};
use lb_ebpf::{
    Frame, Outcome, Tables, answer,
    flow_table::{self, Place},
    parse::Packet,
    process, process_icmp, process_odd,
};
use lb_userspace::core::{
    deny::{Change, Prefix},
    image::Image,
    passive,
    slots::Slots,
};

use crate::{
    run::{DataPath, Memory, Ran},
    scenario::Sent,
    world::{AFFINITY_BUCKETS, BACKENDS, FEATURES, FRONT},
};

/// The tables in ordinary memory.
pub struct HostTables {
    /// The settings.
    pub settings: Settings,
    /// Services by address, port and protocol, with the places of these.
    pub services: BTreeMap<ServiceKey, (u32, Service)>,
    /// Every address, port and protocol that was ever there.
    pub service_keys: Vec<ServiceKey>,
    /// Maglev tables by service number.
    pub slots: BTreeMap<u32, Slots>,
    /// Backends by number.
    pub backends: Vec<Backend>,
    /// The flow table.
    pub buckets: Vec<Bucket>,
    /// The NAT records.
    pub nat_sets: Vec<NatSet>,
    /// What became of first fragments.
    pub fragments: Fragments,
    /// Clients' backends.
    pub affinity: Vec<Bucket>,
    /// Who is denied, and who is allowed all the same.
    pub deny: BTreeMap<Prefix, bool>,
    /// New flows of this tick.
    pub new_flows: Mutex<NewFlows>,
    /// What sources may open.
    pub sources: Mutex<BTreeMap<SourceKey, Tokens>>,
    /// Backend numbers by QUIC server id.
    pub quic_ids: BTreeMap<QuicKey, u16>,
    /// The clock: whatever a test sets it to.
    pub tick: u16,
    /// What the kernel's routing would answer.
    pub route: Hop,
    /// What was sent of each kind of answer.
    pub budgets: [Word; Budget::COUNT],
    /// Who opens connections, and which backends answer.
    pub openings: Vec<Openings>,
}

impl HostTables {
    /// Empty tables, holding an image and as large as its settings say.
    ///
    /// # Errors
    /// When the image has no settings.
    pub fn new(image: &Image) -> Result<HostTables> {
        let settings = **image.settings.as_ref().context("an image without settings")?;
        let mut tables = HostTables {
            settings,
            services: BTreeMap::new(),
            service_keys: Vec::new(),
            slots: BTreeMap::new(),
            backends: vec![],
            buckets: (0..settings.flow_table.count()).map(|_| Bucket::default()).collect(),
            nat_sets: (0..settings.nat_table.count()).map(|_| NatSet::default()).collect(),
            fragments: Fragments::default(),
            affinity: (0..AFFINITY_BUCKETS).map(|_| Bucket::default()).collect(),
            deny: BTreeMap::new(),
            new_flows: Mutex::default(),
            sources: Mutex::default(),
            quic_ids: BTreeMap::new(),
            tick: 0,
            route: Hop::default(),
            budgets: Default::default(),
            openings: (0..=BACKENDS).map(|_| Openings::default()).collect(),
        };
        tables.configure(image)?;
        Ok(tables)
    }

    /// Takes over an image; the flow table and the NAT records stay.
    ///
    /// # Errors
    /// When the image has no settings.
    pub fn configure(&mut self, image: &Image) -> Result<()> {
        self.settings = **image.settings.as_ref().context("an image without settings")?;
        self.services.clear();
        for (key, service) in &image.services {
            let place = self.service_keys.iter().position(|known| known == key).unwrap_or_else(|| {
                self.service_keys.push(*key);
                self.service_keys.len() - 1
            });
            self.services.insert(*key, (place as u32, *service));
        }
        self.slots.clone_from(&image.tables);
        self.quic_ids.clone_from(&image.quic_ids);
        // As in the kernel's array, a backend that was never written is all zeros.
        self.backends = vec![Backend::default(); BACKENDS as usize + 1];
        for (number, backend) in &image.backends {
            self.backends[usize::from(*number)] = *backend;
        }
        Ok(())
    }

    /// Treats a frame that came in on an interface; what became of it. There is no room to grow.
    pub fn process(&self, bytes: &mut [u8], ingress: u32) -> Outcome {
        let length = bytes.len();
        self.run::<false>(bytes, 0..length, ingress).0
    }

    /// The same for a frame with room in front of it, which may also be answered.
    pub fn process_frame(&self, frame: &mut AlignedFrame, ingress: u32) -> Outcome {
        let bounds = frame.bounds.clone();
        let (outcome, bounds) = self.run::<false>(frame.memory(), bounds, ingress);
        frame.bounds = bounds;
        outcome
    }

    /// Tells what would become of a frame; the bytes change all the same.
    pub fn explain(&self, bytes: &mut [u8], ingress: u32) -> Outcome {
        let length = bytes.len();
        self.run::<true>(bytes, 0..length, ingress).0
    }

    /// The same for a frame with room in front of it.
    pub fn explain_frame(&self, frame: &mut AlignedFrame, ingress: u32) -> Outcome {
        let bounds = frame.bounds.clone();
        let (outcome, bounds) = self.run::<true>(frame.memory(), bounds, ingress);
        frame.bounds = bounds;
        outcome
    }

    /// Runs all programs that a frame goes through, which lies somewhere in this memory; where it lies then.
    fn run<const DRY_RUN: bool>(
        &self,
        memory: &mut [u8],
        bounds: Range<usize>,
        ingress: u32,
    ) -> (Outcome, Range<usize>) {
        let floor = memory.as_ptr() as usize;
        let tables = View::<DRY_RUN> { tables: self, floor, packet: OnceCell::new() };
        let mut frame = Frame::new(&mut memory[bounds]);
        let mut outcome = process(&mut frame, ingress, &tables);
        if outcome.reason.fate() == Fate::Odd {
            outcome = process_odd(&mut frame, ingress, &tables);
        }
        if outcome.reason.fate() == Fate::Icmp {
            outcome = process_icmp(&mut frame, ingress, &tables);
        }
        if !DRY_RUN && is_answered(outcome.reason) {
            outcome = answer(&mut frame, &outcome, &tables);
        }
        let (start, end) = frame.bounds();
        (outcome, start - floor..end - floor)
    }

    /// The tables that the data path writes.
    pub fn memory(&self) -> Memory<'_> {
        Memory { buckets: &self.buckets, nat_sets: &self.nat_sets, affinity: &self.affinity, tick: self.tick }
    }

    /// The clock in milliseconds.
    fn milliseconds(&self) -> u32 {
        ((u64::from(self.tick) << TICK_SHIFT) / 1_000_000) as u32
    }
}

/// What became of first fragments. What is replaced stays in memory, as others may still look at it.
#[derive(Default)]
pub struct Fragments(Mutex<Paths>);

#[derive(Default)]
struct Paths {
    /// Places in `all`.
    places: BTreeMap<FragmentKey, usize>,
    #[expect(clippy::vec_box, reason = "others refer to what is in the boxes while the vector grows")]
    all: Vec<Box<FragmentPath>>,
}

impl Fragments {
    fn get(&self, key: &FragmentKey) -> Option<&FragmentPath> {
        let paths = self.0.lock().unwrap();
        let path: *const FragmentPath = &**paths.all.get(*paths.places.get(key)?)?;
        // SAFETY: boxes are neither changed nor removed before `self` is dropped, which is borrowed.
        Some(unsafe { &*path })
    }

    fn insert(&self, key: FragmentKey, path: FragmentPath) {
        let mut paths = self.0.lock().unwrap();
        let place = paths.all.len();
        paths.places.insert(key, place);
        paths.all.push(Box::new(path));
    }
}

/// The index of a place where chunks lie one behind the other.
fn index(place: u32, shape: Shape) -> usize {
    let (chunk, item) = split(place);
    chunk as usize * shape.items as usize + item
}

/// Whether the program for answers goes on.
fn is_answered(reason: Reason) -> bool {
    matches!(reason.fate(), Fate::Refuse | Fate::TooBig | Fate::Expired)
}

/// The tables for one frame, with or without leave to write them.
struct View<'a, const DRY_RUN: bool> {
    tables: &'a HostTables,
    /// Where the memory in front of the frame begins.
    floor: usize,
    packet: OnceCell<Packet>,
}

impl<const DRY_RUN: bool> Tables for View<'_, DRY_RUN> {
    const DRY_RUN: bool = DRY_RUN;

    fn features(&self) -> Features {
        FEATURES
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.tables.settings)
    }

    fn service(&self, key: &ServiceKey) -> Option<(u32, &Service)> {
        self.tables.services.get(key).map(|(place, service)| (*place, service))
    }

    fn service_key(&self, place: u32) -> Option<ServiceKey> {
        let key = self.tables.service_keys.get(place as usize)?;
        self.tables.services.contains_key(key).then_some(*key)
    }

    fn slot(&self, service: u32, slot: u32) -> Option<u16> {
        self.tables.slots.get(&service)?.get(slot as usize)
    }

    fn backend(&self, number: u16) -> Option<&Backend> {
        self.tables.backends.get(usize::from(number))
    }

    fn bucket(&self, place: u32) -> Option<&Bucket> {
        self.tables.buckets.get(index(place, self.tables.settings.flow_table))
    }

    fn nat_set(&self, place: u32) -> Option<&NatSet> {
        self.tables.nat_sets.get(index(place, self.tables.settings.nat_table))
    }

    fn find_idle(&self, bucket: &Bucket, now: u16, place: &mut Place) {
        let closing = self.tables.settings.closing_idle;
        flow_table::find_idle(bucket, now, closing, |number| self.backend(number), place);
    }

    fn affinity_bucket(&self, index: u32) -> Option<&Bucket> {
        self.tables.affinity.get(index as usize)
    }

    fn is_denied(&self, client: &Address) -> bool {
        let client = u128::from_be_bytes(client.octets_v6());
        let holds = |prefix: &Prefix| {
            let network = u128::from_be_bytes(prefix.octets());
            (client ^ network).checked_shr(128 - u32::from(prefix.length())).unwrap_or(0) == 0
        };
        let longest =
            self.tables.deny.iter().filter(|(prefix, _)| holds(prefix)).max_by_key(|(p, _)| p.length());
        longest.is_some_and(|(_, denied)| *denied)
    }

    fn stores_new(&self, tick: u16, limit: u32) -> bool {
        self.tables.new_flows.lock().unwrap().admit(tick, limit)
    }

    fn take_token(&self, source: &SourceKey, rate: u32, burst: u32) -> bool {
        let mut sources = self.tables.sources.lock().unwrap();
        let now = self.tables.milliseconds();
        if DRY_RUN && !sources.contains_key(source) {
            return true;
        }
        sources.entry(*source).or_insert(Tokens::full(now, burst)).take(now, rate, burst, DRY_RUN)
    }

    fn quic_backend(&self, id: &QuicKey) -> Option<u16> {
        self.tables.quic_ids.get(id).copied()
    }

    fn tick(&self) -> u16 {
        self.tables.tick
    }

    fn keep(&self, packet: Packet) -> Option<&Packet> {
        Some(self.packet.get_or_init(|| packet))
    }

    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentPath> {
        self.tables.fragments.get(key)
    }

    fn remember_fragment(&self, key: &FragmentKey, path: &FragmentPath) {
        self.tables.fragments.insert(*key, *path);
    }

    fn route(&self, _: &mut Frame, _: usize) -> Hop {
        self.tables.route
    }

    /// No answer leaves by another interface than it came in.
    fn mtu(&self, _: u32) -> u16 {
        0
    }

    fn grow(&self, frame: &mut Frame, bytes: usize) -> bool {
        let (start, end) = frame.bounds();
        let room = start - self.floor >= bytes;
        if room {
            // SAFETY: still within the memory that the frame was made in.
            unsafe { frame.moved(start - bytes, end) };
        }
        room
    }

    fn shrink(&self, frame: &mut Frame, bytes: usize) -> bool {
        let (start, end) = frame.bounds();
        // SAFETY: the end of the frame that was.
        unsafe { frame.moved(start + bytes, end) };
        true
    }

    fn cut(&self, frame: &mut Frame, length: usize) -> bool {
        let (start, end) = frame.bounds();
        if start + length > end {
            return false;
        }
        // SAFETY: as above.
        *frame = unsafe { Frame::from_raw(start, start + length) };
        true
    }

    fn sum(&self, frame: &mut Frame, from: u32, length: u32) -> u32 {
        let mut byte =
            |at: u32| frame.at::<[u8; 1]>((from + at) as usize).map_or(0, |byte| u64::from(byte[0]));
        let sum: u64 = (0..length).map(|at| byte(at) << (8 * (at % 4))).sum();
        let folded = (sum & 0xffff_ffff) + (sum >> 32);
        ((folded & 0xffff_ffff) + (folded >> 32)) as u32
    }

    fn count_opened(&self, backend: u16) {
        Openings::count(&self.tables.openings[usize::from(backend)].opened);
    }

    fn count_answered(&self, backend: u16) {
        Openings::count(&self.tables.openings[usize::from(backend)].answered);
    }

    fn budget(&self, kind: Budget) -> Option<&Word> {
        self.tables.budgets.get(kind as usize)
    }
}

/// The host's data path with its counters, for the scenario table.
pub struct HostPath {
    tables: HostTables,
    reasons: Vec<u64>,
    sent: BTreeMap<u16, Sent>,
}

impl HostPath {
    /// A data path with an image, its clock at `tick`.
    ///
    /// # Errors
    /// When the image has no settings.
    pub fn new(image: &Image, tick: u16) -> Result<HostPath> {
        let tables = HostTables { tick, ..HostTables::new(image)? };
        Ok(HostPath { tables, reasons: vec![0; Reason::COUNT], sent: BTreeMap::new() })
    }
}

impl DataPath for HostPath {
    const SHORTEST_FRAME: usize = 0;

    fn configure(&mut self, desired: &Image) -> Result<()> {
        self.tables.configure(desired)
    }

    fn deny(&mut self, changes: &[Change]) -> Result<()> {
        for Change { prefix, denied } in changes {
            match denied {
                Some(denied) => drop(self.tables.deny.insert(*prefix, *denied)),
                None => drop(self.tables.deny.remove(prefix)),
            }
        }
        Ok(())
    }

    fn run(&mut self, frame: &[u8]) -> Result<(Ran, Vec<u8>)> {
        let mut memory = AlignedFrame::new(frame);
        let outcome = self.tables.process_frame(&mut memory, FRONT);
        self.reasons[outcome.reason as usize] += 1;
        if let Some(backend) = outcome.sent_to() {
            let sent = self.sent.entry(backend).or_default();
            sent.packets += 1;
            sent.bytes += u64::from(outcome.length);
            sent.begun += u64::from(outcome.begins_flow());
        }
        let ran = match outcome.reason.fate() {
            Fate::Pass | Fate::Odd | Fate::Icmp => Ran::Pass,
            Fate::Refuse | Fate::TooBig | Fate::Expired => Ran::Tx,
            Fate::Drop => Ran::Drop,
            Fate::Forward if outcome.interface == FRONT => Ran::Tx,
            Fate::Forward => Ran::Redirect,
        };
        Ok((ran, memory.bytes().to_vec()))
    }

    fn explain(&mut self, frame: &[u8]) -> Result<Trace> {
        Ok(self.tables.explain_frame(&mut AlignedFrame::new(frame), FRONT).trace())
    }

    fn reasons(&self) -> Result<Vec<u64>> {
        Ok(self.reasons.clone())
    }

    fn sent(&self, backend: u16) -> Result<Sent> {
        Ok(self.sent.get(&backend).copied().unwrap_or_default())
    }

    fn openings(&self, backend: u16) -> Result<passive::Openings> {
        let counted = &self.tables.openings[usize::from(backend)];
        Ok(passive::Openings { opened: counted.opened.load(), answered: counted.answered.load() })
    }

    fn with_memory<R>(&self, look: impl FnOnce(&Memory) -> R) -> Result<R> {
        Ok(look(&self.tables.memory()))
    }

    fn clear_fragments(&mut self) -> Result<()> {
        self.tables.fragments = Fragments::default();
        Ok(())
    }

    fn forget_sources(&mut self) -> Result<()> {
        self.tables.sources.lock().unwrap().clear();
        Ok(())
    }

    fn later(&mut self, ticks: u16) -> Result<()> {
        self.tables.tick = self.tables.tick.wrapping_add(ticks);
        Ok(())
    }

    fn on_cpu(&mut self, _: usize) {}
}

/// A frame at an even address, as every frame in the kernel is, with as much room in front of it as XDP
/// asks of drivers.
pub struct AlignedFrame {
    memory: Vec<u16>,
    bounds: Range<usize>,
}

/// XDP_PACKET_HEADROOM (include/uapi/linux/bpf.h), in bytes.
const HEADROOM: usize = 256;

impl AlignedFrame {
    /// A copy of these bytes.
    pub fn new(bytes: &[u8]) -> AlignedFrame {
        let bounds = HEADROOM..HEADROOM + bytes.len();
        let mut frame = AlignedFrame { memory: vec![0; bounds.end.div_ceil(2)], bounds };
        frame.bytes().copy_from_slice(bytes);
        frame
    }

    /// The frame.
    pub fn bytes(&mut self) -> &mut [u8] {
        let bounds = self.bounds.clone();
        &mut self.memory()[bounds]
    }

    /// Whether nothing was written in front of the frame as it was and is: its memory was zero. Behind the
    /// frame there is none.
    pub fn is_clean_in_front(&self) -> bool {
        let room = self.bounds.start.min(HEADROOM);
        self.memory.iter().flat_map(|word| word.to_ne_bytes()).take(room).all(|byte| byte == 0)
    }

    fn memory(&mut self) -> &mut [u8] {
        let start = self.memory.as_mut_ptr().cast();
        // SAFETY: the words' own memory, borrowed with them; they are plain bytes too.
        unsafe { std::slice::from_raw_parts_mut(start, self.memory.len() * 2) }
    }
}
