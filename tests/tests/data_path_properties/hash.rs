//! The flow hash: no collisions but those that chance makes, whatever the key and however alike the
//! flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    Address, FlowHash, HashKey,
    flow::{WAYS, scale},
};
use usher_tests::world::hash_key;

/// A name for [`FLOWS`] flows, and the flow with a number: client, its port, service port, protocol.
type Flows = (&'static str, fn(u32) -> (IpAddr, u16, u16, u8));

const FLOWS: u32 = 1 << 16;

/// What neighbours look like: a field that counts, alone and with another one.
const STRUCTURED: &[Flows] = &[
    ("IPv4 addresses", |i| (Ipv4Addr::from(0xc633_0000 + i).into(), 40_000, 80, 6)),
    ("IPv4 networks", |i| (Ipv4Addr::from(0x0a00_0001 | i << 8).into(), 40_000, 80, 6)),
    ("ports of one IPv4 address", |i| (Ipv4Addr::from(0xc633_6407).into(), i as u16, 80, 6)),
    ("services", |i| (Ipv4Addr::from(0xc633_6407).into(), 40_000, i as u16, 17)),
    ("IPv4 addresses with ports", |i| {
        (Ipv4Addr::from(0xc633_6400 + (i >> 8)).into(), 40_000 + (i & 255) as u16, 80, 6)
    }),
    // What an xor of words would fold together.
    ("IPv4 addresses with as many ports down", |i| {
        (Ipv4Addr::from(0xc633_6400 + (i >> 8)).into(), 40_000 - (i >> 8) as u16 + (i & 255) as u16, 80, 6)
    }),
    ("IPv6 interfaces", |i| (v6(0, i), 40_000, 80, 6)),
    ("IPv6 networks", |i| (v6(i, 1), 40_000, 80, 6)),
    ("IPv6 networks and interfaces alike", |i| (v6(i, i), 40_000, 80, 6)),
    ("IPv6 networks and interfaces opposite", |i| (v6(i, FLOWS - i), 40_000, 80, 6)),
    ("IPv6 privacy addresses with ports", |i| {
        (v6(7, (i >> 8).wrapping_mul(0x9e37_79b1)), 40_000 + (i & 255) as u16, 443, 17)
    }),
];

fn v6(network: u32, interface: u32) -> IpAddr {
    let bits = 0x2001_0db8_u128 << 96 | u128::from(network) << 64 | u128::from(interface);
    Ipv6Addr::from(bits).into()
}

/// Keys that are tried; always the same.
const KEYS: u64 = 64;

fn hashes(key: &HashKey, flow: fn(u32) -> (IpAddr, u16, u16, u8)) -> impl Iterator<Item = FlowHash> {
    (0..FLOWS).map(move |i| {
        let (client, port, service, protocol) = flow(i);
        key.flow(&Address::from(client), port, service, protocol)
    })
}

/// Values that are there already.
fn repeated<T: Ord>(values: impl Iterator<Item = T>) -> usize {
    let mut values: Vec<T> = values.collect();
    let count = values.len();
    values.sort_unstable();
    values.dedup();
    count - values.len()
}

/// C28. Of 2^16 random 32-bit values 0.5 are repeated on average, so 352 in all of these; and of as many
/// pairs of them, none. A key under which two flows collide may make others collide that differ by as
/// much, so the sum says more than its parts.
#[test]
fn c28_neighbours_collide_no_more_than_strangers() {
    let (mut places, mut identities) = (0, 0);
    for (name, flow) in STRUCTURED {
        for seed in 0..KEYS {
            let key = hash_key(seed);
            places += repeated(hashes(&key, *flow).map(|hash| hash.place));
            identities += repeated(hashes(&key, *flow).map(|hash| hash.identity));
            let both = repeated(hashes(&key, *flow).map(|hash| (hash.place, hash.identity)));
            assert_eq!(both, 0, "{name}, key {seed}: flows that nothing tells apart");
        }
    }
    let expected = KEYS as usize * STRUCTURED.len() / 2;
    println!("{places} repeated places and {identities} identities, where chance makes {expected}");
    assert!(places < 2 * expected, "{places} repeated places, where chance makes {expected}");
    assert!(identities < 2 * expected, "{identities} repeated identities, where chance makes {expected}");
}

/// Four flows to a bucket of eight, as the flow table is sized: of random flows 0.83 % find no place.
#[test]
fn c28_neighbours_spread_over_the_buckets_as_strangers_do() {
    const BUCKETS: u32 = FLOWS / 4;
    for (name, flow) in STRUCTURED {
        let shares: Vec<f64> = (0..KEYS)
            .map(|seed| {
                let mut loads = vec![0_usize; BUCKETS as usize];
                for hash in hashes(&hash_key(seed), *flow) {
                    loads[scale(hash.place, BUCKETS) as usize] += 1;
                }
                loads.iter().map(|load| load.saturating_sub(WAYS)).sum::<usize>() as f64 / f64::from(FLOWS)
            })
            .collect();
        let mean = shares.iter().sum::<f64>() / KEYS as f64;
        let worst = shares.iter().copied().fold(0.0, f64::max);
        println!("{name}: {:.2} % without a place, at worst {:.2} %", mean * 100.0, worst * 100.0);
        assert!(mean <= 0.009, "{name}: {mean} without a place");
        // Chance varies by 0.05 percentage points.
        assert!(worst <= 0.012, "{name}: {worst} without a place under one key");
    }
}
