//! The large tables, in chunks.
//!
//! A table for a million flows is larger than what a CPU keeps in mind of where pages are. An array of the kernel's that
//! is larger than 32 kB, or that user space maps, lies in pages of 4 kB, so nearly every packet has to ask for its page:
//! two nested walks on a virtual machine. Smaller arrays lie in the kernel's direct mapping, whose pages have 2 MB or
//! 1 GB. So a table is an array of maps, each of which is an array of one element: a chunk.

use crate::{
    Bucket, NatSet, Word,
    flow::{IdleLimits, WAYS, scale},
};

/// Bytes that the kernel takes for a chunk: eight pages, the most that it allocates in one piece
/// (`PAGE_ALLOC_COSTLY_ORDER` in `bpf_map_area_alloc`).
pub const BYTES: usize = 32_768;

/// Words before the items. The kernel's `struct bpf_array` begins with a multiple of 64 bytes and 16 more, so the items
/// begin on a cache line.
const HEAD: usize = 6;

/// Cache lines of a chunk: what the kernel's own head leaves, in whole NAT sets.
pub const LINES: usize = 504;

/// Buckets of a chunk of the flow table.
pub const BUCKETS: usize = LINES;

/// Cache lines of a NAT set: the first holds entries, the others records.
pub const LINES_PER_SET: usize = size_of::<NatSet>() / size_of::<Bucket>();

/// Sets of a chunk of NAT records.
pub const SETS: usize = LINES / LINES_PER_SET;

/// A part of a table.
#[repr(C)]
pub struct Chunk<T, const N: usize> {
    head: [Word; HEAD],
    /// What the table holds.
    pub items: [T; N],
}

/// A part of the flow table.
pub type FlowChunk = Chunk<Bucket, BUCKETS>;

/// A part of the NAT records.
pub type NatChunk = Chunk<NatSet, SETS>;

const _: () = assert!(size_of::<FlowChunk>() == HEAD * 8 + LINES * 64);
const _: () = assert!(size_of::<NatChunk>() == size_of::<FlowChunk>());
// `struct bpf_array` takes 272 bytes before the element in Linux 6.1, and 64 more in newer ones.
const _: () = assert!(size_of::<FlowChunk>() + 400 <= BYTES);

/// Words of a chunk, and those of them before its items.
pub const WORDS: usize = size_of::<FlowChunk>() / 8;
/// As above.
pub const HEAD_WORDS: usize = HEAD;

/// Bits of a place that tell the item within its chunk.
const ITEM_BITS: u32 = 9;

const _: () = assert!(LINES <= 1 << ITEM_BITS);

/// How large a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Shape {
    /// Chunks.
    pub chunks: u32,
    /// Items of each chunk that are in use.
    pub items: u32,
}

impl Shape {
    /// A table of chunks with so many items each, at least so many items in all.
    pub const fn of(items: u32, per_chunk: usize) -> Shape {
        Shape { chunks: items.div_ceil(per_chunk as u32), items: per_chunk as u32 }
    }

    /// A table of one chunk, not all of which is used.
    pub const fn small(items: u32) -> Shape {
        Shape { chunks: 1, items }
    }

    /// Items of the whole table.
    pub const fn count(&self) -> u64 {
        self.chunks as u64 * self.items as u64
    }

    /// The place of an item, from a hash whose bits are all as good: to be [`split`].
    #[inline(always)]
    pub fn place(&self, hash: u32) -> u32 {
        let product = hash as u64 * self.chunks as u64;
        // What is left of the hash when the chunk is chosen chooses the item.
        ((product >> 32) as u32) << ITEM_BITS | scale(product as u32, self.items)
    }
}

/// The number of the chunk that a place lies in, and of the item in it.
#[inline(always)]
pub const fn split(place: u32) -> (u32, usize) {
    (place >> ITEM_BITS, (place & ((1 << ITEM_BITS) - 1)) as usize)
}

/// What the daemon and the program that reads chunks for it share: the question, and the chunk as it is.
#[repr(C)]
pub struct Reading {
    /// The question's words: see [`Request`].
    request: [Word; 2],
    /// The clock's tick when the chunk was read.
    pub tick: Word,
    /// Entries that were freed.
    pub freed: Word,
    zero: [Word; 4],
    /// The chunk's cache lines.
    pub lines: [Bucket; LINES],
}

const _: () = assert!(size_of::<Reading>() == 64 + LINES * 64);

/// Which chunk is to be read, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Of the NAT records, not of the flow table.
    pub nat: bool,
    /// The chunk's number.
    pub chunk: u32,
    /// Free what was idle for longer than this.
    pub free: Option<IdleLimits>,
}

impl Reading {
    /// Asks.
    pub fn ask(&self, request: &Request) {
        self.request[0].store((request.chunk as u64) << 32 | request.nat as u64);
        self.request[1].store(request.free.map_or(0, IdleLimits::to_word));
        self.freed.store(0);
    }

    /// What was asked.
    #[inline(always)]
    pub fn request(&self) -> Request {
        let (what, free) = (self.request[0].load(), self.request[1].load());
        Request {
            nat: what as u32 != 0,
            chunk: (what >> 32) as u32,
            free: if free == 0 { None } else { Some(IdleLimits::from_word(free)) },
        }
    }

    /// The NAT sets that were read.
    pub fn nat_sets(&self) -> &[NatSet; SETS] {
        // SAFETY: both are words, as many of them (asserted above), of which any value is good.
        unsafe { &*(&raw const self.lines).cast() }
    }
}

const _: () = assert!(size_of::<Bucket>() == WAYS * 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread_over_all_items() {
        for shape in [Shape::of(5_000, BUCKETS), Shape::of(1_000, SETS), Shape::small(3)] {
            let mut found = vec![0_u32; shape.count() as usize];
            let hashes = 1_000 * found.len() as u64;
            for number in 0..hashes {
                let (chunk, item) = split(shape.place(((number << 32) / hashes) as u32));
                assert!(chunk < shape.chunks && item < shape.items as usize, "{shape:?}: {chunk} {item}");
                found[chunk as usize * shape.items as usize + item] += 1;
            }
            assert!(found.iter().all(|count| (950..1_050).contains(count)), "{shape:?}");
        }
    }

    #[test]
    fn the_last_place_is_the_last() {
        let shape = Shape::of(1_000_000, SETS);
        assert_eq!(split(shape.place(u32::MAX)), (shape.chunks - 1, SETS - 1));
        assert_eq!(split(shape.place(0)), (0, 0));
    }

    #[test]
    fn a_request_keeps_its_parts() {
        // SAFETY: words, of which any value is good.
        let reading: Box<Reading> = unsafe { Box::new_zeroed().assume_init() };
        for free in [None, Some(IdleLimits::new(3_353, 112))] {
            let request = Request { nat: free.is_some(), chunk: 70_000, free };
            reading.ask(&request);
            assert_eq!(reading.request(), request);
        }
    }
}
