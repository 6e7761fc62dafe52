//! Addresses as map keys and values hold them.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address in its mapped form (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
/// One type serves both families, so there is one set of maps.
///
/// In memory: sixteen bytes in network order. In the code: two words that hold those bytes, because the
/// BPF compiler keeps sixteen single bytes in sixteen registers and stack slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct Address([u64; 2]);

const _: () = assert!(size_of::<Address>() == 16);

/// The first twelve bytes of every mapped IPv4 address are zero, but for the last two, which are these.
const MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];

impl Address {
    /// The unspecified IPv6 address: no address at all.
    pub const NONE: Address = Address([0; 2]);

    /// The mapped form of an IPv4 address in network order.
    #[inline(always)]
    pub fn v4(octets: [u8; 4]) -> Address {
        let upper = (u32::from_le_bytes(octets) as u64) << 32;
        Address([0, (upper | u32::from_le_bytes(MAPPED) as u64).to_le()])
    }

    /// An IPv6 address in network order.
    #[inline(always)]
    pub fn v6(octets: [u8; 16]) -> Address {
        // SAFETY: sixteen bytes either way, and any bytes are words. (Put together from single bytes, the
        // BPF compiler reads them one by one.)
        Address(unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(octets) })
    }

    /// The four octets of a mapped IPv4 address; of any other address, its last four.
    #[inline(always)]
    pub fn octets_v4(&self) -> [u8; 4] {
        self.words32()[3].to_le_bytes()
    }

    /// The sixteen octets in network order.
    #[inline(always)]
    pub fn octets_v6(&self) -> [u8; 16] {
        let (a, b) = (self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes());
        [a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]
    }

    /// The address as four words for hashing and checksums; the same values on every machine.
    #[inline(always)]
    pub fn words32(&self) -> [u32; 4] {
        let [a, b] = self.0.map(u64::from_le);
        [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
    }

    /// The two words as they are in memory.
    #[inline(always)]
    pub fn words(&self) -> [u64; 2] {
        self.0
    }

    /// The reverse of [`Address::words`].
    #[inline(always)]
    pub fn from_words(words: [u64; 2]) -> Address {
        Address(words)
    }

    /// The address with these bits added to its last 32, in network order.
    #[inline(always)]
    pub fn with_last_bits(self, bits: [u8; 4]) -> Address {
        let upper = (u32::from_le_bytes(bits) as u64) << 32;
        Address([self.0[0], self.0[1] | upper.to_le()])
    }

    /// Whether this is the mapped form of an IPv4 address.
    #[inline(always)]
    pub fn is_mapped(&self) -> bool {
        self.0[0] == 0 && u64::from_le(self.0[1]) as u32 == u32::from_le_bytes(MAPPED)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Address {
        match address {
            IpAddr::V4(v4) => Address::v4(v4.octets()),
            IpAddr::V6(v6) => Address::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> IpAddr {
        if address.is_mapped() {
            IpAddr::V4(Ipv4Addr::from(address.octets_v4()))
        } else {
            IpAddr::V6(Ipv6Addr::from(address.octets_v6()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_way_through_the_map() {
        for text in ["192.0.2.1", "2001:db8::1", "::1", "0.0.0.0"] {
            let address: IpAddr = text.parse().unwrap();
            let stored = Address::from(address);
            assert_eq!(IpAddr::from(stored), address);
            assert_eq!(Address::from_words(stored.words()), stored);
        }
    }
}
