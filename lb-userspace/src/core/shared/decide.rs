//! The rules by which a shared zone is changed.
//!
//! 1. A node writes its own addresses and its own lease. Every such update requires its record to be as it was last read.
//! 2. It withdraws itself when it should not be named. Under `all_down = "all"` the whole set must be as it was read, and
//!    something must remain.
//! 3. It removes a peer only if a strict majority of the configured nodes and witnesses finds it silent, or, of two nodes,
//!    when its lease has run out as well; or if it says itself that it cannot serve, a majority with it hears that, and its
//!    lease has run out, so that it does not reach the primary; only while its own lease stands and the peer's is as it was read; and not if
//!    nobody who serves would remain.
//! 4. A removal leaves a mark. A renewal never puts back what was removed: the node comes back after a hold-down, or at
//!    once when a majority sees it.
//! 5. Where the zone could not be read, nobody is removed for a lease; nor at a name where this node's own was refused.
//! 6. What the primary refuses at a name rests, by itself. All else goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Act, Name, Seen, SharedZone, Trouble, TwoNodes};
use crate::core::{
    ids::Family,
    lease::{Claim, Kind, owner},
    records::{Change, Prerequisite, Update},
};

/// What this node wants of the zone, and what it knows of the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Situation {
    /// Every name that the configuration has in the zone.
    pub names: BTreeMap<Arc<str>, Wish>,
    /// Configured nodes and witnesses.
    pub voters: usize,
    /// How many nodes see this one at each of its addresses, itself included. A witness sees nobody.
    pub seen_by: BTreeMap<IpAddr, usize>,
}

/// What should be at one name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// Addresses of this node that should be named now.
    pub wanted: BTreeSet<IpAddr>,
    /// All that it has for the name.
    pub own: BTreeSet<IpAddr>,
    /// The other nodes' addresses.
    pub peers: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// Addresses, of whomever, that are known to serve.
    pub serving: BTreeSet<IpAddr>,
    /// Peers' addresses that should not be named any more.
    pub gone: BTreeMap<IpAddr, Gone>,
    /// The name must not become empty (`all_down = "all"`).
    pub keep_last: bool,
}

/// Why a peer's address should not be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Voters that find it so, this node included.
    pub agreeing: usize,
    /// In one word.
    pub why: &'static str,
    /// It lives, and takes itself away as long as it reaches the primary: its lease must have run out, too.
    pub can_act: bool,
}

/// A change, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Planned {
    /// What is to be sent.
    pub update: Update,
    /// What that is, and where.
    pub acts: Vec<(Arc<str>, Act)>,
    /// Why a peer is removed, in one word.
    pub why: Option<&'static str>,
}

/// What one name's part of a renewal is.
struct Write<'a> {
    name: &'a Arc<str>,
    known: &'a Name,
    /// What the lease is for.
    target: BTreeSet<IpAddr>,
    acts: Vec<Act>,
    /// Otherwise it will be soon.
    is_due: bool,
    /// It was refused before.
    again: bool,
}

impl Write<'_> {
    /// Does only some of it, by place and kind: what is not added is not in the lease, either.
    fn keep(&mut self, is_kept: impl Fn(usize, &Act) -> bool) {
        let acts = mem::take(&mut self.acts).into_iter().enumerate();
        self.acts = acts.filter(|(place, act)| is_kept(*place, act)).map(|(_, act)| act).collect();
        let (known, acts) = (self.known, &self.acts);
        self.target.retain(|&address| known.has(address) || acts.contains(&Act::Add(Family::of(address))));
    }
}

impl SharedZone {
    /// What should be changed next; `None`: nothing, or nothing is known. What is in the way is added to `troubles`.
    pub fn decide(
        &self,
        situation: &Situation,
        now: Instant,
        troubles: &mut Vec<Trouble>,
    ) -> Option<Planned> {
        if !self.readable {
            return None;
        }
        // Troubles are told, whatever is to be done first.
        let withdrawal = self.withdrawal(situation, now, troubles);
        let renewal = self.renewal(situation, now, troubles);
        let removal = self.removal(situation, now, troubles);
        withdrawal.or(renewal).or(removal)
    }

    /// Addresses of this node that should be there, held ones left out.
    fn target(&self, known: &Name, wish: &Wish, situation: &Situation, now: Instant) -> BTreeSet<IpAddr> {
        let is_held = |address: IpAddr| {
            let seen_by = situation.seen_by.get(&address).copied().unwrap_or_default();
            let is_seen = situation.voters > 1 && seen_by * 2 > situation.voters;
            let hold = known.own.holds.in_force(address, now);
            hold.is_some_and(|hold| !is_seen || hold.by.is_none())
        };
        wish.wanted.iter().copied().filter(|&address| !is_held(address)).collect()
    }

    /// Takes this node's addresses out of one name.
    fn withdrawal(
        &self,
        situation: &Situation,
        now: Instant,
        troubles: &mut Vec<Trouble>,
    ) -> Option<Planned> {
        let mut first = None;
        for (name, known) in &self.names {
            let planned = self.withdrawal_at(name, known, situation, now, troubles);
            first = first.or(planned.filter(|_| !known.rests(name, &Act::Withdraw, now, troubles)));
        }
        first
    }

    fn withdrawal_at(
        &self,
        name: &Arc<str>,
        known: &Name,
        situation: &Situation,
        now: Instant,
        troubles: &mut Vec<Trouble>,
    ) -> Option<Planned> {
        let wish = situation.names.get(name);
        if known.own.contested {
            let trouble = Trouble::Contested { node: self.node.clone() };
            if !troubles.contains(&trouble) {
                troubles.push(trouble);
            }
            return None;
        }
        let leaves = wish.is_none();
        let nothing = Wish::default();
        let wish = wish.unwrap_or(&nothing);
        let target = self.target(known, wish, situation, now);
        let present = self.own_addresses(known, wish);
        let removed: BTreeSet<IpAddr> = present.difference(&target).copied().collect();
        let is_there = known.claims.contains_key(&self.node);
        if removed.is_empty() && !(leaves && is_there && known.own.ever) {
            return None;
        }
        let mut prerequisites = vec![self.own_record(name, known)];
        if wish.keep_last && !removed.is_empty() {
            let left = known.all().into_iter().any(|address| !removed.contains(&address));
            if !left && target.iter().all(|address| known.has(*address)) {
                troubles.push(Trouble::Last { name: name.clone() });
                return None;
            }
            prerequisites.extend(whole_name(name, known));
        }
        let mut update = Update { prerequisites, changes: Vec::new() };
        update.changes.extend(removed.iter().map(|&address| remove(name, address)));
        match leaves {
            true => update.changes.push(Change::RemoveText { name: owner(&self.node, name) }),
            false => self.write(name, known, &target, &mut update),
        }
        Some(Planned { update, acts: vec![(name.clone(), Act::Withdraw)], why: None })
    }

    /// Renews leases, and adds addresses that should be there: at all names at once, unless that failed before. What was
    /// refused is tried again by itself.
    fn renewal(&self, situation: &Situation, now: Instant, troubles: &mut Vec<Trouble>) -> Option<Planned> {
        let writes = situation.names.iter().filter_map(|(name, wish)| {
            let known = self.names.get(name).filter(|known| !known.own.contested)?;
            self.write_at(name, known, wish, situation, now, troubles)
        });
        let (again, mut writes): (Vec<_>, Vec<_>) = writes.partition(|write| write.again);
        if !writes.iter().any(|write| write.is_due) {
            return again.into_iter().next().map(|write| self.together(vec![write]));
        }
        // What will be due soon goes with what is due now, if there is room.
        writes.sort_by_key(|write| !write.is_due);
        let mut room = self.at_most;
        for write in &mut writes {
            write.keep(|place, _| place < room);
            room -= write.acts.len();
        }
        writes.retain(|write| !write.acts.is_empty());
        Some(self.together(writes))
    }

    fn together(&self, writes: Vec<Write<'_>>) -> Planned {
        let mut planned = Planned::default();
        for Write { name, known, target, acts, .. } in writes {
            planned.update.prerequisites.push(self.own_record(name, known));
            self.write(name, known, &target, &mut planned.update);
            planned.acts.extend(acts.into_iter().map(|act| (name.clone(), act)));
        }
        planned
    }

    /// What is to be written at one name, now or soon.
    fn write_at<'a>(
        &self,
        name: &'a Arc<str>,
        known: &'a Name,
        wish: &Wish,
        situation: &Situation,
        now: Instant,
        troubles: &mut Vec<Trouble>,
    ) -> Option<Write<'a>> {
        let target = self.target(known, wish, situation, now);
        let missing =
            |family| target.iter().any(|&address| Family::of(address) == family && !known.has(address));
        let mut acts: Vec<Act> =
            Family::ALL.into_iter().filter(|&family| missing(family)).map(Act::Add).collect();
        if !acts.is_empty()
            && let Some(trouble) = in_the_way(name, known, wish, self.settings.share_rrset)
        {
            troubles.push(trouble);
            acts.clear();
        }
        if known.refusals.has(&Act::Renew) {
            // To add is to renew, too.
            acts.clear();
        }
        acts.retain(|act| !known.rests(name, act, now, troubles));
        let again = !acts.is_empty() && acts.iter().all(|act| known.refusals.has(act));
        let mut write = Write { name, known, target, acts, is_due: false, again };
        write.keep(|place, act| if again { place == 0 } else { !known.refusals.has(act) });
        self.tell_hold(name, known, wish, &write.target, now, troubles);
        let age = known.own.renewed.map(|renewed| now.saturating_duration_since(renewed));
        let is_leased = self.own_claim(known).is_some_and(|claim| is_lease_of(claim, &write.target));
        write.is_due =
            !write.acts.is_empty() || !is_leased || age.is_none_or(|age| age >= self.settings.renew);
        if !write.is_due && age.is_some_and(|age| age * 2 < self.settings.renew) {
            return None;
        }
        if write.acts.is_empty() {
            write.acts.push(Act::Renew);
            write.again = known.refusals.has(&Act::Renew);
            if known.rests(name, &Act::Renew, now, troubles) {
                return None;
            }
        }
        Some(write)
    }

    fn tell_hold(
        &self,
        name: &Arc<str>,
        known: &Name,
        wish: &Wish,
        target: &BTreeSet<IpAddr>,
        now: Instant,
        troubles: &mut Vec<Trouble>,
    ) {
        let mut removed: BTreeMap<_, BTreeSet<IpAddr>> = BTreeMap::new();
        for &address in wish.wanted.difference(target) {
            if let Some(hold) = known.own.holds.in_force(address, now) {
                removed.entry((hold.by.clone(), hold.why.clone())).or_default().insert(address);
            }
        }
        troubles.extend(removed.into_iter().map(|((by, why), addresses)| Trouble::Removed {
            name: name.clone(),
            by,
            addresses,
            why,
        }));
    }

    /// Takes a dead peer out of one name.
    fn removal(&self, situation: &Situation, now: Instant, troubles: &mut Vec<Trouble>) -> Option<Planned> {
        if self.no_removal_before.is_some_and(|before| now < before) {
            return None;
        }
        let mut first = None;
        for (name, wish) in &situation.names {
            let Some(known) = self.names.get(name) else { continue };
            for (peer, addresses) in &wish.peers {
                let planned = self.removal_at(name, known, (peer, addresses), wish, situation, now);
                let act = Act::Remove(peer.clone());
                first = first.or(planned.filter(|_| !known.rests(name, &act, now, troubles)));
            }
        }
        first
    }

    fn removal_at(
        &self,
        name: &Arc<str>,
        known: &Name,
        (peer, addresses): (&Arc<str>, &BTreeSet<IpAddr>),
        wish: &Wish,
        situation: &Situation,
        now: Instant,
    ) -> Option<Planned> {
        if known.no_removal_before.is_some_and(|before| now < before) {
            return None;
        }
        // It must be able to say that it is alive itself.
        self.own_claim(known).filter(|_| !known.own.contested)?;
        let seen = known.claims.get(peer)?;
        let claim = seen.claim.as_ref()?;
        let may = |address: &&IpAddr| {
            let gone = wish.gone.get(address);
            known.has(**address)
                && gone.is_some_and(|gone| self.may_remove(gone, known, seen, situation, now))
        };
        let removed: BTreeSet<IpAddr> = addresses.iter().filter(may).copied().collect();
        let why = removed.iter().find_map(|address| wish.gone.get(address))?.why;
        let remains = |address: &IpAddr| !removed.contains(address) && wish.serving.contains(address);
        let left = known.all().iter().any(remains);
        if wish.keep_last && !left {
            return None;
        }
        let record = owner(peer, name);
        let mut prerequisites = vec![
            Prerequisite::TextIs { name: record.clone(), text: seen.text.clone() },
            self.own_record(name, known),
        ];
        if wish.keep_last {
            prerequisites.extend(whole_name(name, known));
        }
        let mark = mark(claim, &removed, &self.node, why);
        let text = Change::SetText { name: record, text: mark.to_string(), ttl: self.settings.ttl };
        let changes = removed.iter().map(|&address| remove(name, address)).chain([text]).collect();
        Some(Planned {
            update: Update { prerequisites, changes },
            acts: vec![(name.clone(), Act::Remove(peer.clone()))],
            why: Some(why),
        })
    }

    fn may_remove(
        &self,
        gone: &Gone,
        known: &Name,
        seen: &Seen,
        situation: &Situation,
        now: Instant,
    ) -> bool {
        let lease = match seen.claim.as_ref().map(|claim| &claim.kind) {
            Some(Kind::Lease { seconds, .. }) => Duration::from_secs((*seconds).into()),
            _ => self.settings.lease,
        };
        let rested = known.last_removal.is_none_or(|last| now.saturating_duration_since(last) >= lease);
        let expired = now.saturating_duration_since(seen.changed) >= lease;
        if gone.agreeing * 2 > situation.voters && (expired || !gone.can_act) {
            return true;
        }
        let two = situation.voters == 2 && self.settings.two_nodes == TwoNodes::RemoveAfterLease;
        two && rested && expired
    }

    /// This node's lease as this run of the daemon wrote it.
    fn own_claim<'a>(&self, known: &'a Name) -> Option<&'a Claim> {
        let claim = known.claims.get(&self.node)?.claim.as_ref()?;
        (claim.boot == self.boot && matches!(claim.kind, Kind::Lease { .. })).then_some(claim)
    }

    /// What of a name is this node's: what it has, and what an earlier run of its daemon left there.
    fn own_addresses(&self, known: &Name, wish: &Wish) -> BTreeSet<IpAddr> {
        let claimed = match known.claims.get(&self.node).and_then(|seen| seen.claim.as_ref()) {
            Some(Claim { kind: Kind::Lease { addresses, .. }, .. }) => addresses.clone(),
            _ => BTreeSet::new(),
        };
        let of_peers: BTreeSet<&IpAddr> = wish.peers.values().flatten().collect();
        let own = wish.own.iter().chain(claimed.iter().filter(|address| !of_peers.contains(address)));
        own.filter(|address| known.has(**address)).copied().collect()
    }

    /// This node's record is as it was last read.
    fn own_record(&self, name: &Arc<str>, known: &Name) -> Prerequisite {
        let owner = owner(&self.node, name);
        match known.claims.get(&self.node) {
            Some(seen) => Prerequisite::TextIs { name: owner, text: seen.text.clone() },
            None => Prerequisite::NoText { name: owner },
        }
    }

    /// Adds what is missing of the target, and a new lease for it.
    fn write(&self, name: &Arc<str>, known: &Name, target: &BTreeSet<IpAddr>, update: &mut Update) {
        for &address in target.iter().filter(|address| !known.has(**address)) {
            // All records of a set have one TTL; that of others is theirs to choose.
            let set = known.addresses.sets.get(&Family::of(address));
            let shared = set.filter(|_| self.settings.share_rrset);
            let ttl = shared.map_or(self.settings.ttl, |set| set.ttl);
            update.changes.push(Change::AddAddress { name: name.clone(), address, ttl });
        }
        let seconds = self.settings.lease.as_secs().try_into().unwrap_or(u32::MAX);
        let claim = Claim {
            node: self.node.clone(),
            boot: self.boot,
            sequence: self.next_sequence(known),
            kind: Kind::Lease { seconds, addresses: target.clone() },
        };
        let text = claim.to_string();
        update.changes.push(Change::SetText { name: owner(&self.node, name), text, ttl: self.settings.ttl });
    }

    /// Grows, whoever wrote last.
    fn next_sequence(&self, known: &Name) -> u64 {
        let seen = known.claims.get(&self.node).and_then(|seen| seen.claim.as_ref());
        seen.map_or(0, |claim| claim.sequence) + 1
    }
}

fn is_lease_of(claim: &Claim, target: &BTreeSet<IpAddr>) -> bool {
    matches!(&claim.kind, Kind::Lease { addresses, .. } if addresses == target)
}

fn remove(name: &Arc<str>, address: IpAddr) -> Change {
    Change::RemoveAddress { name: name.clone(), address }
}

/// All addresses of the name are as they were read.
fn whole_name(name: &Arc<str>, known: &Name) -> impl Iterator<Item = Prerequisite> {
    Family::ALL.into_iter().map(|family| {
        let set = known.addresses.sets.get(&family);
        let addresses = set.map(|set| set.addresses.clone()).unwrap_or_default();
        Prerequisite::AddressesAre { name: name.clone(), family, addresses }
    })
}

/// What is left beside a name of a peer's lease.
fn mark(claim: &Claim, removed: &BTreeSet<IpAddr>, by: &Arc<str>, why: &str) -> Claim {
    let mut addresses = removed.clone();
    if let Kind::Removed { addresses: before, .. } = &claim.kind {
        addresses.extend(before);
    }
    Claim { kind: Kind::Removed { by: by.clone(), addresses, why: why.into() }, ..claim.clone() }
}

/// What keeps this node from adding addresses.
fn in_the_way(name: &Arc<str>, known: &Name, wish: &Wish, share: bool) -> Option<Trouble> {
    if let Some(target) = &known.addresses.alias {
        return Some(Trouble::Alias { name: name.clone(), target: target.clone() });
    }
    let claimed =
        known.claims.values().filter_map(|seen| seen.claim.as_ref()).flat_map(|claim| match &claim.kind {
            Kind::Lease { addresses, .. } | Kind::Removed { addresses, .. } => addresses,
        });
    let ours: BTreeSet<&IpAddr> =
        wish.own.iter().chain(wish.peers.values().flatten()).chain(claimed).collect();
    let others: BTreeSet<IpAddr> =
        known.all().into_iter().filter(|address| !ours.contains(address)).collect();
    (!share && !others.is_empty()).then(|| Trouble::Others { name: name.clone(), addresses: others })
}
