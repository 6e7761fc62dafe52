//! Counting, listing and sweeping the flow table and the NAT records, which the program goes on writing meanwhile.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::Map;
use lb_common::{
    Address, Entry, FlowHash, Shape, State,
    chunk::{Reading, Request, split},
    flow::IdleLimits,
    map, program,
};

use super::{
    Dataplane, DataplaneError, Sizes,
    object::{Maps, Programs},
    services::ServiceTable,
    sys::{self, Mapped},
};

/// What the flow table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Live entries that are new.
    pub new: u64,
    /// Live entries that are proven.
    pub proven: u64,
    /// Live entries that are closing.
    pub closing: u64,
    /// Live entries by backend number.
    pub by_backend: BTreeMap<u16, u64>,
}

/// Both tables, to be read chunk by chunk: a program copies each to where this process can see it.
pub struct SharedTables {
    reader: Mutex<Reader>,
    flow_table: Shape,
    nat_table: Shape,
    services: Arc<ServiceTable>,
}

/// A flow under NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatFlow {
    /// What the flow table would hold.
    pub entry: Entry,
    /// The client's address and port.
    pub client: (Address, u16),
    /// The service's.
    pub vip: (Address, u16),
    /// The group of its NAT port, among those of all source addresses.
    pub group: u16,
    /// Which port of the group.
    pub way: u16,
}

struct Reader {
    program: OwnedFd,
    reading: Mapped<Reading>,
}

impl Reader {
    /// A chunk, and the clock's tick when it was read.
    fn read(&self, request: &Request) -> Result<(&Reading, u16), DataplaneError> {
        let name = if request.nat { map::NAT } else { map::FLOWS };
        let reading = &self.reading.as_slice()[0];
        reading.ask(request);
        let result = sys::run_xdp(self.program.as_fd())
            .and_then(|result| if result == 0 { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) });
        result.map_err(|source| DataplaneError::System { what: "read a chunk of", map: name, source })?;
        Ok((reading, reading.tick.load() as u16))
    }
}

impl SharedTables {
    pub(super) fn new(
        programs: &Programs,
        maps: &Maps,
        sizes: Sizes,
        services: Arc<ServiceTable>,
    ) -> Result<SharedTables, DataplaneError> {
        let name = program::READ;
        let fd = programs.get(name)?.fd().map_err(|source| DataplaneError::Program { name, source })?;
        let program = fd.as_fd().try_clone_to_owned().map_err(|source| DataplaneError::System {
            what: "keep the program that reads",
            map: map::READING,
            source,
        })?;
        // SAFETY: the object declares the map as a mmapable array of one element of this type, whose words are
        // only used atomically.
        let reading = unsafe { mapped(maps, map::READING, 1)? };
        let reader = Mutex::new(Reader { program, reading });
        Ok(SharedTables { reader, flow_table: sizes.flow_table, nat_table: sizes.nat_table, services })
    }

    pub(super) fn flow_chunks(&self) -> u32 {
        self.flow_table.chunks
    }

    pub(super) fn nat_chunks(&self) -> u32 {
        self.nat_table.chunks
    }

    /// Shows each live entry of the flow table. `limits` holds the longer of the idle times of all protocols,
    /// because an entry does not tell its own.
    ///
    /// # Errors
    /// When the kernel refuses to run the program that reads.
    pub fn each_flow(&self, limits: &IdleLimits, mut show: impl FnMut(Entry)) -> Result<(), DataplaneError> {
        self.each_chunk(false, None, |reading, now| {
            let entries = reading.lines.iter().flat_map(|bucket| &bucket.0).map(|word| Entry(word.load()));
            entries.filter(|entry| is_held(*entry, now, limits)).for_each(&mut show);
        })
    }

    /// The live entry that may belong to the flow with this hash and tag.
    ///
    /// # Errors
    /// As for [`SharedTables::each_flow`].
    pub fn flow(
        &self,
        hash: FlowHash,
        tag: u32,
        limits: &IdleLimits,
    ) -> Result<Option<Entry>, DataplaneError> {
        let (chunk, item) = split(self.flow_table.place(hash.place));
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let (reading, now) = reader.read(&Request { nat: false, chunk, free: None })?;
        let mut entries = reading.lines[item].0.iter().map(|word| Entry(word.load()));
        Ok(entries.find(|entry| entry.tag() == tag && is_held(*entry, now, limits)))
    }

    /// Shows each live NAT record.
    ///
    /// # Errors
    /// As for [`SharedTables::each_flow`].
    pub fn each_nat(&self, limits: &IdleLimits, mut show: impl FnMut(NatFlow)) -> Result<(), DataplaneError> {
        self.each_chunk(true, None, |reading, now| {
            for set in reading.nat_sets() {
                for (way, word) in (0_u16..).zip(&set.words.0) {
                    let entry = Entry(word.load());
                    // Backend 0 has a record that is just being written.
                    if entry.backend() != 0 && is_held(entry, now, limits) {
                        let tuple = set.record(way.into()).tuple();
                        let vip = self.services.key(tuple.service);
                        show(NatFlow {
                            entry,
                            client: (tuple.client, tuple.client_port),
                            vip: (vip.address, vip.port()),
                            group: tuple.group,
                            way,
                        });
                    }
                }
            }
        })
    }

    /// Frees the entries and records that were idle for too long; how many.
    fn sweep(&self, limits: &IdleLimits) -> Result<u64, DataplaneError> {
        let mut freed = 0;
        for nat in [false, true] {
            self.each_chunk(nat, Some(*limits), |reading, _| freed += reading.freed.load())?;
        }
        Ok(freed)
    }

    fn each_chunk(
        &self,
        nat: bool,
        free: Option<IdleLimits>,
        mut show: impl FnMut(&Reading, u16),
    ) -> Result<(), DataplaneError> {
        let chunks = if nat { self.nat_table.chunks } else { self.flow_table.chunks };
        for chunk in 0..chunks {
            // Others may read between two chunks.
            let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            let (reading, now) = reader.read(&Request { nat, chunk, free })?;
            show(reading, now);
        }
        Ok(())
    }
}

/// # Safety
/// As for [`Mapped::new`].
pub(super) unsafe fn mapped<T>(
    maps: &Maps,
    name: &'static str,
    length: u32,
) -> Result<Mapped<T>, DataplaneError> {
    let Map::Array(data) = maps.get(name)? else {
        return Err(DataplaneError::Missing { kind: "map", name });
    };
    // SAFETY: passed on to the caller.
    unsafe { Mapped::new(data.fd().as_fd(), length as usize) }.map_err(|source| DataplaneError::System {
        what: "map into memory",
        map: name,
        source,
    })
}

/// Whether an entry holds a flow that was not idle for too long.
fn is_held(entry: Entry, now: u16, limits: &IdleLimits) -> bool {
    entry.state() != State::Empty && entry.is_live(now, limits)
}

impl Dataplane {
    /// Both tables, for tasks that read them beside the loop.
    pub fn shared_tables(&self) -> Arc<SharedTables> {
        self.shared.clone()
    }

    /// Counts the live flows. An entry does not tell its protocol, so
    /// `limits` holds the longer of the two idle times for proven flows.
    ///
    /// # Errors
    /// When the kernel refuses to run the program that reads.
    pub fn count_flows(&self, limits: &IdleLimits) -> Result<FlowCounts, DataplaneError> {
        let mut counts = FlowCounts::default();
        self.shared.each_flow(limits, |entry| {
            match entry.state() {
                State::Empty => {}
                State::New => counts.new += 1,
                State::Proven => counts.proven += 1,
                State::Closing => counts.closing += 1,
            }
            *counts.by_backend.entry(entry.backend()).or_default() += 1;
        })?;
        Ok(counts)
    }

    /// Counts the live NAT records by backend number.
    ///
    /// # Errors
    /// As for [`Dataplane::count_flows`].
    pub fn count_nat(&self, limits: &IdleLimits) -> Result<BTreeMap<u16, u64>, DataplaneError> {
        let mut counts = BTreeMap::new();
        self.shared.each_nat(limits, |flow| *counts.entry(flow.entry.backend()).or_default() += 1)?;
        Ok(counts)
    }

    /// Frees the entries and records that were idle for too long. An entry's age is 16 bits of ticks and
    /// wraps after 19.5 hours: one that nobody replaced by then would come to life again.
    ///
    /// # Errors
    /// As for [`Dataplane::count_flows`].
    pub fn sweep(&self, limits: &IdleLimits) -> Result<u64, DataplaneError> {
        self.shared.sweep(limits)
    }
}
