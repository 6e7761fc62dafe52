//! A shared zone without a network, for trying out what nodes would make of one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::core::{
    ids::Family,
    lease::owner,
    records::{AddressSet, Addresses, Change, Contents, Outcome, Prerequisite, Update},
};

/// A zone that compares, and then changes.
#[derive(Debug, Clone, Default)]
pub struct InMemory {
    /// By name.
    pub addresses: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// What names stand for (CNAME).
    pub aliases: BTreeMap<Arc<str>, String>,
    /// By name, one record each.
    pub texts: BTreeMap<Arc<str>, String>,
}

impl InMemory {
    fn holds(&self, prerequisite: &Prerequisite) -> bool {
        match prerequisite {
            Prerequisite::TextIs { name, text } => self.texts.get(name) == Some(text),
            Prerequisite::NoText { name } => !self.texts.contains_key(name),
            Prerequisite::AddressesAre { name, family, addresses } => self.of(name, *family) == *addresses,
        }
    }

    fn of(&self, name: &str, family: Family) -> BTreeSet<IpAddr> {
        let all = self.addresses.get(name).into_iter().flatten();
        all.copied().filter(|&address| Family::of(address) == family).collect()
    }

    /// Makes the changes if all prerequisites hold.
    pub fn update(&mut self, update: &Update) -> Outcome {
        if !update.prerequisites.iter().all(|prerequisite| self.holds(prerequisite)) {
            return Outcome::NotAsExpected;
        }
        for change in update.changes.iter().cloned() {
            match change {
                Change::SetText { name, text, .. } => drop(self.texts.insert(name, text)),
                Change::RemoveText { name } => drop(self.texts.remove(&name)),
                // As BIND does: silently.
                Change::AddAddress { name, .. } if self.aliases.contains_key(&name) => {}
                Change::AddAddress { name, address, .. } => {
                    self.addresses.entry(name).or_default().insert(address);
                }
                Change::RemoveAddress { name, address } => {
                    self.addresses.entry(name).or_default().remove(&address);
                }
            }
        }
        Outcome::Applied
    }

    /// What it has of these names, and of the nodes' records beside them.
    pub fn contents(&self, names: &[Arc<str>], nodes: &[Arc<str>]) -> Contents {
        let addresses = |name: &str| {
            let sets = Family::ALL.into_iter().map(|family| (family, self.of(name, family)));
            let sets = sets.filter(|(_, addresses)| !addresses.is_empty());
            let sets = sets.map(|(family, addresses)| (family, AddressSet { ttl: 30, addresses }));
            Addresses { sets: sets.collect(), alias: self.aliases.get(name).cloned() }
        };
        let owners = names.iter().flat_map(|name| nodes.iter().map(move |node| owner(node, name)));
        let texts = owners.map(|owner| {
            let text = self.texts.get(&owner).cloned();
            (owner, text.into_iter().collect())
        });
        Contents {
            names: names.iter().map(|name| (name.clone(), addresses(name))).collect(),
            texts: texts.collect(),
        }
    }
}
