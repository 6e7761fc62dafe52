//! How much memory the tables take.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _},
};

use aya::{EbpfError, maps::MapError};
use lb_common::{Bucket, NatSet, SlotTable, map};

use super::{Dataplane, DataplaneError, Sizes, object::data};

/// Bytes of kernel memory that the maps take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// The flow table.
    pub flow_table: u64,
    /// The NAT records.
    pub nat: u64,
    /// Everything else: services, Maglev tables, backends, counters.
    pub other: u64,
}

impl Dataplane {
    /// How much memory the maps take, as the kernel counts it; `pools` have a Maglev table.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub fn memory(&self, pools: usize) -> Result<Memory, DataplaneError> {
        // The kernel does not count the inner maps to the outer one.
        let mut memory = Memory { other: (pools * size_of::<SlotTable>()) as u64, ..Memory::default() };
        for (name, map) in self.maps.iter() {
            let Some(map) = data(map) else { continue };
            let bytes = kernel_memory(map.fd()).map_err(|source| DataplaneError::System {
                what: "ask for the size of a",
                map: "of /proc/self/fdinfo",
                source,
            })?;
            match name {
                map::FLOWS => memory.flow_table += bytes,
                map::NAT => memory.nat += bytes,
                _ => memory.other += bytes,
            }
        }
        Ok(memory)
    }
}

/// Why the object could not be loaded: for tables of these sizes, memory is the likely reason.
pub(super) fn load_error(error: EbpfError, sizes: Sizes) -> DataplaneError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error })
            if io_error.kind() == io::ErrorKind::OutOfMemory =>
        {
            let buckets = u64::from(sizes.buckets) * size_of::<Bucket>() as u64;
            let nat = u64::from(sizes.nat_sets) * size_of::<NatSet>() as u64;
            DataplaneError::NoMemory { map: name, megabytes: (buckets + nat).div_ceil(1_000_000) }
        }
        error => DataplaneError::Load(error),
    }
}

/// What the kernel calls `memlock` of a map.
fn kernel_memory(map: impl AsFd) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = line.and_then(|bytes| bytes.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::other("no line `memlock:`"))
}
