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
}

/// A service in one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// From 1; also the index of its Maglev table. 0: not initialised.
    pub number: u32,
    /// A [`Forward`] as its number.
    pub forward: u8,
    /// [`Service::CLIENT_HASH`].
    pub flags: u8,
    /// Idle ticks after which an open flow is forgotten.
    pub idle: u16,
    /// Ticks after a client's last new flow for which its backend is remembered; 0: not at all.
    pub affinity: u16,
    /// Bytes of the server id in QUIC connection ids; 0 when packets are not routed by them.
    pub quic_id_length: u8,
    /// The config id that such connection ids bear: 0 to 6.
    pub quic_config: u8,
    /// New flows per second that each source may open; 0: no limit.
    pub source_rate: u32,
    /// New flows that a source may open at once.
    pub source_burst: u32,
    /// Zero.
    pub zero: [u8; 12],
}

const _: () = assert!(size_of::<Service>() == 32);

impl Service {
    /// New flows go to the slot of their client's address, whatever their ports.
    pub const CLIENT_HASH: u8 = 1;

    /// A service by number, way to forward, and the idle limit of its flows in ticks; without anything else.
    pub fn new(number: u32, forward: Forward, idle: u16) -> Service {
        Service {
            number,
            forward: forward as u8,
            flags: 0,
            idle,
            affinity: 0,
            quic_id_length: 0,
            quic_config: 0,
            source_rate: 0,
            source_burst: 0,
            zero: [0; 12],
        }
    }
}
