//! The data path on the host: the library over ordinary memory, which is the second implementation of
//! its seam, [`Tables`].

use std::{collections::BTreeMap, sync::Arc};

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

    /// Treats a frame that came in on an interface; what became of it.
    pub fn process(&self, bytes: &mut [u8], ingress: u32) -> Outcome {
        run(bytes, ingress, &View::<false>(self))
    }

    /// Tells what would become of a frame; the bytes change all the same.
    pub fn explain(&self, bytes: &mut [u8], ingress: u32) -> Outcome {
        run(bytes, ingress, &View::<true>(self))
    }

    /// The tables that the data path writes.
    pub fn memory(&self) -> Memory<'_> {
        Memory { buckets: &self.buckets, nat_sets: &self.nat_sets, tick: self.tick }
    }
}

/// All programs that a frame goes through.
fn run(bytes: &mut [u8], ingress: u32, tables: &impl Tables) -> Outcome {
    let mut frame = Frame::new(bytes);
    let outcome = process(&mut frame, ingress, tables);
    match outcome.reason.fate() {
        Fate::Odd => process_odd(&mut frame, ingress, tables),
        _ => outcome,
    }
}

/// The tables, with or without leave to write them.
struct View<'a, const DRY_RUN: bool>(&'a HostTables);

impl<const DRY_RUN: bool> Tables for View<'_, DRY_RUN> {
    const DRY_RUN: bool = DRY_RUN;

    fn features(&self) -> Features {
        FEATURES
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.0.settings)
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.0.services.get(key)
    }

    fn slot(&self, service: u32, slot: u32) -> Option<u16> {
        self.0.slots.get(&service)?.get(slot as usize).copied()
    }

    fn backend(&self, number: u16) -> Option<&Backend> {
        self.0.backends.get(usize::from(number))
    }

    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.0.buckets.get(index as usize)
    }

    fn nat_set(&self, index: u32) -> Option<&NatSet> {
        self.0.nat_sets.get(index as usize)
    }

    fn tick(&self) -> u16 {
        self.0.tick
    }

    fn route(&self, _: &mut Frame) -> Hop {
        self.0.route
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
        let outcome = self.tables.process(memory.bytes(), FRONT);
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

/// A frame at an even address, as every frame in the kernel is.
pub struct AlignedFrame {
    memory: Vec<u16>,
    length: usize,
}

impl AlignedFrame {
    /// A copy of these bytes.
    pub fn new(bytes: &[u8]) -> AlignedFrame {
        // One word more, so that even an empty frame has an address of its own.
        let mut frame = AlignedFrame { memory: vec![0; bytes.len() / 2 + 1], length: bytes.len() };
        frame.bytes().copy_from_slice(bytes);
        frame
    }

    /// The frame.
    pub fn bytes(&mut self) -> &mut [u8] {
        let start = self.memory.as_mut_ptr().cast();
        // SAFETY: the words are at least as long as the frame, borrowed with it, and plain bytes too.
        unsafe { std::slice::from_raw_parts_mut(start, self.length) }
    }
}
