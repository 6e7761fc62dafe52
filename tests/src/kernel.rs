//! The data path in the kernel: the loaded program, run by `BPF_PROG_TEST_RUN`, and its tables copied
//! into this process.

use std::{
    collections::BTreeSet,
    env,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    slice,
};

use anyhow::{Context as _, Result, bail};
use lb_common::{BackendCounters, Bucket, FragmentPath, Reason, SourceKey, Trace, map};
use lb_userspace::{
    core::{
        deny::Change,
        image::{Image, diff},
        passive::Openings,
    },
    dataplane::{Dataplane, Sizes},
};
use nix::{
    libc::{SYS_bpf, off_t, syscall},
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{Pid, geteuid},
};

use crate::{
    chunks::Copied,
    run::{DataPath, Memory, Ran},
    scenario::Sent,
    world::{AFFINITY_BUCKETS, BACKENDS, FEATURES, FLOW_TABLE, FRAGMENTS, NAT_TABLE, SERVICES},
};

/// The tables of the scenarios.
pub const SIZES: Sizes = Sizes {
    flow_table: FLOW_TABLE,
    nat_table: NAT_TABLE,
    service_bits: 10,
    fragments: FRAGMENTS,
    affinity_buckets: AFFINITY_BUCKETS,
    sources: 1_000,
    services: SERVICES + 1,
    backends: BACKENDS + 1,
};

/// The program in the kernel with its maps.
pub struct KernelPath {
    dataplane: Dataplane,
    sizes: Sizes,
    applied: Image,
    affinity: Mapping<Bucket>,
}

impl KernelPath {
    /// Loads the program with small tables and its clock stopped, in a network namespace of this thread's own: its routing knows no
    /// way anywhere. `None`, with a word to the reader, when that needs a privilege which is not there.
    ///
    /// # Errors
    /// When the kernel refuses it.
    ///
    /// # Panics
    /// When the privilege is missing and the variable `USHER_NO_SKIP` forbids to skip anything.
    pub fn load() -> Result<Option<KernelPath>> {
        KernelPath::with(SIZES)
    }

    /// The same with tables of other sizes.
    ///
    /// # Errors
    /// As [`KernelPath::load`].
    ///
    /// # Panics
    /// As [`KernelPath::load`].
    pub fn with(sizes: Sizes) -> Result<Option<KernelPath>> {
        if !may_load() {
            return Ok(None);
        }
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of our own")?;
        let dataplane = Dataplane::load_with_clock_stopped(sizes, FEATURES)?;
        // SAFETY: the object declares the map mmapable, with this type, and it was just made with so many
        // elements.
        let affinity =
            unsafe { Mapping::new(dataplane.map_fd(map::AFFINITY)?, sizes.affinity_buckets as usize) }?;
        Ok(Some(KernelPath { dataplane, sizes, applied: Image::default(), affinity }))
    }

    /// The loaded program.
    pub fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }

    /// Takes back [`DataPath::on_cpu`], also for threads that this one will make.
    pub fn on_all_cpus(&mut self) {
        let mut cpus = CpuSet::new();
        (0..CpuSet::count()).for_each(|cpu| cpus.set(cpu).unwrap_or_default());
        let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
    }

    /// The loaded program, shared by threads.
    pub fn shared(&self) -> &Dataplane {
        &self.dataplane
    }
}

/// Whether BPF programs may be loaded; says so if not.
///
/// # Panics
/// When they may not and the variable `USHER_NO_SKIP` forbids to skip anything.
pub fn may_load() -> bool {
    if geteuid().is_root() {
        return true;
    }
    assert!(env::var_os("USHER_NO_SKIP").is_none(), "loading a BPF program needs root");
    println!("skipped: loading a BPF program needs root");
    false
}

impl DataPath for KernelPath {
    /// `BPF_PROG_TEST_RUN` refuses what has no Ethernet header.
    const SHORTEST_FRAME: usize = 14;

    fn configure(&mut self, desired: &Image) -> Result<()> {
        self.dataplane.apply(&diff(&self.applied, desired))?;
        self.applied = desired.clone();
        Ok(())
    }

    fn deny(&mut self, changes: &[Change]) -> Result<()> {
        Ok(self.dataplane.deny(changes)?)
    }

    fn run(&mut self, frame: &[u8]) -> Result<(Ran, Vec<u8>)> {
        run(&self.dataplane, frame)
    }

    fn explain(&mut self, frame: &[u8]) -> Result<Trace> {
        Ok(self.dataplane.explain_frame(frame)?)
    }

    fn reasons(&self) -> Result<Vec<u64>> {
        // Of those that may get packets: each reason of each service is a system call.
        let services = self.applied.services.values().map(|service| service.number);
        let numbers: BTreeSet<u32> = services
            .chain(self.applied.backends.values().map(|backend| backend.service))
            .chain([0])
            .collect();
        let mut sums = vec![0; Reason::COUNT];
        for number in numbers {
            let counted = self.dataplane.reasons_of(number)?;
            sums.iter_mut().zip(counted).for_each(|(sum, count)| *sum += count);
        }
        Ok(sums)
    }

    fn sent(&self, backend: u16) -> Result<Sent> {
        let BackendCounters { packets, bytes } = self.dataplane.counters([backend])?[&backend];
        Ok(Sent { packets, bytes, begun: self.dataplane.begun([backend])?[&backend] })
    }

    fn openings(&self, backend: u16) -> Result<Openings> {
        Ok(self.dataplane.openings([backend])?[&backend])
    }

    fn with_memory<R>(&self, look: impl FnOnce(&Memory) -> R) -> Result<R> {
        let (flows, nat) = (self.dataplane.map_fd(map::FLOWS)?, self.dataplane.map_fd(map::NAT)?);
        let (buckets, nat_sets) =
            (Copied::read(flows, self.sizes.flow_table)?, Copied::read(nat, self.sizes.nat_table)?);
        let tick = self.dataplane.tick()?;
        let affinity = self.affinity.as_slice();
        let seen = look(&Memory { buckets: buckets.items(), nat_sets: nat_sets.items(), affinity, tick });
        buckets.write_to(flows)?;
        nat_sets.write_to(nat)?;
        Ok(seen)
    }

    fn clear_fragments(&mut self) -> Result<()> {
        Ok(self.dataplane.change_fragments(|_| None)?)
    }

    fn forget_sources(&mut self) -> Result<()> {
        empty(self.dataplane.map_fd(map::SOURCES)?, size_of::<SourceKey>())
    }

    /// The clock stands still: the entries grow older instead.
    fn later(&mut self, ticks: u16) -> Result<()> {
        self.with_memory(|memory| memory.age(ticks))?;
        self.dataplane
            .change_fragments(|path| Some(FragmentPath { tick: path.tick.wrapping_sub(ticks), ..path }))?;
        Ok(())
    }

    fn on_cpu(&mut self, cpu: usize) {
        let mut cpus = CpuSet::new();
        // With one CPU only, the flow stays where it is.
        let _ = cpus.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus));
    }
}

/// Runs the program on a frame.
///
/// # Errors
/// When the kernel refuses, or the program aborts.
pub fn run(dataplane: &Dataplane, frame: &[u8]) -> Result<(Ran, Vec<u8>)> {
    let result = dataplane.test_run(frame)?;
    // enum xdp_action, include/uapi/linux/bpf.h.
    let ran = match result.action {
        1 => Ran::Drop,
        2 => Ran::Pass,
        3 => Ran::Tx,
        4 => Ran::Redirect,
        other => bail!("the program returned {other}"),
    };
    Ok((ran, result.frame))
}

/// Removes every element of a map.
fn empty(map: BorrowedFd, key_size: usize) -> Result<()> {
    // bpf(2): the part of `union bpf_attr` for elements, and its commands.
    #[repr(C)]
    struct Element {
        map: u64,
        key: u64,
        value: u64,
        flags: u64,
    }
    const DELETE: i64 = 3;
    const GET_NEXT_KEY: i64 = 4;
    let mut key = vec![0_u8; key_size];
    let element = |key: u64, value: u64| Element { map: map.as_raw_fd() as u64, key, value, flags: 0 };
    let bpf = |command: i64, element: Element| {
        // SAFETY: the pointers lead to as many bytes as a key has, which outlive the call.
        unsafe { syscall(SYS_bpf, command, &raw const element, size_of::<Element>()) == 0 }
    };
    while bpf(GET_NEXT_KEY, element(0, key.as_mut_ptr() as u64)) {
        if !bpf(DELETE, element(key.as_ptr() as u64, 0)) {
            bail!("cannot remove an element: {}", std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A map in this process's memory, to be read and written.
pub(crate) struct Mapping<T> {
    start: NonNull<T>,
    length: usize,
}

impl<T> Mapping<T> {
    /// # Safety
    /// The map must be an array with `BPF_F_MMAPABLE` of at least `length` values of type `T`, which
    /// must be valid for any bytes and change under shared references only by its own means.
    pub(crate) unsafe fn new(map: BorrowedFd, length: usize) -> Result<Mapping<T>> {
        let size = (length * size_of::<T>()).try_into().context("an empty map")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, map, 0 as off_t) }?;
        Ok(Mapping { start: start.cast(), length })
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: mapped in `new` for this many elements, until this value is dropped.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

// SAFETY: shared memory, which threads may use as far as `T` may be shared.
unsafe impl<T: Sync> Sync for Mapping<T> {}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; nothing refers to it any more.
        let _ = unsafe { munmap(self.start.cast(), self.length * size_of::<T>()) };
    }
}
