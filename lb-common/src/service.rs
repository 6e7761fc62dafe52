//! Services: what the program looks up first for every packet.

use crate::Address;

/// Where clients send packets: the key of the service map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct ServiceKey {
    /// The VIP.
    pub address: Address,
    /// Port in network order.
    pub port: [u8; 2],
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// Zero; a hash map compares every byte of a key.
    pub zero: [u8; 5],
}

const _: () = assert!(size_of::<ServiceKey>() == 24);

impl ServiceKey {
    /// The key of a VIP, port and IP protocol number.
    #[inline(always)]
    pub fn new(address: Address, port: u16, protocol: u8) -> ServiceKey {
        ServiceKey { address, port: port.to_be_bytes(), protocol, zero: [0; 5] }
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
}
