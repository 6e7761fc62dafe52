//! The order in which one backend lists all slots, and which of them are still free.
//!
//! A list is the values of a cubic for j = 0, 1, 2, …. Its third differences are constant, so a step is three additions; and
//! so are those of every eighth value: eight walks, one beside the other, each in steps of eight, are what a processor adds
//! at once. A batch of slots is looked at without asking of each whether it is the one: what takes time otherwise is to guess
//! that wrong. Measured for 10 backends: 0.40 ms for a table, 0.89 ms slot by slot.

use std::array;

use sha2::{Digest, Sha256};

use super::SLOTS;

/// `SLOTS` as the arithmetic needs it.
const P: i32 = SLOTS as i32;

/// Values that are computed at once.
const LANES: usize = 8;

/// Rows of values in a batch. More are computed in vain where each of many backends claims but a few slots.
const ROWS: usize = 4;

/// Slots that are read at once.
const BATCH: usize = LANES * ROWS;

/// Places for bytes, such that no index of `INDEX_BITS` bits lies outside.
const PLACES: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 17;

/// Values of eight walks, all from 0 to below `P`.
type Lanes = [i32; LANES];

/// One backend's list, as far as it was read.
pub(super) struct List {
    /// The slots read last, and a bit for each that was free then and was not claimed from here since.
    batch: [i32; BATCH],
    was_free: u32,
    /// The next row, and the differences that lead from it to the one behind.
    slots: Lanes,
    firsts: Lanes,
    seconds: Lanes,
    thirds: Lanes,
}

const _: () = assert!(BATCH <= u32::BITS as usize && SLOTS <= PLACES);

impl List {
    /// The list that belongs to an identity, from its start.
    pub(super) fn new(identity: &[u8; 18]) -> List {
        let digest: [u8; 32] = Sha256::digest(identity).into();
        let word = |at: usize| u64::from_be_bytes(array::from_fn(|byte| digest[at * 8 + byte]));
        let p = SLOTS as u64;
        let (start, skip, shift) = (word(0) % p, 1 + word(1) % (p - 1), word(2) % p);

        let row = |row: usize| -> Lanes {
            array::from_fn(|lane| {
                let x = (start + (row * LANES + lane) as u64 * skip) % p;
                ((x * x % p * x + shift) % p) as i32
            })
        };
        let rows: [Lanes; 4] = array::from_fn(row);
        let firsts: [Lanes; 3] = array::from_fn(|at| differences(rows[at + 1], rows[at]));
        let seconds: [Lanes; 2] = array::from_fn(|at| differences(firsts[at + 1], firsts[at]));
        List {
            batch: [0; BATCH],
            was_free: 0,
            slots: rows[0],
            firsts: firsts[0],
            seconds: seconds[0],
            thirds: differences(seconds[1], seconds[0]),
        }
    }

    /// Reads the next batch. Out of the way, so that to claim a slot which was read before takes few registers.
    #[inline(never)]
    fn advance(&mut self, free: &FreeSlots) {
        // Copies, which may stay in registers.
        let (mut slots, mut firsts, mut seconds, thirds) =
            (self.slots, self.firsts, self.seconds, self.thirds);
        for row in self.batch.as_chunks_mut().0 {
            *row = slots;
            slots = sums(slots, firsts);
            firsts = sums(firsts, seconds);
            seconds = sums(seconds, thirds);
        }
        (self.slots, self.firsts, self.seconds) = (slots, firsts, seconds);
        self.was_free = (0..).zip(&self.batch).fold(0, |bits, (place, &slot)| bits | free.bit(slot) << place);
    }
}

/// a + b modulo `P`, lane by lane.
#[inline(always)]
fn sums(a: Lanes, b: Lanes) -> Lanes {
    let over: Lanes = array::from_fn(|lane| a[lane] + b[lane] - P);
    non_negative(over)
}

/// a - b modulo `P`, lane by lane.
#[inline(always)]
fn differences(a: Lanes, b: Lanes) -> Lanes {
    let over: Lanes = array::from_fn(|lane| a[lane] - b[lane]);
    non_negative(over)
}

/// `P` more where it is below 0. The sign's bits choose: a comparison would be made lane by lane.
#[inline(always)]
fn non_negative(values: Lanes) -> Lanes {
    array::from_fn(|lane| values[lane] + (P & (values[lane] >> (i32::BITS - 1))))
}

/// A byte for each slot, 1 while it is free: many are looked up at once, and a byte takes less work than a bit.
pub(super) struct FreeSlots(Box<[u8; PLACES]>);

impl Default for FreeSlots {
    fn default() -> FreeSlots {
        FreeSlots(Box::new([1; PLACES]))
    }
}

impl FreeSlots {
    /// All are free again.
    pub(super) fn reset(&mut self) {
        self.0.fill(1);
    }

    /// 1 where the slot is free.
    #[inline(always)]
    fn bit(&self, slot: i32) -> u32 {
        u32::from(self.0[index(slot)])
    }

    /// Takes the first free slot of a list, which each has as long as any is free.
    #[inline(always)]
    pub(super) fn claim(&mut self, list: &mut List) -> usize {
        loop {
            while list.was_free == 0 {
                list.advance(self);
            }
            let place = list.was_free.trailing_zeros() as usize;
            list.was_free &= list.was_free - 1;
            let slot = index(list.batch[place % BATCH]);
            // Another may have claimed it since the batch was read.
            if self.0[slot] != 0 {
                self.0[slot] = 0;
                return slot;
            }
        }
    }
}

/// The slot itself; the mask saves the check that it is within the bytes.
fn index(slot: i32) -> usize {
    slot as usize & (PLACES - 1)
}
