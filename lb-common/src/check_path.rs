//! What the programs that take checks along the data path, and their loader, agree on.
//!
//! A check of a backend that answers clients itself connects to the backend's address. The program at the way out
//! aims the packet at the VIP and puts it into the tunnel, as the data path does with clients' packets; the one at
//! the way in gives the answer, which comes from the VIP, the backend's address again. So the node's stack meets
//! neither a packet to its own address nor one from it.

use crate::Address;

/// The program at the way out; its name in the object, and in the kernel, which keeps 15 characters.
pub const OUT: &str = "usher_check_out";

/// The program at the way in.
pub const IN: &str = "usher_check_in";

/// Names of the maps in the object.
pub mod map {
    /// A socket's cookie (8 bytes) to the [`Way`](super::Way) of its packets.
    pub const WAYS: &str = "WAYS";
    /// [`Asked`](super::Asked) to the backend that was asked, as the [`Address`](crate::Address) that the socket
    /// knows.
    pub const ASKED: &str = "ASKED";
    /// A backend's [`Address`](crate::Address) to the last [`Refusal`](super::Refusal) of a tunnel's packet. The loader
    /// makes the elements.
    pub const REFUSALS: &str = "REFUSALS";
}

/// Sockets that are known at once; the least recently used is forgotten. What closes a connection still goes its
/// way, so none is removed when its check ends.
pub const MAX_SOCKETS: usize = 32_768;

/// Most backends behind tunnels.
pub const MAX_REFUSALS: usize = crate::MAX_BACKENDS;

/// How a check's packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Way {
    /// Where they are aimed, of the family of the socket's packets.
    pub vip: Address,
    /// Where the outer packet comes from.
    pub outer_source: Address,
    /// GUE's ports, in network order; a destination of 0 means IP in IP.
    pub gue_source: [u8; 2],
    /// See `gue_source`.
    pub gue_port: [u8; 2],
    /// 1 for a tunnel; 0 for a link, where only the VIP is put in.
    pub tunnel: u32,
}

const _: () = assert!(size_of::<Way>() == 40);

/// What tells an answer to a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Asked {
    /// Where the answer comes from.
    pub vip: Address,
    /// Where it goes.
    pub source: Address,
    /// The VIP's port and the socket's, in network order.
    pub ports: [[u8; 2]; 2],
    /// IP protocol number. (A word: for padding the BPF compiler calls memset, which the verifier refuses.)
    pub protocol: u32,
}

const _: () = assert!(size_of::<Asked>() == 40);

/// An ICMP error about a packet to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Refusal {
    /// When it came, in nanoseconds of CLOCK_MONOTONIC; 0: never.
    pub at: u64,
    /// IP protocol number of the packet that was refused.
    pub protocol: u32,
    /// Where that packet was going, in network order, if it was UDP.
    pub port: [u8; 2],
    /// Unused.
    pub zero: u16,
}

const _: () = assert!(size_of::<Refusal>() == 16);
