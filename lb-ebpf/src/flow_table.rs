//! Finding and placing flows among the eight entries of a bucket. The flow table and the sets of NAT
//! records share this.

use lb_common::{
    Bucket, Entry, Settings, State,
    flow::{IdleLimits, Seen, WAYS},
};

use crate::parse::{Packet, TCP};

/// An entry and its place in the bucket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    /// Index of the entry.
    pub way: usize,
    /// What it held when it was read.
    pub entry: Entry,
}

/// How willingly an entry gives up its place. Higher gives way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Rank {
    /// A flow that was proven to be real.
    Proven = 0,
    /// A flow of which little is known.
    New = 1,
    /// A flow that has ended.
    Closing = 2,
    /// No flow.
    Free = 3,
}

/// Idle limits for the packet's protocol.
#[inline(always)]
pub fn limits(settings: &Settings, packet: &Packet) -> IdleLimits {
    let proven = if packet.protocol == TCP { settings.tcp_idle } else { settings.udp_idle };
    IdleLimits { proven, closing: settings.closing_idle }
}

/// What this packet says of its flow, apart from proving it.
#[inline(always)]
pub fn seen(packet: &Packet) -> Seen {
    if packet.flags.ends() {
        Seen::Ends
    } else if packet.flags.starts() {
        Seen::Starts
    } else {
        Seen::Continues
    }
}

/// The live entry with this tag.
#[inline(always)]
pub fn find(bucket: &Bucket, tag: u32, now: u16, limits: &IdleLimits) -> Option<Found> {
    let mut way = 0;
    while way < WAYS {
        let entry = Entry(bucket.0[way].load());
        if entry.tag() == tag && entry.is_live(now, limits) {
            return Some(Found { way, entry });
        }
        way += 1;
    }
    None
}

/// Puts into `found` the entry that gives way to a new flow: a free one, else the oldest that is
/// closing, else the oldest new one, else the oldest proven one. Returns how willingly it does.
///
/// A function of its own in BPF: three callers, and only 512 bytes of stack for all that is inlined.
#[inline(never)]
pub fn victim(bucket: &Bucket, now: u16, limits: &IdleLimits, found: &mut Found) -> Rank {
    let mut best = 0;
    let mut best_rank = Rank::Proven;
    let mut way = 0;
    while way < WAYS {
        let entry = Entry(bucket.0[way].load());
        let rank = rank(entry, now, limits);
        // Rank above age; plus one, so that the first entry always wins over the initial 0.
        let willing = ((rank as u32) << 16 | entry.idle(now) as u32) + 1;
        if willing > best {
            best = willing;
            best_rank = rank;
            *found = Found { way, entry };
        }
        way += 1;
    }
    best_rank
}

#[inline(always)]
fn rank(entry: Entry, now: u16, limits: &IdleLimits) -> Rank {
    if !entry.is_live(now, limits) {
        return Rank::Free;
    }
    match entry.state() {
        State::Empty => Rank::Free,
        State::Closing => Rank::Closing,
        State::New => Rank::New,
        State::Proven => Rank::Proven,
    }
}
