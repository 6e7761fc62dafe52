//! What the primary refuses at one name is kept from no other.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_userspace::core::{
    ids::Family,
    lease::owner,
    records::Change,
    shared::{Act, InMemory, SharedZone, Situation, State, Trouble, Wish},
};

use crate::cluster::{NODES, address, ip, nodes, seconds, seen_by, settings, wish, without};

/// Why, in the primary's words.
const WHY: &str = "it failed (SERVFAIL)";

/// What an update is for.
type Acts = Vec<(Arc<str>, Act)>;

/// A primary that refuses updates with certain changes.
struct Picky {
    zone: InMemory,
    refuses: Box<dyn Fn(&Change) -> bool>,
    /// What the updates of the last round were for, and whether they were made.
    sent: Vec<(Acts, bool)>,
}

impl Picky {
    fn new() -> Picky {
        Picky { zone: InMemory::default(), refuses: Box::new(|_| false), sent: Vec::new() }
    }

    fn refuse(&mut self, refuses: impl Fn(&Change) -> bool + 'static) {
        self.refuses = Box::new(refuses);
    }

    /// Reads and writes until nothing is left to do, as a publisher does.
    fn act(&mut self, zone: &mut SharedZone, situation: &Situation, now: Instant) -> Vec<Trouble> {
        self.sent.clear();
        for _ in 0..100 {
            let mut names: Vec<Arc<str>> = situation.names.keys().chain(zone.written()).cloned().collect();
            names.sort();
            names.dedup();
            zone.observe(&self.zone.contents(&names, &nodes()), &nodes(), now);
            let mut troubles = Vec::new();
            let Some(planned) = zone.decide(situation, now, &mut troubles) else { return troubles };
            let is_refused = planned.update.changes.iter().any(|change| (self.refuses)(change));
            match is_refused {
                true => zone.refused(&planned, WHY, now),
                false => {
                    let outcome = self.zone.update(&planned.update);
                    zone.note(&planned, outcome, now);
                }
            }
            self.sent.push((planned.acts, !is_refused));
        }
        panic!("it never rests: {:?}", self.sent);
    }

    fn holds(&self, name: &str, address: IpAddr) -> bool {
        self.zone.addresses.get(name).is_some_and(|addresses| addresses.contains(&address))
    }
}

fn names(count: usize) -> Vec<Arc<str>> {
    (0..count).map(|name| format!("n{name:02}.example.test").into()).collect()
}

/// The same at all names.
fn everywhere(count: usize, wish: &Wish) -> Situation {
    let names = names(count).into_iter().map(|name| (name, wish.clone())).collect();
    Situation { names, voters: NODES.len(), seen_by: seen_by(wish, NODES.len()) }
}

fn node(node: usize) -> SharedZone {
    SharedZone::new(NODES[node].into(), node as u64 + 1, settings())
}

fn adds(change: &Change, at: &str) -> bool {
    matches!(change, Change::AddAddress { name, address, .. } if **name == *at && address.is_ipv4())
}

/// Changes of a name, or of the records beside it.
fn touches(change: &Change, at: &str) -> bool {
    let (Change::SetText { name, .. }
    | Change::RemoveText { name }
    | Change::AddAddress { name, .. }
    | Change::RemoveAddress { name, .. }) = change;
    name.ends_with(at)
}

fn refused(name: &str, act: Act) -> Trouble {
    Trouble::Refused { name: name.into(), act, why: WHY.into() }
}

const BAD: &str = "n13.example.test";

#[test]
fn a_full_name_is_told_and_tried_again_while_all_others_are_written_together() {
    let start = Instant::now();
    let (mut primary, mut zone) = (Picky::new(), node(0));
    let situation = everywhere(20, &wish(0));
    primary.refuse(|change| adds(change, BAD));
    let said = primary.act(&mut zone, &situation, start);
    assert_eq!(said, [refused(BAD, Act::Add(Family::V4))]);
    assert!(
        said[0].to_string().starts_with("n13.example.test: this node's IPv4 addresses cannot be added: it f")
    );
    for name in names(20) {
        assert_eq!(primary.holds(&name, address(0)), *name != *BAD, "{name}");
        // So that it may remove dead peers there.
        assert!(primary.zone.texts.contains_key(&owner(NODES[0], &name)), "{name}");
    }
    assert!(primary.sent.len() <= 13, "{:?}", primary.sent);
    assert_eq!(zone.refuses_all(&situation, &said), None);

    // Twice as long each time, and never longer than half a minute.
    let (mut now, mut rests) = (start, Vec::new());
    for _ in 0..7 {
        let next = zone.next_try(now).expect("it rests");
        rests.push((next - now).as_secs());
        assert!(zone.next_due(now) <= next);
        assert_eq!(primary.act(&mut zone, &situation, next - Duration::from_millis(1)), said);
        assert!(primary.sent.iter().all(|(_, made)| *made), "too early: {:?}", primary.sent);
        assert_eq!(primary.act(&mut zone, &situation, next), said);
        let tried = primary.sent.iter().filter(|(_, made)| !*made).collect::<Vec<_>>();
        assert_eq!(tried, [&(vec![(BAD.into(), Act::Add(Family::V4))], false)], "alone");
        now = next;
    }
    assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);

    // All leases are renewed together meanwhile, that one, too.
    primary.act(&mut zone, &situation, now + seconds(20));
    assert_eq!(primary.sent.len(), 1, "{:?}", primary.sent);
    assert_eq!(primary.sent[0].0.len(), 20);

    primary.refuse(|_| false);
    let now = zone.next_try(now + seconds(20)).expect("it rests");
    assert_eq!(primary.act(&mut zone, &situation, now), []);
    assert!(primary.holds(BAD, address(0)));
    assert_eq!(zone.next_try(now), None);
    primary.act(&mut zone, &situation, now + seconds(20));
    assert_eq!(primary.sent.iter().map(|(acts, _)| acts.len()).collect::<Vec<_>>(), [20]);
}

#[test]
fn the_other_family_is_added() {
    let now = Instant::now();
    let (mut primary, mut zone) = (Picky::new(), node(0));
    let v6 = ip("2001:db8:1::11");
    let both = [address(0), v6];
    let situation = everywhere(1, &Wish { wanted: both.into(), own: both.into(), ..wish(0) });
    primary.refuse(|change| adds(change, "n00.example.test"));
    let said = primary.act(&mut zone, &situation, now);
    assert_eq!(said, [refused("n00.example.test", Act::Add(Family::V4))]);
    assert!(primary.holds("n00.example.test", v6) && !primary.holds("n00.example.test", address(0)));
    assert_eq!(zone.state("n00.example.test", NODES[0], v6), State::Published);
    // It is at the name.
    assert_eq!(zone.refuses_all(&situation, &said), None);
}

#[test]
fn what_is_refused_everywhere_is_said_of_the_zone() {
    let now = Instant::now();
    let (mut primary, mut zone) = (Picky::new(), node(0));
    let situation = everywhere(3, &wish(0));
    primary.refuse(|_| true);
    let said = primary.act(&mut zone, &situation, now);
    assert_eq!(said, names(3).iter().map(|name| refused(name, Act::Renew)).collect::<Vec<_>>());
    assert_eq!(zone.refuses_all(&situation, &said), Some(WHY));
    // From now on each is asked for once.
    let next = zone.next_try(now).expect("they rest");
    primary.act(&mut zone, &situation, next);
    assert_eq!(primary.sent.len(), 3, "{:?}", primary.sent);
    primary.refuse(|change| !touches(change, "n01.example.test"));
    let said = primary.act(&mut zone, &situation, now + seconds(60));
    assert_eq!(said.len(), 2);
    assert_eq!(zone.refuses_all(&situation, &said), None);
    primary.refuse(|_| false);
    assert_eq!(primary.act(&mut zone, &situation, now + seconds(120)), []);
    assert!(names(3).iter().all(|name| primary.holds(name, address(0))));
}

#[test]
fn room_at_a_name_ends_its_rest() {
    let now = Instant::now();
    let (mut primary, mut zone) = (Picky::new(), node(0));
    let situation = everywhere(2, &wish(0));
    primary.refuse(|change| adds(change, "n01.example.test"));
    let mut time = now;
    for _ in 0..5 {
        primary.act(&mut zone, &situation, time);
        time = zone.next_try(time).expect("it rests");
    }
    // A peer has left, say.
    let last = time - seconds(16);
    primary.refuse(|_| false);
    primary.zone.addresses.insert("n01.example.test".into(), [address(1)].into());
    primary.act(&mut zone, &situation, last);
    assert!(!primary.holds("n01.example.test", address(0)), "not at once");
    assert_eq!(primary.act(&mut zone, &situation, last + seconds(1)), []);
    assert!(primary.holds("n01.example.test", address(0)));
}

/// Of the first node, while the second is dead.
fn dead() -> Situation {
    everywhere(3, &without(wish(0), 1, 2).names.into_values().next().expect("one name"))
}

/// At which of three names a node is.
fn places(primary: &Picky, node: usize) -> Vec<bool> {
    names(3).iter().map(|name| primary.holds(name, address(node))).collect()
}

/// Two nodes that have published themselves at three names.
fn two(primary: &mut Picky, now: Instant) -> [SharedZone; 2] {
    let mut zones = [node(0), node(1)];
    for (node, zone) in zones.iter_mut().enumerate() {
        assert_eq!(primary.act(zone, &everywhere(3, &wish(node)), now), []);
    }
    zones
}

#[test]
fn a_dead_peer_is_removed_where_the_lease_is_not_refused() {
    let start = Instant::now();
    let mut primary = Picky::new();
    let [mut zone, _] = two(&mut primary, start);
    primary.refuse(|change| touches(change, "n01.example.test"));
    let due = start + seconds(20);
    assert_eq!(
        primary.act(&mut zone, &everywhere(3, &wish(0)), due),
        [refused("n01.example.test", Act::Renew)]
    );
    primary.act(&mut zone, &dead(), due);
    assert_eq!(places(&primary, 1), [false, true, false]);
    // The peer's own lease was refused as well, perhaps.
    primary.refuse(|_| false);
    primary.act(&mut zone, &dead(), due + seconds(59));
    assert_eq!(places(&primary, 1), [false, true, false]);
    assert_eq!(primary.act(&mut zone, &dead(), due + seconds(60)), []);
    assert_eq!(places(&primary, 1), [false, false, false]);
}

#[test]
fn a_removal_or_a_withdrawal_that_is_refused_stops_no_other() {
    let start = Instant::now();
    let mut primary = Picky::new();
    let [mut zone, _] = two(&mut primary, start);
    // No right to its record there.
    primary.refuse(|change| touches(change, "_usher-node2.n00.example.test"));
    let said = primary.act(&mut zone, &dead(), start);
    assert_eq!(said, [refused("n00.example.test", Act::Remove(NODES[1].into()))]);
    assert_eq!(places(&primary, 1), [true, false, false]);
    assert_eq!(primary.act(&mut zone, &everywhere(3, &wish(0)), start), [], "it lives");

    let nothing = Wish { wanted: Default::default(), keep_last: false, ..wish(0) };
    primary.refuse(
        |change| matches!(change, Change::RemoveAddress { name, .. } if **name == *"n01.example.test"),
    );
    let said = primary.act(&mut zone, &everywhere(3, &nothing), start);
    assert_eq!(said, [refused("n01.example.test", Act::Withdraw)]);
    assert_eq!(places(&primary, 0), [false, true, false]);
    primary.refuse(|_| false);
    assert_eq!(primary.act(&mut zone, &everywhere(3, &nothing), start + seconds(1)), []);
    assert_eq!(places(&primary, 0), [false, false, false]);
}

/// However many names there are.
#[test]
fn what_is_too_much_for_one_message_is_sent_in_several() {
    let now = Instant::now();
    let (mut primary, mut zone) = (Picky::new(), node(0));
    let situation = everywhere(100, &wish(0));
    let mut names = BTreeMap::new();
    for _ in 0..100 {
        zone.observe(&primary.zone.contents(&self::names(100), &nodes()), &nodes(), now);
        let mut troubles = Vec::new();
        let Some(planned) = zone.decide(&situation, now, &mut troubles) else { break };
        assert_eq!(troubles, []);
        if planned.acts.len() > 30 {
            zone.refused(&planned, "too much for one message", now);
            continue;
        }
        for (name, _) in &planned.acts {
            *names.entry(name.clone()).or_insert(0) += 1;
        }
        let outcome = primary.zone.update(&planned.update);
        zone.note(&planned, outcome, now);
    }
    assert_eq!(names.len(), 100);
    assert!(names.values().all(|&times| times == 1), "{names:?}");
}
