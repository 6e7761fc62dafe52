//! Arrays of maps, and the chunks that the large tables are made of.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use lb_common::chunk::{self, FlowChunk};

use super::sys::{self, Map};

/// Maps put in by one system call. Each is an open file until then, and a process may usually have 1,024.
const BATCH: usize = 256;

/// Puts new maps into an array of maps, at these numbers.
pub(super) fn put<T>(
    outer: BorrowedFd,
    elements: &[(u32, T)],
    make: impl Fn(&T) -> io::Result<OwnedFd>,
) -> io::Result<()> {
    elements.chunks(BATCH).try_for_each(|some| {
        let inner = some.iter().map(|(_, element)| make(element)).collect::<io::Result<Vec<_>>>()?;
        let numbers: Vec<u32> = some.iter().map(|(number, _)| *number).collect();
        let fds: Vec<u32> = inner.iter().map(|map| map.as_raw_fd() as u32).collect();
        // SAFETY: keys and values of an array of maps have 4 bytes.
        unsafe { sys::update_batch(outer, &numbers, &fds) }
    })
}

/// Gives a table so many empty chunks.
pub(super) fn fill(table: BorrowedFd, chunks: u32) -> io::Result<()> {
    let value_size = size_of::<FlowChunk>() as u32;
    let chunks: Vec<_> = (0..chunks).map(|chunk| (chunk, ())).collect();
    put(table, &chunks, |()| sys::create(&Map { kind: sys::ARRAY, value_size, ..Map::default() }))
}

/// Bytes that so many chunks take.
pub(super) fn bytes(chunks: u32) -> u64 {
    u64::from(chunks) * chunk::BYTES as u64
}
