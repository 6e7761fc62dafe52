//! Measured health: a state machine that turns check results into `up` and `down`.
//!
//! ```text
//!                     first result passed                 first result failed
//!              ┌────────────────────────── not checked ──────────────────────────┐
//!              ▼                                                                 ▼
//!             up ───────────────── `fall` failures in a row ─────────────────► down
//!              ◄────────────────── `rise` successes in a row ───────────────────
//! ```

use std::{
    fmt,
    time::{Duration, Instant},
};

use lb_common::Backend;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Check, CheckKind, Passive, Timing},
    core::{
        admin::{Admin, Override},
        check::{CheckResult, Code},
        passive::{Row, Silence},
    },
};

/// Measured health. What an administrator wants is another type: [`Admin`](super::admin::Admin).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Takes flows.
    Up,
    /// Takes none.
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Up => "up",
            Health::Down => "down",
        })
    }
}

/// One thing that is checked again and again, and what is known of it.
#[derive(Debug, Clone)]
pub struct Checked {
    rise: u32,
    fall: u32,
    /// What holds until it is seen.
    presumed: Option<(Health, Instant)>,
    seen: Option<Seen>,
    /// In a box, being rare: there may be ten thousand backends.
    trouble: Option<Box<Trouble>>,
    /// What the backend itself last wanted.
    advice: Option<Override>,
    /// Clients were not answered: so many checks in a row have to pass before it is checked at the usual pace again.
    doubt: u32,
    silence: Row,
}

/// A check that could not be made here (`SOCKERR`): it says something about this host only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What kept it from being made.
    pub result: CheckResult,
    /// When that was.
    pub at: Instant,
}

/// What is known from the first result on.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The state that the results have led to.
    pub health: Health,
    /// Since when it is in that state.
    pub since: Instant,
    /// The latest result.
    pub last: CheckResult,
    /// When the latest result came.
    pub last_at: Instant,
    /// How many results in a row, the latest included, passed or failed like the latest.
    pub in_a_row: u32,
}

impl Checked {
    /// A thing that has not been checked yet.
    pub fn new(timing: &Timing) -> Checked {
        Checked {
            rise: timing.rise,
            fall: timing.fall,
            presumed: None,
            seen: None,
            trouble: None,
            advice: None,
            doubt: 0,
            silence: Row::default(),
        }
    }

    /// A thing that an earlier daemon saw up: it takes `fall` failures in a row to be down.
    pub fn presumed_up(timing: &Timing, now: Instant) -> Checked {
        Checked { presumed: Some((Health::Up, now)), ..Checked::new(timing) }
    }

    /// A backend that the data path has as up, as an earlier daemon has left it: it takes as many results as ever to be otherwise.
    /// `is_wanted`: the configuration and administrators would have flows begin there.
    pub fn resumed(left: &Backend, check: &Check, is_wanted: bool, now: Instant) -> Checked {
        let health = if left.is_up_by_policy() { Health::Down } else { Health::Up };
        let is_drained = matches!(*check.kind, CheckKind::Agent) && is_wanted && !left.accepts();
        Checked {
            presumed: Some((health, now)),
            advice: is_drained.then(|| Override { state: Admin::Drain, ..Override::default() }),
            ..Checked::new(&check.timing)
        }
    }

    /// Takes a result that came at `now`, and says if the state changed. The first result decides
    /// at once: a node that starts must not wait `rise` intervals for its backends.
    ///
    /// A check that could not be made here changes nothing and interrupts no row: a host that is itself in
    /// trouble must not take away backends or peers that may be well.
    pub fn observe(&mut self, result: &CheckResult, now: Instant) -> Option<Transition> {
        if result.code == Code::Sockerr {
            self.trouble = Some(Box::new(Trouble { result: result.clone(), at: now }));
            return None;
        }
        self.trouble = None;
        self.advice = result.advice.or(self.advice);
        let passed = result.code.passed();
        let in_a_row = match &self.seen {
            Some(seen) if seen.last.code.passed() == passed => seen.in_a_row.saturating_add(1),
            _ => 1,
        };
        let before = self.seen.as_ref().map(|seen| (seen.health, seen.since)).or(self.presumed);
        let to = match before {
            None if passed => Health::Up,
            None => Health::Down,
            Some((Health::Up, _)) if !passed && in_a_row >= self.fall => Health::Down,
            Some((Health::Down, _))
                if passed && in_a_row >= self.rise && self.silence.held(now).is_none() =>
            {
                Health::Up
            }
            Some((health, _)) => health,
        };
        let since = before.filter(|&(from, _)| from == to).map_or(now, |(_, since)| since);
        self.seen = Some(Seen { health: to, since, last: result.clone(), last_at: now, in_a_row });
        self.doubt = match (to, passed) {
            (Health::Down, _) => 0,
            (Health::Up, true) => self.doubt.saturating_sub(1),
            (Health::Up, false) => self.doubt,
        };

        let from = before.map(|(health, _)| health);
        (from != Some(to)).then(|| Transition {
            from,
            to,
            code: result.code,
            detail: result.detail.clone(),
            in_a_row,
        })
    }

    /// Takes a window in which it was silent while it was up. It is in doubt then; and where that counts as a failed check, it may
    /// be down. Such windows have a row of their own: passing checks, perhaps of another port, come in between.
    pub fn hear_silence(&mut self, silence: &Silence, counts: bool, now: Instant) -> Option<Transition> {
        if !self.is_up() {
            return None;
        }
        self.doubt = self.rise;
        let in_a_row = if counts { self.silence.count(self.fall, now)? } else { return None };
        let last = CheckResult::new(Code::L4Tout, Duration::ZERO, silence.to_string());
        let transition = Transition {
            from: self.health(),
            to: Health::Down,
            code: last.code,
            detail: last.detail.clone(),
            in_a_row,
        };
        self.seen = Some(Seen { health: Health::Down, since: now, last, last_at: now, in_a_row });
        self.doubt = 0;
        Some(transition)
    }

    /// It has answered a client while it was up.
    pub fn hear_answers(&mut self) {
        self.silence.end();
    }

    /// For how long passing checks do not bring it up yet, because clients were not answered.
    pub fn held(&self, now: Instant) -> Option<Duration> {
        self.silence.held(now)
    }

    /// What was found is too old to tell anything: the next result decides at once, as the first one did.
    pub fn forget(&mut self) {
        (self.presumed, self.seen) = (None, None);
    }

    /// Is checked in another way from now on: what only the old one could say is taken back, and the rest stays.
    pub fn follow(&mut self, check: &Check) {
        self.set_timing(&check.timing);
        if !matches!(*check.kind, CheckKind::Agent) {
            self.advice = None;
        }
        if check.passive != Passive::Fail {
            self.silence.end();
        }
    }

    /// Judges by other numbers in a row from now on; what is known stays.
    pub fn set_timing(&mut self, timing: &Timing) {
        (self.rise, self.fall) = (timing.rise, timing.fall);
    }

    /// `None` as long as there is no result, and none was presumed: neither up nor down.
    pub fn health(&self) -> Option<Health> {
        let presumed = self.presumed.map(|(health, _)| health);
        self.seen.as_ref().map(|seen| seen.health).or(presumed)
    }

    /// The health that the latest results lead to if more of them are alike: another one while they contradict its state.
    pub fn expected(&self) -> Option<Health> {
        match &self.seen {
            Some(seen) if self.contradicts(seen) && seen.last.code.passed() => Some(Health::Up),
            Some(seen) if self.contradicts(seen) => Some(Health::Down),
            _ => self.health(),
        }
    }

    fn contradicts(&self, seen: &Seen) -> bool {
        seen.last.code.passed() != (seen.health == Health::Up) && self.held(seen.last_at).is_none()
    }

    /// Whether it is down by as many failures in a row as take a thing down that was up: of what has just begun to be
    /// checked, the first one does.
    pub fn is_surely_down(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| {
            seen.health == Health::Down && !seen.last.code.passed() && seen.in_a_row >= self.fall
        })
    }

    /// Whether it may take flows; not before the first check passed.
    pub fn is_up(&self) -> bool {
        self.health() == Some(Health::Up)
    }

    /// How soon it should be checked again: fast while the latest results contradict its state, and may change it, or clients
    /// were not answered.
    pub fn pace(&self) -> Pace {
        match self.seen.as_ref().filter(|seen| self.contradicts(seen)) {
            None if self.doubt == 0 => Pace::Usual,
            _ => Pace::Fast,
        }
    }

    /// Set while checks cannot be made here: the latest of them.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_deref()
    }

    /// The newest finished check, made or not, and when it finished.
    pub fn last(&self) -> Option<(&CheckResult, Instant)> {
        let trouble = self.trouble.as_ref().map(|trouble| (&trouble.result, trouble.at));
        trouble.or_else(|| self.seen.as_ref().map(|seen| (&seen.last, seen.last_at)))
    }

    /// What the backend itself last wanted; an agent that is silent takes nothing back.
    pub fn advice(&self) -> Option<Override> {
        self.advice
    }

    /// What the latest result warns of.
    pub fn warning(&self) -> Option<&str> {
        self.seen.as_ref()?.last.warning.as_deref()
    }

    /// Everything known of the thing itself; `None` as long as there is no result.
    pub fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }
}

/// A change of state. Displays as the end of a log line:
/// `up -> down: L7STS 503 Service Unavailable, expected 200-399 (3 in a row)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// `None`: it had not been checked.
    pub from: Option<Health>,
    /// The new state.
    pub to: Health,
    /// What the deciding check found.
    pub code: Code,
    /// The deciding check's words for people.
    pub detail: String,
    /// How many results in a row had passed or failed like the deciding one.
    pub in_a_row: u32,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Some(from) => write!(f, "{from} -> {}: {}", self.to, self.code)?,
            None => write!(f, "not checked -> {}: {}", self.to, self.code)?,
        }
        if !self.detail.is_empty() {
            write!(f, " {}", self.detail)?;
        }
        if self.from.is_some() {
            write!(f, " ({} in a row)", self.in_a_row)?;
        }
        Ok(())
    }
}

/// Over how much time at most the first checks are spread: DNS waits for their results.
const START_SPREAD: Duration = Duration::from_secs(1);

/// Time from the start to the first check, from a `random` number in 0.0..1.0: anywhere in the
/// first interval or second, whichever is shorter, so that checks do not come in step.
pub fn first_check(timing: &Timing, random: f64) -> Duration {
    timing.interval.min(START_SPREAD).mul_f64(random)
}

/// How soon a check follows the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// After `interval`.
    Usual,
    /// After `fast_interval`: the state may be about to change.
    Fast,
}

/// Time from one check's start to the next one's, from a `random` number in 0.0..1.0: the interval of the pace,
/// longer or shorter by up to `jitter` of it.
pub fn next_check(timing: &Timing, pace: Pace, random: f64) -> Duration {
    let interval = match pace {
        Pace::Usual => timing.interval,
        Pace::Fast => timing.fast_interval,
    };
    let deviation = f64::from(timing.jitter) * (2.0 * random - 1.0);
    interval.mul_f64(1.0 + deviation)
}

#[cfg(test)]
mod tests;
