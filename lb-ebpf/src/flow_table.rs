//! Finding and placing flows among the eight entries of a bucket. The flow table and the sets of NAT
//! records share this.

use lb_common::{
    Backend, Bucket, Entry, Service, Settings, State,
    flow::{IdleLimits, Seen, WAYS, rank},
    mask,
};

use crate::{frame::forgotten, parse::Packet};

/// An entry and its place in the bucket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    /// Index of the entry.
    pub way: usize,
    /// What it held when it was read.
    pub entry: Entry,
}

impl Found {
    /// No entry. Not `None` where the verifier must follow it: the compiler takes for what is in there a register that
    /// nothing is known of.
    pub const NOTHING: Found = Found { way: 0, entry: Entry::EMPTY };
}

/// Bits below rank and age in a number that orders the entries of a bucket: those of its way.
const WAY_BITS: u32 = 3;

/// Idle limits of a service's flows.
#[inline(always)]
pub fn limits(settings: &Settings, service: &Service) -> IdleLimits {
    IdleLimits::new(service.idle, settings.closing_idle)
}

/// The longest idle limits of all: what is idle beyond them is no flow's. Other flows' entries are judged by these
/// and not by those of the flow that looks for a place, or a flood of UDP would take the places of silent TCP
/// connections.
#[inline(always)]
pub fn longest(settings: &Settings) -> IdleLimits {
    IdleLimits::new(settings.longest_idle, settings.closing_idle)
}

/// What this packet says of its flow; `proves` says that it shows the flow to be real, if it only continues it.
#[inline(always)]
pub fn seen(packet: &Packet, proves: bool) -> Seen {
    if packet.flags.ends() {
        Seen::Ends
    } else if packet.flags.starts() {
        Seen::Starts
    } else if proves {
        Seen::Proves
    } else {
        Seen::Continues
    }
}

/// The way that a new flow takes if it is free: where its packets look first, so most need not search.
#[inline(always)]
pub fn preferred_way(tag: u32) -> usize {
    tag as usize & (WAYS - 1)
}

/// The live entry with this tag.
#[inline(always)]
pub fn find(bucket: &Bucket, tag: u32, now: u16, limits: &IdleLimits) -> Option<Found> {
    let preferred = preferred_way(tag);
    let entry = Entry(bucket.0[preferred].load());
    if entry.tag() == tag && entry.is_live(now, limits) {
        return Some(Found { way: preferred, entry });
    }
    search(bucket, tag, now, limits)
}

/// The same without a look at the preferred way first: slower, and less for the verifier to follow.
#[inline(always)]
pub fn search(bucket: &Bucket, tag: u32, now: u16, limits: &IdleLimits) -> Option<Found> {
    let way = find_way(bucket, tag, now as u32, limits.to_word()) as usize;
    // Read even if there is none: what is not found must be something too, or the compiler takes for it a register that
    // the verifier knows nothing in.
    let entry = Entry(bucket.0[way & (WAYS - 1)].load());
    // Another CPU may have given it to another flow meanwhile.
    (way < WAYS && entry.tag() == tag).then_some(Found { way: way & (WAYS - 1), entry })
}

/// The way of the live entry with this tag; [`WAYS`] if there is none. A global function in BPF: the verifier walks it
/// once, and not again for each way that leads there and each of the nine that lead on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_way(bucket: *const Bucket, tag: u32, now: u32, limits: u64) -> u32 {
    // SAFETY: it comes from a reference; the verifier wants to see that it is not null.
    let Some(bucket) = (unsafe { bucket.as_ref() }) else { return WAYS as u32 };
    let limits = IdleLimits::from_word(limits);
    let mut way = 0;
    while way < WAYS {
        let entry = Entry(bucket.0[way].load());
        if entry.tag() == tag && entry.is_live(now as u16, &limits) {
            return way as u32;
        }
        way = next(way);
    }
    WAYS as u32
}

/// Notes that the flow is alive whose tag and backend the entry `own` has; whether it is there and proven.
#[inline(always)]
pub fn touch(bucket: &Bucket, own: Entry, now: u16) -> bool {
    let mut way = 0;
    while way < WAYS {
        let entry = Entry(bucket.0[way].load());
        if entry.is_same_flow(own) && entry.state() != State::Empty {
            bucket.0[way].store(entry.seen(now, Seen::Continues).0);
            return entry.state() == State::Proven;
        }
        way = next(way);
    }
    false
}

/// An entry that gives way to a new flow. In few bytes: there is little stack.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Place {
    entry: Entry,
    way: u16,
    /// How willingly it gives way: its [`rank`].
    rank: u16,
    /// Free entries of its bucket.
    pub free: u32,
}

impl Place {
    /// To be filled in by [`victim`]. Written out, because the compiler makes of `Default` a call of memset,
    /// which is a loop over bytes.
    pub const UNKNOWN: Place = Place { entry: Entry::EMPTY, way: 0, rank: rank::FREE, free: WAYS as u32 };

    /// The entry.
    #[inline(always)]
    pub fn found(&self) -> Found {
        Found { way: self.way as usize, entry: self.entry }
    }

    /// Whether it is the new flow's own, which another CPU may just have made.
    #[inline(always)]
    pub fn is_own(&self) -> bool {
        self.rank >= rank::OWN
    }

    /// Whether it is a proven flow's.
    #[inline(always)]
    pub fn is_proven(&self) -> bool {
        self.rank == rank::PROVEN
    }

    /// Whether a new flow should rather take this place: the entry gives way more willingly, or its bucket
    /// is emptier.
    #[inline(always)]
    pub fn is_better(&self, other: &Place) -> bool {
        ((self.rank as u32) << 8 | self.free) > ((other.rank as u32) << 8 | other.free)
    }
}

/// Puts into `place` the entry that gives way to the new flow with this tag: a free one, else the oldest
/// that is closing, else the oldest new one, else the oldest proven one.
///
/// The flow was not found before, but another CPU may just have placed it: then its own entry is the one,
/// with rank [`rank::OWN`]. So of two CPUs that place the same flow at once, the later either sees what
/// the earlier has done, or chooses the same entry.
///
/// A global function in BPF, which the verifier walks once, and not again for each way that leads there.
#[inline(always)]
pub fn victim(bucket: &Bucket, tag: u32, now: u16, limits: &IdleLimits, place: &mut Place) {
    find_victim(bucket, tag, now as u32, limits.to_word(), place);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_victim(bucket: *const Bucket, tag: u32, now: u32, limits: u64, place: *mut Place) -> u32 {
    // SAFETY: both come from references; the verifier wants to see that they are not null.
    let (Some(bucket), Some(place)) = (unsafe { bucket.as_ref() }, unsafe { place.as_mut() }) else {
        return 1;
    };
    *place = victim_inlined(bucket, tag, now as u16, &IdleLimits::from_word(limits));
    0
}

/// The same for callers that are functions of their own.
#[inline(always)]
pub fn victim_inlined(bucket: &Bucket, tag: u32, now: u16, limits: &IdleLimits) -> Place {
    // In three bits, greatest for the preferred way: eight different numbers for the eight ways.
    let likes = ((WAYS - 1) ^ preferred_way(tag)) as u64;
    let mut best = 0;
    let mut best_entry = 0;
    let mut taken = 0_u64;
    let mut way = 0;
    while way < WAYS {
        let entry = Entry(bucket.0[way].load());
        let (gives_way, live) = entry.gives_way(now, limits);
        let own = mask::if_zero(entry.tag() as u64 ^ tag as u64) & live;
        let gives_way = gives_way | own & (rank::OWN as u64) << rank::SHIFT;
        let willing = gives_way << WAY_BITS | way as u64 ^ likes;
        let more = mask::if_less(best, willing);
        best ^= (best ^ willing) & more;
        best_entry ^= (best_entry ^ entry.0) & more;
        // Minus all ones is plus 1. (Not `live & 1`: for that, Linux 6.18 follows both values.)
        taken = taken.wrapping_sub(live);
        way = next(way);
    }
    Place {
        entry: Entry(best_entry),
        way: (forgotten((best ^ likes) as usize, best_entry) & (WAYS - 1)) as u16,
        rank: (best >> (rank::SHIFT + WAY_BITS)) as u16,
        free: (WAYS as u64 - taken) as u32,
    }
}

/// Puts into `place` an entry whose flow was silent for longer than its own service allows, if there is one; `backend`
/// finds a backend by its number.
///
/// Other flows are judged by the longest limit of all, as long as there is another place. But where one service's flows
/// may be silent for an hour, a flood of datagrams to another would take every place for as long.
#[inline(always)]
pub fn find_idle<'a>(
    bucket: &Bucket,
    now: u16,
    closing: u16,
    backend: impl Fn(u16) -> Option<&'a Backend>,
    place: &mut Place,
) {
    let mut way = 0;
    while way < WAYS {
        let entry = Entry(bucket.0[way].load());
        // 0 is the backend of an entry that is being written.
        if entry.backend() != 0
            && let Some(backend) = backend(entry.backend())
            && !entry.is_live(now, &IdleLimits::new(backend.idle, closing))
        {
            *place = Place { entry, way: way as u16, rank: rank::FREE, free: 1 };
            return;
        }
        way = next(way);
    }
}

/// The next way, or turn of any loop. The compiler cannot see through it, and so does not unroll the loop: unrolled eight
/// times, its values do not fit on the stack.
#[inline(always)]
pub fn next(way: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut way = way;
        // SAFETY: adds to the register that it is given.
        unsafe { core::arch::asm!("{way} += 1", way = inout(reg) way) };
        way
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        way + 1
    }
}
