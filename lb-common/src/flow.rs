//! The flow table: which backend a flow was given, eight flows to a cache line.
//!
//! The table is [`chunk`]s of [`Bucket`]s, each on a cache line of its own. An [`Entry`] is one word and is
//! written at once: no locks, and a reader never sees half an entry.

use crate::{
    Address, Shape, Word,
    chunk::{self, BUCKETS},
    mask,
};

/// Entries of a bucket.
pub const WAYS: usize = 8;

/// Flows for which a chunk is provided, 16 bytes each. Eight entries for little more than four flows keep 99 % of them
/// even when the table holds as many as it was configured for (0.9 % find their bucket full).
pub const FLOWS_PER_CHUNK: u32 = (chunk::BYTES / 16) as u32;

/// Clients for which a bucket of their backends is provided.
const CLIENTS_PER_BUCKET: u32 = 4;

/// log2 of a tick in nanoseconds: a tick is 1.07 s. An entry's 16-bit age thus wraps after 19.5 hours.
pub const TICK_SHIFT: u32 = 30;

/// Longest idle time in ticks that can be told from a wrapped age: 18 hours.
pub const MAX_IDLE_TICKS: u16 = 60_000;

/// Bits of the flow hash kept in an entry.
const TAG_BITS: u32 = 30;

/// Eight entries on one cache line. (The type does not say so: in a chunk it depends on what the kernel puts before.)
#[repr(C)]
#[derive(Default)]
pub struct Bucket(pub [Word; WAYS]);

const _: () = assert!(size_of::<Bucket>() == 64);

/// What is known of a flow. In the order in which entries give way, but for the first: see [`rank`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// The entry is free.
    Empty = 0,
    /// A later packet came in a later tick (under NAT: the backend has answered, in UDP two ticks later).
    Proven = 1,
    /// One packet was seen, or several within one tick: it may be part of a flood.
    New = 2,
    /// FIN or RST was seen.
    Closing = 3,
}

/// One entry of a [`Bucket`], as its word holds it:
/// backend number (bits 0 to 15), tick of the last packet (16 to 31), state (32 and 33), tag (34 to 63).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry(pub u64);

impl Entry {
    /// The free entry.
    pub const EMPTY: Entry = Entry(0);

    /// An entry.
    #[inline(always)]
    pub fn new(tag: u32, state: State, tick: u16, backend: u16) -> Entry {
        Entry((tag as u64) << 34 | (state as u64) << 32 | (tick as u64) << 16 | backend as u64)
    }

    /// The flow's tag: 30 bits.
    #[inline(always)]
    pub fn tag(self) -> u32 {
        (self.0 >> 34) as u32
    }

    /// What is known of the flow.
    #[inline(always)]
    pub fn state(self) -> State {
        match (self.0 >> 32) & 3 {
            0 => State::Empty,
            1 => State::Proven,
            2 => State::New,
            _ => State::Closing,
        }
    }

    /// The tick of its last packet.
    #[inline(always)]
    pub fn tick(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The number of its backend.
    #[inline(always)]
    pub fn backend(self) -> u16 {
        self.0 as u16
    }

    /// Whether both entries are of the same flow and backend.
    #[inline(always)]
    pub fn is_same_flow(self, other: Entry) -> bool {
        // All but tick and state.
        const FLOW_BITS: u64 = !0x0003_ffff_0000;
        (self.0 ^ other.0) & FLOW_BITS == 0
    }

    /// Ticks since its last packet.
    #[inline(always)]
    pub fn idle(self, now: u16) -> u16 {
        now.wrapping_sub(self.tick())
    }

    /// One more than [`Entry::idle`], so that an entry which another CPU wrote in the tick after `now` is
    /// the youngest and not the oldest of all.
    #[inline(always)]
    pub fn age(self, now: u16) -> u16 {
        self.idle(now).wrapping_add(1)
    }

    /// Whether the entry holds a flow that was not idle for too long.
    #[inline(always)]
    pub fn is_live(self, now: u16, limits: &IdleLimits) -> bool {
        self.age(now) < limits.of(self)
    }

    /// How willingly the entry gives up its place: its [`rank`] from bit [`rank::SHIFT`] on, below that its
    /// [`age`](Entry::age), unless it is free. And all ones, or 0 if it is free. Without a branch, because the verifier
    /// would follow each one for each entry.
    #[inline(always)]
    pub fn gives_way(self, now: u16, limits: &IdleLimits) -> (u64, u64) {
        const FREE: u64 = (rank::FREE as u64) << rank::SHIFT;
        let age = self.age(now) as u64;
        let live = mask::if_less(age, limits.of(self) as u64);
        let rank_of_state = (self.0 >> (32 - rank::SHIFT)) & 3 << rank::SHIFT;
        (((rank_of_state | age) ^ FREE) & live ^ FREE, live)
    }

    /// The entry after another packet of its flow.
    #[inline(always)]
    pub fn seen(self, now: u16, packet: Seen) -> Entry {
        let state = match (packet, self.state()) {
            (Seen::Ends, _) => State::Closing,
            (Seen::Starts, State::Closing) => State::New,
            (Seen::Proves, State::New) => State::Proven,
            (_, state) => state,
        };
        Entry::new(self.tag(), state, now, self.backend())
    }
}

/// The tag of a flow: 30 bits of its identity, the service and the VIP, which the hash does not know.
#[inline(always)]
pub fn tag(identity: u32, service: u32, vip: &Address) -> u32 {
    let vip = vip.words32()[3];
    (identity ^ service.wrapping_mul(0x9e37_79b1) ^ vip.wrapping_mul(0x85eb_ca6b)) & ((1 << TAG_BITS) - 1)
}

/// `hash` scaled to an index below `size`: a multiplication instead of a division.
#[inline(always)]
pub fn scale(hash: u32, size: u32) -> u32 {
    ((hash as u64 * size as u64) >> 32) as u32
}

/// The flow table for a number of flows.
pub fn shape_for(flows: u32) -> Shape {
    Shape { chunks: flows.div_ceil(FLOWS_PER_CHUNK).max(1), items: BUCKETS as u32 }
}

/// Buckets of the table of clients' backends, for a number of clients.
pub fn affinity_buckets_for(clients: u32) -> u32 {
    clients.div_ceil(CLIENTS_PER_BUCKET).max(1)
}

/// How willingly an entry gives up its place to a new flow. Higher gives way first. Those of flows are their
/// [`State`]s' numbers.
pub mod rank {
    use super::State;

    /// A flow that was proven to be real.
    pub const PROVEN: u16 = State::Proven as u16;
    /// No flow, or one that was idle for too long.
    pub const FREE: u16 = 4;
    /// The new flow's own entry, which another CPU has just made. A bit that is added to the others.
    pub const OWN: u16 = 8;

    /// Bits below the rank in a word that orders entries: those of an age.
    pub const SHIFT: u32 = 16;

    const _: () = assert!((State::Proven as u16) < State::New as u16);
    const _: () = assert!((State::New as u16) < State::Closing as u16);
    const _: () = assert!((State::Closing as u16) < FREE);
}

/// How long a flow may be idle: for each [`State`] 16 bits of a word, so that finding the limit is a
/// shift and not three branches for the verifier to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleLimits(u64);

impl IdleLimits {
    /// Limits in ticks, at most [`MAX_IDLE_TICKS`], for open flows and for closing ones. A new flow may
    /// be idle as long as a proven one: a client may open a connection long before it uses it.
    #[inline(always)]
    pub fn new(open: u16, closing: u16) -> IdleLimits {
        // Ages are one more than idle times. One more again, so that "less than" lets the limit itself pass,
        // and nothing is below Empty's 0.
        let (open, closing) = (open as u64 + 2, closing as u64 + 2);
        IdleLimits(open << 16 | open << 32 | closing << 48)
    }

    /// Both limits as a word, which is never 0.
    #[inline(always)]
    pub fn to_word(self) -> u64 {
        self.0
    }

    /// The reverse of [`IdleLimits::to_word`].
    #[inline(always)]
    pub fn from_word(word: u64) -> IdleLimits {
        IdleLimits(word)
    }

    #[inline(always)]
    fn of(self, entry: Entry) -> u16 {
        (self.0 >> (((entry.0 >> 32) & 3) * 16)) as u16
    }
}

/// What a packet says of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A connection begins: SYN without ACK.
    Starts,
    /// Nothing beyond that the flow is alive.
    Continues,
    /// The flow is real.
    Proves,
    /// The connection ends: FIN or RST.
    Ends,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_parts() {
        let entry = Entry::new((1 << 30) - 1, State::Closing, 0xfffe, 0xabcd);
        assert_eq!(entry.tag(), (1 << 30) - 1);
        assert_eq!(entry.state(), State::Closing);
        assert_eq!(entry.tick(), 0xfffe);
        assert_eq!(entry.backend(), 0xabcd);
        assert_eq!(entry.idle(3), 5, "the age goes on over the wrap");
    }
}
