//! One hop on the link.

use core::fmt;

/// A MAC address.
pub type Mac = [u8; 6];

/// Where a frame goes next: an interface, the two MAC addresses of the frame, and its VLAN.
///
/// Kept as two words, each with a MAC address in bits 0 to 47, because a MAC address as six bytes is twelve
/// instructions to the BPF compiler. Above them: the interface's index, 16 bits in the first word and 4 in
/// the second, and the VLAN, 12 bits.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Hop([u64; 2]);

const _: () = assert!(size_of::<Hop>() == 16);

const MAC_BITS: u64 = (1 << 48) - 1;

/// Bits 48 to 51 of the second word: the upper bits of the interface. The VLAN follows.
const INTERFACE_BITS: u64 = 0xf;
const VLAN_SHIFT: u32 = 52;

impl Hop {
    /// Highest interface index that fits.
    pub const MAX_INTERFACE: u32 = (1 << 20) - 1;

    /// An untagged hop out of the interface with index `interface`, to `mac`, from the node's own `node_mac`.
    /// An interface beyond [`Hop::MAX_INTERFACE`] makes no known hop.
    pub fn new(interface: u32, mac: Mac, node_mac: Mac) -> Hop {
        let interface = if interface > Hop::MAX_INTERFACE { 0 } else { interface };
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&mac);
        addresses[6..].copy_from_slice(&node_mac);
        Hop::from_frame(interface, addresses)
    }

    /// An untagged hop out of `interface`, with the first twelve bytes of the frame: destination MAC, source MAC.
    #[inline(always)]
    pub fn from_frame(interface: u32, a: [u8; 12]) -> Hop {
        let low = u64::from_le_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
        let high = u32::from_le_bytes([a[8], a[9], a[10], a[11]]) as u64;
        Hop::from_macs(interface, low & MAC_BITS, low >> 48 | high << 16)
    }

    /// An untagged hop out of `interface`, with MAC addresses as the lower 48 bits of words: the first byte lowest.
    #[inline(always)]
    pub fn from_macs(interface: u32, mac: u64, node_mac: u64) -> Hop {
        let interface = interface as u64;
        Hop([mac | interface << 48, node_mac | (interface >> 16) << 48])
    }

    /// The first twelve bytes of a frame that takes this hop.
    #[inline(always)]
    pub fn to_frame(&self) -> [u8; 12] {
        let [mac, node_mac] = self.0;
        let low = (mac & MAC_BITS | node_mac << 48).to_le_bytes();
        let high = ((node_mac >> 16) as u32).to_le_bytes();
        [low[0], low[1], low[2], low[3], low[4], low[5], low[6], low[7], high[0], high[1], high[2], high[3]]
    }

    /// The hop of an answer to a frame that took this one.
    #[inline(always)]
    pub fn reversed(&self) -> Hop {
        let [mac, node_mac] = self.0;
        let (low, high) = (mac & !MAC_BITS, node_mac & !MAC_BITS);
        Hop([node_mac & MAC_BITS | low, mac & MAC_BITS | high])
    }

    /// Interface index; 0 when the hop is not known.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        (self.0[0] >> 48) as u32 | (((self.0[1] >> 48) & INTERFACE_BITS) as u32) << 16
    }

    /// The same hop in the VLAN with this number; 0: untagged.
    #[inline(always)]
    pub fn in_vlan(&self, vlan: u16) -> Hop {
        let [mac, node_mac] = self.0;
        Hop([mac, node_mac & ((1 << VLAN_SHIFT) - 1) | (vlan as u64) << VLAN_SHIFT])
    }

    /// The VLAN's number; 0 when the frame leaves untagged.
    #[inline(always)]
    pub fn vlan(&self) -> u16 {
        (self.0[1] >> VLAN_SHIFT) as u16
    }

    /// Whether the hop is known.
    #[inline(always)]
    pub fn is_known(&self) -> bool {
        self.interface() != 0
    }

    /// MAC address of the next hop.
    pub fn mac(&self) -> Mac {
        mac_of(self.0[0])
    }

    /// MAC address of the node on that interface.
    pub fn node_mac(&self) -> Mac {
        mac_of(self.0[1])
    }

    /// The two words as they are in memory.
    #[inline(always)]
    pub fn words(&self) -> [u64; 2] {
        self.0
    }

    /// The reverse of [`Hop::words`].
    #[inline(always)]
    pub fn from_words(words: [u64; 2]) -> Hop {
        Hop(words)
    }
}

impl fmt::Debug for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hop")
            .field("interface", &self.interface())
            .field("mac", &self.mac())
            .field("node_mac", &self.node_mac())
            .field("vlan", &self.vlan())
            .finish()
    }
}

fn mac_of(word: u64) -> Mac {
    let b = word.to_le_bytes();
    [b[0], b[1], b[2], b[3], b[4], b[5]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_keeps_its_parts() {
        let (mac, node_mac) = ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        let hop = Hop::new(0x000f_0002, mac, node_mac);
        assert_eq!((hop.interface(), hop.mac(), hop.node_mac(), hop.vlan()), (0x000f_0002, mac, node_mac, 0));
        assert_eq!(hop.to_frame(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(hop.reversed(), Hop::new(0x000f_0002, node_mac, mac));
        assert_eq!(Hop::from_frame(0x000f_0002, hop.to_frame()), hop);

        assert!(!Hop::new(Hop::MAX_INTERFACE + 1, mac, node_mac).is_known());

        let tagged = hop.in_vlan(4_094);
        assert_eq!((tagged.interface(), tagged.mac(), tagged.node_mac()), (0x000f_0002, mac, node_mac));
        assert_eq!((tagged.vlan(), tagged.to_frame()), (4_094, hop.to_frame()));
        assert_eq!(tagged.reversed(), hop.reversed().in_vlan(4_094));
        assert_eq!(tagged.in_vlan(0), hop);
    }
}
