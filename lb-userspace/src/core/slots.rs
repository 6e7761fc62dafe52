//! Maglev tables as the daemon keeps them.

use std::{array, sync::Arc};

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

/// Slots of so many bits in a word.
fn per_word(bits_log: u32) -> usize {
    1 << (u64::BITS.ilog2() - bits_log)
}

/// Places of numbers among others, which are put into words.
pub(super) trait Place: Copy + Into<u64> {
    /// As many in a word as have so many bits, the first in the lowest.
    fn word<const BITS: usize>(places: &[Self]) -> u64 {
        (0..).step_by(BITS).zip(places).fold(0, |word, (at, &place)| word | place.into() << at)
    }
}

impl Place for u16 {}

impl Place for u8 {
    /// Eight at a time: they lie in a word as they are, from which what is between them is taken.
    fn word<const BITS: usize>(places: &[u8]) -> u64 {
        let (eights, rest) = places.as_chunks();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let eights = eights.iter().chain((!rest.is_empty()).then_some(&last));
        (0..).step_by(8 * BITS).zip(eights).fold(0, |word, (at, &eight)| word | squeezed::<BITS>(eight) << at)
    }
}

/// The lowest bits of eight bytes, side by side: of two bytes first, of two such pairs then, and of two of those.
fn squeezed<const BITS: usize>(bytes: [u8; 8]) -> u64 {
    (0..3).fold(u64::from_le_bytes(bytes), |word, step| {
        let (every, bits) = (8 << step, BITS << step);
        // The lowest `2 * bits` of every `2 * every`.
        let kept = u64::MAX / (u64::MAX >> (u64::BITS as usize - 2 * every))
            * (u64::MAX >> (u64::BITS as usize - 2 * bits));
        (word | word >> (every - bits)) & kept
    })
}

/// Places, each in so many bits.
fn packed<P: Place, const BITS: usize>(places: &[P]) -> Box<[u64]> {
    places.chunks(u64::BITS as usize / BITS).map(P::word::<BITS>).collect()
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
        let mut place_of = vec![0; end];
        for (place, &(number, _)) in (0..=u16::MAX).zip(&shares) {
            place_of[usize::from(number)] = place;
        }
        let places: Vec<u16> = slots.iter().map(|&number| place_of[usize::from(number)]).collect();
        Slots::new(shares, &places)
    }
}

impl From<Vec<u16>> for Slots {
    fn from(slots: Vec<u16>) -> Slots {
        Slots::from(&*slots)
    }
}

impl Slots {
    /// For each slot its place in `shares`, which are as [`Slots::shares`] gives them.
    pub(super) fn new<P: Place>(shares: Box<[(u16, u32)]>, places: &[P]) -> Slots {
        let bits_log = bits_log(shares.len());
        let words = match bits_log {
            0 => packed::<P, 1>(places),
            1 => packed::<P, 2>(places),
            2 => packed::<P, 4>(places),
            3 => packed::<P, 8>(places),
            _ => packed::<P, 16>(places),
        };
        Slots(Arc::new(Packed { shares, bits_log, length: places.len(), words }))
    }

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

    /// Puts the numbers of all slots behind what is there: what [`Slots::iter`] gives, but many at once.
    pub fn append_to(&self, numbers: &mut Vec<u16>) {
        let Packed { bits_log, length, words, .. } = &*self.0;
        let end = numbers.len() + length;
        numbers.reserve(words.len() * per_word(*bits_log));
        match bits_log {
            0 => self.append_bytes::<8>(numbers),
            1 => self.append_bytes::<4>(numbers),
            2 => self.append_bytes::<2>(numbers),
            3 => self.append_bytes::<1>(numbers),
            _ => numbers.extend(self.iter()),
        }
        numbers.truncate(end);
    }

    /// A byte has `SLOTS` slots; all 256 are decoded beforehand. Those of the last word may be too many.
    fn append_bytes<const SLOTS: usize>(&self, numbers: &mut Vec<u16>) {
        let Packed { shares, bits_log, words, .. } = &*self.0;
        let number = |place: u64| shares.get(place as usize).map_or(0, |&(number, _)| number);
        let in_byte: [[u16; SLOTS]; 256] = array::from_fn(|byte| {
            array::from_fn(|slot| number(byte as u64 >> (slot << bits_log) & mask(*bits_log)))
        });
        for word in words {
            let slots = word.to_le_bytes().map(|byte| in_byte[usize::from(byte)]);
            numbers.extend_from_slice(slots.as_flattened());
        }
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
            let mut behind = vec![7; 3];
            table.append_to(&mut behind);
            prop_assert_eq!(behind, [&[7; 3][..], &slots].concat());
            for (slot, number) in slots.iter().enumerate() {
                prop_assert_eq!(table.get(slot), Some(*number));
            }
            prop_assert_eq!(table.get(slots.len()), None);
            if table.shares().len() <= 256 {
                let numbers: Vec<u16> = table.shares().iter().map(|(number, _)| *number).collect();
                let place = |slot| numbers.binary_search(slot).unwrap() as u8;
                let bytes: Vec<u8> = slots.iter().map(place).collect();
                prop_assert_eq!(&Slots::new(table.shares().into(), &bytes), &table);
            }
            prop_assert!(table.shares().is_sorted());
            for &(number, count) in table.shares() {
                prop_assert_eq!(slots.iter().filter(|slot| **slot == number).count(), count as usize);
            }
            prop_assert_eq!(table.shares().iter().map(|(_, count)| *count as usize).sum::<usize>(), slots.len());
        }
    }
}
