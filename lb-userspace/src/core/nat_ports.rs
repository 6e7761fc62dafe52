//! NAT ports that run out: when it begins, how far it goes, when it is over.

use std::time::{Duration, Instant};

/// It is over when no packet was refused for so long: what was refused comes again, but not every second.
pub const QUIET: Duration = Duration::from_secs(60);

/// Whether a pool's new flows find NAT ports, from the counter of packets that were refused one.
#[derive(Debug, Clone, Default)]
pub struct NatPorts {
    counted: u64,
    shortage: Option<Shortage>,
}

/// New flows find no port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// When it was noticed.
    pub since: Instant,
    /// When the counter was last seen to grow.
    pub last: Instant,
    /// Packets refused since it began.
    pub refused: u64,
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The first packets were refused.
    Began,
    /// None was for [`QUIET`].
    Ended(Shortage),
}

impl NatPorts {
    /// Takes the counter's value at `now`.
    pub fn observe(&mut self, counted: u64, now: Instant) -> Option<Change> {
        let grown = counted.saturating_sub(self.counted);
        self.counted = counted;
        match &mut self.shortage {
            None if grown == 0 => None,
            None => {
                self.shortage = Some(Shortage { since: now, last: now, refused: grown });
                Some(Change::Began)
            }
            Some(shortage) if grown > 0 => {
                shortage.last = now;
                shortage.refused += grown;
                None
            }
            Some(shortage) if now.duration_since(shortage.last) < QUIET => None,
            Some(_) => self.shortage.take().map(Change::Ended),
        }
    }

    /// Set while new flows find no port.
    pub fn shortage(&self) -> Option<&Shortage> {
        self.shortage.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c36_a_shortage_is_told_once_when_it_begins_and_once_when_it_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ports = NatPorts::default();
        assert_eq!(ports.observe(0, at(0)), None);
        assert_eq!(ports.shortage(), None);
        assert_eq!(ports.observe(3, at(1)), Some(Change::Began));
        // It goes on, with pauses.
        assert_eq!(ports.observe(3, at(2)), None);
        assert_eq!(ports.observe(10, at(50)), None);
        assert_eq!(ports.observe(10, at(109)), None);
        let shortage = Shortage { since: at(1), last: at(50), refused: 10 };
        assert_eq!(ports.shortage(), Some(&shortage));
        assert_eq!(ports.observe(10, at(110)), Some(Change::Ended(shortage)));
        assert_eq!(ports.shortage(), None);
        // The next one counts from 0.
        assert_eq!(ports.observe(10, at(111)), None);
        assert_eq!(ports.observe(11, at(112)), Some(Change::Began));
        assert_eq!(ports.shortage().map(|shortage| shortage.refused), Some(1));
    }
}
