//! How many answers of each kind may be sent.

/// A kind of answer, or of ICMP packet, that is limited by itself, so that a flood of one does not keep the
/// others back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Budget {
    /// TCP resets.
    Reset,
    /// ICMP errors of our own.
    Error,
    /// ICMP errors sent on to a backend or client.
    Related,
    /// Answers to echo requests.
    Echo,
}

impl Budget {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// The word of a budget after one more answer in this tick; `None` when all of `limit` are used up. In the word: the
/// tick (bits 32 to 47) and the answers that were sent in it.
#[inline(always)]
pub fn spend(word: u64, tick: u16, limit: u32) -> Option<u64> {
    let used = if word >> 32 == tick as u64 { word as u32 } else { 0 };
    if used >= limit { None } else { Some((tick as u64) << 32 | (used + 1) as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e55_a_tick_has_so_many_answers_and_the_next_as_many_again() {
        let mut word = 0;
        for tick in [0, 1, u16::MAX, 0] {
            for _ in 0..3 {
                word = spend(word, tick, 3).unwrap();
            }
            assert_eq!(spend(word, tick, 3), None);
        }
        assert_eq!(spend(0, 7, 0), None);
    }
}
