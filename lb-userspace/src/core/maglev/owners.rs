//! Who has which slot of a table that is being made.

use super::{SLOTS, list::List};

/// Slots that are looked at at once.
const ROW: usize = 8;

/// More than there are slots, such that no index of `INDEX_BITS` bits lies outside.
const PLACES: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 17;

const _: () = assert!(SLOTS <= PLACES);

/// The place of a slot's owner among all, or nobody's. It has as few bytes as can be: each claim meets another cache line.
pub(super) trait Owner: Copy + PartialEq {
    /// So many owners can be told apart.
    const MOST: usize;
    /// Owner of what is free.
    const NOBODY: Self;
    /// The owner with this place, which is below `MOST`.
    fn of(place: u16) -> Self;
    /// A bit for each that is nobody, the lowest for the first.
    fn nobodies(owners: [Self; ROW]) -> u8;
}

impl Owner for u8 {
    const MOST: usize = 128;
    const NOBODY: u8 = 0x80;

    fn of(place: u16) -> u8 {
        place as u8
    }

    #[inline(always)]
    fn nobodies(owners: [u8; ROW]) -> u8 {
        // The top bits of all bytes as bytes of 0 and 1; the product's top byte is their sum, each shifted to where it belongs.
        let tops = u64::from_le_bytes(owners) >> 7 & 0x0101_0101_0101_0101;
        (tops.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
    }
}

impl Owner for u16 {
    const MOST: usize = u16::MAX as usize;
    const NOBODY: u16 = u16::MAX;

    fn of(place: u16) -> u16 {
        place
    }

    #[inline(always)]
    fn nobodies(owners: [u16; ROW]) -> u8 {
        (0..).zip(owners).fold(0, |bits, (at, owner)| bits | u8::from(owner == Self::NOBODY) << at)
    }
}

/// The owner of each slot. To be boxed: not within, so that a claim needs no look at where they are.
pub(super) struct Owners<T>([T; PLACES]);

impl<T: Owner> Default for Owners<T> {
    fn default() -> Owners<T> {
        Owners([T::NOBODY; PLACES])
    }
}

impl<T: Owner> Owners<T> {
    /// All slots are free.
    pub(super) fn reset(&mut self) {
        self.0.fill(T::NOBODY);
    }

    /// A bit for each of the slots that is free.
    #[inline(always)]
    pub(super) fn free(&self, slots: &[i32; ROW]) -> u8 {
        T::nobodies(slots.map(|slot| self.0[index(slot)]))
    }

    /// Gives the first free slot of a list, which each has as long as any is free, to this owner.
    #[inline(always)]
    pub(super) fn claim(&mut self, list: &mut List, owner: T) {
        loop {
            let slot = index(list.next(self));
            // Another may have claimed it since it was read.
            if self.0[slot] == T::NOBODY {
                self.0[slot] = owner;
                return;
            }
        }
    }

    /// Gives a slot to an owner.
    pub(super) fn set(&mut self, slot: u32, owner: T) {
        self.0[slot as usize] = owner;
    }

    /// The slots that are free, ascending.
    pub(super) fn all_free(&self) -> Vec<u32> {
        let (rows, rest) = self.of_all().as_chunks();
        let rows = (0..).step_by(ROW).zip(rows).filter(|(_, row)| T::nobodies(**row) != 0);
        let slots = rows.flat_map(|(first, row)| (first..).zip(row));
        let last = (SLOTS - rest.len()) as u32..;
        slots.chain(last.zip(rest)).filter(|(_, owner)| **owner == T::NOBODY).map(|(slot, _)| slot).collect()
    }

    /// The owners of all slots.
    pub(super) fn of_all(&self) -> &[T] {
        &self.0[..SLOTS]
    }
}

/// The slot itself; the mask saves the check that it is one.
#[inline(always)]
fn index(slot: i32) -> usize {
    slot as usize & (PLACES - 1)
}
