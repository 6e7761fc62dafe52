//! Questions about the deny list, changes of it, and their answers.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::core::deny::{Prefix, Rule, RuleError, Source};

/// Most rules in one change or one answer: what the daemon's loop does in some milliseconds.
pub const MOST_RULES: usize = 10_000;

/// Rules to be added to the list, or removed from it. All of them, or none when one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyChange {
    /// What to do.
    pub action: DenyAction,
    /// With these, [`MOST_RULES`] at most.
    pub rules: Vec<Rule>,
}

/// What is done with rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenyAction {
    /// From now on they count.
    Add,
    /// They no longer count. Only those that were added can be removed, not the configuration's.
    Remove,
}

/// A change that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyChanged {
    /// Rules that were not as wanted before.
    pub changed: usize,
    /// What there is now.
    pub counts: DenyCounts,
}

/// How many rules there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyCounts {
    /// Prefixes of which something is said.
    pub prefixes: usize,
    /// Rules in the configuration.
    pub configuration: usize,
    /// Rules in its file.
    pub file: usize,
    /// Rules added by commands.
    pub command: usize,
}

/// Which rules are meant. What is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DenyQuery {
    /// Those that hold this client, the one that decides last.
    pub client: Option<IpAddr>,
    /// Those of this source.
    pub source: Option<Source>,
    /// Those of prefixes after this one.
    pub after: Option<Prefix>,
    /// Look at this many prefixes at most, [`MOST_RULES`] at the very most.
    pub limit: usize,
}

/// The rules that are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// All rules that there are.
    pub counts: DenyCounts,
    /// Those that are meant.
    pub rules: Vec<ListedRule>,
    /// The last prefix that was looked at, if there are more; to be asked for with `after`.
    pub next: Option<Prefix>,
}

/// A rule in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRule {
    /// What it says, as files write it.
    pub rule: Rule,
    /// Who says so.
    pub source: Source,
    /// A command said something of the same prefix, which counts instead.
    pub overridden: bool,
}

macro_rules! as_text {
    ($($type:ty),+) => {
        $(
            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(|error: RuleError| {
                        D::Error::custom(format!("`{text}` {error}; {}", error.mend()))
                    })
                }
            }
        )+
    };
}
as_text!(Prefix, Rule);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_text() {
        let change: DenyChange =
            serde_json::from_str(r#"{"action": "add", "rules": ["198.51.100.0/24", "!198.51.100.7"]}"#)
                .expect("a change");
        let text = serde_json::to_string(&change).expect("text");
        assert_eq!(text, r#"{"action":"add","rules":["198.51.100.0/24","!198.51.100.7/32"]}"#);
        let error = serde_json::from_str::<Rule>(r#""198.51.100.7/24""#).expect_err("no rule");
        let message =
            "`198.51.100.7/24` has bits set beyond its 24 bits; write \"198.51.100.0/24\" for the network";
        assert!(error.to_string().starts_with(message), "{error}");
    }

    #[test]
    fn what_is_not_asked_does_not_matter() {
        let query: DenyQuery = serde_json::from_str(r#"{"source": "command", "limit": 5}"#).expect("query");
        assert_eq!(query, DenyQuery { source: Some(Source::Command), limit: 5, ..DenyQuery::default() });
    }
}
