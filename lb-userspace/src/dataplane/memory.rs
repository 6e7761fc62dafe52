//! How much memory the tables take.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _},
};

use lb_common::{SlotTable, map};

use super::{Dataplane, DataplaneError, Sizes, chunks, object::data};

/// Bytes of kernel memory that the maps take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// The flow table.
    pub flow_table: u64,
    /// The NAT records.
    pub nat: u64,
    /// The Maglev tables.
    pub maglev: u64,
    /// Everything else: services, backends, counters.
    pub other: u64,
}

impl Dataplane {
    /// How much memory the maps take, as the kernel counts it; `pools` have a Maglev table.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub fn memory(&self, pools: usize) -> Result<Memory, DataplaneError> {
        // The kernel does not count the inner maps to the outer one.
        let mut memory = Memory {
            flow_table: chunks::bytes(self.shared.flow_chunks()),
            nat: chunks::bytes(self.shared.nat_chunks()),
            maglev: (pools * size_of::<SlotTable>()) as u64,
            other: 0,
        };
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
                map::SLOT_TABLES => memory.maglev += bytes,
                _ => memory.other += bytes,
            }
        }
        Ok(memory)
    }
}

/// Refuses tables for which there is certainly no memory, before the kernel has taken it from everyone else.
pub(super) fn expect_memory(sizes: Sizes) -> Result<(), DataplaneError> {
    match available() {
        Ok(available) if bytes_of(sizes) > available => {
            Err(DataplaneError::NoMemory { megabytes: bytes_of(sizes).div_ceil(1_000_000) })
        }
        // Unknown: the kernel will say.
        _ => Ok(()),
    }
}

/// Why a table could not be made: for tables of these sizes, memory is the likely reason.
pub(super) fn no_memory(map: &'static str, source: io::Error, sizes: Sizes) -> DataplaneError {
    match source.kind() {
        io::ErrorKind::OutOfMemory => {
            DataplaneError::NoMemory { megabytes: bytes_of(sizes).div_ceil(1_000_000) }
        }
        _ => DataplaneError::System { what: "make the chunks of", map, source },
    }
}

/// Bytes of both tables.
fn bytes_of(sizes: Sizes) -> u64 {
    chunks::bytes(sizes.flow_table.chunks) + chunks::bytes(sizes.nat_table.chunks)
}

/// Bytes of this process that are in memory.
///
/// # Errors
/// When /proc does not tell.
pub fn resident() -> io::Result<u64> {
    bytes_at("/proc/self/status", "VmRSS:")
}

/// Bytes that the host has left.
fn available() -> io::Result<u64> {
    bytes_at("/proc/meminfo", "MemAvailable:")
}

/// What the line of a file says that begins so and ends in `kB`.
fn bytes_at(file: &str, start: &str) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(start)?.strip_suffix("kB"));
    let kilobytes = line.and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok());
    kilobytes
        .map(|kilobytes| kilobytes * 1_024)
        .ok_or_else(|| io::Error::other(format!("no line `{start}` in {file}")))
}

/// What the kernel calls `memlock` of a map.
fn kernel_memory(map: impl AsFd) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = line.and_then(|bytes| bytes.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::other("no line `memlock:`"))
}
