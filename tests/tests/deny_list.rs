//! F62: the deny list in the kernel, at its full size. Needs root.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use lb_common::{Features, Forward, Reason, defence::MAX_DENIED};
use lb_userspace::{
    core::{
        deny::{DenyList, Prefix, Rule},
        image::{Image, diff},
    },
    dataplane::{Dataplane, Sizes},
};
use usher_tests::{
    kernel::may_load,
    packet::NatPorts,
    world::{Flow, PORT, TCP4, TCP6, World},
};

/// How many of the clients that the list is about send a packet.
const SAMPLE: usize = 4_000;

fn load(features: Features) -> Dataplane {
    let mut dataplane = Dataplane::load(Sizes::new(1_000, 1_000, false, 2, 2, 2), features).unwrap();
    let world = World::empty()
        .with_service(TCP4, SocketAddr::new(TCP4.vip(), PORT), 1, Forward::DsrL2)
        .with_service(TCP6, SocketAddr::new(TCP6.vip(), PORT), 2, Forward::DsrL2);
    dataplane.apply(&diff(&Image::default(), &world.image)).unwrap();
    dataplane
}

/// Sends a client's first packet; whether it was dropped.
fn is_denied(dataplane: &Dataplane, client: IpAddr) -> bool {
    let case = if client.is_ipv4() { TCP4 } else { TCP6 };
    let flow = Flow { client: SocketAddr::new(client, 40_001), ..case.flow(0) };
    let ran = dataplane.test_run(&flow.opens().bytes(&NatPorts::new())).unwrap();
    // enum xdp_action, include/uapi/linux/bpf.h: 1 drops. Nobody else is dropped: there is no backend.
    ran.action == 1
}

/// SplitMix64: the same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A million rules of both families, one in eight of which allows; lengths from 20 to 32 bits and from 36 to 128,
/// within few enough short networks that they nest.
fn rules(numbers: &mut Numbers) -> Vec<Rule> {
    let mut rules = BTreeMap::new();
    while rules.len() < MAX_DENIED {
        let (number, choice) = (numbers.next(), numbers.next());
        let (address, length) = if choice & 1 == 0 {
            let address =
                [10 + (number >> 32) as u8 % 8, (number >> 16) as u8, (number >> 8) as u8, number as u8];
            (IpAddr::from(address), 20 + (choice >> 8) % 13)
        } else {
            let network = 0x2001_0db8_u128 << 96;
            (IpAddr::from(Ipv6Addr::from(network | (u128::from(number) << 32))), 36 + (choice >> 8) % 93)
        };
        rules.insert(cut(address, length as u32), (choice >> 1) & 7 != 0);
    }
    rules.into_iter().map(|(prefix, denied)| Rule { prefix, denied }).collect()
}

/// The network of so many bits, by way of its text.
fn cut(address: IpAddr, length: u32) -> Prefix {
    let network = match address {
        IpAddr::V4(v4) => {
            IpAddr::from((v4.to_bits() & u32::MAX.checked_shl(32 - length).unwrap_or(0)).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            IpAddr::from(Ipv6Addr::from(v6.to_bits() & u128::MAX.checked_shl(128 - length).unwrap_or(0)))
        }
    };
    format!("{network}/{length}").parse().unwrap()
}

/// What should become of clients: all lengths are tried, the longest first.
struct Oracle(HashMap<Prefix, bool>);

impl Oracle {
    fn new(rules: &[Rule]) -> Oracle {
        Oracle(rules.iter().map(|rule| (rule.prefix, rule.denied)).collect())
    }

    fn denies(&self, client: IpAddr) -> bool {
        let most = if client.is_ipv4() { 32 } else { 128 };
        (0..=most).rev().find_map(|length| self.0.get(&cut(client, length))).copied().unwrap_or(false)
    }

    /// Lets clients send packets; how many were denied.
    fn check(&self, dataplane: &Dataplane, clients: &[IpAddr]) -> usize {
        let denied = clients.iter().filter(|client| {
            let denied = is_denied(dataplane, **client);
            assert_eq!(denied, self.denies(**client), "{client}");
            denied
        });
        let counted = || dataplane.reasons().unwrap()[Reason::Denied as usize];
        let before = counted();
        let denied = denied.count();
        assert_eq!(counted() - before, denied as u64);
        denied
    }
}

/// Clients in and beside the networks of rules.
fn clients(rules: &[Rule], numbers: &mut Numbers) -> Vec<IpAddr> {
    let every = rules.len() / SAMPLE;
    let near = |rule: &Rule| {
        let bits = u128::from_be_bytes(rule.prefix.octets());
        // The lowest 12 bits: beyond most IPv4 prefixes, and some IPv6 ones.
        let bits = bits ^ u128::from(numbers.next() & 0xfff);
        Ipv6Addr::from(bits).to_canonical()
    };
    rules.iter().step_by(every).map(near).collect()
}

#[test]
fn f62_a_million_prefixes_decide_by_the_longest_and_removing_them_restores_it() {
    if !may_load() {
        return;
    }
    let mut numbers = Numbers(62);
    let rules = rules(&mut numbers);
    let clients = clients(&rules, &mut numbers);
    let (v4, v6): (Vec<IpAddr>, Vec<_>) = clients.iter().partition(|client| client.is_ipv4());
    assert!(v4.len() > SAMPLE / 4 && v6.len() > SAMPLE / 4, "{} and {}", v4.len(), v6.len());

    let mut dataplane = load(Features::DSR_L2 | Features::DENY);
    let mut list = DenyList::new(&rules, &[]).unwrap();
    let changes = list.all();
    let begin = Instant::now();
    dataplane.deny(&changes).unwrap();
    println!("{} prefixes written in {:?}", changes.len(), begin.elapsed());

    let oracle = Oracle::new(&rules);
    for clients in [&v4, &v6] {
        let denied = oracle.check(&dataplane, clients);
        assert!((1..clients.len()).contains(&denied), "{denied} of {} were denied", clients.len());
    }

    // The contrary of every hundredth rule, though the map is full.
    let some: Vec<_> = rules.iter().step_by(100).map(|rule| Rule { denied: !rule.denied, ..*rule }).collect();
    dataplane.deny(&list.add(&some).unwrap().0).unwrap();
    let turned: Vec<_> = rules.iter().copied().chain(some.iter().copied()).collect();
    Oracle::new(&turned).check(&dataplane, &clients);
    dataplane.deny(&list.remove(&some).unwrap().0).unwrap();
    oracle.check(&dataplane, &clients);

    // Removed in a list that is empty but for what commands added.
    let mut commands = DenyList::default();
    let (added, _) = commands.add(&rules).unwrap();
    dataplane.deny(&added).unwrap();
    let (mut removed, _) = commands.remove(&rules).unwrap();
    let begin = Instant::now();
    dataplane.deny(&removed).unwrap();
    println!("{} prefixes removed in {:?}", removed.len(), begin.elapsed());
    assert!(clients.iter().all(|client| !is_denied(&dataplane, *client)));
    // Again, as after a failure half-way: what is gone is gone.
    removed.truncate(3);
    dataplane.deny(&removed).unwrap();
}

/// As `usher deny add` does where the configuration denies nobody.
#[test]
fn f62_a_program_without_the_list_is_replaced_by_one_that_looks_at_it() {
    if !may_load() {
        return;
    }
    let mut dataplane = load(Features::DSR_L2);
    let client = TCP4.client(0);
    let rule = [Rule { prefix: Prefix::of(client), denied: true }];
    let mut list = DenyList::default();
    dataplane.deny(&list.add(&rule).unwrap().0).unwrap();
    assert!(!is_denied(&dataplane, client), "there is no code for it");
    dataplane.set_features(Features::DSR_L2 | Features::DENY).unwrap();
    assert!(is_denied(&dataplane, client));
    dataplane.deny(&list.remove(&rule).unwrap().0).unwrap();
    assert!(!is_denied(&dataplane, client));
}
