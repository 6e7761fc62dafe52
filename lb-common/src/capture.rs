//! What the capturing program is told to look for, and what it sends.

use crate::{Address, MAX_BACKENDS, MAX_SERVICES, Reason};

/// Longest part of a frame that is captured: a whole one at an MTU of 9,000, with tags.
pub const MOST_BYTES: usize = 9_216;

/// Bytes of a frame in which its addresses are looked for: Ethernet, two tags, an IPv6 header.
pub const HEAD: usize = 64;

/// Size of the ring in which records wait for the daemon: some thousand packets of 1,500 bytes.
pub const RING_BYTES: u32 = 8 << 20;

/// Which packets are captured, and how much of each: the one element of its map. A bit for each service,
/// backend and reason that is wanted, because the verifier follows every comparison, but no bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Filter {
    services: [u64; MAX_SERVICES / 64],
    backends: [u64; MAX_BACKENDS / 64],
    reasons: u64,
    network: [u64; 2],
    mask: [u64; 2],
    /// Bytes of each frame, [`MOST_BYTES`] at most.
    pub bytes: u64,
}

const _: () = assert!(Reason::COUNT <= 64, "a reason is a bit of a word");

impl Filter {
    /// Every packet, and this much of each.
    pub fn all(bytes: u32) -> Filter {
        Filter {
            services: [u64::MAX; MAX_SERVICES / 64],
            backends: [u64::MAX; MAX_BACKENDS / 64],
            reasons: u64::MAX,
            network: [0; 2],
            mask: [0; 2],
            bytes: (bytes as u64).min(MOST_BYTES as u64),
        }
    }

    /// Only packets of these services.
    pub fn of_services(mut self, services: impl IntoIterator<Item = u32>) -> Filter {
        self.services = [0; MAX_SERVICES / 64];
        services.into_iter().for_each(|number| set(&mut self.services, number as usize));
        self
    }

    /// Only packets of the flows of these backends.
    pub fn of_backends(mut self, backends: impl IntoIterator<Item = u16>) -> Filter {
        self.backends = [0; MAX_BACKENDS / 64];
        backends.into_iter().for_each(|number| set(&mut self.backends, number as usize));
        self
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
    #[inline(always)]
    pub fn matches(&self, service: u32, backend: u16, reason: u8, source: Address, target: Address) -> bool {
        let wanted = bit(&self.services, service as usize % MAX_SERVICES)
            & bit(&self.backends, backend as usize)
            & (self.reasons >> (reason & 63))
            & (self.holds(source) | self.holds(target));
        wanted & 1 != 0
    }

    /// 1 for an address of the network, else 0.
    #[inline(always)]
    fn holds(&self, address: Address) -> u64 {
        let [a, b] = address.words();
        let different = ((a & self.mask[0]) ^ self.network[0]) | ((b & self.mask[1]) ^ self.network[1]);
        // Only of 0 is the highest bit of both set.
        (different.wrapping_sub(1) & !different) >> 63
    }
}

/// The bit with this number, and others above it.
#[inline(always)]
fn bit<const WORDS: usize>(words: &[u64; WORDS], number: usize) -> u64 {
    words[(number / 64) % WORDS] >> (number % 64)
}

fn set(words: &mut [u64], number: usize) {
    if let Some(word) = words.get_mut(number / 64) {
        *word |= 1 << (number % 64);
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
        let filter = Filter::all(64).of_services([7, 65]).of_backends([9, 200]).with_reason(Reason::Nat);
        assert!(takes(&filter, 7, 9, Reason::Nat));
        assert!(takes(&filter, 65, 200, Reason::Nat));
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
