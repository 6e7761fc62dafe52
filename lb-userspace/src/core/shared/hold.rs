//! Addresses of this node that were taken away from a name, and are not put back for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// The first hold-down; each further one is twice as long.
const HOLD_DOWN: Duration = Duration::from_secs(30);

/// The longest hold-down. After twice as long without a removal they begin anew.
const LONGEST_HOLD_DOWN: Duration = Duration::from_secs(600);

/// Who took an address away, and until when it stays away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    /// None: somebody that left no mark.
    pub(super) by: Option<Arc<str>>,
    /// In one word.
    pub(super) why: Arc<str>,
    until: Instant,
    /// Of the lease that the address was taken out of.
    sequence: u64,
}

/// What became of one address.
#[derive(Debug, Clone)]
struct Removals {
    /// In a row, and the last one.
    times: u32,
    last: Instant,
    /// Until the address is back.
    hold: Option<Hold>,
}

/// Each address has its own: families are taken away one after the other, and a lease may be renewed between.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds(BTreeMap<IpAddr, Removals>);

impl Holds {
    /// A hold stands, over or not, until its address is back.
    pub(super) fn get(&self, address: IpAddr) -> Option<&Hold> {
        self.0.get(&address)?.hold.as_ref()
    }

    /// One that is not over.
    pub(super) fn in_force(&self, address: IpAddr, now: Instant) -> Option<&Hold> {
        self.get(address).filter(|hold| hold.until > now)
    }

    /// The next end of one.
    pub(super) fn next_end(&self, now: Instant) -> Option<Instant> {
        self.0.keys().filter_map(|&address| self.in_force(address, now)).map(|hold| hold.until).min()
    }

    /// These addresses are there.
    pub(super) fn are_back(&mut self, addresses: &BTreeSet<IpAddr>) {
        for (_, removals) in self.0.iter_mut().filter(|(address, _)| addresses.contains(address)) {
            removals.hold = None;
        }
    }

    /// They were taken out of the lease with this sequence, which is seen again and again.
    pub(super) fn taken(
        &mut self,
        by: Option<&Arc<str>>,
        why: &Arc<str>,
        addresses: &BTreeSet<IpAddr>,
        sequence: u64,
        now: Instant,
    ) {
        for &address in addresses {
            let removals = self.0.entry(address).or_insert(Removals { times: 0, last: now, hold: None });
            if let Some(hold) = removals.hold.as_mut().filter(|hold| hold.sequence == sequence) {
                // Addresses may be read after a removal and the mark before it: it tells later who that was.
                if let Some(by) = by.filter(|_| hold.by.is_none()) {
                    (hold.by, hold.why) = (Some(by.clone()), why.clone());
                }
                continue;
            }
            let in_a_row = now.saturating_duration_since(removals.last) <= LONGEST_HOLD_DOWN * 2;
            let times = if in_a_row { removals.times } else { 0 };
            let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
            let length = HOLD_DOWN.saturating_mul(factor).min(LONGEST_HOLD_DOWN);
            let hold = Hold { by: by.cloned(), why: why.clone(), until: now + length, sequence };
            *removals = Removals { times: times.saturating_add(1), last: now, hold: Some(hold) };
        }
    }
}
