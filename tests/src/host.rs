//! The data path on the host: the library over ordinary memory, which is the second implementation of
//! its seam, [`Tables`].

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use anyhow::{Context as _, Result};
use lb_common::{
    Backend, BackendCounters, Bucket, Fate, Features, Hop, NatSet, Reason, Service, ServiceKey, Settings,
    Trace,
};
use lb_ebpf::{Frame, Outcome, Tables, process, process_odd};
use lb_userspace::core::image::Image;

use crate::{
    run::{DataPath, Memory, Ran},
    world::{BACKENDS, BUCKETS, FEATURES, FRONT, NAT_SETS},
};

/// The tables in ordinary memory.
pub struct HostTables {
    /// The settings.
    pub settings: Settings,
    /// Services by address, port and protocol.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Maglev tables by service number.
    pub slots: BTreeMap<u32, Arc<[u16]>>,
    /// Backends by number.
    pub backends: Vec<Backend>,
    /// The flow table.
    pub buckets: Vec<Bucket>,
    /// The NAT records.
    pub nat_sets: Vec<NatSet>,
    /// The clock: whatever a test sets it to.
    pub tick: u16,
    /// What the kernel's routing would answer.
    pub route: Hop,
}

impl HostTables {
    /// Empty tables of these sizes, holding an image.
    ///
    /// # Errors
    /// When the image has no settings.
    pub fn new(image: &Image, buckets: u32, nat_sets: u32) -> Result<HostTables> {
        let mut tables = HostTables {
            settings: **image.settings.as_ref().context("an image without settings")?,
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            backends: vec![],
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            nat_sets: (0..nat_sets).map(|_| NatSet::default()).collect(),
            tick: 0,
            route: Hop::default(),
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
        self.services.clone_from(&image.services);
        self.slots.clone_from(&image.tables);
        // As in the kernel's array, a backend that was never written is all zeros.
        self.backends = vec![Backend::default(); BACKENDS as usize + 1];
        for (number, backend) in &image.backends {
            self.backends[usize::from(*number)] = *backend;
        }
        Ok(())
    }

    /// Treats a frame that came in on an interface; what became of it. The frame cannot grow: see
    /// [`HostTables::treat`].
    pub fn process(&self, bytes: &mut [u8], ingress: u32) -> Outcome {
        let mut frame = Frame::new(bytes);
        let room = frame.bounds().0..frame.bounds().1;
        run(&mut frame, ingress, &View::<false> { tables: self, room })
    }

    /// Treats a frame that may change its length.
    pub fn treat(&self, frame: &mut AlignedFrame, ingress: u32) -> Outcome {
        let room = frame.room();
        let mut view = Frame::new(frame.bytes());
        let outcome = run(&mut view, ingress, &View::<false> { tables: self, room: room.clone() });
        let (start, end) = view.bounds();
        frame.place = start - room.start..end - room.start;
        outcome
    }

    /// Tells what would become of a frame; the bytes change all the same.
    pub fn explain(&self, bytes: &mut [u8], ingress: u32) -> Outcome {
        let mut frame = Frame::new(bytes);
        let room = frame.bounds().0..frame.bounds().1;
        run(&mut frame, ingress, &View::<true> { tables: self, room })
    }

    /// The tables that the data path writes.
    pub fn memory(&self) -> Memory<'_> {
        Memory { buckets: &self.buckets, nat_sets: &self.nat_sets, tick: self.tick }
    }
}

/// All programs that a frame goes through.
fn run(frame: &mut Frame, ingress: u32, tables: &impl Tables) -> Outcome {
    let outcome = process(frame, ingress, tables);
    match outcome.reason.fate() {
        Fate::Odd => process_odd(frame, ingress, tables),
        _ => outcome,
    }
}

/// The tables, with or without leave to write them.
struct View<'a, const DRY_RUN: bool> {
    tables: &'a HostTables,
    /// The memory in which the frame may move its ends.
    room: Range<usize>,
}

impl<const DRY_RUN: bool> Tables for View<'_, DRY_RUN> {
    const DRY_RUN: bool = DRY_RUN;

    fn features(&self) -> Features {
        FEATURES
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.tables.settings)
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.tables.services.get(key)
    }

    fn slot(&self, service: u32, slot: u32) -> Option<u16> {
        self.tables.slots.get(&service)?.get(slot as usize).copied()
    }

    fn backend(&self, number: u16) -> Option<&Backend> {
        self.tables.backends.get(usize::from(number))
    }

    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.tables.buckets.get(index as usize)
    }

    fn nat_set(&self, index: u32) -> Option<&NatSet> {
        self.tables.nat_sets.get(index as usize)
    }

    fn tick(&self) -> u16 {
        self.tables.tick
    }

    fn route(&self, _: &mut Frame) -> Hop {
        self.tables.route
    }

    fn grow(&self, frame: &mut Frame, bytes: usize) -> bool {
        let (start, end) = frame.bounds();
        if start - bytes < self.room.start {
            return false;
        }
        // SAFETY: the frame stays within the memory that was reserved for it and is borrowed with it.
        *frame = unsafe { Frame::from_raw(start - bytes, end) };
        true
    }
}

/// The host's data path with its counters, for the scenario table.
pub struct HostPath {
    tables: HostTables,
    reasons: Vec<u64>,
    counters: BTreeMap<u16, BackendCounters>,
}

impl HostPath {
    /// A data path with an image, its clock at `tick`.
    ///
    /// # Errors
    /// When the image has no settings.
    pub fn new(image: &Image, tick: u16) -> Result<HostPath> {
        let tables = HostTables { tick, ..HostTables::new(image, BUCKETS, NAT_SETS)? };
        Ok(HostPath { tables, reasons: vec![0; Reason::COUNT], counters: BTreeMap::new() })
    }
}

impl DataPath for HostPath {
    const SHORTEST_FRAME: usize = 0;

    fn configure(&mut self, desired: &Image) -> Result<()> {
        self.tables.configure(desired)
    }

    fn run(&mut self, frame: &[u8]) -> Result<(Ran, Vec<u8>)> {
        let mut memory = AlignedFrame::new(frame);
        let outcome = self.tables.treat(&mut memory, FRONT);
        self.reasons[outcome.reason as usize] += 1;
        if let Some(backend) = outcome.sent_to() {
            let counters = self.counters.entry(backend).or_default();
            counters.packets += 1;
            counters.bytes += u64::from(outcome.length);
        }
        let ran = match outcome.reason.fate() {
            Fate::Pass | Fate::Odd => Ran::Pass,
            Fate::Drop => Ran::Drop,
            Fate::Forward if outcome.interface == FRONT => Ran::Tx,
            Fate::Forward => Ran::Redirect,
        };
        Ok((ran, memory.bytes().to_vec()))
    }

    fn explain(&mut self, frame: &[u8]) -> Result<Trace> {
        Ok(self.tables.explain(AlignedFrame::new(frame).bytes(), FRONT).trace())
    }

    fn reasons(&self) -> Result<Vec<u64>> {
        Ok(self.reasons.clone())
    }

    fn counters(&self, backend: u16) -> Result<BackendCounters> {
        Ok(self.counters.get(&backend).copied().unwrap_or_default())
    }

    fn memory(&self) -> Memory<'_> {
        self.tables.memory()
    }

    fn later(&mut self, ticks: u16) {
        self.tables.tick = self.tables.tick.wrapping_add(ticks);
    }

    fn on_cpu(&mut self, _: usize) {}
}

/// Bytes before and after a frame, by which it may grow: as many as the kernel has before it.
const HEADROOM: usize = 256;

/// A frame at an even address, as every frame in the kernel is, with room to grow.
pub struct AlignedFrame {
    memory: Vec<u16>,
    /// Where in it the frame is, in bytes.
    place: Range<usize>,
}

impl AlignedFrame {
    /// A copy of these bytes.
    pub fn new(bytes: &[u8]) -> AlignedFrame {
        let place = HEADROOM..HEADROOM + bytes.len();
        let mut frame = AlignedFrame { memory: vec![0; bytes.len() / 2 + 1 + HEADROOM], place };
        frame.bytes().copy_from_slice(bytes);
        frame
    }

    /// The frame.
    pub fn bytes(&mut self) -> &mut [u8] {
        let place = self.place.clone();
        let memory: *mut u8 = self.memory.as_mut_ptr().cast();
        // SAFETY: the words are at least as many as the frame needs, borrowed with it, and plain bytes too.
        let all = unsafe { std::slice::from_raw_parts_mut(memory, self.memory.len() * 2) };
        &mut all[place]
    }

    /// Whether nothing was written outside of the frame: its memory was zero.
    pub fn is_clean_outside(&self) -> bool {
        let place = self.place.clone();
        let bytes = self.memory.iter().flat_map(|word| word.to_ne_bytes());
        bytes.enumerate().all(|(at, byte)| byte == 0 || place.contains(&at))
    }

    /// The addresses of its memory.
    fn room(&self) -> Range<usize> {
        let room = self.memory.as_ptr_range();
        room.start as usize..room.end as usize
    }
}
