//! What an administrator has set for backends while the daemon runs: it counts beside what the configuration says and
//! what checks find, and is kept apart from both.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use super::health::Health;

/// What an administrator wants of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Admin {
    /// Takes flows when it is up.
    #[default]
    Ready,
    /// Keeps its flows, takes no new ones; in the end, if there is one, it goes to `Maint`.
    Drain,
    /// Counts as down. Checks go on, so that it comes back as they find it.
    Maint,
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Admin::Ready => "ready",
            Admin::Drain => "drain",
            Admin::Maint => "maint",
        })
    }
}

/// That an administrator wants the node out of DNS. It serves what still comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drained {
    /// Until then, in seconds since 1970; `None`: until it is taken back.
    pub until: Option<u64>,
}

impl Drained {
    /// Seconds that are left at a time in seconds since 1970; `None` without an end.
    pub fn left(&self, now: u64) -> Option<u64> {
        self.until.map(|until| until.saturating_sub(now))
    }
}

/// A weight that counts instead of the configuration's. Written `50` or `50%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// This one.
    Share(u16),
    /// So much of the configuration's: 0 to 100.
    Percent(u8),
}

/// Why a text is no [`Weight`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no weight; use 0 to 65535, or 0% to 100% of the configured one")]
pub struct NoWeight(String);

impl Weight {
    /// The configuration's own.
    const UNCHANGED: Weight = Weight::Percent(100);

    /// The weight that counts. A share of something is not nothing.
    fn of(self, configured: u16) -> u16 {
        match self {
            Weight::Share(weight) => weight,
            Weight::Percent(percent) => (u32::from(configured) * u32::from(percent)).div_ceil(100) as u16,
        }
    }
}

impl FromStr for Weight {
    type Err = NoWeight;

    fn from_str(text: &str) -> Result<Weight, NoWeight> {
        let weight = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|&percent| percent <= 100).map(Weight::Percent),
            None => text.parse().ok().map(Weight::Share),
        };
        weight.ok_or_else(|| NoWeight(text.to_owned()))
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Weight::Share(weight) => write!(f, "{weight}"),
            Weight::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Weight, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What was set for one backend. The default: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Override {
    /// The administrative state.
    pub state: Admin,
    /// When the drain ends, in seconds since 1970; in `maint`: when the drain ended that led there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// `None`: the configuration's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
    /// `None`: as checks find it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// A change of what is set for a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Sets the administrative state. A drain ends when the service says.
    State(Admin),
    /// Drains for so many seconds.
    DrainFor(u64),
    /// Sets the weight; all of the configuration's takes that back.
    Weight(Weight),
    /// Sets what counts instead of what checks find; `None` takes that back.
    Health(Option<Health>),
}

/// What tells when a drain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    /// Seconds since 1970.
    pub now: u64,
    /// How many seconds the service's drains last; `None`: until they are taken back.
    pub drain_timeout: Option<u64>,
}

/// What counts of a backend in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// `None` as long as nothing is known.
    pub health: Option<Health>,
    /// Its share of new flows.
    pub weight: u16,
    /// It is down because the time of its drain is over.
    pub drain_ended: bool,
}

impl Standing {
    /// Whether it keeps its flows.
    pub fn is_up(&self) -> bool {
        self.health == Some(Health::Up)
    }

    /// Whether it gets new flows.
    pub fn takes_flows(&self) -> bool {
        self.is_up() && self.weight > 0
    }
}

impl Override {
    /// What counts of a backend with this weight in the configuration that checks found like this.
    pub fn standing(&self, configured: u16, measured: Option<Health>) -> Standing {
        let health = self.health.or(measured);
        let weight = self.weight(configured);
        let standing = Standing { health, weight, drain_ended: false };
        match self.state {
            Admin::Ready if self.health == Some(Health::Down) => Standing { weight: 0, ..standing },
            Admin::Ready => standing,
            Admin::Drain => Standing { weight: 0, ..standing },
            // Without a weight: it is not to be used, even in a panic.
            Admin::Maint => {
                Standing { health: Some(Health::Down), weight: 0, drain_ended: self.until.is_some() }
            }
        }
    }

    /// Seconds that are left of the drain; `None` without an end.
    pub fn left(&self, now: u64) -> Option<u64> {
        let until = self.until.filter(|_| self.state == Admin::Drain)?;
        Some(until.saturating_sub(now))
    }

    /// What holds when the backend itself wants something, too: what an administrator has set has the last word.
    #[must_use]
    pub fn over(self, advice: Override) -> Override {
        Override {
            state: if self.state == Admin::Ready { advice.state } else { self.state },
            until: self.until,
            weight: self.weight.or(advice.weight),
            health: self.health,
        }
    }

    /// Its share of new flows as long as it takes any.
    pub fn weight(&self, configured: u16) -> u16 {
        self.weight.unwrap_or(Weight::UNCHANGED).of(configured)
    }

    fn changed(mut self, change: Change, clock: Clock) -> Override {
        let ends = |seconds: Option<u64>| seconds.map(|seconds| clock.now.saturating_add(seconds));
        match change {
            Change::State(Admin::Drain) => {
                (self.state, self.until) = (Admin::Drain, ends(clock.drain_timeout));
            }
            Change::DrainFor(seconds) => (self.state, self.until) = (Admin::Drain, ends(Some(seconds))),
            Change::State(state) if state == self.state => {}
            Change::State(state) => (self.state, self.until) = (state, None),
            Change::Weight(weight) => self.weight = (weight != Weight::UNCHANGED).then_some(weight),
            Change::Health(health) => self.health = health,
        }
        self
    }
}

/// What is set, for people: `drain, weight 50%`.
impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.state)?;
        if let Some(weight) = self.weight {
            write!(f, ", weight {weight}")?;
        }
        if let Some(health) = self.health {
            write!(f, ", health {health}")?;
        }
        Ok(())
    }
}

/// What was set for all backends, by service and name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overrides(BTreeMap<String, BTreeMap<String, Override>>);

impl Overrides {
    /// What was set for a backend.
    pub fn get(&self, service: &str, backend: &str) -> Override {
        self.0.get(service).and_then(|backends| backends.get(backend)).copied().unwrap_or_default()
    }

    /// What is set, by service and backend.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Override)> {
        self.0.iter().flat_map(|(service, backends)| {
            backends.iter().map(move |(backend, set)| (service.as_str(), backend.as_str(), set))
        })
    }

    /// The same after a change.
    pub fn changed(mut self, service: &str, backend: &str, change: Change, clock: Clock) -> Overrides {
        let now = self.get(service, backend).changed(change, clock);
        self.0.entry(service.to_owned()).or_default().insert(backend.to_owned(), now);
        self.retain(|_, _| true);
        self
    }

    /// Puts backends whose drains are over into maintenance, and says which, by service and name.
    pub fn end_drains(&mut self, now: u64) -> Vec<(String, String)> {
        let mut ended = Vec::new();
        for (service, backends) in &mut self.0 {
            for (backend, set) in backends.iter_mut().filter(|(_, set)| set.left(now) == Some(0)) {
                set.state = Admin::Maint;
                ended.push((service.clone(), backend.clone()));
            }
        }
        ended
    }

    /// Forgets what was set for backends that are not to be kept, and says for which; also those of whom nothing is set
    /// any more.
    pub fn retain(&mut self, keep: impl Fn(&str, &str) -> bool) -> Vec<String> {
        let mut forgotten = Vec::new();
        self.0.retain(|service, backends| {
            backends.retain(|backend, set| {
                let kept = keep(service, backend);
                if !kept {
                    forgotten.push(format!("{service}/{backend} ({set})"));
                }
                kept && *set != Override::default()
            });
            !backends.is_empty()
        });
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Option<Health> = Some(Health::Up);
    const DOWN: Option<Health> = Some(Health::Down);
    const CLOCK: Clock = Clock { now: 1_000, drain_timeout: None };

    #[test]
    fn what_is_set_counts_before_configuration_and_checks() {
        let standing = |changes: &[Change], measured| {
            let set = changes.iter().fold(Override::default(), |set, &change| set.changed(change, CLOCK));
            let Standing { health, weight, .. } = set.standing(10, measured);
            (health, weight)
        };
        let drain = Change::State(Admin::Drain);
        assert_eq!(standing(&[], UP), (UP, 10));
        assert_eq!(standing(&[], None), (None, 10));
        assert_eq!(standing(&[drain], UP), (UP, 0), "it keeps its flows");
        assert_eq!(standing(&[drain], DOWN), (DOWN, 0));
        assert_eq!(standing(&[Change::State(Admin::Maint)], UP).0, DOWN);
        assert_eq!(standing(&[Change::State(Admin::Maint), Change::Health(UP)], UP).0, DOWN);
        assert_eq!(standing(&[Change::Health(UP)], DOWN), (UP, 10));
        assert_eq!(standing(&[Change::Health(UP), Change::Health(None)], DOWN), (DOWN, 10));
        assert_eq!(standing(&[drain, Change::State(Admin::Ready)], UP), (UP, 10));
        let weight = |text: &str| Change::Weight(text.parse().unwrap());
        for (text, expected) in [("50%", 5), ("1%", 1), ("0%", 0), ("100%", 10), ("7", 7), ("0", 0)] {
            assert_eq!(standing(&[weight(text)], UP).1, expected, "{text}");
        }
        let set = Override::default().changed(weight("5"), CLOCK);
        assert_eq!(set.changed(weight("100%"), CLOCK), Override::default());
    }

    #[test]
    fn an_administrator_has_the_last_word_over_a_backends_agent() {
        let agent =
            Override { state: Admin::Drain, weight: Some(Weight::Percent(50)), ..Override::default() };
        assert_eq!(Override::default().over(agent), agent);
        let set =
            Override { state: Admin::Maint, until: Some(9), weight: Some(Weight::Share(7)), health: DOWN };
        assert_eq!(set.over(agent), set);
        assert_eq!(set.over(Override::default()), set);
    }

    #[test]
    fn weights_are_read_as_they_are_written() {
        for text in ["0", "65535", "0%", "100%"] {
            assert_eq!(text.parse::<Weight>().unwrap().to_string(), text);
        }
        for text in ["", "%", "-1", "65536", "101%", "1.5", "50 %", "ten"] {
            let error = text.parse::<Weight>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is no weight; use 0 to 65535")), "{error}");
        }
        // The greatest weight that a file may have.
        assert_eq!(Weight::Percent(100).of(u16::MAX), u16::MAX);
    }

    #[test]
    fn only_what_differs_from_nothing_is_kept() {
        let set = Overrides::default()
            .changed("web", "b1", Change::State(Admin::Drain), CLOCK)
            .changed("web", "b2", Change::Weight(Weight::Percent(50)), CLOCK)
            .changed("dns", "b1", Change::Health(DOWN), CLOCK);
        let text = r#"{"dns":{"b1":{"state":"ready","health":"down"}},"web":{"b1":{"state":"drain"},"b2":{"state":"ready","weight":"50%"}}}"#;
        assert_eq!(serde_json::to_string(&set).unwrap(), text);
        assert_eq!(serde_json::from_str::<Overrides>(text).unwrap(), set);

        let mut fewer = set.changed("dns", "b1", Change::Health(None), CLOCK);
        assert_eq!(fewer.retain(|_, backend| backend != "b2"), ["web/b2 (ready, weight 50%)"]);
        assert_eq!(serde_json::to_string(&fewer).unwrap(), r#"{"web":{"b1":{"state":"drain"}}}"#);
        assert_eq!(fewer.get("web", "b2"), Override::default());
    }

    #[test]
    fn a_drain_ends_in_maintenance() {
        let ten = Clock { drain_timeout: Some(10), ..CLOCK };
        let (drain, maint) = (Change::State(Admin::Drain), Change::State(Admin::Maint));
        let after = |changes: &[Change], clock| {
            changes.iter().fold(Overrides::default(), |set, &change| set.changed("web", "b1", change, clock))
        };
        for (changes, clock, left) in [
            (&[drain][..], CLOCK, None),
            (&[drain], ten, Some(10)),
            (&[Change::DrainFor(5)], ten, Some(5)),
            (&[Change::DrainFor(5)], CLOCK, Some(5)),
            (&[Change::DrainFor(5), drain], ten, Some(10)),
            (&[Change::DrainFor(5), drain], CLOCK, None),
            (&[Change::DrainFor(5), maint], ten, None),
            (&[Change::DrainFor(5), Change::State(Admin::Ready)], ten, None),
            (&[Change::DrainFor(5), Change::Health(DOWN)], ten, Some(5)),
            (&[Change::DrainFor(u64::MAX)], ten, Some(u64::MAX - 1_000)),
        ] {
            assert_eq!(after(changes, clock).get("web", "b1").left(1_000), left, "{changes:?}");
        }

        let mut set = after(&[drain], ten).changed("web", "b2", drain, CLOCK);
        let text = r#"{"web":{"b1":{"state":"drain","until":1010},"b2":{"state":"drain"}}}"#;
        assert_eq!(serde_json::to_string(&set).unwrap(), text);
        assert_eq!(serde_json::from_str::<Overrides>(text).unwrap(), set);
        assert!(set.end_drains(1_009).is_empty());
        assert_eq!(set.get("web", "b1").left(1_009), Some(1));
        assert_eq!(set.end_drains(1_010), [("web".to_owned(), "b1".to_owned())]);
        assert!(set.end_drains(1_011).is_empty(), "once");

        let ended = set.get("web", "b1");
        assert_eq!((ended.state, ended.left(1_010)), (Admin::Maint, None));
        let gone = Standing { health: DOWN, weight: 0, drain_ended: true };
        assert_eq!(ended.standing(10, UP), gone);
        assert_eq!(ended.changed(maint, CLOCK), ended, "it is already");
        let by_hand = ended.changed(Change::State(Admin::Ready), CLOCK).changed(maint, CLOCK);
        assert_eq!(by_hand.standing(10, UP), Standing { drain_ended: false, ..gone });
    }
}
