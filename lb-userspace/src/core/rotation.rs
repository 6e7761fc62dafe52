//! Probes of peers under a cap.
//!
//! Each pool on each address of each peer is probed, so their number grows with the services. Where they would come to
//! more than `peer_probe_rate`, each comes more rarely, in rotation, and a single pool is judged late. Whether a peer's
//! data path works must not wait for that: all probes of one address judge it together ([`DataPath`]).

use std::time::{Duration, Instant};

use crate::{
    config::{PeerCheck, Timing},
    core::{
        check::{CheckResult, Code},
        health::{Checked, Health, Transition},
    },
};

/// From one probe of a pool to the next, when so many are probed and the cap needs them to take turns.
pub fn interval(check: &PeerCheck, count: usize) -> Option<Duration> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let interval = Duration::from_secs(1).saturating_mul(count) / check.peer_probe_rate;
    Some(interval).filter(|interval| *interval > check.timing.interval)
}

/// What the probes of all pools on one address of a peer say of its data path.
///
/// A passing one of any pool says that it works. A failing one speaks against it if that pool has answered before: a peer
/// need not offer every service on every address. Probes of many pools come in quick succession, and `fall` of them are
/// soon in a row when the network stutters; so failures count that are as far apart as those of one pool would be if
/// there were no cap.
#[derive(Debug, Clone)]
pub struct DataPath {
    checked: Checked,
    /// Between failures that count.
    apart: Duration,
    last_failure: Option<Instant>,
}

impl DataPath {
    /// One of which nothing is known.
    pub fn new(timing: &Timing) -> DataPath {
        DataPath { checked: Checked::new(&patient(timing)), apart: apart(timing), last_failure: None }
    }

    /// One that works, by what probes said before they took turns.
    pub fn presumed_up(timing: &Timing, now: Instant) -> DataPath {
        DataPath { checked: Checked::presumed_up(&patient(timing), now), ..DataPath::new(timing) }
    }

    /// Judges by other numbers from now on; what is known stays.
    pub fn set_timing(&mut self, timing: &Timing) {
        self.checked.set_timing(&patient(timing));
        self.apart = apart(timing);
    }

    /// What probes found is too old to tell anything: the next result decides at once.
    pub fn forget(&mut self) {
        self.checked.forget();
        self.last_failure = None;
    }

    /// Takes the result of a probe that ended at `now`; `has_answered`: its pool is up.
    pub fn observe(&mut self, result: &CheckResult, has_answered: bool, now: Instant) -> Option<Transition> {
        if result.code == Code::Sockerr {
            return None;
        }
        if result.code.passed() {
            self.last_failure = None;
        } else {
            let is_known = self.checked.health().is_some();
            let too_soon = |last: Instant| now.saturating_duration_since(last) < self.apart;
            if (is_known && !has_answered) || self.last_failure.is_some_and(too_soon) {
                return None;
            }
            self.last_failure = Some(now);
        }
        self.checked.observe(result, now)
    }

    /// Whether it works; `None` while nobody knows.
    pub fn health(&self) -> Option<Health> {
        self.checked.health()
    }

    /// What the probes found.
    pub fn checked(&self) -> &Checked {
        &self.checked
    }
}

/// Other services speak for the path, so one that has just lost its backends does not take it down alone.
fn patient(timing: &Timing) -> Timing {
    Timing { fall: timing.fall.max(2), ..*timing }
}

/// The shortest time between two probes of one pool without a cap.
fn apart(timing: &Timing) -> Duration {
    timing.interval.mul_f64(1.0 - f64::from(timing.jitter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::AllDown, core::publish::fixture::config};

    fn result(code: Code) -> CheckResult {
        CheckResult::new(code, Duration::ZERO, "")
    }

    #[test]
    fn few_probes_keep_their_interval_and_many_stay_under_the_cap() {
        let check = config(AllDown::All).peer_check;
        assert_eq!((check.timing.interval.as_millis(), check.peer_probe_rate), (500, 50));
        for count in [0, 1, 25] {
            assert_eq!(interval(&check, count), None, "{count}");
        }
        for (count, seconds) in [(50, 1), (1_000, 20), (4_000, 80)] {
            assert_eq!(interval(&check, count), Some(Duration::from_secs(seconds)), "{count}");
        }
    }

    #[test]
    fn stutter_takes_nothing_down_and_silence_does_in_time() {
        let timing = config(AllDown::All).peer_check.timing;
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut path = DataPath::new(&timing);
        assert_eq!(path.observe(&result(Code::L4Ok), false, start).map(|change| change.to), Some(Health::Up));
        // Nothing gets through for 0.8 s: 40 probes fail.
        for at in (0..800).step_by(20) {
            assert_eq!(path.observe(&result(Code::L4Tout), true, start + ms(at)), None, "{at}");
        }
        path.observe(&result(Code::L4Ok), true, start + ms(800));
        let found = (1_000..4_000)
            .step_by(20)
            .find(|&at| path.observe(&result(Code::L4Tout), true, start + ms(at)).is_some());
        // Three, as far apart as without a cap.
        assert_eq!((found, path.health()), (Some(1_920), Some(Health::Down)));
        path.observe(&result(Code::L4Ok), true, start + ms(4_000));
        assert_eq!(path.health(), Some(Health::Down));
        path.observe(&result(Code::L4Ok), true, start + ms(4_020));
        assert_eq!(path.health(), Some(Health::Up));
    }

    #[test]
    fn services_that_are_not_offered_there_say_nothing() {
        let timing = config(AllDown::All).peer_check.timing;
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut path = DataPath::new(&timing);
        path.observe(&result(Code::L4Ok), false, start);
        for at in 1..100 {
            path.observe(&result(Code::L4Con), false, start + second * at);
            path.observe(&result(Code::Sockerr), true, start + second * at);
        }
        assert_eq!(path.health(), Some(Health::Up));
    }
}
