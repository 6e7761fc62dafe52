//! Three nodes that share a name, and what each wants and knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_userspace::core::{
    records::{Contents, Outcome, Update},
    shared::{Gone, Settings, SharedZone, Situation, State, Trouble, TwoNodes, Wish},
};

pub const NAME: &str = "www.example.test";
pub const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// The longest hold-down.
pub const LONGEST_HOLD_DOWN: Duration = Duration::from_secs(600);

/// Who holds the zone.
pub trait Primary {
    /// What it has of these names, and of nodes' records beside them.
    fn contents(&mut self, names: &[&str], nodes: &[Arc<str>]) -> Contents;
    /// Makes changes if all prerequisites hold.
    fn update(&mut self, update: &Update) -> Outcome;
}

pub fn settings() -> Settings {
    Settings {
        lease: Duration::from_secs(60),
        renew: Duration::from_secs(20),
        ttl: 30,
        share_rrset: false,
        two_nodes: TwoNodes::RemoveAfterLease,
    }
}

pub fn nodes() -> Vec<Arc<str>> {
    NODES.iter().map(|&node| node.into()).collect()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn address(node: usize) -> IpAddr {
    ip(&format!("192.0.2.{}", 11 + node))
}

pub fn ips(nodes: &[usize]) -> BTreeSet<IpAddr> {
    nodes.iter().map(|&node| address(node)).collect()
}

/// What a node wants that serves, and sees all others serve.
pub fn wish(node: usize) -> Wish {
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

pub fn situation(wish: Wish) -> Situation {
    let seen_by = seen_by(&wish, NODES.len());
    Situation { names: BTreeMap::from([(NAME.into(), wish)]), voters: NODES.len(), seen_by }
}

/// So many see the node at all of its addresses.
pub fn seen_by(wish: &Wish, nodes: usize) -> BTreeMap<IpAddr, usize> {
    wish.own.iter().map(|&address| (address, nodes)).collect()
}

pub fn without(mut wish: Wish, dead: usize, agreeing: usize) -> Situation {
    wish.serving.remove(&address(dead));
    wish.gone.insert(address(dead), Gone { agreeing, why: "silent", can_act: false });
    situation(wish)
}

/// A peer says that it cannot serve.
pub fn declining(mut wish: Wish, peer: usize, agreeing: usize) -> Situation {
    wish.serving.remove(&address(peer));
    wish.gone.insert(address(peer), Gone { agreeing, why: "declines", can_act: true });
    situation(wish)
}

pub struct Node {
    pub zone: SharedZone,
    /// What it has read lastly.
    pub read: Contents,
}

impl Node {
    pub fn new(node: usize, boot: u64) -> Node {
        Node { zone: SharedZone::new(NODES[node].into(), boot, settings()), read: Contents::default() }
    }

    pub fn read(&mut self, primary: &mut impl Primary, now: Instant) {
        self.read = primary.contents(&[NAME], &nodes());
        self.zone.observe(&self.read, &nodes(), now);
    }

    /// Reads and writes until nothing is left to do, as a publisher does.
    pub fn act(&mut self, primary: &mut impl Primary, situation: &Situation, now: Instant) -> Vec<Trouble> {
        self.act_unless(primary, situation, now, |_| false)
    }

    /// The same, while the primary refuses some updates.
    pub fn act_unless(
        &mut self,
        primary: &mut impl Primary,
        situation: &Situation,
        now: Instant,
        refuses: impl Fn(&Update) -> bool,
    ) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        for _ in 0..10 {
            self.read(primary, now);
            troubles.clear();
            let Some(planned) = self.zone.decide(situation, now, &mut troubles) else { return troubles };
            if refuses(&planned.update) {
                self.zone.refused(&planned, "REFUSED", now);
                continue;
            }
            let outcome = primary.update(&planned.update);
            self.zone.note(&planned, outcome, now);
        }
        panic!("it never rests: {troubles:?}");
    }

    pub fn state(&self, node: usize) -> State {
        self.zone.state(NAME, NODES[node], address(node))
    }
}

/// Three nodes that have published themselves.
pub fn cluster(primary: &mut impl Primary, now: Instant) -> [Node; 3] {
    let nodes = [0, 1, 2].map(|node| {
        let mut it = Node::new(node, node as u64 + 1);
        assert_eq!(it.act(primary, &situation(wish(node)), now), []);
        it
    });
    assert_eq!(published(primary), ips(&[0, 1, 2]));
    nodes
}

/// The name's addresses.
pub fn published(primary: &mut impl Primary) -> BTreeSet<IpAddr> {
    let contents = primary.contents(&[NAME], &[]);
    contents.names[NAME].sets.values().flat_map(|set| set.addresses.clone()).collect()
}

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
