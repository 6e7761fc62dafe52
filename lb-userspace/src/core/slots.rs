//! Maglev tables as the daemon keeps them.

use std::sync::Arc;

/// A Maglev table: which backend's number each slot holds, 0 where there is none. A clone is the same table.
///
/// There is one for every pool, so a slot takes only as many bits as tell the table's backends apart: with up to 16 of them
/// a table is 33 kB, where the data path's has 131 kB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots(Arc<Packed>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Packed {
    /// The numbers that occur, ascending, and in how many slots each does.
    shares: Box<[(u16, u32)]>,
    /// A slot has 2 to this power of bits; so none lies in two words.
    bits_log: u32,
    length: usize,
    /// For each slot a place in `shares`, the first slot in the lowest bits.
    words: Box<[u64]>,
}

/// A table that is filled slot by slot.
pub(super) struct Filling(Packed);

impl Filling {
    /// `shares`: the numbers, ascending, and in how many slots each will be; none of them in no slot.
    pub(super) fn new(shares: Box<[(u16, u32)]>) -> Filling {
        let bits_log = bits_log(shares.len());
        let length = shares.iter().map(|&(_, count)| count as usize).sum::<usize>();
        let words = vec![0; length.div_ceil(per_word(bits_log))].into();
        Filling(Packed { shares, bits_log, length, words })
    }

    /// Gives the number at this place of the shares to a slot, which has none yet.
    #[inline(always)]
    pub(super) fn set(&mut self, slot: usize, place: u32) {
        let Packed { bits_log, words, .. } = &mut self.0;
        let in_word = slot % per_word(*bits_log);
        words[slot / per_word(*bits_log)] |= u64::from(place) << (in_word << *bits_log);
    }

    /// The table, when each slot has a number.
    pub(super) fn done(self) -> Slots {
        Slots(Arc::new(self.0))
    }
}

/// Slots of so many bits in a word.
fn per_word(bits_log: u32) -> usize {
    1 << (u64::BITS.ilog2() - bits_log)
}

/// How many bits tell so many numbers apart, as a power of 2.
fn bits_log(numbers: usize) -> u32 {
    let bits = usize::BITS - numbers.saturating_sub(1).leading_zeros();
    bits.max(1).next_power_of_two().ilog2()
}

impl From<&[u16]> for Slots {
    fn from(slots: &[u16]) -> Slots {
        let end = slots.iter().max().map_or(0, |&greatest| usize::from(greatest) + 1);
        let mut counts = vec![0_u32; end];
        for &number in slots {
            counts[usize::from(number)] += 1;
        }
        let all = (0..=u16::MAX).zip(&counts);
        let shares: Box<[_]> =
            all.filter(|(_, count)| **count > 0).map(|(number, &count)| (number, count)).collect();
        let mut places = counts;
        for (place, &(number, _)) in (0..).zip(&shares) {
            places[usize::from(number)] = place;
        }
        let mut filling = Filling::new(shares);
        for (slot, &number) in slots.iter().enumerate() {
            filling.set(slot, places[usize::from(number)]);
        }
        filling.done()
    }
}

impl From<Vec<u16>> for Slots {
    fn from(slots: Vec<u16>) -> Slots {
        Slots::from(&*slots)
    }
}

impl Slots {
    /// The number in a slot; `None` behind the last.
    pub fn get(&self, slot: usize) -> Option<u16> {
        let Packed { shares, bits_log, length, words } = &*self.0;
        let (bits_log, length) = (*bits_log, *length);
        let word = words.get(slot / per_word(bits_log)).filter(|_| slot < length)?;
        let place = word >> ((slot % per_word(bits_log)) << bits_log) & mask(bits_log);
        shares.get(place as usize).map(|&(number, _)| number)
    }

    /// The numbers in all slots, from the first on.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        let Packed { shares, bits_log, length, words } = &*self.0;
        let (bits_log, length) = (*bits_log, *length);
        let in_word = move |&word: &u64| {
            let places = (0..per_word(bits_log)).map(move |slot| word >> (slot << bits_log) & mask(bits_log));
            places.map(|place| shares[place as usize].0)
        };
        words.iter().flat_map(in_word).take(length)
    }

    /// The numbers that occur, ascending, and in how many slots each does.
    pub fn shares(&self) -> &[(u16, u32)] {
        &self.0.shares
    }

    /// Whether one is a clone of the other.
    pub fn is_same(&self, other: &Slots) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

fn mask(bits_log: u32) -> u64 {
    (1 << (1 << bits_log)) - 1
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_slot_has_as_few_bits_as_tell_backends_apart() {
        let bits = |numbers| 1 << bits_log(numbers);
        let expected = [
            (0, 1),
            (1, 1),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 4),
            (16, 4),
            (17, 8),
            (256, 8),
            (257, 16),
            (65_536, 16),
        ];
        for (numbers, expected) in expected {
            assert_eq!(bits(numbers), expected, "{numbers}");
        }
        let table = Slots::from((0..65_537_u32).map(|slot| (slot % 10) as u16 + 1).collect::<Vec<_>>());
        assert_eq!(table.0.words.len() * 8, 32_776);
    }

    #[test]
    fn an_empty_table_has_no_slot() {
        let table = Slots::default();
        assert_eq!((table.get(0), table.iter().count(), table.shares()), (None, 0, &[][..]));
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_out_again(slots in prop_oneof![
            vec(0_u16..1, 0..200),
            vec(0_u16..4, 0..200),
            vec(7_u16..23, 0..200),
            vec(1_u16..200, 0..600),
            vec(any::<u16>(), 0..600),
        ]) {
            let table = Slots::from(slots.clone());
            prop_assert_eq!(table.iter().collect::<Vec<_>>(), slots.clone());
            for (slot, number) in slots.iter().enumerate() {
                prop_assert_eq!(table.get(slot), Some(*number));
            }
            prop_assert_eq!(table.get(slots.len()), None);
            prop_assert!(table.shares().is_sorted());
            for &(number, count) in table.shares() {
                prop_assert_eq!(slots.iter().filter(|slot| **slot == number).count(), count as usize);
            }
            prop_assert_eq!(table.shares().iter().map(|(_, count)| *count as usize).sum::<usize>(), slots.len());
        }
    }
}
