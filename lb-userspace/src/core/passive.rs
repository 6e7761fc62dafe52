//! Passive signals: backends that do not answer those who open connections.
//!
//! The data path counts, under NAT and for TCP, flows that a SYN has opened and backends' packets to flows that are not
//! proven yet. A backend that is alive answers every SYN, by SYN|ACK or a reset, also a forged one: whoever forges them
//! cannot make a backend seem silent.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What was opened to a backend and what it answered, counted since whenever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Openings {
    /// Connections.
    pub opened: u64,
    /// Its packets to connections that are not proven yet.
    pub answered: u64,
}

/// How long connections are opened before they are judged. Their answers are awaited until the next look at the counters.
pub const WINDOW: Duration = Duration::from_secs(2);

/// Fewer connections tell nothing: a packet may be lost, a firewall may refuse a client.
pub const LEAST: u64 = 8;

/// Counters that were not looked at for so long tell nothing of a window.
const GAP: Duration = Duration::from_secs(4);

/// Connections of which none was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// How many.
    pub opened: u64,
    /// In how many ms they were opened.
    pub window_ms: u64,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = (self.window_ms + 500) / 1_000;
        write!(f, "{} connections opened in the last {seconds} s, none answered", self.opened)
    }
}

/// What a look at the counters has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The backend has answered since the last look.
    Answers,
    /// It has answered none of a window's connections.
    Silent(Silence),
}

/// The counters of a backend, looked at again and again.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// As long ago as a window, and a look more.
    looks: VecDeque<(Instant, Openings)>,
}

impl Watch {
    /// Takes the counters as they are at `now`. Windows that are signals do not overlap.
    pub fn observe(&mut self, counted: Openings, now: Instant) -> Option<Signal> {
        let (last_at, last) = *self.looks.back().unwrap_or(&(now, counted));
        let is_less = counted.opened < last.opened || counted.answered < last.answered;
        if is_less || now.duration_since(last_at) > GAP {
            self.looks.clear();
        }
        let answers = !self.looks.is_empty() && counted.answered > last.answered;
        if answers {
            // What was opened before may be what was answered.
            self.looks.clear();
        }
        self.looks.push_back((now, counted));
        if answers {
            return Some(Signal::Answers);
        }
        // Those that were opened since the last look may still be answered.
        let end = self.looks.len().checked_sub(2)?;
        let (until, opened_until) = self.looks[end];
        let is_old = |at: Instant| until.duration_since(at) >= WINDOW;
        // The youngest that is old enough begins the window.
        while self.looks.get(1).is_some_and(|(at, _)| is_old(*at)) {
            self.looks.pop_front();
        }
        let (from, opened_from) = *self.looks.front()?;
        let opened = opened_until.opened - opened_from.opened;
        if !is_old(from) || opened < LEAST {
            return None;
        }
        let window = until.duration_since(from);
        self.looks.retain(|(at, _)| *at >= until);
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        Some(Signal::Silent(Silence { opened, window_ms }))
    }

    /// Begins anew: what was counted while the backend is down tells nothing.
    pub fn forget(&mut self) {
        self.looks.clear();
    }
}

/// For how long passing checks do not bring back a backend that silence has taken down; twice as long each time.
const HOLD: Duration = Duration::from_secs(10);

/// But not longer than this.
const LONGEST_HOLD: Duration = Duration::from_secs(600);

/// What silent windows have come to where they count as failed checks. Passing checks do not interrupt their row, which only
/// an answer does.
#[derive(Debug, Clone, Default)]
pub struct Row {
    windows: u32,
    /// How often it has taken the backend down since that last answered.
    taken_down: u32,
    held_until: Option<Instant>,
}

impl Row {
    /// Counts a silent window, and says of how many it was the last if that takes the backend down: `fall`, or one if the
    /// backend has not answered since it was last taken down so.
    pub fn count(&mut self, fall: u32, now: Instant) -> Option<u32> {
        self.windows = self.windows.saturating_add(1);
        let needed = if self.taken_down == 0 { fall } else { 1 };
        if self.windows < needed {
            return None;
        }
        let hold = HOLD.saturating_mul(1 << self.taken_down.min(16)).min(LONGEST_HOLD);
        self.taken_down = self.taken_down.saturating_add(1);
        self.held_until = Some(now + hold);
        Some(std::mem::take(&mut self.windows))
    }

    /// The backend answers.
    pub fn end(&mut self) {
        *self = Row::default();
    }

    /// For how long passing checks do not count yet.
    pub fn held(&self, now: Instant) -> Option<Duration> {
        self.held_until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Looks once a second at counters that grow like this, opened and answered, and notes what each look shows.
    fn signals(growth: &[(u64, u64)]) -> Vec<Option<Signal>> {
        let start = Instant::now();
        let mut counted = Openings { opened: 1_000, answered: 900 };
        let mut watch = Watch::default();
        (0..)
            .zip(growth)
            .map(|(second, (opened, answered))| {
                counted.opened += opened;
                counted.answered += answered;
                watch.observe(counted, start + Duration::from_secs(second))
            })
            .collect()
    }

    fn silent(opened: u64) -> Option<Signal> {
        Some(Signal::Silent(Silence { opened, window_ms: 2_000 }))
    }

    #[test]
    fn a_window_without_an_answer_is_a_signal() {
        // The first look is where counting begins; a window of two seconds; a second for its answers. Then the next one.
        assert_eq!(signals(&[(9, 9), (5, 0), (5, 0), (5, 0)])[..], [None, None, None, silent(10)]);
        let long = signals(&[(0, 0), (5, 0), (5, 0), (5, 0), (6, 0), (7, 0), (8, 0)]);
        assert_eq!(long, [None, None, None, silent(10), None, silent(11), None]);
        // One second is enough, if there are enough in it.
        assert_eq!(signals(&[(0, 0), (0, 0), (0, 0), (8, 0), (0, 0)])[4], silent(8));
        // Too few, however long.
        assert_eq!(signals(&[(3, 0); 20]), [None; 20]);
    }

    #[test]
    fn one_answer_is_enough_also_a_late_one() {
        let answers = Some(Signal::Answers);
        assert_eq!(signals(&[(0, 0), (50, 0), (50, 0), (0, 1)])[..], [None, None, None, answers]);
        // SYNs that are forged are answered too.
        assert_eq!(signals(&[(0, 0), (9_000, 9_000), (9_000, 9_000)])[1..], [answers, answers]);
        // After it a whole window is needed.
        let later = signals(&[(0, 0), (9, 0), (9, 1), (9, 0), (9, 0), (9, 0)]);
        assert_eq!(later, [None, None, answers, None, None, silent(18)]);
    }

    #[test]
    fn what_is_not_looked_at_in_time_tells_nothing() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let opened = |opened| Openings { opened, answered: 0 };
        let mut watch = Watch::default();
        for (second, count) in [(0, 0), (1, 10), (10, 100), (11, 110), (12, 120)] {
            assert_eq!(watch.observe(opened(count), at(second)), None, "{second}");
        }
        assert_eq!(watch.observe(opened(120), at(13)), silent(20));
        // Counters that begin anew.
        assert_eq!(watch.observe(opened(3), at(14)), None);
        watch.forget();
        for second in 15..18 {
            assert_eq!(watch.observe(opened(second * 10), at(second)), None);
        }
    }

    #[test]
    fn a_row_takes_down_for_longer_each_time_until_there_is_an_answer() {
        let now = Instant::now();
        let mut row = Row::default();
        assert_eq!((row.count(3, now), row.count(3, now), row.held(now)), (None, None, None));
        assert_eq!((row.count(3, now), row.held(now)), (Some(3), Some(HOLD)));
        assert_eq!((row.held(now + HOLD / 2), row.held(now + HOLD)), (Some(HOLD / 2), None));
        // It came up, and is as silent as before: one window is enough.
        let holds = [2, 4, 8, 16, 32, 60, 60].map(|tens| HOLD * tens);
        for hold in holds {
            assert_eq!((row.count(3, now), row.held(now)), (Some(1), Some(hold)));
        }
        row.end();
        assert_eq!((row.held(now), row.count(3, now)), (None, None));
    }

    #[test]
    fn in_words() {
        let silence = Silence { opened: 23, window_ms: 2_003 };
        assert_eq!(silence.to_string(), "23 connections opened in the last 2 s, none answered");
    }

    proptest! {
        /// A signal says the truth: so many were opened in the window, and nothing was answered in it or since.
        #[test]
        fn signals_are_true(growth in prop::collection::vec((0_u64..12, prop::bool::weighted(0.2)), 1..60)) {
            let growth: Vec<_> = growth.into_iter().map(|(opened, answers)| (opened, u64::from(answers))).collect();
            let mut free_from = 0;
            for (look, signal) in signals(&growth).into_iter().enumerate() {
                if let Some(Signal::Silent(silence)) = signal {
                    let window = look - 2..look;
                    let opened: u64 = growth[window.clone()].iter().map(|(opened, _)| opened).sum();
                    prop_assert_eq!((silence.opened, silence.window_ms), (opened, 2_000));
                    prop_assert!(silence.opened >= LEAST);
                    prop_assert!(growth[window.start..=look].iter().all(|(_, answered)| *answered == 0));
                    prop_assert!(window.start >= free_from, "windows overlap");
                    free_from = window.end;
                }
                let answers = look > 0 && growth[look].1 > 0;
                prop_assert_eq!(answers, signal == Some(Signal::Answers));
            }
        }
    }
}
