//! Internet checksums, updated by what changed (RFC 1624, equation 3: HC' = ~(~HC + ~m + m')).

use lb_common::Address;

/// The sum of differences between old and new header words, in one's complement.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change(u64);

impl Change {
    /// One 16-bit word changed.
    #[inline(always)]
    pub fn word(self, old: u16, new: u16) -> Change {
        Change(self.0 + (!old) as u64 + new as u64)
    }

    /// An address changed. The twelve equal bytes of mapped IPv4 addresses add up to nothing.
    #[inline(always)]
    pub fn address(self, old: &Address, new: &Address) -> Change {
        let (old, new) = (old.words32(), new.words32());
        let mut sum = self.0;
        // 32-bit words sum up to the same as their halves; and since the checksum is the same in
        // either byte order (RFC 1071 section 2B), only `word`, which has host order, must swap.
        sum += (!old[0]) as u64 + new[0] as u64;
        sum += (!old[1]) as u64 + new[1] as u64;
        sum += (!old[2]) as u64 + new[2] as u64;
        sum += (!old[3]) as u64 + new[3] as u64;
        Change(sum)
    }

    /// The new checksum, in memory order, from the old one.
    #[inline(always)]
    pub fn apply(self, old: [u8; 2]) -> [u8; 2] {
        (!fold(self.0 + (!u16::from_le_bytes(old)) as u64)).to_le_bytes()
    }
}

/// The sum of a header's words, in one's complement.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// An address. What a mapped IPv4 address has before its four bytes adds up to nothing.
    #[inline(always)]
    pub fn address(self, address: &Address) -> Sum {
        let [a, b, c, d] = address.words32();
        Sum(self.0 + a as u64 + b as u64 + c as u64 + d as u64)
    }

    /// A 16-bit number.
    #[inline(always)]
    pub fn number(self, number: u16) -> Sum {
        Sum(self.0 + number.swap_bytes() as u64)
    }

    /// Four bytes that begin at an even place.
    #[inline(always)]
    pub fn bytes(self, bytes: [u8; 4]) -> Sum {
        Sum(self.0 + u32::from_le_bytes(bytes) as u64)
    }

    /// The checksum, in memory order.
    #[inline(always)]
    pub fn checksum(self) -> [u8; 2] {
        (!fold(self.0)).to_le_bytes()
    }
}

/// A sum of 16-bit and 32-bit words, in one's complement, as one 16-bit word.
#[inline(always)]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
