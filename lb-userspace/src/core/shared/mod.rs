//! This node's part in a zone that other nodes write, too.
//!
//! The zone's primary is the only memory that nodes share, and compares before it changes: every update names what
//! must still be so. What nodes agree on they agree on there.
//!
//! - [`SharedZone::observe`] takes what the zone holds, [`SharedZone::unreadable`] that nobody could tell.
//! - [`SharedZone::decide`] says what should be changed next, [`SharedZone::note`] takes what became of it, and
//!   [`SharedZone::refused`] that the primary does not want it.
//! - `decide.rs` holds the rules; [`situation`] makes what they are applied to; `refusal.rs` keeps what is refused at one
//!   name from the others.

mod decide;
mod hold;
mod in_memory;
mod refusal;
mod situation;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::core::{
    lease::{Claim, Kind, owner},
    records::{Addresses, Contents, Outcome},
};

use hold::Holds;
use refusal::Refusals;

pub use decide::{Gone, Planned, Situation, Wish};
pub use in_memory::InMemory;
pub use refusal::Act;
pub use situation::{Others, situation};

/// How a node behaves in a shared zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// For how long a lease holds without a renewal.
    pub lease: Duration,
    /// From one renewal to the next.
    pub renew: Duration,
    /// TTL of the addresses, in seconds.
    pub ttl: u32,
    /// Whether addresses of others may stand beside ours.
    pub share_rrset: bool,
    /// What two nodes without a witness may do.
    pub two_nodes: TwoNodes,
}

/// What becomes of a dead node where there are two, and no witness: no majority can find it dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TwoNodes {
    /// It is removed when its lease has run out, too: it could not reach the primary for so long.
    #[default]
    RemoveAfterLease,
    /// It stays.
    Never,
}

/// What this node knows and wants of a shared zone.
#[derive(Debug, Clone)]
pub struct SharedZone {
    node: Arc<str>,
    boot: u64,
    settings: Settings,
    names: BTreeMap<Arc<str>, Name>,
    /// Nobody is removed before: the zone could not be read, and others could not renew their leases perhaps.
    no_removal_before: Option<Instant>,
    /// It could be read the last time.
    readable: bool,
    /// So much goes into one update: all, or less after one for several names was not made, until smaller ones are.
    at_most: usize,
}

/// One name, as it was last read.
#[derive(Debug, Clone, Default)]
struct Name {
    addresses: Addresses,
    /// By node.
    claims: BTreeMap<Arc<str>, Seen>,
    own: Own,
    last_removal: Option<Instant>,
    refusals: Refusals,
    /// Nobody is removed before: this node's lease was refused, and so were others' perhaps.
    no_removal_before: Option<Instant>,
}

/// A node's record beside a name.
#[derive(Debug, Clone)]
struct Seen {
    text: String,
    claim: Option<Claim>,
    /// When it was first seen to be so.
    changed: Instant,
}

/// What became of this node's own addresses at a name.
#[derive(Debug, Clone, Default)]
struct Own {
    /// A lease of this run of the daemon was written.
    ever: bool,
    renewed: Option<Instant>,
    holds: Holds,
    /// Addresses of the lease that were seen there: one that never was is missing because the primary left it out.
    shown: BTreeSet<IpAddr>,
    /// Another daemon writes under this node's name.
    contested: bool,
}

/// What is the matter with an address in a shared zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is there.
    Published,
    /// It is not there yet.
    Absent,
    /// Its node has withdrawn it, or does not want it.
    Withdrawn,
    /// Another node has taken it away; `None`: somebody that left no mark.
    RemovedBy(Option<Arc<str>>),
    /// Two daemons write under its node's name.
    Contested,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Published => f.write_str("published"),
            State::Absent => f.write_str("absent"),
            State::Withdrawn => f.write_str("withdrawn-self"),
            State::RemovedBy(Some(by)) => write!(f, "removed-by {by}"),
            State::RemovedBy(None) => f.write_str("removed-by somebody"),
            State::Contested => f.write_str("contested"),
        }
    }
}

/// What keeps an address out of a zone, or in it, against this node's wish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// CNAME.
    #[error("{name} is an alias of {target}, and an alias can have no addresses; remove its CNAME record")]
    Alias {
        /// The name.
        name: Arc<str>,
        /// What it stands for.
        target: String,
    },
    /// Addresses that belong to no node.
    #[error(
        "{name} has addresses of others: {}; remove them, or set share_rrset = true if they are wanted",
        list(addresses)
    )]
    Others {
        /// The name.
        name: Arc<str>,
        /// Which.
        addresses: BTreeSet<IpAddr>,
    },
    /// A cloned host.
    #[error("another daemon publishes as {node}: a copy of this host? Give each node its own [node] name")]
    Contested {
        /// This node's name.
        node: Arc<str>,
    },
    /// It was taken away.
    #[error("{name}: {} took {} away ({why})", by.as_deref().unwrap_or("somebody that left no mark"), list(addresses))]
    Removed {
        /// The name.
        name: Arc<str>,
        /// Who.
        by: Option<Arc<str>>,
        /// Which addresses.
        addresses: BTreeSet<IpAddr>,
        /// In one word.
        why: Arc<str>,
    },
    /// `all_down = "all"` keeps it.
    #[error("{name}: this node's address is the last one, so it stays (all_down = \"all\")")]
    Last {
        /// The name.
        name: Arc<str>,
    },
    /// The primary does not do it.
    #[error("{name}: {act}: {why}")]
    Refused {
        /// The name.
        name: Arc<str>,
        /// What was asked for.
        act: Act,
        /// The primary's words.
        why: Arc<str>,
    },
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

impl SharedZone {
    /// Nothing is known yet. `boot` is a random number of this run of the daemon.
    pub fn new(node: Arc<str>, boot: u64, settings: Settings) -> SharedZone {
        SharedZone {
            node,
            boot,
            settings,
            names: BTreeMap::new(),
            no_removal_before: None,
            readable: false,
            at_most: usize::MAX,
        }
    }

    /// Behaves otherwise from now on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Names that this node has written at.
    pub fn written(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter().filter(|(_, name)| name.own.ever).map(|(name, _)| name)
    }

    /// Takes what the zone held at `now`. `nodes` are all whose records were asked for.
    pub fn observe(&mut self, contents: &Contents, nodes: &[Arc<str>], now: Instant) {
        let readable = std::mem::replace(&mut self.readable, true);
        if !readable && self.no_removal_before.is_some() {
            self.no_removal_before = Some(now + self.settings.lease);
        }
        for (name, addresses) in &contents.names {
            let known = self.names.entry(name.clone()).or_default();
            known.addresses = addresses.clone();
            for node in nodes {
                let texts = contents.texts.get(&owner(node, name)).map_or(&[][..], Vec::as_slice);
                known.see(node, texts, now);
            }
            known.judge_own(&self.node, self.boot, now);
        }
        let asked: BTreeSet<&Arc<str>> = contents.names.keys().collect();
        self.names.retain(|name, _| asked.contains(name));
    }

    /// The zone could not be read.
    pub fn unreadable(&mut self, now: Instant) {
        self.readable = false;
        // Moved on when it can be read again.
        self.no_removal_before = Some(now + self.settings.lease);
    }

    /// Takes what became of an update.
    pub fn note(&mut self, planned: &Planned, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::NotAsExpected if planned.acts.len() > 1 => self.try_parts(planned),
            Outcome::NotAsExpected => {}
            Outcome::Applied => {
                self.at_most = self.at_most.saturating_mul(2);
                for (name, act) in &planned.acts {
                    if let Some(known) = self.names.get_mut(name) {
                        known.note(act, now);
                    }
                }
            }
        }
    }

    /// The primary refuses an update, in these words, and has changed nothing. What it refuses of several things shows when
    /// they are asked for in parts; one thing rests.
    pub fn refused(&mut self, planned: &Planned, why: &str, now: Instant) {
        let [(name, act)] = &planned.acts[..] else { return self.try_parts(planned) };
        let Some(known) = self.names.get_mut(name) else { return };
        known.refuse(act, why, now);
        if *act == Act::Renew {
            known.no_removal_before = Some(now + self.settings.lease);
        }
    }

    fn try_parts(&mut self, planned: &Planned) {
        self.at_most = (planned.acts.len() / 2).max(1);
    }

    /// The primary's words, when it refuses every name that is wanted: this node is kept out of each, or its lease is.
    pub fn refuses_all<'a>(&self, situation: &Situation, troubles: &'a [Trouble]) -> Option<&'a str> {
        let words = situation.names.iter().map(|(name, wish)| {
            let is_there =
                self.names.get(name).is_some_and(|known| wish.own.iter().any(|own| known.has(*own)));
            troubles.iter().find_map(|trouble| match trouble {
                Trouble::Refused { name: at, act: Act::Renew, why } if at == name => Some(&**why),
                Trouble::Refused { name: at, act: Act::Add(_), why } if at == name && !is_there => {
                    Some(&**why)
                }
                _ => None,
            })
        });
        words.collect::<Option<Vec<_>>>()?.into_iter().next()
    }

    /// How an address of a node stands at a name.
    pub fn state(&self, name: &str, node: &str, address: IpAddr) -> State {
        let Some(known) = self.names.get(name) else { return State::Absent };
        let is_own = *self.node == *node;
        if is_own && known.own.contested {
            State::Contested
        } else if known.has(address) {
            State::Published
        } else if is_own && let Some(hold) = known.own.holds.get(address) {
            State::RemovedBy(hold.by.clone())
        } else {
            match known.claims.get(node).and_then(|seen| seen.claim.as_ref()).map(|claim| &claim.kind) {
                Some(Kind::Removed { by, addresses, .. }) if addresses.contains(&address) => {
                    State::RemovedBy(Some(by.clone()))
                }
                Some(Kind::Lease { addresses, .. }) if !addresses.contains(&address) => State::Withdrawn,
                _ => State::Absent,
            }
        }
    }

    /// For how long a node's record beside a name has not changed, as seen from here; `None` when there is none.
    pub fn lease_age(&self, name: &str, node: &str, now: Instant) -> Option<Duration> {
        let seen = self.names.get(name)?.claims.get(node)?;
        Some(now.saturating_duration_since(seen.changed))
    }

    /// When something is due by itself at the latest: a renewal, the end of a hold-down, another try.
    pub fn next_due(&self, now: Instant) -> Instant {
        let renewals = self.names.values().filter_map(|name| {
            let due = name.own.renewed? + self.settings.renew;
            Some(name.refusals.end_of_renewal().map_or(due, |end| end.max(due)))
        });
        let holds = self.names.values().filter_map(|name| name.own.holds.next_end(now));
        let due = renewals.chain(holds).chain(self.next_try(now)).min();
        due.unwrap_or(now + self.settings.renew).max(now)
    }

    /// When something that was refused is tried again.
    pub fn next_try(&self, now: Instant) -> Option<Instant> {
        self.names.values().flat_map(|name| name.refusals.ends(now)).min()
    }
}

impl Name {
    /// This was done here.
    fn note(&mut self, act: &Act, now: Instant) {
        self.applied(act);
        match act {
            Act::Remove(_) => self.last_removal = Some(now),
            Act::Withdraw | Act::Renew | Act::Add(_) => {
                self.own.ever = true;
                self.own.renewed = Some(now);
            }
        }
    }

    fn see(&mut self, node: &Arc<str>, texts: &[String], now: Instant) {
        // More than one is none of ours; it stays as it is, and a prerequisite on it fails.
        let [text] = texts else {
            self.claims.remove(node);
            return;
        };
        if self.claims.get(node).is_some_and(|seen| seen.text == *text) {
            return;
        }
        let claim = text.parse().ok().filter(|claim: &Claim| claim.node == *node);
        self.claims.insert(node.clone(), Seen { text: text.clone(), claim, changed: now });
    }

    /// What the zone says about this node's own part.
    fn judge_own(&mut self, node: &Arc<str>, boot: u64, now: Instant) {
        let Some(seen) = self.claims.get(node).cloned() else {
            // It was taken away: by this daemon, which has left, or by whoever wrote under its name, and has left.
            (self.own.ever, self.own.contested) = (false, false);
            return;
        };
        let Some(claim) = seen.claim else {
            self.own.contested = false;
            return;
        };
        self.own.ever |= claim.boot == boot;
        if !self.own.ever {
            return;
        }
        match claim.kind {
            // Whoever came later has it; this one stops until that one has.
            Kind::Lease { seconds, .. } if claim.boot != boot => {
                let lease = Duration::from_secs(seconds.into());
                self.own.contested = now.saturating_duration_since(seen.changed) <= lease;
                self.own.ever = self.own.contested;
            }
            Kind::Lease { addresses, .. } => {
                self.own.contested = false;
                let (there, not): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
                    addresses.iter().partition(|address| self.has(**address));
                let missing: BTreeSet<IpAddr> = not.intersection(&self.own.shown).copied().collect();
                self.own.shown.retain(|address| addresses.contains(address));
                self.own.shown.extend(&there);
                self.own.holds.are_back(&there);
                if !missing.is_empty() && self.addresses.alias.is_none() {
                    self.own.holds.taken(None, &"by-hand".into(), &missing, claim.sequence, now);
                }
            }
            Kind::Removed { by, addresses, why } if claim.boot == boot => {
                self.own.holds.taken(Some(&by), &why, &addresses, claim.sequence, now);
            }
            Kind::Removed { .. } => {}
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        self.addresses.sets.values().any(|set| set.addresses.contains(&address))
    }

    fn all(&self) -> BTreeSet<IpAddr> {
        self.addresses.sets.values().flat_map(|set| &set.addresses).copied().collect()
    }
}
