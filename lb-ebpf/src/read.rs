//! Reading a chunk of a table for the daemon, word by word as other CPUs go on writing it; and freeing what has been
//! idle for too long.

use lb_common::{
    Bucket, Entry,
    chunk::{LINES, LINES_PER_SET, Reading, Request},
    flow::{IdleLimits, WAYS},
};

use crate::{flow_table::next, frame::hidden};

/// Copies a part of a chunk: [`LINES_PER_SET`] cache lines from `first` on. Entries that were freed.
///
/// `now` is the clock's tick now, not when the daemon asked: an entry from after that would seem to have wrapped.
///
/// A part, because the verifier keeps at most 8,192 branches in mind, and a chunk has 4,032 words.
#[inline(always)]
pub fn read(chunk: &[Bucket; LINES], reading: &Reading, request: &Request, now: u16, first: usize) -> u64 {
    let lines_of_entries = if request.nat { 1 } else { LINES_PER_SET };
    let mut freed = 0;
    let mut line = 0;
    while line < LINES_PER_SET {
        let at = hidden(first + line);
        if at >= LINES {
            break;
        }
        let (from, to) = (&chunk[at], &reading.lines[at]);
        if line < lines_of_entries {
            freed += entries(from, to, request, now);
        } else {
            copy(from, to);
        }
        line = next(line);
    }
    let first = hidden(first);
    if request.nat && first < LINES {
        forget_changed(&chunk[first], &reading.lines[first]);
    }
    freed
}

#[inline(always)]
fn entries(from: &Bucket, to: &Bucket, request: &Request, now: u16) -> u64 {
    let mut freed = 0;
    let mut way = 0;
    while way < WAYS {
        let word = from.0[way].load();
        let idle = request.free.is_some_and(|limits| is_idle(Entry(word), now, &limits));
        // If another CPU was faster, the flow lives.
        let free = idle && from.0[way].compare_exchange(word, Entry::EMPTY.0);
        freed += free as u64;
        to.0[way].store(if free { Entry::EMPTY.0 } else { word });
        way = next(way);
    }
    freed
}

#[inline(always)]
fn copy(from: &Bucket, to: &Bucket) {
    let mut word = 0;
    while word < WAYS {
        to.0[word].store(from.0[word].load());
        word = next(word);
    }
}

/// Whether the entry's flow was idle for too long.
#[inline(always)]
fn is_idle(entry: Entry, now: u16, limits: &IdleLimits) -> bool {
    entry != Entry::EMPTY && !entry.is_live(now, limits)
}

/// Leaves out the records that were given to other flows while they were read.
#[inline(always)]
fn forget_changed(now: &Bucket, read: &Bucket) {
    let mut way = 0;
    while way < WAYS {
        if !Entry(now.0[way].load()).is_same_flow(Entry(read.0[way].load())) {
            read.0[way].store(Entry::EMPTY.0);
        }
        way = next(way);
    }
}
