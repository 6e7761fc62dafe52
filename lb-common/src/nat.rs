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

/// Flows for which a chunk of 63 sets, hence 504 records, is provided: 130 bytes each. A flow has two sets to choose
/// from. Measured, with 31,744 ports towards each of 100 backends: 1,000,000 flows find a port in 99.8 % of all cases;
/// of 50 backends, whose ports are scarcer: 750,000 flows in 99.7 %, 1,000,000 in 94 %. (With five flows to a set, 19 %
/// of the new flows beside 1,000,000 to 100 backends found none.)
pub const FLOWS_PER_CHUNK: u32 = 4 * SETS as u32;

/// The table where nothing is under NAT.
pub const NONE: Shape = Shape::small(1);

/// Fewest chunks: 4 MB.
pub const MIN_CHUNKS: u32 = 128;

/// Eight records and, on a cache line of their own, the words that say what each holds.
///
/// The words have the shape of flow [`Entry`](crate::Entry)s. A record whose word is proven but names
/// backend 0 is being written by another CPU.
#[repr(C)]
#[derive(Default)]
pub struct NatSet {
    /// One word per record.
    pub words: Bucket,
    /// The records.
    pub records: [NatRecord; WAYS],
}

const _: () = assert!(size_of::<NatSet>() == 512);

/// A NAT record in shared memory: seven words.
#[repr(C)]
#[derive(Default)]
pub struct NatRecord([Word; 7]);

/// Whose packets a record translates: the client's side of the flow in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatTuple {
    /// The client.
    pub client: Address,
    /// The VIP it talks to; the flow hash does not know it.
    pub vip: Address,
    /// The client's port.
    pub client_port: u16,
    /// The service's port.
    pub vip_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The group of its port: two groups of one endpoint may share a set.
    pub group: u16,
}

impl NatTuple {
    #[inline(always)]
    fn to_words(self) -> [u64; 5] {
        let [c0, c1] = self.client.words();
        let [v0, v1] = self.vip.words();
        let ports =
            (self.client_port as u64) << 48 | (self.vip_port as u64) << 32 | (self.group as u64) << 16;
        [c0, c1, v0, v1, ports | self.protocol as u64]
    }
}

impl NatRecord {
    /// Whether the record belongs to this flow. One comparison: the verifier would follow each of five,
    /// and all that comes after it.
    #[inline(always)]
    pub fn belongs_to(&self, tuple: &NatTuple) -> bool {
        let w = tuple.to_words();
        let r = &self.0;
        let different = (r[0].load() ^ w[0])
            | (r[1].load() ^ w[1])
            | (r[2].load() ^ w[2])
            | (r[3].load() ^ w[3])
            | (r[4].load() ^ w[4]);
        different == 0
    }

    /// The flow it belongs to.
    #[inline(always)]
    pub fn tuple(&self) -> NatTuple {
        let r = &self.0;
        let ports = r[4].load();
        NatTuple {
            client: Address::from_words([r[0].load(), r[1].load()]),
            vip: Address::from_words([r[2].load(), r[3].load()]),
            client_port: (ports >> 48) as u16,
            vip_port: (ports >> 32) as u16,
            protocol: ports as u8,
            group: (ports >> 16) as u16,
        }
    }

    /// Where replies go.
    #[inline(always)]
    pub fn last_hop(&self) -> Hop {
        Hop::from_words([self.0[5].load(), self.0[6].load()])
    }

    /// Writes the flow. The caller has claimed the record's word.
    #[inline(always)]
    pub fn set_tuple(&self, tuple: &NatTuple) {
        let w = tuple.to_words();
        self.0[0].store(w[0]);
        self.0[1].store(w[1]);
        self.0[2].store(w[2]);
        self.0[3].store(w[3]);
        self.0[4].store(w[4]);
    }

    /// Writes where replies go, if that differs from what is there.
    #[inline(always)]
    pub fn set_last_hop(&self, hop: &Hop) {
        let [a, b] = hop.words();
        if self.0[5].load() != a {
            self.0[5].store(a);
        }
        if self.0[6].load() != b {
            self.0[6].store(b);
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
        let tuple = NatTuple {
            client: Address::v4([198, 51, 100, 7]),
            vip: Address::v6([0x20; 16]),
            client_port: 0xfedc,
            vip_port: 80,
            protocol: 17,
            group: 3_967,
        };
        let hop = Hop::new(0x0001_0002, [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        let record = NatRecord::default();
        record.set_tuple(&tuple);
        record.set_last_hop(&hop);
        assert_eq!(record.tuple(), tuple);
        assert_eq!(record.last_hop(), hop);
        assert!(record.belongs_to(&tuple));
        assert!(!record.belongs_to(&NatTuple { vip_port: 81, ..tuple }));
        assert!(!record.belongs_to(&NatTuple { group: 3_966, ..tuple }));
    }
}
