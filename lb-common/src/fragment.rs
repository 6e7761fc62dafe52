//! Fragments: only the first one of a packet has ports, so what became of it decides about the others.

use crate::{Address, Hop, Reason, flow::TICK_SHIFT};

/// Ticks for which a first fragment is remembered: 30 s, as hosts wait for the rest of a packet
/// (`net.ipv4.ipfrag_time`).
const MAX_AGE: u16 = (30_000_000_000_u64 >> TICK_SHIFT) as u16 + 1;

/// Which packet a fragment is part of, by its addresses as they arrive (RFC 791 section 3.2, RFC 8200
/// section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification (bits 0 to 31) and IP protocol number (32 to 39). One word, so that no byte of the
    /// key is left unset.
    id_and_protocol: u64,
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

impl FragmentKey {
    /// The key of a packet with this identification. `protocol` is 0 for IPv6, where it is not part of it.
    #[inline(always)]
    pub fn new(source: Address, destination: Address, id: u32, protocol: u8) -> FragmentKey {
        FragmentKey { source, destination, id_and_protocol: (protocol as u64) << 32 | id as u64 }
    }
}

/// What became of the first fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FragmentPath {
    /// Source address when it left.
    pub source: Address,
    /// Destination address when it left.
    pub destination: Address,
    /// Where it went.
    pub hop: Hop,
    /// Number of the service; 0 when the packet belongs to none.
    pub service: u32,
    /// Number of the backend that gets the packet, or that answers; 0 when there is none.
    pub backend: u16,
    /// When.
    pub tick: u16,
    /// The [`Reason`] as its number (bits 0 to 7): why it was forwarded or left to the host's stack; and the
    /// source port of the tunnel it took, if that has ports (32 to 47). A whole word, because the BPF compiler
    /// clears bytes that are left over by a call.
    pub reason_and_port: u64,
}

const _: () = assert!(size_of::<FragmentPath>() == 64);

impl FragmentPath {
    /// Whether it still holds.
    #[inline(always)]
    pub fn is_live(&self, now: u16) -> bool {
        now.wrapping_sub(self.tick) <= MAX_AGE
    }

    /// Whether the first fragment was treated so.
    #[inline(always)]
    pub fn is(&self, reason: Reason) -> bool {
        self.reason_and_port as u8 == reason as u8
    }

    /// The source port of the tunnel.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        (self.reason_and_port >> 32) as u16
    }
}
