//! Limits on new flows: of each source, and of all together.

use crate::{Address, Word};

/// Most prefixes of the deny list.
pub const MAX_DENIED: usize = 1_000_000;

/// Most sources whose new flows are counted at once; the one that was seen least recently gives way.
pub const MAX_SOURCES: usize = 262_144;

/// Whose new flows are counted: one source of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct SourceKey {
    /// The client: an IPv4 address, or the /64 of an IPv6 address.
    source: Address,
    /// Number of the service. Eight bytes, so that no byte of the key is left unset.
    service: u64,
}

const _: () = assert!(size_of::<SourceKey>() == 24);

impl SourceKey {
    /// The key of a client of a service. A host with IPv6 has a whole /64 to send from.
    #[inline(always)]
    pub fn new(service: u32, client: &Address) -> SourceKey {
        let [network, _] = client.words();
        let source = if client.is_mapped() { *client } else { Address::from_words([network, 0]) };
        SourceKey { source, service: service as u64 }
    }
}

/// Thousandths of a token: one millisecond at a rate of one per second.
const TOKEN: u64 = 1_000;

/// By how many ms a CPU may act on a clock that it has read: far more than it takes for a packet.
const LATE: u32 = 60_000;

/// The new flows that a source may open: a time in milliseconds (bits 32 to 63) and the tokens that were
/// there then, in thousandths (0 to 31). Racing CPUs may spend a token twice.
#[repr(transparent)]
pub struct Tokens(Word);

impl Tokens {
    /// Highest burst.
    pub const MAX_BURST: u32 = 1_000_000;

    /// A full bucket.
    pub const fn full(now: u32, burst: u32) -> Tokens {
        Tokens(Word::new(((now as u64) << 32) | (burst as u64 * TOKEN)))
    }

    /// Takes a token, if one is there at `now`; with `look_only` it stays.
    #[inline(always)]
    pub fn take(&self, now: u32, rate: u32, burst: u32, look_only: bool) -> bool {
        let word = self.0.load();
        let written = (word >> 32) as u32;
        let elapsed = now.wrapping_sub(written);
        // Another CPU has read its clock later and written sooner: not 49 days have passed.
        let (now, elapsed) = if elapsed > u32::MAX - LATE { (written, 0) } else { (now, elapsed as u64) };
        // At most 2^32 ms times 2^20 a second.
        let tokens = (word & 0xffff_ffff) + elapsed * rate as u64;
        let most = burst as u64 * TOKEN;
        let tokens = if tokens > most { most } else { tokens };
        if tokens < TOKEN {
            return false;
        }
        if !look_only {
            self.0.store(((now as u64) << 32) | (tokens - TOKEN));
        }
        true
    }
}

/// New flows that one CPU has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NewFlows {
    /// New flows that found the limit of their tick reached.
    pub unstored: u64,
    /// The tick that is counted.
    pub tick: u32,
    /// New flows in this tick that were stored.
    pub count: u32,
}

const _: () = assert!(size_of::<NewFlows>() == 16);

impl NewFlows {
    /// Counts a new flow; whether it is to be stored.
    #[inline(always)]
    pub fn admit(&mut self, tick: u16, limit: u32) -> bool {
        if self.tick != tick as u32 {
            (self.tick, self.count) = (tick as u32, 0);
        }
        if self.count >= limit {
            self.unstored += 1;
            return false;
        }
        self.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_open_its_burst_at_once_and_its_rate_from_then_on() {
        let tokens = Tokens::full(u32::MAX - 100, 3);
        let at = |offset: u32| tokens.take((u32::MAX - 100).wrapping_add(offset), 10, 3, false);
        assert_eq!([at(0), at(0), at(0), at(0)], [true, true, true, false]);
        assert!(!at(99), "a tenth of a second gives a token");
        assert!(at(100));
        assert!(!at(150));
        assert_eq!([at(10_000), at(10_000), at(10_000), at(10_000)], [true, true, true, false]);
    }

    #[test]
    fn a_clock_that_was_read_earlier_than_another_cpus_fills_nothing() {
        let tokens = Tokens::full(1_000, 1);
        assert!(tokens.take(1_000, 10, 1, false));
        assert!(!tokens.take(999, 10, 1, false));
        assert!(!tokens.take(1_099, 10, 1, false));
        assert!(tokens.take(1_100, 10, 1, false));
        let tokens = Tokens::full(1_000, 2);
        assert!(tokens.take(999, 10, 2, false) && tokens.take(999, 10, 2, false));
        assert!(!tokens.take(1_099, 10, 2, false), "the earlier clock gives no millisecond twice");
    }

    #[test]
    fn looking_takes_nothing() {
        let tokens = Tokens::full(0, 1);
        assert!(tokens.take(0, 1, 1, true) && tokens.take(0, 1, 1, false) && !tokens.take(0, 1, 1, true));
    }

    #[test]
    fn the_limit_counts_anew_in_each_tick() {
        let mut flows = NewFlows::default();
        let stored: Vec<bool> = [5, 5, 5, 6].map(|tick| flows.admit(tick, 2)).to_vec();
        assert_eq!(stored, [true, true, false, true]);
        assert_eq!(flows, NewFlows { unstored: 1, tick: 6, count: 1 });
    }

    #[test]
    fn hosts_of_one_ipv6_network_are_one_source() {
        let key = |last: u8| {
            let mut octets = [0x20; 16];
            octets[15] = last;
            SourceKey::new(1, &Address::v6(octets))
        };
        assert_eq!(key(1), key(2));
        assert_ne!(
            SourceKey::new(1, &Address::v4([192, 0, 2, 1])),
            SourceKey::new(1, &Address::v4([192, 0, 2, 2]))
        );
    }
}
