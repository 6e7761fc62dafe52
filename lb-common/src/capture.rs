//! What the capturing program is told to look for, and what it sends.

use crate::{Address, Reason};

/// Longest part of a frame that is captured: a whole one at an MTU of 9,000, with tags.
pub const MOST_BYTES: usize = 9_216;

/// Bytes of a frame in which its addresses are looked for: Ethernet, two tags, an IPv6 header.
pub const HEAD: usize = 64;

/// Most backends that one capture can be about.
pub const MOST_BACKENDS: usize = 16;

/// Size of the ring in which records wait for the daemon: some thousand packets of 1,500 bytes.
pub const RING_BYTES: u32 = 8 << 20;

/// Which packets are captured, and how much of each: the one element of its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Filter {
    network: [u64; 2],
    mask: [u64; 2],
    /// A bit for each [`Reason`].
    reasons: u64,
    services: [u32; 2],
    backends: [u16; MOST_BACKENDS],
    /// 1 when it does not matter.
    any_service: u8,
    any_backend: u8,
    zero: [u8; 2],
    /// Bytes of each frame, [`MOST_BYTES`] at most.
    pub bytes: u32,
}

const _: () = assert!(size_of::<Filter>() == 88);
const _: () = assert!(Reason::COUNT <= 64, "a reason is a bit of a word");

impl Filter {
    /// Every packet, and this much of each.
    pub fn all(bytes: u32) -> Filter {
        Filter {
            network: [0; 2],
            mask: [0; 2],
            reasons: u64::MAX,
            services: [0; 2],
            backends: [0; MOST_BACKENDS],
            any_service: 1,
            any_backend: 1,
            zero: [0; 2],
            bytes: bytes.min(MOST_BYTES as u32),
        }
    }

    /// Only packets of one of these services: a service has a number for each address family.
    pub fn of_services(self, services: [u32; 2]) -> Filter {
        Filter { services, any_service: 0, ..self }
    }

    /// Only packets of the flows of one of these backends; 0 fills up.
    pub fn of_backends(self, backends: [u16; MOST_BACKENDS]) -> Filter {
        Filter { backends, any_backend: 0, ..self }
    }

    /// Only packets that end with this reason.
    pub fn with_reason(self, reason: Reason) -> Filter {
        Filter { reasons: 1 << reason as u32, ..self }
    }

    /// Only packets from, or in the end to, this network; `prefix` counts the bits of the address in its
    /// IPv6 form, in which an IPv4 address has 96 bits before its own.
    pub fn of_clients(self, network: Address, prefix: u32) -> Filter {
        let mask = Address::v6(u128::MAX.checked_shl(128 - prefix).unwrap_or(0).to_be_bytes()).words();
        let [a, b] = network.words();
        Filter { network: [a & mask[0], b & mask[1]], mask, ..self }
    }

    /// Whether a packet is captured. `source` is where it came from, `target` where it goes in the end.
    ///
    /// Without branches, because the verifier would follow each.
    #[inline(always)]
    pub fn matches(&self, service: u32, backend: u16, reason: u8, source: Address, target: Address) -> bool {
        let service_fits = self.any_service != 0
            || ((self.services[0] == service) | (self.services[1] == service)) & (service != 0);
        let mut backend_fits = self.any_backend != 0;
        for one in self.backends {
            backend_fits |= (one == backend) & (backend != 0);
        }
        let reason_fits = (self.reasons >> (reason & 63)) & 1 != 0;
        service_fits & backend_fits & reason_fits & (self.within(source) | self.within(target))
    }

    #[inline(always)]
    fn within(&self, address: Address) -> bool {
        let [a, b] = address.words();
        ((a & self.mask[0]) ^ self.network[0]) | ((b & self.mask[1]) ^ self.network[1]) == 0
    }
}

/// The beginning of a frame, as a capture looks into it.
pub type FrameHead = [u8; HEAD];

/// Source and destination of the packet in a frame, behind up to two VLAN tags; no addresses for what is not
/// IP.
#[inline(always)]
pub fn ends(head: &FrameHead) -> [Address; 2] {
    match ether_type::<12>(head) {
        0x8100 | 0x88a8 => match ether_type::<16>(head) {
            0x8100 | 0x88a8 => ends_at::<22>(head, ether_type::<20>(head)),
            kind => ends_at::<18>(head, kind),
        },
        kind => ends_at::<14>(head, kind),
    }
}

#[inline(always)]
fn ether_type<const AT: usize>(head: &FrameHead) -> u16 {
    u16::from_be_bytes([head[AT], head[AT + 1]])
}

#[inline(always)]
fn ends_at<const L3: usize>(head: &FrameHead, kind: u16) -> [Address; 2] {
    match kind {
        0x0800 => [v4(head, L3 + 12), v4(head, L3 + 16)],
        0x86dd => [v6(head, L3 + 8), v6(head, L3 + 24)],
        _ => [Address::NONE; 2],
    }
}

#[inline(always)]
fn v4(head: &FrameHead, at: usize) -> Address {
    Address::v4([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[inline(always)]
fn v6(head: &FrameHead, at: usize) -> Address {
    let word = |at: usize| {
        let b = |i: usize| head[at + i];
        u64::from_ne_bytes([b(0), b(1), b(2), b(3), b(4), b(5), b(6), b(7)])
    };
    Address::from_words([word(at), word(at + 8)])
}

/// What stands before the bytes of a captured packet: first those of the frame as it came in, then those as
/// it was in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RecordHead {
    /// When it came in, in nanoseconds since the machine started.
    pub arrived_ns: u64,
    /// When the program was done with it.
    pub left_ns: u64,
    /// Length of the frame as it came in.
    pub before: u32,
    /// How much of it is there.
    pub before_bytes: u32,
    /// Length of the frame in the end.
    pub after: u32,
    /// How much of it is there.
    pub after_bytes: u32,
    /// Number of the service; 0 when the packet belongs to none.
    pub service: u32,
    /// Index of the interface it came in on.
    pub ingress: u32,
    /// Index of the interface it leaves by; 0 when it does not.
    pub egress: u32,
    /// Number of the backend; 0 when there is none.
    pub backend: u16,
    /// A [`Reason`] as its number.
    pub reason: u8,
    /// What the program returned.
    pub action: u8,
}

/// Bytes of a [`RecordHead`].
pub const RECORD_HEAD: usize = size_of::<RecordHead>();

const _: () = assert!(RECORD_HEAD == 48);

/// A record under construction, for each CPU.
#[repr(C)]
pub struct Record {
    /// What was found out so far.
    pub head: RecordHead,
    /// The frame as it came in, as far as it is captured; directly behind it, the frame as it is in the end.
    pub bytes: [u8; 2 * MOST_BYTES],
    /// The beginning of the frame as it came in, however little of it is captured.
    pub came: FrameHead,
    /// The beginning of the frame in the end.
    pub left: FrameHead,
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    const CLIENT: [u8; 4] = [198, 51, 100, 7];

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn takes(filter: &Filter, service: u32, backend: u16, reason: Reason) -> bool {
        filter.matches(service, backend, reason as u8, Address::v4(CLIENT), address("192.0.2.11"))
    }

    #[test]
    fn what_is_not_asked_does_not_matter() {
        assert!(takes(&Filter::all(64), 0, 0, Reason::NotIp));
        assert!(takes(&Filter::all(64), 7, 9, Reason::Nat));
    }

    #[test]
    fn everything_that_is_asked_must_fit() {
        let mut backends = [0; MOST_BACKENDS];
        backends[15] = 9;
        let filter = Filter::all(64).of_services([7, 0]).of_backends(backends).with_reason(Reason::Nat);
        assert!(takes(&filter, 7, 9, Reason::Nat));
        assert!(!takes(&filter, 8, 9, Reason::Nat));
        assert!(!takes(&filter, 0, 9, Reason::Nat), "0 is no service");
        assert!(!takes(&filter, 7, 8, Reason::Nat));
        assert!(!takes(&filter, 7, 0, Reason::Nat), "0 is no backend");
        assert!(!takes(&filter, 7, 9, Reason::NatFull));
    }

    #[test]
    fn clients_are_those_of_a_network_in_either_direction() {
        let matches = |network: &str, prefix, source: &str, target: &str| {
            let filter = Filter::all(64).of_clients(address(network), prefix);
            filter.matches(0, 0, 0, address(source), address(target))
        };
        assert!(matches("198.51.100.0", 96 + 24, "198.51.100.7", "192.0.2.11"));
        assert!(matches("198.51.100.0", 96 + 24, "203.0.113.21", "198.51.100.255"));
        assert!(!matches("198.51.100.0", 96 + 24, "198.51.101.7", "192.0.2.11"));
        assert!(matches("198.51.100.7", 128, "198.51.100.7", "192.0.2.11"));
        assert!(!matches("198.51.100.7", 128, "198.51.100.6", "192.0.2.11"));
        assert!(matches("0.0.0.0", 96, "198.51.100.7", "192.0.2.11"));
        assert!(!matches("0.0.0.0", 96, "2001:db8::7", "2001:db8::8"));
        assert!(matches("2001:db8::", 32, "2001:db8:ffff::7", "2001:db9::1"));
        assert!(matches("::", 0, "2001:db8::7", "198.51.100.7"));
    }

    #[test]
    fn addresses_are_found_behind_tags() {
        let mut plain = [0; HEAD];
        plain[12..14].copy_from_slice(&[0x08, 0x00]);
        plain[26..30].copy_from_slice(&CLIENT);
        plain[30..34].copy_from_slice(&[192, 0, 2, 11]);
        let expected = [Address::v4(CLIENT), address("192.0.2.11")];
        assert_eq!(ends(&plain), expected);
        for tags in [&[0x81, 0, 0, 5][..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]] {
            let mut tagged = [0; HEAD];
            tagged[12..12 + tags.len()].copy_from_slice(tags);
            tagged[12 + tags.len()..].copy_from_slice(&plain[12..HEAD - tags.len()]);
            assert_eq!(ends(&tagged), expected);
        }
        let mut v6 = [0; HEAD];
        v6[12..14].copy_from_slice(&[0x86, 0xdd]);
        v6[22] = 0x20;
        v6[53] = 1;
        assert_eq!(ends(&v6), [address("2000::"), address("::1")]);
        assert_eq!(ends(&[0; HEAD]), [Address::NONE; 2], "ARP and others");
    }
}
