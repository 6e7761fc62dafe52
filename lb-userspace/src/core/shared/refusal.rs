//! What the primary has refused at a name: it rests, by itself, and is tried again.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Name, Trouble};
use crate::core::{ids::Family, records::Addresses};

/// The first rest; each further one is twice as long.
const REST: Duration = Duration::from_secs(1);

/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What is asked of the primary at one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// This node's addresses are taken away.
    Withdraw,
    /// Its lease is renewed, for the addresses that are there.
    Renew,
    /// Its addresses of a family are added, and its lease is renewed.
    Add(Family),
    /// A peer is taken away.
    Remove(Arc<str>),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Withdraw => f.write_str("this node cannot be taken away"),
            Act::Renew => f.write_str("this node's lease cannot be written"),
            Act::Add(Family::V4) => f.write_str("this node's IPv4 addresses cannot be added"),
            Act::Add(Family::V6) => f.write_str("this node's IPv6 addresses cannot be added"),
            Act::Remove(peer) => write!(f, "{peer} cannot be taken away"),
        }
    }
}

/// Until it succeeds.
#[derive(Debug, Clone)]
struct Refusal {
    /// The primary's words.
    why: Arc<str>,
    /// In a row.
    times: u32,
    at: Instant,
    until: Instant,
    /// What the name had.
    addresses: Addresses,
}

/// What has been refused at one name.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusals(BTreeMap<Act, Refusal>);

impl Refusals {
    pub(super) fn has(&self, act: &Act) -> bool {
        self.0.contains_key(act)
    }

    /// When those that rest are tried again.
    pub(super) fn ends(&self, now: Instant) -> impl Iterator<Item = Instant> {
        self.0.values().map(|refusal| refusal.until).filter(move |&until| until > now)
    }

    /// When the lease may be written, whatever else rests.
    pub(super) fn end_of_renewal(&self) -> Option<Instant> {
        Some(self.0.get(&Act::Renew)?.until)
    }

    fn applied(&mut self, act: &Act) {
        match act {
            Act::Withdraw => self.0.retain(|act, _| matches!(act, Act::Remove(_))),
            Act::Renew if !self.has(act) => {}
            // What kept the lease out kept addresses out as well.
            Act::Renew => self.0.retain(|act, _| !matches!(act, Act::Renew | Act::Add(_))),
            Act::Add(_) => self.0.retain(|other, _| other != act && *other != Act::Renew),
            Act::Remove(_) => drop(self.0.remove(act)),
        }
    }
}

impl Name {
    /// The primary does not do that here.
    pub(super) fn refuse(&mut self, act: &Act, why: &str, now: Instant) {
        let times = self.refusals.0.get(act).map_or(0, |before| before.times);
        let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
        let refusal = Refusal {
            why: why.into(),
            times: times.saturating_add(1),
            at: now,
            until: now + REST.saturating_mul(factor).min(LONGEST_REST),
            addresses: self.addresses.clone(),
        };
        self.refusals.0.insert(act.clone(), refusal);
    }

    /// It was done.
    pub(super) fn applied(&mut self, act: &Act) {
        self.refusals.applied(act);
    }

    /// Whether something is left alone for now, because it was refused: then it is told. The rest is over early when the
    /// name's addresses are others: one has made room, perhaps.
    pub(super) fn rests(
        &self,
        name: &Arc<str>,
        act: &Act,
        now: Instant,
        troubles: &mut Vec<Trouble>,
    ) -> bool {
        let Some(refusal) = self.refusals.0.get(act) else { return false };
        troubles.push(Trouble::Refused { name: name.clone(), act: act.clone(), why: refusal.why.clone() });
        let is_as_it_was = self.addresses == refusal.addresses;
        now < refusal.until && (is_as_it_was || now < refusal.at + REST)
    }
}
