//! Backends: where a flow goes.

use crate::{Address, Hop, Word};

/// A backend of one service in one address family, with its next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Backend {
    /// The backend's address.
    pub address: Address,
    /// The next hop towards it.
    pub hop: Hop,
    /// Number of the service it belongs to; 0 when the number is free. A flow entry that names a
    /// backend of another service is a miss.
    pub service: u32,
    /// Port in network order.
    pub port: [u8; 2],
    /// The longest IP packet in bytes that the way to it takes; 0 when not known.
    pub mtu: u16,
    /// For how many ticks an open flow of its service may be idle.
    pub idle: u16,
    /// [`Backend::UP`], [`Backend::ACCEPTS`], [`Backend::LOST`], [`Backend::BY_POLICY`].
    pub flags: u8,
    /// Zero.
    pub zero: [u8; 5],
}

const _: () = assert!(size_of::<Backend>() == 48);

impl Backend {
    /// The backend takes flows. Without it, UDP and new TCP connections of known flows choose again;
    /// packets within a TCP connection still go to it, unless it is [`Backend::LOST`].
    pub const UP: u8 = 1;

    /// The backend takes flows of clients that were not sent to it before: it has a weight.
    pub const ACCEPTS: u8 = 2;
    /// The backend is down, and packets within TCP connections with it are refused.
    pub const LOST: u8 = 4;
    /// Only a policy makes it up: checks have found it down. For the next daemon; the program treats it as any other.
    pub const BY_POLICY: u8 = 8;

    /// Whether new flows may go to it for a reason other than its slots in the Maglev table: it is up and not drained.
    #[inline(always)]
    pub fn accepts(&self) -> bool {
        self.flags & (Backend::UP | Backend::ACCEPTS) == Backend::UP | Backend::ACCEPTS
    }

    /// Whether [`Backend::LOST`] is set.
    #[inline(always)]
    pub fn is_lost(&self) -> bool {
        self.flags & Backend::LOST != 0
    }

    /// Whether [`Backend::BY_POLICY`] is set.
    pub fn is_up_by_policy(&self) -> bool {
        self.flags & Backend::BY_POLICY != 0
    }

    /// Whether [`Backend::UP`] is set.
    #[inline(always)]
    pub fn is_up(&self) -> bool {
        self.flags & Backend::UP != 0
    }
}

/// What was sent to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct BackendCounters {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets, headers included.
    pub bytes: u64,
}

const _: () = assert!(size_of::<BackendCounters>() == 16);

/// Whether a backend under NAT answers those who open TCP connections.
#[derive(Default)]
#[repr(C)]
pub struct Openings {
    /// SYNs of flows that had no record yet.
    pub opened: Word,
    /// The backend's packets to flows that are not proven yet: SYN|ACKs and resets, most of them.
    pub answered: Word,
}

const _: () = assert!(size_of::<Openings>() == 16);

impl Openings {
    /// Counts one.
    #[inline(always)]
    pub fn count(counter: &Word) {
        counter.store(counter.load().wrapping_add(1));
    }
}
