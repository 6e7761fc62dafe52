//! The flow hash: keyed multilinear hashing.
//!
//! `h(w) = (k0 + k1·w1 + … + kn·wn mod 2^64) >> 32` with random 64-bit keys is strongly universal for
//! 32-bit words (Lemire and Kaser, "Strongly universal string hashing is fast", 2014, section 3):
//! whoever does not know the keys cannot find flows that collide. Two such sums give 64 bits.
//!
//! That speaks of pairs. Of flows that count up (the ports of one client, the addresses of a network) the
//! sums are an arithmetic progression, and one key in some dozens leads 2^16 of them to a small part of
//! all places (measured: half of them found their bucket full). So each sum is stirred by a bijection,
//! which keeps what holds for pairs.
//! All nodes of a cluster share the keys and so make the same choice.

use core::fmt;

use crate::Address;

/// Words that are hashed: a client's address, both ports, the protocol.
const WORDS: usize = 6;

/// Keys of both sums. All nodes of a cluster derive the same from their secret.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct HashKey {
    /// k0 to k6 of the first sum.
    pub first: [u64; WORDS + 1],
    /// k0 to k6 of the second sum.
    pub second: [u64; WORDS + 1],
}

/// Never shows the key: whoever knows it can aim at a backend.
impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// Bytes of key material that a [`HashKey`] is made of.
pub const KEY_BYTES: usize = size_of::<HashKey>();

/// Two independent hashes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowHash {
    /// Chooses the Maglev slot and the bucket.
    pub place: u32,
    /// Tells flows within a bucket apart and chooses the NAT ports.
    pub identity: u32,
}

impl HashKey {
    /// A key from secret bytes.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> HashKey {
        let mut key = HashKey { first: [0; WORDS + 1], second: [0; WORDS + 1] };
        for (word, chunk) in key.first.iter_mut().chain(&mut key.second).zip(bytes.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            *word = u64::from_le_bytes(eight);
        }
        key
    }

    /// The hash of a flow. It leaves out the VIP, so that a node which takes over another one's
    /// address makes the same choice.
    #[inline(always)]
    pub fn flow(&self, client: &Address, client_port: u16, service_port: u16, protocol: u8) -> FlowHash {
        let words = words(client, client_port, service_port, protocol);
        FlowHash { place: mix(sum(&self.first, words)), identity: mix(sum(&self.second, words)) }
    }

    /// The hash of a backend's endpoint as seen from the node's NAT address of that family; chooses
    /// where its NAT records begin.
    #[inline(always)]
    pub fn endpoint(&self, backend: &Address, port: u16, protocol: u8) -> u32 {
        mix(sum(&self.first, words(backend, port, 0, protocol)))
    }
}

/// A bijection after which every bit depends on every other: the finalizer of MurmurHash3 (Appleby,
/// public domain).
#[inline(always)]
pub fn mix(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

#[inline(always)]
fn words(address: &Address, port: u16, other_port: u16, protocol: u8) -> [u32; WORDS] {
    let [a, b, c, d] = address.words32();
    [a, b, c, d, (port as u32) << 16 | other_port as u32, protocol as u32]
}

#[inline(always)]
fn sum(key: &[u64; WORDS + 1], w: [u32; WORDS]) -> u32 {
    let sum = key[0]
        .wrapping_add(key[1].wrapping_mul(w[0] as u64))
        .wrapping_add(key[2].wrapping_mul(w[1] as u64))
        .wrapping_add(key[3].wrapping_mul(w[2] as u64))
        .wrapping_add(key[4].wrapping_mul(w[3] as u64))
        .wrapping_add(key[5].wrapping_mul(w[4] as u64))
        .wrapping_add(key[6].wrapping_mul(w[5] as u64));
    (sum >> 32) as u32
}
