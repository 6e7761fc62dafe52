//! The deny list: as the configuration and its file have it, and as commands change it.

use std::{fs, mem};

use anyhow::Context as _;
use lb_common::Features;
use tracing::info;

use super::state::State;
use crate::{
    api::Refusal,
    config::Defence,
    core::deny::{self, AddError, Change, DenyList, Prefix, Rule, RuleError, Said, Source},
    dataplane::{Dataplane, DataplaneError},
    deny::{Denied, DenyAction, DenyChange, DenyChanged, DenyCounts, DenyQuery, ListedRule, MOST_RULES},
    unreadable,
};

/// Reads the list that the daemon begins with.
///
/// # Errors
/// When the file cannot be read, has a mistake, or there are too many rules.
pub(super) fn read(defence: Option<&Defence>) -> anyhow::Result<DenyList> {
    let rules = defence.map_or(&[][..], |defence| &defence.deny);
    Ok(DenyList::new(&read_file(defence)?, rules)?)
}

/// Reads the rules of the file that the configuration names; without one there are none.
///
/// # Errors
/// When it cannot be read or has a mistake.
pub(super) fn read_file(defence: Option<&Defence>) -> anyhow::Result<Vec<Rule>> {
    let Some(file) = defence.and_then(|defence| defence.deny_file.as_ref()) else { return Ok(Vec::new()) };
    let name = file.display();
    let text = fs::read_to_string(file)
        .map_err(unreadable::explained)
        .with_context(|| format!("cannot read the deny list {name}"))?;
    let mistake = |(line, error): (usize, RuleError)| {
        anyhow::anyhow!("{name}:{line}: the rule {error}; {}", error.mend())
    };
    deny::parse_file(&text).map_err(mistake)
}

/// A list that takes another one's place, and what the map has to be told then.
pub(super) struct Successor {
    list: DenyList,
    changes: Vec<Change>,
}

impl Successor {
    /// What the programs need for it.
    pub(super) fn features(&self) -> Features {
        features_for(&self.list)
    }
}

/// What the programs need for a list.
pub(super) fn features_for(list: &DenyList) -> Features {
    if list.is_empty() { Features::NONE } else { Features::DENY }
}

/// The list, and what of it the map has not been told.
#[derive(Default)]
pub(super) struct Deny {
    list: DenyList,
    untold: Vec<Change>,
}

impl Deny {
    /// A list of which the map knows nothing.
    fn new(list: DenyList) -> Deny {
        Deny { untold: list.all(), list }
    }

    /// The list that the daemon begins with, which the map is told.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(super) fn begin(list: DenyList, dataplane: &mut Dataplane) -> Result<Deny, DataplaneError> {
        let mut deny = Deny::new(list);
        deny.tell(dataplane)?;
        if !deny.list.is_empty() {
            info!(prefixes = deny.list.len(), "the deny list is in force");
        }
        Ok(deny)
    }

    /// What the programs need for it.
    pub(super) fn features(&self) -> Features {
        features_for(&self.list)
    }

    /// Tells the map what it was not told yet. What fails is told with the next change, and by [`State::catch_up`].
    pub(super) fn tell(&mut self, dataplane: &mut Dataplane) -> Result<(), DataplaneError> {
        let untold = mem::take(&mut self.untold);
        let result = dataplane.deny(&untold);
        if result.is_err() {
            self.untold = untold;
        }
        result
    }

    /// The list with other rules of file and configuration; what commands said stays.
    pub(super) fn successor(&self, file: &[Rule], configuration: &[Rule]) -> Result<Successor, AddError> {
        let (list, changes) = self.list.successor(file, configuration)?;
        Ok(Successor { list, changes })
    }

    /// Takes the list that was made of this one.
    pub(super) fn replace(&mut self, Successor { list, changes }: Successor) {
        self.list = list;
        self.untold.extend(changes);
    }

    /// Answers a question.
    pub(super) fn answer(&self, query: &DenyQuery) -> Denied {
        let limit = query.limit.min(MOST_RULES);
        let said: Vec<_> = match query.client {
            Some(client) => self.list.holding(Prefix::of(client)).collect(),
            None => self.list.after(query.after).take(limit).collect(),
        };
        let full = query.client.is_none() && said.len() == limit;
        let next = said.last().filter(|_| full).map(|(prefix, _)| *prefix);
        let wanted = |rule: &ListedRule| query.source.is_none_or(|source| source == rule.source);
        let mut rules: Vec<_> = said.into_iter().flat_map(listed).filter(wanted).collect();
        if query.client.is_some() {
            rules.reverse();
        }
        Denied { counts: self.counts(), rules, next }
    }

    fn counts(&self) -> DenyCounts {
        DenyCounts {
            prefixes: self.list.len(),
            configuration: self.list.count(Source::Configuration),
            file: self.list.count(Source::File),
            command: self.list.count(Source::Command),
        }
    }
}

/// The rules of a prefix, as they are shown.
fn listed((prefix, said): (Prefix, Said)) -> Vec<ListedRule> {
    let mut rules: Vec<_> =
        said.rules(prefix).map(|(rule, source)| ListedRule { rule, source, overridden: false }).collect();
    if let [first, _] = rules.as_mut_slice() {
        first.overridden = true;
    }
    rules
}

impl State {
    /// Adds rules or removes them; when it returns, they are in force.
    pub(super) fn change_deny(&mut self, change: &DenyChange) -> Result<DenyChanged, Refusal> {
        let DenyChange { action, rules } = change;
        if rules.len() > MOST_RULES {
            let message = format!("{} rules at once; send {MOST_RULES} at most", rules.len());
            return Err(Refusal::Unknown(message));
        }
        let failed = |error: DataplaneError| Refusal::Failed(format!("{:#}", anyhow::Error::from(error)));
        let (changes, changed) = match action {
            DenyAction::Add => {
                self.look_at_deny().map_err(failed)?;
                self.deny.list.add(rules).map_err(|error| Refusal::Full(error.to_string()))?
            }
            DenyAction::Remove => {
                self.deny.list.remove(rules).map_err(|error| Refusal::Unknown(error.to_string()))?
            }
        };
        self.deny.untold.extend(changes);
        if let Err(error) = tokio::task::block_in_place(|| self.deny.tell(&mut self.dataplane)) {
            let error = anyhow::Error::from(error);
            return Err(Refusal::Failed(format!("{error:#}; trying again soon")));
        }
        let counts = self.deny.counts();
        info!(?action, changed, prefixes = counts.prefixes, "the deny list has changed");
        Ok(DenyChanged { changed, counts })
    }

    /// Sees to it that the running programs look at the list: without one they have no code for that.
    fn look_at_deny(&mut self) -> Result<(), DataplaneError> {
        let features = self.dataplane.features();
        if features.has(Features::DENY) {
            return Ok(());
        }
        self.load_features(features | Features::DENY)?;
        info!("the programs look at the deny list from now on");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny(file: &[&str], configuration: &[&str], command: &[&str]) -> Deny {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let mut list = DenyList::new(&rules(file), &rules(configuration)).unwrap();
        list.add(&rules(command)).unwrap();
        Deny::new(list)
    }

    fn shown(denied: &Denied) -> Vec<String> {
        let rules = denied.rules.iter();
        rules
            .map(|one| format!("{} {}{}", one.rule, one.source, if one.overridden { "!" } else { "" }))
            .collect()
    }

    #[test]
    fn f62_rules_are_listed_with_their_source_page_by_page() {
        let deny =
            deny(&["192.0.2.0/24", "2001:db8::/32"], &["!192.0.2.1"], &["!192.0.2.0/24", "203.0.113.7"]);
        let all = [
            "192.0.2.0/24 file!",
            "!192.0.2.0/24 command",
            "!192.0.2.1/32 configuration",
            "203.0.113.7/32 command",
            "2001:db8::/32 file",
        ];
        let mut pages = Vec::new();
        let mut query = DenyQuery { limit: 2, ..DenyQuery::default() };
        loop {
            let page = deny.answer(&query);
            assert_eq!(page.counts, DenyCounts { prefixes: 4, configuration: 1, file: 2, command: 2 });
            pages.push(shown(&page));
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        assert_eq!(pages.concat(), all);
        assert_eq!(pages.len(), 3, "the last one is empty");
        let of = |source| {
            shown(&deny.answer(&DenyQuery { source: Some(source), limit: 9, ..DenyQuery::default() }))
        };
        assert_eq!(of(Source::Configuration), ["!192.0.2.1/32 configuration"]);
        assert_eq!(of(Source::Command), ["!192.0.2.0/24 command", "203.0.113.7/32 command"]);
    }

    #[test]
    fn f62_the_rule_that_decides_about_a_client_is_the_last() {
        let deny = deny(&["0.0.0.0/0", "192.0.2.0/24", "::/0"], &["!192.0.2.1"], &[]);
        let of = |client: &str| {
            shown(&deny.answer(&DenyQuery { client: client.parse().ok(), ..DenyQuery::default() }))
        };
        let expected = ["0.0.0.0/0 file", "192.0.2.0/24 file", "!192.0.2.1/32 configuration"];
        assert_eq!(of("192.0.2.1"), expected);
        assert_eq!(of("2001:db8::1"), ["::/0 file"]);
    }
}
