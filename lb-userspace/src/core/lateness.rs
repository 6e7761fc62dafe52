//! How late checks begin: whether this host keeps up with them.

use std::time::{Duration, Instant};

/// The worst is remembered for this long at least, and for twice as long at most.
const WINDOW: Duration = Duration::from_secs(30);

/// How late checks have begun.
#[derive(Debug, Clone)]
pub struct Lateness {
    begun: u64,
    /// How many began later than each of [`Lateness::LIMITS_MS`].
    later: [u64; Lateness::LIMITS_MS.len()],
    worst: Duration,
    worst_before: Duration,
    /// When the window of `worst` began.
    window: Instant,
}

impl Lateness {
    /// What is counted, in ms.
    pub const LIMITS_MS: [u32; 9] = [1, 2, 5, 10, 20, 50, 100, 200, 1_000];

    /// No check has begun yet.
    pub fn new(now: Instant) -> Lateness {
        let none = Duration::ZERO;
        Lateness {
            begun: 0,
            later: [0; Lateness::LIMITS_MS.len()],
            worst: none,
            worst_before: none,
            window: now,
        }
    }

    /// Takes a check that began so much later than it was due.
    pub fn note(&mut self, late: Duration, now: Instant) {
        self.begun += 1;
        for (count, limit) in self.later.iter_mut().zip(Lateness::LIMITS_MS) {
            *count += u64::from(late > Duration::from_millis(limit.into()));
        }
        (self.worst_before, self.worst) = match now.saturating_duration_since(self.window) {
            age if age < WINDOW => (self.worst_before, self.worst.max(late)),
            age if age < 2 * WINDOW => (self.worst, late),
            _ => (Duration::ZERO, late),
        };
        if now.saturating_duration_since(self.window) >= WINDOW {
            self.window = now;
        }
    }

    /// How many checks have begun.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// How many of them began later than so many ms.
    pub fn later(&self) -> impl Iterator<Item = (u32, u64)> {
        Lateness::LIMITS_MS.into_iter().zip(self.later)
    }

    /// How late the latest of the last minute or so began.
    pub fn worst(&self, now: Instant) -> Duration {
        match now.saturating_duration_since(self.window) {
            age if age < WINDOW => self.worst.max(self.worst_before),
            age if age < 2 * WINDOW => self.worst,
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn checks_are_counted_by_how_late_they_began() {
        let now = Instant::now();
        let mut lateness = Lateness::new(now);
        for late in [0, 1, 2, 50, 51, 5_000] {
            lateness.note(ms(late), now);
        }
        let later: Vec<u64> = lateness.later().map(|(_, count)| count).collect();
        assert_eq!((lateness.begun(), later), (6, vec![4, 3, 3, 3, 3, 2, 1, 1, 1]));
    }

    #[test]
    fn the_worst_is_forgotten_after_a_minute() {
        let start = Instant::now();
        let mut lateness = Lateness::new(start);
        let at = |second| start + Duration::from_secs(second);
        assert_eq!(lateness.worst(at(0)), ms(0));
        for (second, late, worst) in [(1, 7, 7), (29, 3, 7), (35, 2, 7), (64, 1, 7), (66, 4, 4), (97, 1, 4)] {
            lateness.note(ms(late), at(second));
            assert_eq!(lateness.worst(at(second)), ms(worst), "at {second}");
        }
        assert_eq!((lateness.worst(at(140)), lateness.worst(at(200))), (ms(1), ms(0)));
        lateness.note(ms(1), at(300));
        assert_eq!(lateness.worst(at(300)), ms(1));
    }
}
