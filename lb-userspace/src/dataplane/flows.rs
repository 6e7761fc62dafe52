//! Counting and sweeping the flow table and the NAT records, in memory that the program shares.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::{Ebpf, maps::Map};
use lb_common::{Bucket, Entry, NatSet, State, Word, flow::IdleLimits, map};

use super::{Dataplane, DataplaneError, Sizes, sys::Mapped};

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

/// Both tables as this process sees them.
pub(super) struct SharedTables {
    flows: Mapped<Bucket>,
    nat: Mapped<NatSet>,
}

impl SharedTables {
    pub(super) fn new(ebpf: &Ebpf, sizes: Sizes) -> Result<SharedTables, DataplaneError> {
        // SAFETY: the object declares both maps as mmapable arrays of these types, and they were made
        // with these sizes; the types are words that are only used atomically.
        unsafe {
            Ok(SharedTables {
                flows: mapped(ebpf, map::FLOWS, sizes.buckets)?,
                nat: mapped(ebpf, map::NAT, sizes.nat_sets)?,
            })
        }
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
    ebpf: &Ebpf,
    name: &'static str,
    length: u32,
) -> Result<Mapped<T>, DataplaneError> {
    let Some(Map::Array(data)) = ebpf.map(name) else {
        return Err(DataplaneError::Missing { kind: "map", name });
    };
    // SAFETY: passed on to the caller.
    unsafe { Mapped::new(data.fd().as_fd(), length as usize) }.map_err(|source| DataplaneError::System {
        what: "map into memory",
        map: name,
        source,
    })
}

impl Dataplane {
    /// Counts the live flows at `now` (see [`Dataplane::tick`]). An entry does not tell its protocol, so
    /// `limits` holds the longer of the two idle times for proven flows.
    pub fn count_flows(&self, now: u16, limits: &IdleLimits) -> FlowCounts {
        let mut counts = FlowCounts::default();
        for word in self.shared.flow_words() {
            let entry = Entry(word.load());
            if !entry.is_live(now, limits) {
                continue;
            }
            match entry.state() {
                State::Empty => continue,
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
