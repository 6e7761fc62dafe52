//! Services: what the program looks up first for every packet.
//!
//! The table of services is ours and not a hash map of the kernel's: reading an array is compiled into the
//! program, while each call of a helper and each return from it costs about 6 ns on hosts with the usual
//! defences against Spectre (a look-up 29 ns, measured).

use crate::{Address, Word};

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

    /// The key that is there for every VIP and every NAT address: what comes to it may be for a service, or
    /// an answer to one. No packet has its port and protocol.
    #[inline(always)]
    pub fn any(address: Address) -> ServiceKey {
        ServiceKey { address, port_and_protocol: 0 }
    }
}

/// Places that are looked at for a key, from its first.
pub const PROBES: usize = 8;

/// A place of the table of services: a cache line. Three words for the key, then those of the service.
///
/// A key has one of the [`PROBES`] places from [`ServiceKey::place`] on. A place that was never used ends the
/// search; one whose service was removed does not.
#[repr(C, align(64))]
#[derive(Default)]
pub struct ServicePlace([Word; 8]);

const _: () = assert!(size_of::<ServicePlace>() == 64);
const _: () = assert!(size_of::<ServiceKey>() + size_of::<Service>() <= 64);
const _: () = assert!(size_of::<Service>().is_multiple_of(8) && align_of::<Service>() <= 8);

/// Words of a key.
const KEY_WORDS: usize = 3;
/// Words of a service.
const SERVICE_WORDS: usize = size_of::<Service>() / 8;
/// In the place of port and protocol: the service was removed.
const REMOVED: u64 = u64::MAX;

impl ServiceKey {
    /// The port.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        self.port_and_protocol as u16
    }

    /// The IP protocol number.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.port_and_protocol >> 16) as u8
    }

    #[inline(always)]
    fn words(&self) -> [u64; KEY_WORDS] {
        let [a, b] = self.address.words();
        [a, b, self.port_and_protocol]
    }

    /// The first of the key's places in a table of 2^`bits` places and [`PROBES`] - 1 more.
    #[inline(always)]
    pub fn place(&self, bits: u32) -> u32 {
        let [a, b, c] = self.words();
        // Fibonacci hashing. Strangers choose no keys: only the operator adds services.
        ((a ^ b.rotate_left(17) ^ c).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as u32
    }
}

impl ServicePlace {
    /// Whether a service with this key is here.
    #[inline(always)]
    pub fn has(&self, key: &ServiceKey) -> bool {
        let [a, b, c] = key.words();
        (self.0[0].load() ^ a) | (self.0[1].load() ^ b) | (self.0[2].load() ^ c) == 0
    }

    /// The key that is here; nobody's if the place is unused.
    #[inline(always)]
    pub fn key(&self) -> ServiceKey {
        ServiceKey {
            address: Address::from_words([self.0[0].load(), self.0[1].load()]),
            port_and_protocol: self.0[2].load(),
        }
    }

    /// Whether the place was never used.
    #[inline(always)]
    pub fn is_unused(&self) -> bool {
        self.0[0].load() | self.0[1].load() | self.0[2].load() == 0
    }

    /// Whether the place's service was removed.
    pub fn is_removed(&self) -> bool {
        self.0[2].load() == REMOVED
    }

    /// The service that is here.
    #[inline(always)]
    pub fn service(&self) -> &Service {
        // SAFETY: the words from here on hold a service (asserted above: they are enough, and aligned);
        // words are plain memory, and any bytes are a service.
        unsafe { &*self.0.as_ptr().add(KEY_WORDS).cast::<Service>() }
    }

    /// Puts a service here, with its key last: so a packet finds the whole or nothing. Of a service that is
    /// replaced, a packet may see one word new and another old.
    pub fn set(&self, key: &ServiceKey, service: &Service) {
        // SAFETY: a service is plain words without padding (asserted above, and by its `zero` field).
        let words: [u64; SERVICE_WORDS] = unsafe { core::mem::transmute(*service) };
        for (place, word) in self.0[KEY_WORDS..].iter().zip(words) {
            place.store(word);
        }
        for (place, word) in self.0.iter().zip(key.words()) {
            place.store(word);
        }
    }

    /// Removes the service.
    pub fn remove(&self) {
        self.0[2].store(REMOVED);
    }
}

/// log2 of the places for so many keys: a quarter is used, so that most keys have their first place.
pub fn place_bits(keys: u32) -> u32 {
    (keys.max(16) * 4).next_power_of_two().ilog2()
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
    /// [`Service::CLIENT_HASH`], [`Service::DROPS`].
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
    /// What [`ServiceKey::any`] leads to, and under port 0 and the number of ICMP or ICMPv6 each VIP: no service,
    /// but the address is ours.
    pub const MARK: Service = Service {
        number: 0,
        forward: 0,
        flags: 0,
        idle: 0,
        affinity: 0,
        quic_id_length: 0,
        quic_config: 0,
        source_rate: 0,
        source_burst: 0,
        zero: [0; 12],
    };

    /// New flows go to the slot of their client's address, whatever their ports.
    pub const CLIENT_HASH: u8 = 1;

    /// Packets for which there is no backend are dropped, not refused.
    pub const DROPS: u8 = 2;

    /// A service by number, way to forward, and the idle limit of its flows in ticks; without anything else.
    pub fn new(number: u32, forward: Forward, idle: u16) -> Service {
        Service { number, forward: forward as u8, idle, ..Service::MARK }
    }
}
