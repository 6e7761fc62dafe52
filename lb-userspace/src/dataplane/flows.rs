//! Counting, listing and sweeping the flow table and the NAT records, in memory that the program shares.

use std::{collections::BTreeMap, os::fd::AsFd as _, sync::Arc};

use aya::maps::Map;
use lb_common::{
    Bucket, Entry, FlowHash, NatSet, NatTuple, State, Word,
    flow::{self, IdleLimits},
    map,
};

use super::{Dataplane, DataplaneError, Sizes, object::Maps, sys::Mapped};

/// What the flow table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Live entries that are new.
    pub new: u64,
    /// Live entries that are proven.
    pub proven: u64,
    /// Live entries that are closing.
    pub closing: u64,
    /// Live entries by backend number.
    pub by_backend: BTreeMap<u16, u64>,
}

/// Both tables as this process sees them: memory that the program goes on writing. Reading it takes no
/// lock and no copy.
pub struct SharedTables {
    flows: Mapped<Bucket>,
    nat: Mapped<NatSet>,
}

impl SharedTables {
    pub(super) fn new(maps: &Maps, sizes: Sizes) -> Result<SharedTables, DataplaneError> {
        // SAFETY: the object declares both maps as mmapable arrays of these types, and they were made
        // with these sizes; the types are words that are only used atomically.
        unsafe {
            Ok(SharedTables {
                flows: mapped(maps, map::FLOWS, sizes.buckets)?,
                nat: mapped(maps, map::NAT, sizes.nat_sets)?,
            })
        }
    }

    /// The live entries of the flow table. `limits` holds the longer of the idle times of all protocols,
    /// because an entry does not tell its own.
    pub fn flows(&self, now: u16, limits: &IdleLimits) -> impl Iterator<Item = Entry> {
        self.flow_words().map(|word| Entry(word.load())).filter(move |entry| is_held(*entry, now, limits))
    }

    /// The live entries that may belong to the flow with this hash and tag: one, or none.
    pub fn flow(&self, hash: FlowHash, tag: u32, now: u16, limits: &IdleLimits) -> Option<Entry> {
        let buckets = self.flows.as_slice();
        let bucket = &buckets[flow::scale(hash.place, buckets.len() as u32) as usize];
        let mut entries = bucket.0.iter().map(|word| Entry(word.load()));
        entries.find(|entry| entry.tag() == tag && is_held(*entry, now, limits))
    }

    /// The live NAT records, each with the way within its set: the last three bits of its port.
    pub fn nat(&self, now: u16, limits: &IdleLimits) -> impl Iterator<Item = (Entry, NatTuple, u16)> {
        let records =
            self.nat.as_slice().iter().flat_map(|set| (0..).zip(set.words.0.iter().zip(&set.records)));
        records.filter_map(move |(way, (word, record))| {
            let entry = Entry(word.load());
            // Backend 0 has a record that is just being written.
            if entry.backend() == 0 || !is_held(entry, now, limits) {
                return None;
            }
            let tuple = record.tuple();
            // Not if it was given to another flow while it was read.
            Entry(word.load()).is_same_flow(entry).then_some((entry, tuple, way))
        })
    }

    fn flow_words(&self) -> impl Iterator<Item = &Word> {
        self.flows.as_slice().iter().flat_map(|bucket| &bucket.0)
    }

    fn nat_words(&self) -> impl Iterator<Item = &Word> {
        self.nat.as_slice().iter().flat_map(|set| &set.words.0)
    }
}

/// # Safety
/// As for [`Mapped::new`].
pub(super) unsafe fn mapped<T>(
    maps: &Maps,
    name: &'static str,
    length: u32,
) -> Result<Mapped<T>, DataplaneError> {
    let Map::Array(data) = maps.get(name)? else {
        return Err(DataplaneError::Missing { kind: "map", name });
    };
    // SAFETY: passed on to the caller.
    unsafe { Mapped::new(data.fd().as_fd(), length as usize) }.map_err(|source| DataplaneError::System {
        what: "map into memory",
        map: name,
        source,
    })
}

/// Whether an entry holds a flow that was not idle for too long.
fn is_held(entry: Entry, now: u16, limits: &IdleLimits) -> bool {
    entry.state() != State::Empty && entry.is_live(now, limits)
}

impl Dataplane {
    /// Both tables, for tasks that read them beside the loop.
    pub fn shared_tables(&self) -> Arc<SharedTables> {
        self.shared.clone()
    }

    /// Counts the live flows at `now` (see [`Dataplane::tick`]). An entry does not tell its protocol, so
    /// `limits` holds the longer of the two idle times for proven flows.
    pub fn count_flows(&self, now: u16, limits: &IdleLimits) -> FlowCounts {
        let mut counts = FlowCounts::default();
        for entry in self.shared.flows(now, limits) {
            match entry.state() {
                State::Empty => {}
                State::New => counts.new += 1,
                State::Proven => counts.proven += 1,
                State::Closing => counts.closing += 1,
            }
            *counts.by_backend.entry(entry.backend()).or_default() += 1;
        }
        counts
    }

    /// Frees the entries and records that were idle for too long. An entry's age is 16 bits of ticks and
    /// wraps after 19.5 hours: one that nobody replaced by then would come to life again.
    pub fn sweep(&self, now: u16, limits: &IdleLimits) -> u64 {
        self.shared
            .flow_words()
            .chain(self.shared.nat_words())
            .map(|word| free_if_idle(word, now, limits))
            .sum()
    }
}

/// 1 if the word was freed. If the program was faster, the flow lives.
fn free_if_idle(word: &Word, now: u16, limits: &IdleLimits) -> u64 {
    let entry = Entry(word.load());
    let idle = entry != Entry::EMPTY && !entry.is_live(now, limits);
    u64::from(idle && word.compare_exchange(entry.0, Entry::EMPTY.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_idle_entries_are_freed() {
        let limits = IdleLimits::new(100, 10);
        let now = 5;
        let kept_and_freed = [
            (State::Proven, 100, true),
            (State::Proven, 101, false),
            (State::New, 100, true),
            (State::New, 101, false),
            (State::Closing, 10, true),
            (State::Closing, 60_000, false),
        ];
        for (state, idle, kept) in kept_and_freed {
            let entry = Entry::new(7, state, 5_u16.wrapping_sub(idle), 3);
            let word = Word::new(entry.0);
            assert_eq!(free_if_idle(&word, now, &limits), u64::from(!kept), "{state:?} {idle}");
            assert_eq!(word.load(), if kept { entry.0 } else { 0 }, "{state:?} {idle}");
        }
        assert_eq!(free_if_idle(&Word::new(0), now, &limits), 0);
    }
}
