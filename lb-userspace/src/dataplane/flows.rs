//! Counting the flow table.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::maps::Map;
use lb_common::{Bucket, Entry, State, flow::IdleLimits, map};

use super::{Dataplane, DataplaneError, sys::Mapped};

/// What the flow table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Places for entries.
    pub places: u64,
    /// Live entries that are new.
    pub new: u64,
    /// Live entries that are proven.
    pub proven: u64,
    /// Live entries that are closing.
    pub closing: u64,
    /// Live entries by backend number.
    pub by_backend: BTreeMap<u16, u64>,
}

impl Dataplane {
    /// Counts the live flows. An entry does not tell its protocol, so `limits` holds the longer of the
    /// two idle times for proven flows; `now` is [`Dataplane::tick`].
    pub fn count_flows(&self, now: u16, limits: &IdleLimits) -> Result<FlowCounts, DataplaneError> {
        let name = map::FLOWS;
        let Some(Map::Array(data)) = self.ebpf.map(name) else {
            return Err(DataplaneError::Missing { kind: "map", name });
        };
        let error = |source| DataplaneError::System { what: "map into memory", map: name, source };
        // SAFETY: the object declares FLOWS as a mmapable array of buckets, and it was loaded with
        // this many; a bucket is eight words that change under shared references.
        let buckets = unsafe { Mapped::<Bucket>::new(data.fd().as_fd(), self.sizes.buckets as usize) }
            .map_err(error)?;
        Ok(count(buckets.as_slice(), now, limits))
    }

    /// The data path's clock, as the program reads it.
    pub fn tick() -> u16 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes the struct that it is given; the clock exists on every Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
        let ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        (ns >> lb_common::flow::TICK_SHIFT) as u16
    }
}

fn count(buckets: &[Bucket], now: u16, limits: &IdleLimits) -> FlowCounts {
    let mut counts = FlowCounts { places: (buckets.len() * 8) as u64, ..FlowCounts::default() };
    for word in buckets.iter().flat_map(|bucket| &bucket.0) {
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
