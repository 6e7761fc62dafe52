//! NAT records: one record serves both directions of a flow.
//!
//! A record's place is its port. The set is found from the backend's endpoint and a group of eight ports;
//! the way within the set is the port's last three bits. So a reply finds its record from its own addresses
//! and ports, two flows can never share a port towards one endpoint, and there is no reverse index that
//! could be lost.
//!
//! Which groups share a set is chance. (Where the groups of an endpoint lay side by side, whole endpoints
//! shared theirs: of 1,000,000 flows to 50 backends 18 % found no port.)

use crate::{
    Address, Bucket, FlowHash, Hop, MAX_NAT_SOURCES, Shape, Word,
    chunk::SETS,
    flow::{self, WAYS},
    hash,
};

/// Ports of a group, and records of a set.
pub const PORTS_PER_GROUP: u16 = WAYS as u16;

/// Flows for which a chunk of 84 sets, hence 672 records, is provided: 109 bytes each. A flow has two sets to choose from.
pub const FLOWS_PER_CHUNK: u32 = 300;

/// The table where nothing is under NAT.
pub const NONE: Shape = Shape::small(1);

/// Fewest chunks: 4 MB.
pub const MIN_CHUNKS: u32 = 128;

/// Eight records and, on a cache line of their own, the words that say what each holds.
///
/// The words have the shape of flow [`Entry`](crate::Entry)s. A record whose word is proven but names
/// backend 0 is being written by another CPU.
///
/// Six cache lines: the words; two flows on each of four lines, so that none lies across two; and in what room is left
/// there and on the last line, where replies go, which most packets need not know.
#[repr(C)]
#[derive(Default)]
pub struct NatSet {
    /// One word per record.
    pub words: Bucket,
    pairs: [Pair; WAYS / 2],
    odd_hops: [[Word; 2]; WAYS / 2],
}

/// What a cache line holds of two records.
#[repr(C)]
#[derive(Default)]
struct Pair {
    tuples: [[Word; 3]; 2],
    even_hop: [Word; 2],
}

const _: () = assert!(size_of::<Pair>() == 64);
const _: () = assert!(size_of::<NatSet>() == 384);

impl NatSet {
    /// The record of a way.
    #[inline(always)]
    pub fn record(&self, way: usize) -> NatRecord<'_> {
        let pair = (way / 2) & (WAYS / 2 - 1);
        let hop = if way & 1 == 0 { &self.pairs[pair].even_hop } else { &self.odd_hops[pair] };
        NatRecord { tuple: &self.pairs[pair].tuples[way & 1], hop }
    }
}

/// A NAT record in shared memory.
#[derive(Clone, Copy)]
pub struct NatRecord<'a> {
    tuple: &'a [Word; 3],
    hop: &'a [Word; 2],
}

/// Whose packets a record translates: the client's side of the flow in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatTuple {
    /// The client.
    pub client: Address,
    /// The client's port.
    pub client_port: u16,
    /// The group of its port: two groups of one endpoint may share a set.
    pub group: u16,
    /// The VIP, port and protocol it talks to, by their place in the table of services; the flow hash does not know the
    /// VIP.
    pub service: u32,
}

impl NatTuple {
    #[inline(always)]
    fn to_words(self) -> [u64; 3] {
        let [a, b] = self.client.words();
        [a, b, (self.client_port as u64) << 48 | (self.group as u64) << 32 | self.service as u64]
    }
}

impl<'a> NatRecord<'a> {
    /// Whether the record belongs to this flow. One comparison: the verifier would follow each of three,
    /// and all that comes after it.
    #[inline(always)]
    pub fn belongs_to(&self, tuple: &NatTuple) -> bool {
        let [a, b, c] = tuple.to_words();
        (self.tuple[0].load() ^ a) | (self.tuple[1].load() ^ b) | (self.tuple[2].load() ^ c) == 0
    }

    /// The flow it belongs to.
    #[inline(always)]
    pub fn tuple(&self) -> NatTuple {
        let rest = self.tuple[2].load();
        NatTuple {
            client: Address::from_words([self.tuple[0].load(), self.tuple[1].load()]),
            client_port: (rest >> 48) as u16,
            group: (rest >> 32) as u16,
            service: rest as u32,
        }
    }

    /// A word on the cache line that tells the flow.
    #[inline(always)]
    pub fn line(&self) -> &'a Word {
        &self.tuple[0]
    }

    /// Where replies go.
    #[inline(always)]
    pub fn last_hop(&self) -> Hop {
        Hop::from_words([self.hop[0].load(), self.hop[1].load()])
    }

    /// Writes it whole, without a look at what it was: most likely its lines are not in the cache. The caller has claimed
    /// the record's word.
    #[inline(always)]
    pub fn set(&self, tuple: &NatTuple, last_hop: &Hop) {
        let ([a, b, c], [x, y]) = (tuple.to_words(), last_hop.words());
        self.tuple[0].store(a);
        self.tuple[1].store(b);
        self.tuple[2].store(c);
        self.hop[0].store(x);
        self.hop[1].store(y);
    }

    /// Writes where replies go, if that differs from what is there.
    #[inline(always)]
    pub fn set_last_hop(&self, hop: &Hop) {
        let [x, y] = hop.words();
        if self.hop[0].load() != x {
            self.hop[0].store(x);
        }
        if self.hop[1].load() != y {
            self.hop[1].store(y);
        }
    }
}

/// The two groups in which a flow may have its port, of `count` groups; different ones if `count` > 1.
/// They depend on the hash's place only, so that its identity tells apart the flows that share a set.
#[inline(always)]
pub fn groups(hash: FlowHash, count: u16) -> [u16; 2] {
    let (count, hash) = (count as u32, hash::mix(hash.place));
    let first = flow::scale(hash, count);
    let second = first + 1 + flow::scale(hash.rotate_left(16), count.wrapping_sub(1));
    let second = if second >= count { second - count } else { second };
    [first as u16, second as u16]
}

/// The place of the set of a group of ports towards the backend with this [`endpoint`](crate::HashKey::endpoint) hash.
#[inline(always)]
pub fn set_of(endpoint: u32, group: u16, sets: &Shape) -> u32 {
    // Steps of the golden ratio keep the groups of one endpoint apart before they are stirred.
    sets.place(hash::mix(endpoint.wrapping_add((group as u32).wrapping_mul(0x9e37_79b9))))
}

/// Which of these source addresses this is; [`MAX_NAT_SOURCES`] if it is none. Without branches, each of
/// which the verifier would follow.
#[inline(always)]
pub fn source_index(sources: &[Address; MAX_NAT_SOURCES], address: &Address) -> u32 {
    let [a, b] = address.words();
    let mut index = MAX_NAT_SOURCES as u32;
    let mut at = 0;
    while at < MAX_NAT_SOURCES {
        let [x, y] = sources[at].words();
        let different = (a ^ x) | (b ^ y);
        // All ones if nothing is different.
        let same = (((different | different.wrapping_neg()) >> 63) as u32).wrapping_sub(1);
        index ^= (index ^ at as u32) & same;
        at += 1;
    }
    index
}

/// The NAT records for a number of flows.
pub fn shape_for(flows: u32) -> Shape {
    Shape { chunks: flows.div_ceil(FLOWS_PER_CHUNK).max(MIN_CHUNKS), items: SETS as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_has_two_different_groups() {
        for place in [0, 1, 0x8000_0000, 0xffff_0000, u32::MAX] {
            for identity in [0, 1, 0x8000_0000, u32::MAX] {
                for count in [2, 3, 3968, 8064] {
                    let [first, second] = groups(FlowHash { place, identity }, count);
                    assert!(
                        first < count && second < count && first != second,
                        "{first} {second} of {count}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_record_keeps_its_parts() {
        let tuple = |way: usize| NatTuple {
            client: Address::v6([way as u8; 16]),
            client_port: 0xfedc,
            group: 3_967,
            service: 0x12_3456,
        };
        let hop = |way: usize| Hop::new(0x0001_0002, [1, 2, 3, 4, 5, way as u8], [7, 8, 9, 10, 11, 12]);
        let set = NatSet::default();
        for way in 0..WAYS {
            set.record(way).set(&tuple(way), &Hop::default());
            set.record(way).set_last_hop(&hop(way));
        }
        for way in 0..WAYS {
            let record = set.record(way);
            assert_eq!((record.tuple(), record.last_hop()), (tuple(way), hop(way)));
            assert!(record.belongs_to(&tuple(way)));
            assert!(!record.belongs_to(&NatTuple { service: 81, ..tuple(way) }));
            assert!(!record.belongs_to(&NatTuple { group: 3_966, ..tuple(way) }));
        }
    }
}
