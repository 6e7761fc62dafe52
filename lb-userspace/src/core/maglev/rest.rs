//! The last slots of a table, for which lists are not read: towards the end there is little in them that is free.
//!
//! Ten backends read two of five slots that they read at all for the last 256 that are free. So where each list has those is
//! computed: a list's cubic can be undone. What comes first among them is looked for anew each time; to put them in order
//! takes longer. Measured for 10 backends: 0.05 ms, where to read on takes 0.12 ms.

use super::{
    Taker,
    list::CubeRoots,
    owners::{Owner, Owners},
};

/// Most slots that are left for this.
const MOST: usize = 256;

/// Most places in lists that are computed.
const PLACES: usize = 2_560;

/// Fewer backends read their lists to the end in less time.
const LEAST_TAKERS: usize = 6;

/// A place in a list is kept above the number of the slot among those that are left.
const NUMBER_BITS: u32 = MOST.ilog2();

/// Behind all places.
const CLAIMED: i32 = i32::MAX;

const _: () = assert!(super::SLOTS << NUMBER_BITS < CLAIMED as usize);

/// How many of the slots are to be left for this.
pub(super) fn slots_for(takers: usize) -> usize {
    if takers < LEAST_TAKERS { 0 } else { MOST.min(PLACES / takers) }
}

/// Gives what is free to the takers whose turns come: as many as slots are free.
pub(super) fn share_out<T: Owner>(owners: &mut Owners<T>, takers: &[Taker], turns: &[u16]) {
    if turns.is_empty() {
        return;
    }
    let (free, roots) = (owners.all_free(), CubeRoots::get());
    let place =
        |taker: &Taker, slot, number| (taker.list.place_of(slot, roots) << NUMBER_BITS) as i32 | number;
    let places_of = |taker| (0..).zip(&free).map(move |(number, &slot)| place(taker, slot, number));
    let mut places: Vec<i32> = takers.iter().flat_map(places_of).collect();
    for &turn in turns {
        let turn = usize::from(turn);
        let of_taker = &places[turn * free.len()..][..free.len()];
        let first = of_taker.iter().fold(CLAIMED, |first, &place| first.min(place));
        let number = first as usize % MOST;
        owners.set(free[number], T::of(takers[turn].place));
        places.chunks_exact_mut(free.len()).for_each(|places| places[number] = CLAIMED);
    }
}
