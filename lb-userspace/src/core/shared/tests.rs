use proptest::prelude::*;

use super::*;
use crate::core::{
    ids::Family,
    publish::fixture::ip,
    records::{AddressSet, Change, Prerequisite, Update},
};

const NAME: &str = "www.example.test";
const NODES: [&str; 3] = ["node1", "node2", "node3"];

fn settings() -> Settings {
    Settings {
        lease: Duration::from_secs(60),
        renew: Duration::from_secs(20),
        ttl: 30,
        share_rrset: false,
        two_nodes: TwoNodes::RemoveAfterLease,
    }
}

/// A primary: it compares, and then changes.
#[derive(Debug, Clone, Default)]
struct Primary {
    addresses: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    aliases: BTreeMap<Arc<str>, String>,
    texts: BTreeMap<Arc<str>, String>,
}

impl Primary {
    fn holds(&self, prerequisite: &Prerequisite) -> bool {
        match prerequisite {
            Prerequisite::TextIs { name, text } => self.texts.get(name) == Some(text),
            Prerequisite::NoText { name } => !self.texts.contains_key(name),
            Prerequisite::AddressesAre { name, family, addresses } => self.of(name, *family) == *addresses,
        }
    }

    fn of(&self, name: &str, family: Family) -> BTreeSet<IpAddr> {
        let all = self.addresses.get(name).into_iter().flatten();
        all.copied().filter(|&address| Family::of(address) == family).collect()
    }

    fn update(&mut self, update: &Update) -> Outcome {
        if !update.prerequisites.iter().all(|prerequisite| self.holds(prerequisite)) {
            return Outcome::NotAsExpected;
        }
        for change in update.changes.iter().cloned() {
            match change {
                Change::SetText { name, text, .. } => drop(self.texts.insert(name, text)),
                Change::RemoveText { name } => drop(self.texts.remove(&name)),
                // As BIND does: silently.
                Change::AddAddress { name, .. } if self.aliases.contains_key(&name) => {}
                Change::AddAddress { name, address, .. } => {
                    self.addresses.entry(name).or_default().insert(address);
                }
                Change::RemoveAddress { name, address } => {
                    self.addresses.entry(name).or_default().remove(&address);
                }
            }
        }
        Outcome::Applied
    }

    fn contents(&self, names: &[&str], nodes: &[Arc<str>]) -> Contents {
        let addresses = |name: &str| {
            let sets = Family::ALL.into_iter().map(|family| (family, self.of(name, family)));
            let sets = sets.filter(|(_, addresses)| !addresses.is_empty());
            let sets = sets.map(|(family, addresses)| (family, AddressSet { ttl: 30, addresses }));
            Addresses { sets: sets.collect(), alias: self.aliases.get(name).cloned() }
        };
        let owners = names.iter().flat_map(|name| nodes.iter().map(move |node| owner(node, name)));
        let texts = owners.map(|owner| {
            let text = self.texts.get(&owner).cloned();
            (owner, text.into_iter().collect())
        });
        Contents {
            names: names.iter().map(|&name| (name.into(), addresses(name))).collect(),
            texts: texts.collect(),
        }
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.get(NAME).cloned().unwrap_or_default()
    }
}

fn nodes() -> Vec<Arc<str>> {
    NODES.iter().map(|&node| node.into()).collect()
}

fn address(node: usize) -> IpAddr {
    ip(&format!("192.0.2.{}", 11 + node))
}

fn ips(nodes: &[usize]) -> BTreeSet<IpAddr> {
    nodes.iter().map(|&node| address(node)).collect()
}

/// What a node wants that serves, and sees all others serve.
fn wish(node: usize) -> Wish {
    let peers = (0..NODES.len()).filter(|&other| other != node);
    Wish {
        wanted: ips(&[node]),
        own: ips(&[node]),
        peers: peers.map(|other| (NODES[other].into(), ips(&[other]))).collect(),
        serving: ips(&[0, 1, 2]),
        gone: BTreeMap::new(),
        keep_last: true,
    }
}

fn situation(wish: Wish) -> Situation {
    Situation { names: BTreeMap::from([(NAME.into(), wish)]), voters: NODES.len(), seen_by: NODES.len() }
}

fn without(mut wish: Wish, dead: usize, agreeing: usize) -> Situation {
    wish.serving.remove(&address(dead));
    wish.gone.insert(address(dead), Gone { agreeing, why: "silent" });
    situation(wish)
}

struct Node {
    zone: SharedZone,
    /// What it has read lastly.
    read: Contents,
}

impl Node {
    fn new(node: usize, boot: u64) -> Node {
        Node { zone: SharedZone::new(NODES[node].into(), boot, settings()), read: Contents::default() }
    }

    fn read(&mut self, primary: &Primary, now: Instant) {
        self.read = primary.contents(&[NAME], &nodes());
        self.zone.observe(&self.read, &nodes(), now);
    }

    /// Reads and writes until nothing is left to do, as a publisher does.
    fn act(&mut self, primary: &mut Primary, situation: &Situation, now: Instant) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        for _ in 0..5 {
            self.read(primary, now);
            troubles.clear();
            let Some(planned) = self.zone.decide(situation, now, &mut troubles) else { return troubles };
            let outcome = primary.update(&planned.update);
            self.zone.note(&planned, outcome, now);
        }
        panic!("it never rests: {troubles:?}");
    }

    fn state(&self, node: usize) -> State {
        self.zone.state(NAME, NODES[node], address(node))
    }
}

/// Three nodes that have published themselves.
fn cluster(now: Instant) -> (Primary, [Node; 3]) {
    let mut primary = Primary::default();
    let nodes = [0, 1, 2].map(|node| {
        let mut it = Node::new(node, node as u64 + 1);
        assert_eq!(it.act(&mut primary, &situation(wish(node)), now), []);
        it
    });
    assert_eq!(primary.addresses(), ips(&[0, 1, 2]));
    (primary, nodes)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_lease_is_renewed_and_nothing_else_is_written() {
    let start = Instant::now();
    let (mut primary, [mut one, ..]) = cluster(start);
    let before = primary.clone();
    one.act(&mut primary, &situation(wish(0)), start + seconds(9));
    assert_eq!(primary.texts, before.texts, "not due");
    one.act(&mut primary, &situation(wish(0)), start + seconds(20));
    let owner = owner("node1", NAME);
    let claim = |primary: &Primary| primary.texts[&owner].parse::<Claim>().unwrap();
    assert_eq!(claim(&primary).sequence, claim(&before).sequence + 1);
    assert_eq!(primary.addresses, before.addresses);
}

#[test]
fn a_majority_removes_a_silent_node_and_a_minority_does_not() {
    let now = Instant::now();
    let (mut primary, [mut one, ..]) = cluster(now);
    one.act(&mut primary, &without(wish(0), 2, 1), now + seconds(500));
    assert_eq!(primary.addresses(), ips(&[0, 1, 2]), "one of three");
    one.act(&mut primary, &without(wish(0), 2, 2), now + seconds(1));
    assert_eq!(primary.addresses(), ips(&[0, 1]));
    assert_eq!(one.state(2), State::RemovedBy(Some("node1".into())));
}

#[test]
fn a_node_that_was_removed_comes_back_after_a_hold_down_or_when_a_majority_sees_it() {
    let start = Instant::now();
    let (mut primary, [mut one, _, mut three]) = cluster(start);
    let mut unseen = situation(wish(2));
    unseen.seen_by = 1;
    for (hold, time) in [(30, 0), (60, 100), (120, 300)] {
        let now = start + seconds(time);
        one.act(&mut primary, &without(wish(0), 2, 2), now);
        let said = three.act(&mut primary, &unseen, now);
        assert!(matches!(&said[..], [Trouble::Removed { by: Some(by), .. }] if **by == *"node1"), "{said:?}");
        assert_eq!(three.state(2), State::RemovedBy(Some("node1".into())));
        three.act(&mut primary, &unseen, now + seconds(hold - 1));
        assert_eq!(primary.addresses(), ips(&[0, 1]), "a renewal never re-adds");
        assert_eq!(three.act(&mut primary, &unseen, now + seconds(hold)), []);
        assert_eq!(primary.addresses(), ips(&[0, 1, 2]));
        assert_eq!(three.state(2), State::Published);
    }
    let now = start + seconds(1000);
    one.act(&mut primary, &without(wish(0), 2, 2), now);
    assert_eq!(primary.addresses(), ips(&[0, 1]));
    three.act(&mut primary, &situation(wish(2)), now);
    assert_eq!(primary.addresses(), ips(&[0, 1, 2]), "seen by a majority");
}

/// Measured on a real server: with the victim's lease alone as a prerequisite the name was empty afterwards.
#[test]
fn two_nodes_that_remove_each_other_do_not_empty_the_name() {
    let now = Instant::now();
    let (mut primary, [mut one, mut two, _]) = cluster(now);
    let plan = |node: &mut Node, me, dead| {
        node.read(&primary, now);
        node.zone.decide(&without(wish(me), dead, 2), now, &mut Vec::new()).unwrap()
    };
    let (of_one, of_two) = (plan(&mut one, 0, 1), plan(&mut two, 1, 0));
    assert_eq!(primary.update(&of_one.update), Outcome::Applied);
    assert_eq!(primary.update(&of_two.update), Outcome::NotAsExpected);
    assert_eq!(primary.addresses(), ips(&[0, 2]));
}

#[test]
fn a_lease_that_was_renewed_after_the_read_is_not_removed() {
    let now = Instant::now();
    let (mut primary, [mut one, mut two, _]) = cluster(now);
    one.read(&primary, now);
    let removal = one.zone.decide(&without(wish(0), 1, 2), now, &mut Vec::new()).unwrap();
    two.act(&mut primary, &situation(wish(1)), now + seconds(20));
    assert_eq!(primary.update(&removal.update), Outcome::NotAsExpected);
    assert_eq!(primary.addresses(), ips(&[0, 1, 2]));
}

#[test]
fn nodes_that_withdraw_at_once_leave_the_last_one() {
    let now = Instant::now();
    let (mut primary, mut nodes) = cluster(now);
    let wishes = [0, 1, 2].map(|node| situation(Wish { wanted: BTreeSet::new(), ..wish(node) }));
    let mut plans = Vec::new();
    for (node, situation) in nodes.iter_mut().zip(&wishes) {
        node.read(&primary, now);
        plans.push(node.zone.decide(situation, now, &mut Vec::new()).unwrap());
    }
    for plan in &plans {
        primary.update(&plan.update);
    }
    assert_eq!(primary.addresses().len(), 2, "the set was another one for the later ones");
    let said: Vec<_> = nodes
        .iter_mut()
        .zip(&wishes)
        .map(|(node, situation)| node.act(&mut primary, situation, now))
        .collect();
    assert_eq!(primary.addresses().len(), 1);
    assert!(said.iter().flatten().any(|trouble| matches!(trouble, Trouble::Last { .. })), "{said:?}");
}

#[test]
fn where_empty_is_allowed_all_may_withdraw() {
    let now = Instant::now();
    let (mut primary, mut nodes) = cluster(now);
    for (index, node) in nodes.iter_mut().enumerate() {
        let wish = Wish { wanted: BTreeSet::new(), keep_last: false, ..wish(index) };
        node.act(&mut primary, &situation(wish), now);
        assert_eq!(node.state(index), State::Withdrawn);
    }
    assert_eq!(primary.addresses(), BTreeSet::new());
}

#[test]
fn nobody_is_removed_where_nobody_else_serves() {
    let now = Instant::now();
    let (mut primary, [mut one, ..]) = cluster(now);
    let mut shared_cause = without(wish(0), 2, 3);
    let wish = shared_cause.names.get_mut(NAME).unwrap();
    wish.serving.clear();
    wish.gone.insert(address(1), Gone { agreeing: 3, why: "silent" });
    one.act(&mut primary, &shared_cause, now);
    assert_eq!(primary.addresses(), ips(&[0, 1, 2]));
}

#[test]
fn nobody_is_removed_for_a_lease_after_the_primary_could_not_be_read() {
    let start = Instant::now();
    let (mut primary, [mut one, ..]) = cluster(start);
    let dead = without(wish(0), 2, 2);
    one.zone.unreadable(start + seconds(1));
    assert_eq!(one.zone.decide(&dead, start + seconds(1), &mut Vec::new()), None);
    one.act(&mut primary, &dead, start + seconds(200));
    one.act(&mut primary, &dead, start + seconds(259));
    assert_eq!(primary.addresses(), ips(&[0, 1, 2]));
    one.act(&mut primary, &dead, start + seconds(260));
    assert_eq!(primary.addresses(), ips(&[0, 1]));
}

#[test]
fn of_two_nodes_one_removes_the_other_when_its_lease_has_run_out() {
    let start = Instant::now();
    for (two_nodes, left) in [(TwoNodes::RemoveAfterLease, &[0, 2][..]), (TwoNodes::Never, &[0, 1, 2])] {
        let (mut primary, [mut one, ..]) = cluster(start);
        one.zone.set_settings(Settings { two_nodes, ..settings() });
        let dead = Situation { voters: 2, ..without(wish(0), 1, 1) };
        for time in [0, 20, 40, 59] {
            one.act(&mut primary, &dead, start + seconds(time));
            assert_eq!(primary.addresses(), ips(&[0, 1, 2]), "after {time} s");
        }
        one.act(&mut primary, &dead, start + seconds(60));
        assert_eq!(primary.addresses(), ips(left), "{two_nodes:?}");
    }
}

#[test]
fn a_daemon_that_starts_again_takes_its_lease_over_and_a_copy_stops_the_first() {
    let start = Instant::now();
    let (mut primary, [mut one, ..]) = cluster(start);
    let mut other = Node::new(0, 99);
    assert_eq!(other.act(&mut primary, &situation(wish(0)), start), []);
    assert_eq!(other.state(0), State::Published);
    let said = one.act(&mut primary, &situation(wish(0)), start + seconds(20));
    assert!(matches!(&said[..], [Trouble::Contested { .. }]), "{said:?}");
    assert_eq!(one.state(0), State::Contested);
    assert_eq!(primary.addresses(), ips(&[0, 1, 2]));
    // The other one has ended.
    let later = start + seconds(100);
    one.act(&mut primary, &situation(wish(0)), later);
    assert_eq!(one.act(&mut primary, &situation(wish(0)), later), []);
    assert_eq!(one.state(0), State::Published);
}

#[test]
fn what_somebody_takes_away_by_hand_stays_away_for_the_hold_down() {
    let start = Instant::now();
    let (mut primary, [mut one, ..]) = cluster(start);
    primary.addresses.get_mut(NAME).unwrap().remove(&address(0));
    let said = one.act(&mut primary, &situation(wish(0)), start + seconds(1));
    assert!(matches!(&said[..], [Trouble::Removed { by: None, .. }]), "{said:?}");
    assert_eq!(one.state(0), State::RemovedBy(None));
    one.act(&mut primary, &situation(wish(0)), start + seconds(30));
    assert_eq!(primary.addresses(), ips(&[1, 2]));
    one.act(&mut primary, &situation(wish(0)), start + seconds(31));
    assert_eq!(primary.addresses(), ips(&[0, 1, 2]));
}

#[test]
fn an_alias_and_others_addresses_are_in_the_way_and_are_left_alone() {
    let now = Instant::now();
    let mut primary = Primary::default();
    primary.aliases.insert(NAME.into(), "elsewhere.test".to_owned());
    let mut one = Node::new(0, 1);
    let said = one.act(&mut primary, &situation(wish(0)), now);
    assert!(matches!(&said[..], [Trouble::Alias { .. }]), "{said:?}");
    primary.aliases.clear();
    let others: BTreeSet<_> = [ip("203.0.113.9")].into();
    primary.addresses.insert(NAME.into(), others.clone());
    let said = one.act(&mut primary, &situation(wish(0)), now);
    assert!(matches!(&said[..], [Trouble::Others { .. }]), "{said:?}");
    assert_eq!(primary.addresses(), others);
    one.zone.set_settings(Settings { share_rrset: true, ..settings() });
    assert_eq!(one.act(&mut primary, &situation(wish(0)), now), []);
    assert!(primary.addresses().contains(&address(0)));
}

#[test]
fn a_name_that_left_the_configuration_is_left_as_if_nobody_had_been_there() {
    let now = Instant::now();
    let mut primary = Primary::default();
    let mut one = Node::new(0, 1);
    one.act(&mut primary, &situation(wish(0)), now);
    one.act(&mut primary, &Situation { names: BTreeMap::new(), ..situation(wish(0)) }, now);
    assert_eq!(primary.addresses(), BTreeSet::new());
    assert!(primary.texts.is_empty(), "{:?}", primary.texts);
}

#[derive(Debug, Clone)]
enum Event {
    /// A node reads and writes all it wants.
    Act(usize),
    /// It reads, and decides.
    Plan(usize),
    /// Its decision reaches the primary only now.
    Send(usize),
    Crash(usize),
    Return(usize),
    /// It is cut off from the others, not from the primary.
    Partition(usize),
    Heal,
    /// It has no backends, or has them again.
    Backends(usize, bool),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = 0..NODES.len();
    let event = prop_oneof![
        4 => node.clone().prop_map(Event::Act),
        2 => node.clone().prop_map(Event::Plan),
        2 => node.clone().prop_map(Event::Send),
        1 => node.clone().prop_map(Event::Crash),
        1 => node.clone().prop_map(Event::Return),
        1 => node.clone().prop_map(Event::Partition),
        1 => Just(Event::Heal),
        1 => (node, any::<bool>()).prop_map(|(node, has)| Event::Backends(node, has)),
        3 => (1_u64..90).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..80)
}

/// Three nodes and a primary.
struct World {
    primary: Primary,
    nodes: [Node; 3],
    plans: [Option<Planned>; 3],
    alive: [bool; 3],
    serves: [bool; 3],
    cut_off: Option<usize>,
    boots: u64,
    now: Instant,
}

impl World {
    fn new() -> World {
        let now = Instant::now();
        let (primary, nodes) = cluster(now);
        let plans = [None, None, None];
        World { primary, nodes, plans, alive: [true; 3], serves: [true; 3], cut_off: None, boots: 10, now }
    }

    fn sees(&self, one: usize, other: usize) -> bool {
        one == other || self.alive[other] && self.cut_off != Some(one) && self.cut_off != Some(other)
    }

    /// What a node wants, if it sees what is.
    fn situation(&self, node: usize) -> Situation {
        let seen = (0..3).filter(|&other| self.sees(node, other));
        let serving: BTreeSet<usize> = seen.clone().filter(|&other| self.serves[other]).collect();
        let mut wish = wish(node);
        wish.serving = serving.iter().map(|&other| address(other)).collect();
        // Nobody serves: all are named.
        if !self.serves[node] && !serving.is_empty() {
            wish.wanted.clear();
        }
        for dead in (0..3).filter(|&other| !self.sees(node, other)) {
            let agreeing = seen.clone().filter(|&voter| !self.sees(voter, dead)).count();
            wish.gone.insert(address(dead), Gone { agreeing, why: "silent" });
        }
        let seen_by = (0..3).filter(|&other| self.alive[other] && self.sees(other, node)).count();
        Situation { seen_by, ..situation(wish) }
    }

    fn take(&mut self, event: &Event) {
        match *event {
            Event::Pass(time) => self.now += seconds(time),
            Event::Heal => self.cut_off = None,
            Event::Partition(node) => self.cut_off = Some(node),
            Event::Backends(node, has) => self.serves[node] = has,
            Event::Crash(node) => {
                self.alive[node] = false;
                self.plans[node] = None;
            }
            Event::Return(node) if !self.alive[node] => {
                self.alive[node] = true;
                self.boots += 1;
                self.nodes[node] = Node::new(node, self.boots);
            }
            Event::Act(node) if self.alive[node] => {
                let situation = self.situation(node);
                self.nodes[node].act(&mut self.primary, &situation, self.now);
                self.plans[node] = None;
            }
            Event::Plan(node) if self.alive[node] => {
                let situation = self.situation(node);
                self.nodes[node].read(&self.primary, self.now);
                self.plans[node] = self.nodes[node].zone.decide(&situation, self.now, &mut Vec::new());
            }
            Event::Send(node) => {
                if let Some(plan) = self.plans[node].take() {
                    let outcome = self.primary.update(&plan.update);
                    self.nodes[node].zone.note(&plan, outcome, self.now);
                }
            }
            Event::Return(_) | Event::Act(_) | Event::Plan(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, the name is never empty; and when all is well again, all nodes are there.
    #[test]
    fn the_name_is_never_empty_and_all_come_back(events in events()) {
        let mut world = World::new();
        for event in &events {
            world.take(event);
            prop_assert!(!world.primary.addresses().is_empty(), "empty after {event:?}");
        }
        world.take(&Event::Heal);
        for node in 0..3 {
            world.take(&Event::Return(node));
            world.take(&Event::Backends(node, true));
        }
        for _ in 0..3 {
            for node in 0..3 {
                world.take(&Event::Act(node));
            }
            world.take(&Event::Pass(LONGEST_HOLD_DOWN.as_secs()));
        }
        prop_assert_eq!(world.primary.addresses(), ips(&[0, 1, 2]));
    }
}
