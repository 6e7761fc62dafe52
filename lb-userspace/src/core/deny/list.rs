//! The list itself: what configuration and file say, over it what commands said, and what of that a map has to
//! be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use lb_common::defence::MAX_DENIED;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{MAPPED_BITS, Prefix, Rule};

/// Who made a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `deny` in the configuration.
    Configuration,
    /// The file that the configuration's `deny_file` names.
    File,
    /// `usher deny add`.
    Command,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Configuration => "configuration",
            Source::File => "file",
            Source::Command => "command",
        })
    }
}

/// What is said of one network: denied, or allowed after all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// By the configuration or its file.
    lasting: Option<(Source, bool)>,
    /// By a command, which has the last word.
    command: Option<bool>,
}

impl Said {
    fn effective(&self) -> Option<bool> {
        self.command.or(self.lasting.map(|(_, denied)| denied))
    }

    /// The rules of a network, the one that counts last.
    pub fn rules(self, prefix: Prefix) -> impl Iterator<Item = (Rule, Source)> {
        let rule = move |denied| Rule { prefix, denied };
        let lasting = self.lasting.map(|(source, denied)| (rule(denied), source));
        lasting.into_iter().chain(self.command.map(|denied| (rule(denied), Source::Command)))
    }
}

/// What the map is to be told of a network: denied, allowed after all, or nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The network.
    pub prefix: Prefix,
    /// `None`: the map forgets it.
    pub denied: Option<bool>,
}

/// Every rule that there is. The longest prefix that holds a client decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenyList {
    said: BTreeMap<Prefix, Said>,
    /// How many rules there are of each source, in the order of [`Source`].
    counts: [usize; 3],
}

/// All IPv4 clients. The map always says something of them: in their mapped form they would otherwise fall under
/// `::/0`, which means IPv6 clients.
const ALL_IPV4: Prefix =
    Prefix { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], length: MAPPED_BITS };

/// Why rules are not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the deny list has room for {MAX_DENIED} prefixes; {0} more would be {1}")]
pub struct AddError(pub usize, pub usize);

/// Why a rule cannot be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RemoveError {
    /// Only the configuration can take it back.
    #[error(
        "{0} is of the {1}, not of a command; take it out there for the next start, and until then \
         `usher deny add '{contrary}'` has the last word", contrary = .0.contrary()
    )]
    Lasting(Rule, Source),
    /// The same prefix was added, but to say the contrary.
    #[error("{0} was not added, but {contrary} was; did you mean that?", contrary = .0.contrary())]
    Contrary(Rule),
    /// A longer prefix, which only another one within the same network could undo.
    #[error(
        "{0} was not added; it is within {1} ({2}); `usher deny add '{contrary}'` says the contrary of it alone",
        contrary = .0.contrary()
    )]
    Within(Rule, Rule, Source),
    /// Only parts of it are in the list.
    #[error("{0} was not added; within it there is {1} ({2})")]
    Holds(Rule, Rule, Source),
    /// Nothing like it is there.
    #[error("{0} was not added; `usher deny list --source command` shows what was")]
    Unknown(Rule),
}

impl DenyList {
    /// The rules of the file, then those of the configuration, which thus have the last word.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(file: &[Rule], configuration: &[Rule]) -> Result<DenyList, AddError> {
        let mut list = DenyList::default();
        for (source, rules) in [(Source::File, file), (Source::Configuration, configuration)] {
            for Rule { prefix, denied } in rules {
                let said = list.said.entry(*prefix).or_default();
                if let Some((before, _)) = said.lasting.replace((source, *denied)) {
                    list.counts[before as usize] -= 1;
                }
                list.counts[source as usize] += 1;
            }
        }
        list.within_room()
    }

    fn within_room(self) -> Result<DenyList, AddError> {
        match self.len().checked_sub(MAX_DENIED) {
            None | Some(0) => Ok(self),
            Some(more) => Err(AddError(more, self.len())),
        }
    }

    /// The list with other rules of file and configuration, and what a map that knows this one has to be told. What
    /// commands said stays.
    ///
    /// # Errors
    /// When there are too many.
    pub fn successor(
        &self,
        file: &[Rule],
        configuration: &[Rule],
    ) -> Result<(DenyList, Vec<Change>), AddError> {
        let mut next = DenyList::new(file, configuration)?;
        for (prefix, said) in self.said.iter().filter(|(_, said)| said.command.is_some()) {
            next.said.entry(*prefix).or_default().command = said.command;
            next.counts[Source::Command as usize] += 1;
        }
        let next = next.within_room()?;
        let prefixes = self.said.keys().chain(next.said.keys()).copied().collect::<BTreeSet<_>>();
        let changed = prefixes.into_iter().filter(|prefix| self.change(*prefix) != next.change(*prefix));
        let changes = changed.map(|prefix| next.change(prefix)).collect();
        Ok((next, changes))
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.said.len()
    }

    /// Whether nobody is denied.
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// What a map that holds nothing has to be told.
    pub fn all(&self) -> Vec<Change> {
        let all = self.said.keys().copied().chain((!self.said.contains_key(&ALL_IPV4)).then_some(ALL_IPV4));
        all.map(|prefix| self.change(prefix)).collect()
    }

    /// Adds rules, by command; what the map has to be told, and how many were not there before.
    ///
    /// # Errors
    /// When there is no room for all of them. Then none is added.
    pub fn add(&mut self, rules: &[Rule]) -> Result<(Vec<Change>, usize), AddError> {
        let new: BTreeSet<Prefix> =
            rules.iter().map(|rule| rule.prefix).filter(|prefix| !self.said.contains_key(prefix)).collect();
        if self.len() + new.len() > MAX_DENIED {
            return Err(AddError(new.len(), self.len() + new.len()));
        }
        Ok(self.command(rules, |rule| Some(rule.denied)))
    }

    /// Takes rules away that were added; what the map has to be told, and how many it were.
    ///
    /// # Errors
    /// When one of them was not added. Then none is taken away.
    pub fn remove(&mut self, rules: &[Rule]) -> Result<(Vec<Change>, usize), RemoveError> {
        for rule in rules {
            let said = self.said.get(&rule.prefix).copied().unwrap_or_default();
            if said.command != Some(rule.denied) {
                return Err(self.why_not(*rule, said));
            }
        }
        Ok(self.command(rules, |_| None))
    }

    /// Every prefix after this one, or from the first on.
    pub fn after(&self, prefix: Option<Prefix>) -> impl Iterator<Item = (Prefix, Said)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = self.said.range((prefix.map_or(Unbounded, Excluded), Unbounded));
        range.map(|(prefix, said)| (*prefix, *said))
    }

    /// Every prefix that holds a network, the longest first: the one that decides.
    pub fn holding(&self, network: Prefix) -> impl Iterator<Item = (Prefix, Said)> {
        let shortest = if ALL_IPV4.octets == network.cut(MAPPED_BITS).octets { MAPPED_BITS } else { 0 };
        let holders = (shortest..=network.length).rev().map(move |length| network.cut(length));
        holders.filter_map(|prefix| self.said.get(&prefix).map(|said| (prefix, *said)))
    }

    /// How many rules there are of a source.
    pub fn count(&self, source: Source) -> usize {
        self.counts[source as usize]
    }

    fn command(&mut self, rules: &[Rule], says: impl Fn(&Rule) -> Option<bool>) -> (Vec<Change>, usize) {
        let (mut changes, mut changed) = (Vec::new(), 0);
        for rule in rules {
            let said = self.said.entry(rule.prefix).or_default();
            let before = *said;
            said.command = says(rule);
            changed += usize::from(*said != before);
            let count = &mut self.counts[Source::Command as usize];
            *count = *count + usize::from(said.command.is_some()) - usize::from(before.command.is_some());
            let after = said.effective();
            if after.is_none() {
                self.said.remove(&rule.prefix);
            }
            if after != before.effective() {
                changes.push(self.change(rule.prefix));
            }
        }
        (changes, changed)
    }

    fn change(&self, prefix: Prefix) -> Change {
        let said = self.said.get(&prefix).and_then(Said::effective);
        Change { prefix, denied: said.or((prefix == ALL_IPV4).then_some(false)) }
    }

    fn why_not(&self, rule: Rule, said: Said) -> RemoveError {
        if said.command.is_some() {
            return RemoveError::Contrary(rule);
        }
        if let Some((source, denied)) = said.lasting {
            return RemoveError::Lasting(Rule { denied, ..rule }, source);
        }
        let rule_of = |(prefix, said): (Prefix, Said)| said.rules(prefix).last();
        if let Some((holder, source)) = self.holding(rule.prefix).find_map(rule_of) {
            return RemoveError::Within(rule, holder, source);
        }
        let last = Prefix { octets: rule.prefix.last_octets(), length: 128 };
        let within = self.said.range(rule.prefix..=last).map(|(prefix, said)| (*prefix, *said));
        match within.filter(|(prefix, _)| prefix.length > rule.prefix.length).find_map(rule_of) {
            Some((inner, source)) => RemoveError::Holds(rule, inner, source),
            None => RemoveError::Unknown(rule),
        }
    }
}

#[cfg(test)]
mod tests;
