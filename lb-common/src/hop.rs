//! One hop on the link.

use core::fmt;

/// A MAC address.
pub type Mac = [u8; 6];

/// Where a frame goes next: an interface and the two MAC addresses of the frame.
///
/// Kept as two words, each a MAC address (bits 0 to 47) and half of the interface's index (48 to 63):
/// a MAC address as six bytes is twelve instructions to the BPF compiler.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Hop([u64; 2]);

const _: () = assert!(size_of::<Hop>() == 16);

const MAC_BITS: u64 = (1 << 48) - 1;

impl Hop {
    /// A hop out of the interface with index `interface`, to `mac`, from the node's own `node_mac`.
    pub fn new(interface: u32, mac: Mac, node_mac: Mac) -> Hop {
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&mac);
        addresses[6..].copy_from_slice(&node_mac);
        Hop::from_frame(interface, addresses)
    }

    /// A hop out of `interface`, with the first twelve bytes of the frame: destination MAC, source MAC.
    #[inline(always)]
    pub fn from_frame(interface: u32, a: [u8; 12]) -> Hop {
        let low = u64::from_le_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
        let high = u32::from_le_bytes([a[8], a[9], a[10], a[11]]) as u64;
        Hop::from_macs(interface, low & MAC_BITS, low >> 48 | high << 16)
    }

    /// A hop out of `interface`, with MAC addresses as the lower 48 bits of words: the first byte lowest.
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
        (self.0[0] >> 48) as u32 | ((self.0[1] >> 48) as u32) << 16
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
        let hop = Hop::new(0x0001_0002, mac, node_mac);
        assert_eq!((hop.interface(), hop.mac(), hop.node_mac()), (0x0001_0002, mac, node_mac));
        assert_eq!(hop.to_frame(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(hop.reversed(), Hop::new(0x0001_0002, node_mac, mac));
        assert_eq!(Hop::from_frame(0x0001_0002, hop.to_frame()), hop);
    }
}
