//! Arrays of maps, and the chunks that the large tables are made of.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use lb_common::chunk::{self, FlowChunk};

use super::sys::{self, Map};
use crate::threads;

/// Maps put in by one system call, as long as there are that many. Each is an open file until then,
const SHARE: usize = 8;

/// and a process may usually have 1,024, so there are not more threads.
const THREADS: usize = 32;

/// Puts new maps into an array of maps, at these numbers. Each thread has what makes them to itself.
///
/// Many system calls are made at once: Linux before 6.8 waits with each map until every CPU has passed a quiet moment,
/// 20 ms or so, and those who wait together wait once.
pub(super) fn put<T: Sync, M: FnMut(&T) -> io::Result<OwnedFd>>(
    outer: BorrowedFd,
    elements: &[(u32, T)],
    maker: impl Fn() -> M + Sync,
) -> io::Result<()> {
    let threads = elements.len().div_ceil(SHARE).min(THREADS);
    let put = threads::share(threads, |taken| {
        let mut make = maker();
        let mut shares = taken.map_while(|share| elements.chunks(SHARE).nth(share));
        shares.try_for_each(|share| put_share(outer, share, &mut make))
    });
    put.into_iter().collect()
}

fn put_share<T>(
    outer: BorrowedFd,
    elements: &[(u32, T)],
    make: &mut impl FnMut(&T) -> io::Result<OwnedFd>,
) -> io::Result<()> {
    let inner = elements.iter().map(|(_, element)| make(element)).collect::<io::Result<Vec<_>>>()?;
    let numbers: Vec<u32> = elements.iter().map(|(number, _)| *number).collect();
    let fds: Vec<u32> = inner.iter().map(|map| map.as_raw_fd() as u32).collect();
    // SAFETY: keys and values of an array of maps have 4 bytes.
    unsafe { sys::update_batch(outer, &numbers, &fds) }
}

/// Gives a table so many empty chunks.
pub(super) fn fill(table: BorrowedFd, chunks: u32) -> io::Result<()> {
    let value_size = size_of::<FlowChunk>() as u32;
    let chunks: Vec<_> = (0..chunks).map(|chunk| (chunk, ())).collect();
    put(table, &chunks, || |&()| sys::create(&Map { kind: sys::ARRAY, value_size, ..Map::default() }))
}

/// Bytes that so many chunks take.
pub(super) fn bytes(chunks: u32) -> u64 {
    u64::from(chunks) * chunk::BYTES as u64
}
