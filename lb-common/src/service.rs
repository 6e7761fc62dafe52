//! Services: what the program looks up first for every packet.

use crate::Address;

/// Where clients send packets: the key of the service map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct ServiceKey {
    /// The VIP.
    pub address: Address,
    /// Port (bits 0 to 15) and IP protocol number (16 to 23). One word, so that no byte of the key is
    /// left unset: a hash map compares them all.
    port_and_protocol: u64,
}

const _: () = assert!(size_of::<ServiceKey>() == 24);

impl ServiceKey {
    /// The key of a VIP, port and IP protocol number.
    #[inline(always)]
    pub fn new(address: Address, port: u16, protocol: u8) -> ServiceKey {
        ServiceKey { address, port_and_protocol: (protocol as u64) << 16 | port as u64 }
    }
}

/// How packets of a service reach a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Forward {
    /// Destination and source are rewritten; replies return through the node.
    Nat = 1,
    /// Only MAC addresses are rewritten; the backend answers the client itself.
    DsrL2 = 2,
    /// The packet travels in another IP packet (RFC 2003, RFC 2473); the backend answers the client itself.
    DsrIpip = 3,
    /// The packet travels in a UDP datagram (GUE version 1, draft-ietf-intarea-gue); likewise.
    DsrGue = 4,
}

/// A service in one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// From 1; also the index of its Maglev table. 0: not initialised.
    pub number: u32,
    /// A [`Forward`] as its number.
    pub forward: u8,
    /// Zero.
    pub zero: [u8; 3],
}

const _: () = assert!(size_of::<Service>() == 8);

impl Service {
    /// A service by number and way to forward.
    pub fn new(number: u32, forward: Forward) -> Service {
        Service { number, forward: forward as u8, zero: [0; 3] }
    }

    /// What stands under the key of a VIP itself, with port 0 and the number of ICMP or ICMPv6: no service, but the
    /// address is ours.
    pub fn vip() -> Service {
        Service { number: 0, forward: 0, zero: [0; 3] }
    }
}
